"""Device profiles (TOML) to types. Every key is known here; an unknown one is an error with file, line and a suggestion."""

from __future__ import annotations

import difflib
import platform
import re
import tomllib
from pathlib import Path
from typing import Any

from edgekit import plugins
from edgekit.cache import is_file
from edgekit.errors import UserError, unknown
from edgekit.types import Device

PACKAGE = Path(__file__).parent
ARCHS = ("x86_64", "aarch64", "armv7", "host")

# table -> key -> type. "" is the top level. device_profiles/_reference.toml shows each with a comment (tested).
KEYS: dict[str, dict[str, type]] = {
    "": {"description": str, "arch": str, "transport": str, "runtimes": list, "optional_runtimes": list,
         "connection": dict, "emulation": dict, "hardware": dict, "limits": dict},
    "connection": {"host": str, "user": str, "port": int},
    "emulation": {"cpu": str, "cores": int, "kernel": str, "memory_mb": int, "cpuinfo": dict, "model": str,
                  "governor": str, "frequency_khz": int, "os": str},
    "emulation.cpuinfo": {"implementer": str, "architecture": str, "variant": str, "part": str, "revision": str,
                          "features": str, "bogomips": str},
    "hardware": {"soc": str, "cpu": str, "memory": str},
    "limits": {"launches": int, "warmup_calls": int, "warmup_s": float, "calls": int, "max_seconds": float,
               "threads": int},
}  # fmt: skip
REQUIRED = ("description", "arch", "transport", "runtimes")
# What the emulator cannot do without; the rest of [emulation] may be left out.
REQUIRED_TO_EMULATE = {
    "emulation": tuple(key for key in KEYS["emulation"] if key != "kernel"),
    "emulation.cpuinfo": tuple(KEYS["emulation.cpuinfo"]),
}
AT_LEAST_1 = ("connection.port", "emulation.cores", "emulation.memory_mb", "emulation.frequency_khz", "limits.threads")
# transport -> the architectures it reaches; the others reach all
REACHES = {"emulator": ("aarch64", "armv7"), "local": ("host", platform.machine())}


def folder(name: str) -> Path:
    """A data folder of the project: beside the package in a checkout, inside it when installed from a wheel."""
    checkout = (PACKAGE.parent / "pyproject.toml").is_file()  # else a folder of that name there is somebody else's
    return PACKAGE.parent / name if checkout else PACKAGE / f"_{name}"


def device_names() -> list[str]:
    """The built-in device profiles, by file name."""
    return sorted(path.stem for path in folder("device_profiles").glob("*.toml") if not path.stem.startswith("_"))


def device(name: str) -> Device:
    """A device by profile name or by the path of a .toml file. Raises UserError with file, line and key."""
    path = Path(name)
    if path.suffix == ".toml":
        if not is_file(path):
            raise UserError(
                f"there is no device profile '{name}'", "give the path of a .toml file, or a name of `edgekit devices`"
            )
    else:
        if name not in device_names():
            raise unknown("device", name, device_names())
        path = folder("device_profiles") / f"{name}.toml"
    return read(path)


def read(path: Path) -> Device:
    """One profile file as a Device."""
    try:
        text = path.read_text(encoding="utf-8")
        data = tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the device profile {path.name}: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(
            f"{path.name} is not valid TOML: {error}", "mend that line; _reference.toml shows every key"
        ) from error
    check_table(path, text, "", data)
    for key in REQUIRED:
        if key not in data:
            raise UserError(f"{path.name}: the key '{key}' is missing", "_reference.toml shows every key")
    check_choice(path, text, "arch", data["arch"], ARCHS)
    check_choice(path, text, "transport", data["transport"], plugins.names("transport"))
    for key in ("runtimes", "optional_runtimes"):
        for runtime in data.get(key, ()):
            check_choice(path, text, key, runtime, plugins.names("runtime"))
    check_reach(path, text, data)
    return Device(
        name=path.stem,
        description=data["description"],
        arch=data["arch"],
        transport=data["transport"],
        runtimes=tuple(data["runtimes"]),
        connection=data.get("connection", {}),
        emulation=data.get("emulation"),
        hardware=data.get("hardware", {}),
        limits=data.get("limits", {}),
        optional_runtimes=tuple(data.get("optional_runtimes", ())),
        source=path,
    )


def line_of(text: str, table: str, key: str) -> int:
    """The line on which a key of a table stands, 1 for none (tomllib does not tell)."""
    current = ""
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[+\s*([^\]]+?)\s*\]", line)
        if header:
            current = header.group(1)
            if current == (f"{table}.{key}" if table else key):
                return number
        elif current == table and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[.=]", line):
            return number
    return 1


def check_table(path: Path, text: str, table: str, data: dict[str, Any]) -> None:
    """Every key known, every value of its type; recurses into tables."""
    known = KEYS[table]
    for key, value in data.items():
        where = f"{path.name}:{line_of(text, table, key)}"
        full = f"{table}.{key}" if table else key
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"known here: {', '.join(known)}"
            raise UserError(f"{where}: unknown key '{full}'", hint)
        wanted = known[key]
        fits = isinstance(value, (int, float) if wanted is float else wanted) and not isinstance(value, bool)
        if not fits:
            raise UserError(
                f"{where}: '{full}' must be {article(wanted)}, not {value!r}", "_reference.toml shows every key"
            )
        if full in AT_LEAST_1 and value < 1:
            raise UserError(f"{where}: '{full}' must be at least 1, not {value}", "_reference.toml shows every key")
        if isinstance(value, dict):
            check_table(path, text, full, value)
        if isinstance(value, list) and not (value and all(isinstance(item, str) for item in value)):
            raise UserError(f"{where}: '{full}' must be a list of names", "_reference.toml shows every key")


def check_reach(path: Path, text: str, data: dict[str, Any]) -> None:
    """The transport reaches this architecture, and the emulator is told all it needs."""
    transport, arch = data["transport"], data["arch"]
    reached = REACHES.get(transport, ARCHS)
    if arch not in reached:
        message = f"the transport '{transport}' does not reach the arch '{arch}'"
        raise UserError(f"{path.name}:{line_of(text, '', 'arch')}: {message}", f"it reaches: {', '.join(reached)}")
    if transport != "emulator":
        return
    if "emulation" not in data:
        where = f"{path.name}:{line_of(text, '', 'transport')}"
        raise UserError(f"{where}: the emulator needs the table [emulation]", "_reference.toml shows it")
    for table, keys in REQUIRED_TO_EMULATE.items():
        outer, _, name = table.rpartition(".")
        given = data[outer][name] if outer else data[name]
        for key in keys:
            if key not in given:
                where = f"{path.name}:{line_of(text, outer, name)}"
                raise UserError(f"{where}: the emulator needs '{table}.{key}'", "_reference.toml shows every key")


def article(kind: type) -> str:
    """How a user would call a TOML type."""
    return {str: "a text", int: "a whole number", float: "a number", list: "a list", dict: "a table"}[kind]


def check_choice(path: Path, text: str, key: str, value: str, known: tuple[str, ...] | list[str]) -> None:
    """A value that must be one of some names."""
    if value not in known:
        error = unknown(key.removesuffix("s").removeprefix("optional_"), str(value), known)
        raise UserError(f"{path.name}:{line_of(text, '', key)}: {error.message}", error.hint)
