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
    """The names in the DT_NEEDED entries of a little-endian ELF file, in order.

    Raises ValueError when it is not one. Layout: System V ABI, "Object Files" and "Program Loading".
    """
    data = path.read_bytes()
    if data[:4] != b"\x7fELF" or data[4:6] not in (b"\1\1", b"\2\1"):
        raise ValueError(f"{path.name} is not a little-endian ELF file")
    wide = data[4] == 2  # 64-bit
    (offset,) = struct.unpack_from("<Q" if wide else "<I", data, 32 if wide else 28)
    size, count = struct.unpack_from("<HH", data, 54 if wide else 42)
    segments = []  # (type, file offset, address, bytes in the file)
    for index in range(count):
        at = offset + index * size
        if wide:
            kind, _, start, address, _, length = struct.unpack_from("<IIQQQQ", data, at)
        else:
            kind, start, address, _, length = struct.unpack_from("<IIIII", data, at)
        segments.append((kind, start, address, length))
    entries: list[tuple[int, int]] = []
    entry = "<QQ" if wide else "<iI"
    for kind, start, _, length in segments:
        if kind == PT_DYNAMIC:
            steps = range(start, start + length, struct.calcsize(entry))
            entries = [struct.unpack_from(entry, data, at) for at in steps]
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
