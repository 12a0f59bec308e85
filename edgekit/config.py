"""Device profiles (TOML) to types: the shipped ones, the user's devices.toml over them, and over both the command line.
Every key is known here; an unknown one is an error with file, line and a suggestion."""

from __future__ import annotations

import difflib
import os
import platform
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit import plugins
from edgekit.agent.protocol import INSTRUCTION_CLASSES
from edgekit.cache import is_file
from edgekit.errors import SetupError, UserError, unknown
from edgekit.types import Device

PACKAGE = Path(__file__).parent
ARCHS = ("x86_64", "aarch64", "armv7", "host")

# table -> key -> type. "" is the top level. device_profiles/_reference.toml shows each with a comment (tested).
KEYS: dict[str, dict[str, type]] = {
    "": {"description": str, "arch": str, "transport": str, "runtimes": list, "optional_runtimes": list,
         "connection": dict, "emulation": dict, "hardware": dict, "limits": dict, "estimate": dict},
    "connection": {"host": str, "user": str, "port": int, "identity": str, "jump": str,
                   "serial": str, "tty": str, "baud": int, "login": str},
    "emulation": {"cpu": str, "cores": int, "kernel": str, "memory_mb": int, "cpuinfo": dict, "model": str,
                  "governor": str, "frequency_khz": int, "os": str},
    "emulation.cpuinfo": {"implementer": str, "architecture": str, "variant": str, "part": str, "revision": str,
                          "features": str, "bogomips": str},
    "estimate": {"runtime": str, "threads": int, "unit_ms": float, "least_error": float, "error": float, "sources": list,
                 "coefficients": dict, "points": list},
    "estimate.coefficients": {"call": float, "byte": float, "instruction": float, "fp_fma": float},
    "estimate.points": {"model": str, "precision": str, "latency_ms": float, "size_bytes": int,
                        **dict.fromkeys(INSTRUCTION_CLASSES, int)},
    "hardware": {"soc": str, "cpu": str, "memory": str},
    "limits": {"launches": int, "warmup_calls": int, "warmup_s": float, "calls": int, "max_seconds": float,
               "threads": int},
}  # fmt: skip
TABLES = ("estimate.points",)  # lists of tables; all other lists are of names
# Keys without which a table says nothing; the classes of a point may be unknown.
WHOLE = {
    "estimate": tuple(KEYS["estimate"]),
    "estimate.coefficients": tuple(KEYS["estimate.coefficients"]),
    "estimate.points": ("model", "precision", "latency_ms", "size_bytes", "total"),
}
REQUIRED = ("description", "arch", "transport", "runtimes")
# transport -> what it cannot do without; the rest of [emulation] may be left out.
REQUIRED_TO_EMULATE: dict[str, dict[str, tuple[str, ...]]] = {
    "emulator": {
        "emulation": tuple(key for key in KEYS["emulation"] if key != "kernel"),
        "emulation.cpuinfo": tuple(KEYS["emulation.cpuinfo"]),
    },
    "vm": {"emulation": ("cpu", "cores", "memory_mb")},
}
AT_LEAST_1 = (
    "connection.port",
    "connection.baud",
    "emulation.cores",
    "emulation.memory_mb",
    "emulation.frequency_khz",
    "limits.threads",
)
AT_MOST = {"connection.port": 65535, "connection.baud": 4_000_000}  # the fastest that Linux names
MACHINES = tuple(arch for arch in ARCHS if arch != "host")
# transport -> the architectures it reaches; the others reach all
REACHES = {
    "emulator": ("aarch64", "armv7"),
    "local": ("host", platform.machine()),
    "ssh": MACHINES,
    "adb": ("aarch64", "x86_64"),
    "serial": MACHINES,
    "vm": ("aarch64",),
}
# The key of [connection] by which each of these is told where its device is.
PLACES = {"ssh": "host", "adb": "serial", "serial": "tty", "mcu": "tty"}
# Ways to reach a board that give way to another, when its place is given over the profile's: an emulated board becomes real.
BOARDS = ("emulator", "ssh", "serial")
HOST = re.compile(r"(?:([^@:\s]+)@)?(?:\[([^\]\s]+)\]|([^@\s:\[\]]+))(?::(\d+))?")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")  # what a table of a TOML file may be called without quotes
COMMAND_LINE = Path()


