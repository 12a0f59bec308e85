"""The devices themselves: whether each answers now, what is known of it, and a new profile from what a device says of itself."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import queue
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit import config, plugins, session
from edgekit.cache import write_text
from edgekit.errors import ConnectError, EdgekitError, UserError
from edgekit.link import Link
from edgekit.transports import Transport, printable
from edgekit.types import Device, Json, to_json
from edgekit.userland import targets

LOOK_S = 4.0  # all looks together; what takes longer counts as no answer
UNAME_S = 20.0
# What `uname -m` says -> the architecture whose programs run there
MACHINES = {"aarch64": "aarch64", "armv7l": "armv7", "armv8l": "armv7", "x86_64": "x86_64"}
RUNTIMES = ("tflite", "onnxruntime", "executorch")
# MIDR part numbers of Arm's own cores (Linux, arch/arm64/include/asm/cputype.h; Arm's technical reference manuals)
CORES = {
    "0xc05": "Cortex-A5", "0xc07": "Cortex-A7", "0xc08": "Cortex-A8", "0xc09": "Cortex-A9", "0xc0f": "Cortex-A15",
    "0xd01": "Cortex-A32", "0xd03": "Cortex-A53", "0xd04": "Cortex-A35", "0xd05": "Cortex-A55", "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72", "0xd09": "Cortex-A73", "0xd0a": "Cortex-A75", "0xd0b": "Cortex-A76", "0xd0c": "Neoverse-N1",
    "0xd0d": "Cortex-A77", "0xd41": "Cortex-A78", "0xd44": "Cortex-X1", "0xd46": "Cortex-A510", "0xd47": "Cortex-A710",
    "0xd48": "Cortex-X2", "0xd4d": "Cortex-A715", "0xd4e": "Cortex-X3", "0xd80": "Cortex-A520", "0xd81": "Cortex-A720",
    "0xd82": "Cortex-X4",
}  # fmt: skip
ARM = "0x41"
EMULATOR = "emulator-"  # how adb calls Android's emulators


@dataclass(frozen=True)
class Look:
    """Whether a device answers now, and in a few words what was seen or what it lacks."""

    answers: bool
    words: str


def look(device: Device) -> Look:
    """Look at one device without changing anything there."""
    try:
        answers, words = plugins.load("transport", device.transport).look(device)
        return Look(bool(answers), str(words))
    except EdgekitError as error:
        return Look(False, error.message)


def look_at_all(devices: Sequence[Device]) -> list[Look]:
    """Look at all of them at the same time. Raises what a look raises that is no error of its device."""
    answers: queue.SimpleQueue[tuple[int, Look | Exception]] = queue.SimpleQueue()

    def ask(place: int, device: Device) -> None:
        try:
            answers.put((place, look(device)))
        except Exception as error:
            answers.put((place, error))

    for place, device in enumerate(devices):
        threading.Thread(target=ask, args=(place, device), daemon=True).start()  # nobody waits for it in the end
    found = [Look(False, "no answer")] * len(devices)
    deadline = time.monotonic() + LOOK_S
    for _ in devices:
        try:
            place, answer = answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
        if isinstance(answer, Exception):
            raise answer
        found[place] = answer
    return found


def way(device: Device) -> str:
    """How a device is reached, in a few words."""
    place = device.connection.get(config.PLACES.get(device.transport, ""))
    if place and device.transport == "ssh" and "user" in device.connection:
        place = f"{device.connection['user']}@{place}"
    how = "emulator" if device.transport == "emulator" else device.transport
    return f"{how} {place}" if place else how


def form(device: Device, look: Look) -> Json:
    """The machine form of a device. Only the names of files stand in it."""
    source = device.source.name if device.source else None
    return {**to_json(device), "source": source, "emulated": device.emulated, "now": dataclasses.asdict(look)}


def shown(device: Device, look: Look | None) -> Iterator[str]:
    """The lines of `devices show`: the profile as it counts, and how it is at the moment."""
    yield f"{device.name}: {device.description}"
    yield f"  reached by         {way(device)}{', emulated' if device.emulated else ''}"
    if look:
        yield f"  now                {look.words}"
    yield f"  arch               {device.arch}"
    yield f"  runtimes           {', '.join(device.runtimes)}"
    if device.optional_runtimes:
        yield f"  when asked for     {', '.join(device.optional_runtimes)}"
    for name in ("connection", "hardware", "limits", "emulation"):
        for key, value in (getattr(device, name) or {}).items():
            for inner, text in value.items() if isinstance(value, Mapping) else ((None, value),):
                yield f"  {'.'.join(part for part in (name, key, inner) if part):<18} {text}"
    layers = config.layers_of(device.name) if device.name in config.device_names() else []
    if layers:
        yield f"  written in         {', then '.join(one.path.name for one in layers)}"


def add(name: str, connection: Mapping[str, Any], say: Callable[[str], None]) -> tuple[Device, Path]:
    """Ask the device at `connection` what it is, and write that into the user's devices file; the device, and that file.

    Raises UserError for a name that is taken or no place, DeviceError when nothing answers there.
    """
    if not config.NAME.fullmatch(name):
        raise UserError(f"'{name}' is no name for a device", "letters, digits, '-' and '_' will do")
    if name in config.device_names():
        raise UserError(f"there is a device '{name}' already", "choose another name, or change it in your devices.toml")
    # A microcontroller, whose place is a tty too, cannot say what it is.
    places = [transport for transport, key in config.PLACES.items() if key in connection and transport != "mcu"]
    if len(places) != 1:
        raise UserError("a new device has one place", "--host pi@192.0.2.7, --serial ID (adb), or --port /dev/ttyUSB0")
    if str(connection.get("serial", "")).startswith("transport:"):
        raise UserError("a transport id is another device's tomorrow", "give the serial that `adb devices` shows")
    about = asked(name, places[0], connection, say)
    place = config.user_file()
    before = place.read_text(encoding="utf-8") if place.is_file() else ""
    new = section(name, about)
    config.combine(
        name, [config.Layer(place, new, tomllib.loads(new)[name], name)]
    )  # what could not be read stays unwritten
    write_text(place, before + ("\n" if before and not before.endswith("\n\n") else "") + new)
    return config.device(name), place


def asked(name: str, transport: str, connection: Mapping[str, Any], say: Callable[[str], None]) -> Json:
    """A profile made from the device's own words."""
    bare = config.bare(name, transport, connection)
    machine = machine_of(bare, say)
    arch = MACHINES.get(machine)
    if arch is None or arch not in config.REACHES[transport]:
        raise UserError(
            f"{name} is '{machine}', for which there is no userland", f"there is one for: {', '.join(MACHINES)}"
        )
    every = [runtime for runtime, wheel in targets.WHEELS.items() if arch in wheel.sha256]
    runtimes = [runtime for runtime in RUNTIMES if runtime in every] or every
    device = dataclasses.replace(bare, arch=arch, runtimes=tuple(runtimes))
    with Link(device, say, "devices add") as line:
        system = line.session(runtimes[0]).greeting["system"]
    cpu = cores_of(system)
    memory = f"{system['memory_bytes'] / 1e9:.1f} GB" if system.get("memory_bytes") else ""
    emulator = str(connection.get("serial", "")).startswith(EMULATOR)
    return {
        "description": plain(system.get("model") or ", ".join(part for part in (cpu, memory) if part) or name)[:60],
        "arch": arch,
        "transport": transport,
        "runtimes": runtimes,
        "optional_runtimes": [runtime for runtime in every if runtime not in runtimes],
        "connection": dict(device.connection),
        "hardware": {"soc": plain(system.get("soc") or ""), "cpu": plain(cpu), "memory": memory},
        "limits": {"threads": int(system["cores"])} if system.get("cores") else {},
        "emulation": {"model": "Android emulator"} if emulator else {},  # no figure of it is a phone's
    }


