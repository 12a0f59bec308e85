"""Which shared libraries an ELF file asks for: its DT_NEEDED entries, read without binutils."""

from __future__ import annotations

import struct
from pathlib import Path

PT_LOAD, PT_DYNAMIC = 1, 2
DT_NEEDED, DT_STRTAB = 1, 5


def is_elf(path: Path) -> bool:
    """Whether the file starts with the ELF magic."""
    with path.open("rb") as stream:
        return stream.read(4) == b"\x7fELF"


def needed(path: Path) -> list[str]:
    """The names in the DT_NEEDED entries of a 64-bit little-endian ELF file, in order.

    Raises ValueError when it is not one. Layout: System V ABI, "Object Files" and "Program Loading".
    """
    data = path.read_bytes()
    if data[:6] != b"\x7fELF\x02\x01":
        raise ValueError(f"{path.name} is not a 64-bit little-endian ELF file")
    (offset,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    segments = []  # (type, file offset, address, bytes in the file)
    for index in range(count):
        kind, _, start, address, _, length = struct.unpack_from("<IIQQQQ", data, offset + index * size)
        segments.append((kind, start, address, length))
    entries: list[tuple[int, int]] = []
    for kind, start, _, length in segments:
        if kind == PT_DYNAMIC:
            entries = [struct.unpack_from("<QQ", data, at) for at in range(start, start + length, 16)]
    strings = next((value for tag, value in entries if tag == DT_STRTAB), None)
    if strings is None:
        return []
    table = next(
        strings - address + start
        for kind, start, address, length in segments
        if kind == PT_LOAD and address <= strings < address + length
    )
    names = []
    for tag, value in entries:
        if tag == DT_NEEDED:
            end = data.index(b"\0", table + value)
            names.append(data[table + value : end].decode())
    return names