@dataclass(frozen=True)
class Layer:
    """One place where keys of a profile stand: a file of its own, or the table `name` of the user's devices file."""

    path: Path
    text: str
    data: Mapping[str, Any]
    name: str = ""

    def at(self, table: str, key: str) -> str:
        """FILE:LINE of a key, for a message."""
        if self.path == COMMAND_LINE:
            return "the command line"
        return f"{self.path.name}:{line_of(self.text, '.'.join(part for part in (self.name, table) if part), key)}"


def folder(name: str) -> Path:
    """A data folder of the project: beside the package in a checkout, inside it when installed from a wheel."""
    checkout = (PACKAGE.parent / "pyproject.toml").is_file()  # else a folder of that name there is somebody else's
    return PACKAGE.parent / name if checkout else PACKAGE / f"_{name}"


def user_file() -> Path:
    """The user's own devices: devices.toml in EDGEKIT_CONFIG_DIR, else in the user's configuration folder."""
    chosen = os.environ.get("EDGEKIT_CONFIG_DIR")
    try:
        if chosen:
            return Path(chosen).expanduser().absolute() / "devices.toml"
        import platformdirs

        return Path(platformdirs.user_config_dir("edgekit", appauthor=False)) / "devices.toml"
    except RuntimeError as error:
        message = "there is no home folder to look for devices.toml in"
        raise SetupError(message, "choose a folder with EDGEKIT_CONFIG_DIR") from error


def shipped_names() -> list[str]:
    """The built-in device profiles, by file name."""
    return sorted(path.stem for path in folder("device_profiles").glob("*.toml") if not path.stem.startswith("_"))


def device_names() -> list[str]:
    """The built-in device profiles and the user's own devices."""
    return sorted({*shipped_names(), *user_layers()})


def user_layers() -> dict[str, Layer]:
    """The tables of the user's devices file by device; none without such a file. Raises UserError."""
    path = user_file()
    if not is_file(path):
        return {}
    text, data = parse(path)
    for name, table in data.items():
        if not NAME.fullmatch(name):
            where = f"{path.name}:{line_of(text, '', name)}"
            raise UserError(f"{where}: '{name}' is no name for a device", "letters, digits, '-' and '_' will do")
        if not isinstance(table, dict):
            where = f"{path.name}:{line_of(text, '', name)}"
            raise UserError(f"{where}: '{name}' is not a table", "every device is a table: [NAME], [NAME.connection]")
    return {name: Layer(path, text, table, name) for name, table in data.items()}


def device(name: str, connection: Mapping[str, Any] | None = None) -> Device:
    """A device by profile name or by the path of a .toml file; `connection` overrides keys of that table.

    Raises UserError with file, line and key.
    """
    layers = layers_of(name)
    if connection:
        layers.append(Layer(COMMAND_LINE, "", {"connection": dict(connection)}))
    return combine(Path(name).stem if name.endswith(".toml") else name, layers)


def layers_of(name: str) -> list[Layer]:
    """Where the profile `name` stands: its file, and what the user's devices file says of it. Raises UserError."""
    if Path(name).suffix == ".toml":
        if not is_file(Path(name)):
            raise UserError(
                f"there is no device profile '{name}'", "give the path of a .toml file, or a name of `edgekit devices`"
            )
        return [layer(Path(name))]
    mine = user_layers()
    if name not in shipped_names() and name not in mine:
        raise unknown("device", name, {*shipped_names(), *mine})
    shipped = folder("device_profiles") / f"{name}.toml"
    found = [layer(shipped)] if name in shipped_names() else []
    return [*found, *([mine[name]] if name in mine else [])]