def plain(text: str) -> str:
    """A device's words as they may be shown on a terminal, at once or from a file."""
    return printable(text.encode("utf-8", "replace"))


def machine_of(device: Device, say: Callable[[str], None]) -> str:
    """What `uname -m` says on the device. A link that insists on the right architecture is tried with each."""
    refused: ConnectError | None = None
    for arch in config.REACHES[device.transport]:
        try:
            with contextlib.closing(session.connect(dataclasses.replace(device, arch=arch), say)) as transport:
                return uname(transport, UNAME_S)
        except ConnectError as error:
            refused = refused or error
    assert refused
    raise refused


def uname(transport: Transport, deadline_s: float) -> str:
    """What `uname -m` says: a program that every system has."""
    with contextlib.closing(transport.spawn(["uname", "-m"])) as channel:
        return printable(channel.read_line(deadline_s))


def cores_of(system: Json) -> str:
    """The cores in words: "4x Cortex-A72 (fp, asimd)"."""
    cpu = system.get("cpu", {})
    parts = cpu.get("parts") or {cpu.get("cpu_part", ""): system.get("cores", 1)}
    ours = cpu.get("cpu_implementer", ARM) == ARM
    kinds = [
        f"{count}x {(CORES.get(part) if ours else None) or cpu.get('model_name') or part}"
        for part, count in parts.items()
    ]
    flags = ", ".join(cpu.get("features", ()))
    return f"{' + '.join(kinds)}{f' ({flags})' if flags else ''}"


def section(name: str, about: Json) -> str:
    """A device as tables of a TOML file."""

    def value(item: Any) -> str:
        # What JSON calls a text, a number or a list of texts is one in TOML as well, but for DEL.
        return json.dumps(item, ensure_ascii=False).replace("\x7f", "\\u007F")

    lines = [f"[{name}]"]
    tables = {key: item for key, item in about.items() if isinstance(item, dict)}
    lines += [f"{key} = {value(item)}" for key, item in about.items() if key not in tables and item]
    for table, items in tables.items():
        kept = {key: item for key, item in items.items() if item}
        if kept:
            lines += ["", f"[{name}.{table}]", *(f"{key} = {value(item)}" for key, item in kept.items())]
    return "\n".join(lines) + "\n"