def layer(path: Path) -> Layer:
    """A profile file of its own. Raises UserError when it cannot be read."""
    return Layer(path, *parse(path))


def parse(path: Path) -> tuple[str, dict[str, Any]]:
    """The text of a TOML file, and what it says."""
    try:
        text = path.read_text(encoding="utf-8")
        return text, tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the device profile {path.name}: {error}") from error
    except tomllib.TOMLDecodeError as error:
        hint = "mend that line; _reference.toml shows every key"
        raise UserError(f"{path.name} is not valid TOML: {error}", hint) from error


def read(path: Path) -> Device:
    """One profile file as a Device, with nothing over it."""
    return combine(path.stem, [layer(path)])


def combine(name: str, layers: list[Layer]) -> Device:
    """The device that the layers describe, each over the one before it. Raises UserError with file, line and key."""
    data: dict[str, Any] = {}
    told_with_host = False  # the port, as HOST:PORT: it is of no other host
    for one in layers:
        check_table(one, "", one.data)
        given = dict(one.data)
        if "connection" in given:
            given["connection"] = apart(one, given["connection"])
            if "host" in given["connection"]:
                if told_with_host:
                    del data["connection"]["port"]
                told_with_host = "port" in given["connection"] and "port" not in one.data["connection"]
            elif "port" in given["connection"]:
                told_with_host = False
        way = data.get("transport")
        changed = moved(one, way, given) if way else None
        data = merged(data, given)
        if changed:
            data["transport"] = changed
        if way == "emulator" != data["transport"]:
            data.pop("emulation", None)
    base = layers[0]
    for key in REQUIRED:
        if key not in data:
            where = (
                f"{base.path.name}:{line_of(base.text, '', base.name)}: device '{name}'"
                if base.name
                else base.path.name
            )
            raise UserError(f"{where}: the key '{key}' is missing", "_reference.toml shows every key")
    check_choice(layers, "arch", data["arch"], ARCHS)
    check_choice(layers, "transport", data["transport"], plugins.names("transport"))
    for key in ("runtimes", "optional_runtimes"):
        for runtime in data.get(key, ()):
            check_choice(layers, key, runtime, plugins.names("runtime"))
    check_reach(layers, data)
    return Device(
        name=name,
        description=data["description"],
        arch=data["arch"],
        transport=data["transport"],
        runtimes=tuple(data["runtimes"]),
        connection=data.get("connection", {}),
        emulation=data.get("emulation"),
        hardware=data.get("hardware", {}),
        limits=data.get("limits", {}),
        optional_runtimes=tuple(data.get("optional_runtimes", ())),
        source=base.path,
        estimate=data.get("estimate"),
    )


def bare(name: str, transport: str, connection: Mapping[str, Any]) -> Device:
    """A device of which nothing is known but where it is."""
    given = {"connection": dict(connection)}
    check_table(Layer(COMMAND_LINE, "", given), "", given)
    place = apart(Layer(COMMAND_LINE, "", given), given["connection"])
    return Device(name, "", REACHES[transport][0], transport, (), place)


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of both; `over` decides, table by table."""
    result = dict(under)
    for key, value in over.items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(below, dict) and isinstance(value, Mapping) else value
    return result


def apart(one: Layer, connection: Mapping[str, Any]) -> dict[str, Any]:
    """The same connection with a host written as USER@HOST:PORT taken apart; keys of their own go before."""
    if "host" not in connection:
        return dict(connection)
    found = HOST.fullmatch(connection["host"])
    if not found:
        message = f"{one.at('connection', 'host')}: {connection['host']!r} is not [USER@]HOST[:PORT]"
        raise UserError(message, "an IPv6 address stands in brackets: pi@[fe80::1]:22")
    user, v6, host, port = found.groups()
    told = {"user": user, "port": int(port) if port else None}
    if port:
        check_table(one, "connection", {"port": told["port"]})
    return {**{key: value for key, value in told.items() if value}, **connection, "host": v6 or host}


def moved(one: Layer, way: str, given: Mapping[str, Any]) -> str | None:
    """How a device is reached that gets its place in this layer, over what was said before; None when that stays."""
    places = [key for key in dict.fromkeys(PLACES.values()) if key in given.get("connection", {})]
    if "transport" in given or not places:
        return None
    if len(places) > 1:
        where = one.at("connection", places[1])
        raise UserError(
            f"{where}: a device has one place, not '{places[0]}' and '{places[1]}'", "leave one of them out"
        )
    (place,) = places
    if way in BOARDS:
        return next(name for name, key in PLACES.items() if key == place)
    if way in (*PLACES, "local", "vm") and PLACES.get(way) != place:
        message = f"{one.at('connection', place)}: a device reached by '{way}' takes no '{place}'"
        raise UserError(message, "name a device that is reached so: `edgekit devices` lists them")
    return None


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


def check_table(one: Layer, table: str, data: Mapping[str, Any]) -> None:
    """Every key known, every value of its type; recurses into tables."""
    known = KEYS[table]
    for key, value in data.items():
        where = one.at(table, key)
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
        if full in AT_MOST and value > AT_MOST[full]:
            message = f"{where}: '{full}' must be at most {AT_MOST[full]}, not {value}"
            raise UserError(message, "_reference.toml shows every key")
        if isinstance(value, dict):
            check_table(one, full, value)
        if isinstance(value, list):
            check_list(one, full, value, where)
    for key in WHOLE.get(table, ()):
        if key not in data:
            where = one.at(table, next(iter(data), ""))
            raise UserError(f"{where}: '{table}' needs the key '{key}'", "_reference.toml shows every key")


def check_list(one: Layer, full: str, value: list[Any], where: str) -> None:
    """A list of names, or of tables with known keys."""
    kind, what = (dict, "tables") if full in TABLES else (str, "names")
    if not (value and all(isinstance(item, kind) for item in value)):
        raise UserError(f"{where}: '{full}' must be a list of {what}", "_reference.toml shows every key")
    for item in value if kind is dict else ():
        check_table(one, full, item)


def place_of(layers: list[Layer], table: str, key: str) -> str:
    """FILE:LINE of the key that counts: in the last layer that has it, else where it would stand."""
    outer, _, name = table.rpartition(".")
    for one in reversed(layers):
        inner = one.data.get(outer, {}).get(name, {}) if outer else one.data.get(table, {}) if table else one.data
        if key in inner:
            return one.at(table, key)
    return layers[0].at(table, key)


def check_reach(layers: list[Layer], data: dict[str, Any]) -> None:
    """The transport reaches this architecture, and the emulator is told all it needs."""
    transport, arch = data["transport"], data["arch"]
    reached = REACHES.get(transport, ARCHS)
    if arch not in reached:
        message = f"the transport '{transport}' does not reach the arch '{arch}'"
        raise UserError(f"{place_of(layers, '', 'arch')}: {message}", f"it reaches: {', '.join(reached)}")
    if transport not in REQUIRED_TO_EMULATE:
        return
    if "emulation" not in data:
        where = place_of(layers, "", "transport")
        raise UserError(f"{where}: the {transport} needs the table [emulation]", "_reference.toml shows it")
    for table, keys in REQUIRED_TO_EMULATE[transport].items():
        outer, _, name = table.rpartition(".")
        given = data[outer][name] if outer else data[name]
        for key in keys:
            if key not in given:
                where = place_of(layers, outer, name)
                raise UserError(f"{where}: the {transport} needs '{table}.{key}'", "_reference.toml shows every key")


def article(kind: type) -> str:
    """How a user would call a TOML type."""
    return {str: "a text", int: "a whole number", float: "a number", list: "a list", dict: "a table"}[kind]


def check_choice(layers: list[Layer], key: str, value: str, known: tuple[str, ...] | list[str]) -> None:
    """A value that must be one of some names."""
    if value not in known:
        error = unknown(key.removesuffix("s").removeprefix("optional_"), str(value), known)
        raise UserError(f"{place_of(layers, '', key)}: {error.message}", error.hint)
