"""Whether what was read from a run's files is as the published schema has it: files are edited by hand, and disks err."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit import store
from edgekit.errors import UserError
from edgekit.types import Json

SCHEMA = Path(__file__).parent / "schema" / f"edgekit-{store.SCHEMA}.json"
KINDS: Mapping[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list, tuple), "string": (str,), "integer": (int,), "number": (int, float),
    "boolean": (bool,), "null": (type(None),),
}  # fmt: skip
MOST = 1e30  # no figure is as large; infinity, as 1e999 is read, is larger
SHOWN = 40  # characters of a value that a message repeats
# What goes wrong with figures that are not what they should be; anything else is no fault of the file.
WRONG = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
FREE = ("memory",)  # its figures are looked at one by one, each where there is one
COMPUTED = ("latency", "instructions", "estimate")  # from the samples, here and now
AS_BEFORE = ("artifact", "accuracy", "fidelity", "system")  # what many cells in a row have in common
Check = Callable[[Any], str]  # what is wrong with a value, "" when nothing is


@functools.cache
def parts() -> Json:
    """The parts of the published schema by their names."""
    found: Json = json.loads(SCHEMA.read_text("utf-8"))["$defs"]
    return found


@functools.cache
def check_of(name: str, but: Collection[str] = ()) -> Check:
    """The check of a part of the schema; `but` are keys of it that are neither required nor looked at."""
    part = parts()[name]
    required = [] if name in FREE else [key for key in part.get("required", ()) if key not in but]
    properties = {key: value for key, value in part["properties"].items() if key not in but}
    return made({**part, "required": required, "properties": properties})


def made(schema: Json) -> Check:
    """The check of a schema: of types, keys, choices and the least that a number may be; what it does not name may be anything."""
    if "$ref" in schema:
        return check_of(schema["$ref"].rpartition("/")[2])
    if "oneOf" in schema:
        return either([made(one) for one in schema["oneOf"]])
    if "enum" in schema:
        return lambda value: "" if value in schema["enum"] else odd(value, " or ".join(map(str, schema["enum"])))
    names = [schema["type"]] if isinstance(schema.get("type"), str) else schema.get("type", ())
    types = tuple(kind for name in names for kind in KINDS[name])
    wanted = " or ".join(names)
    least = schema.get("minimum", -MOST)
    if types == (str,):
        return lambda value: "" if isinstance(value, str) else odd(value, wanted)
    if types == (int,):
        return lambda value: "" if type(value) is int and least <= value < MOST else odd(value, wanted)
    required = schema.get("required", ())
    properties = {key: made(one) for key, one in schema.get("properties", {}).items()}
    items = made(schema["items"]) if "items" in schema else None
    fewest, most = schema.get("minItems", 0), schema.get("maxItems", MOST)

    def of_object(value: Json) -> str:
        for key in required:
            if key not in value:
                return f" lacks '{key}'"
        for key, one in value.items():
            if key in properties and (wrong := properties[key](one)):
                return f".{key}{wrong}"
        return ""

    def check(value: Any) -> str:
        if types and (not isinstance(value, types) or (isinstance(value, bool) and bool not in types)):
            return odd(value, wanted)
        if isinstance(value, dict):
            return of_object(value)
        if isinstance(value, (list, tuple)):
            if not fewest <= len(value) <= most:
                return f" has {len(value)} elements"
            return next((f"[{n}]{wrong}" for n, one in enumerate(value) if (wrong := items(one))), "") if items else ""
        if isinstance(value, (int, float)) and not (least <= value < MOST):
            return odd(value, wanted)
        return ""

    return check


def either(checks: list[Check]) -> Check:
    """A value that passes one of these."""
    return lambda value: "" if not all(found := [check(value) for check in checks]) else found[0]


def odd(value: object, wanted: str) -> str:
    """That a value is not what it should be."""
    return f" is {repr(value)[:SHOWN]}, not {wanted}"


def reason(error: Exception) -> str:
    """What an error of WRONG says of the file in which it was met."""
    return f"it lacks {error}" if isinstance(error, KeyError) else str(error)


def check_header(path: Path, header: Json) -> None:
    """run.json is as it should be. Raises UserError."""
    if wrong := check_of("run", ("schema", "started", "edgekit"))(header):
        raise UserError(f"{path / store.HEADER} is damaged: {wrong[1:]}", "restore the file, or run anew")


class Checked:
    """The cells of a run, made and checked one after another."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: Json = {}

    def cell(self, name: str, of: Callable[[], Json]) -> Json:
        """What `of` makes of the measurement of that name. Raises UserError when that cannot be done, or is not as it should be."""
        try:
            cell = of()
        except WRONG as error:
            raise self.damaged(name, reason(error)) from error
        if wrong := check_of("cell", COMPUTED + AS_BEFORE)(cell):
            raise self.damaged(name, wrong[1:])
        for key in AS_BEFORE:
            if key in cell and cell[key] != self.known.get(key):
                if wrong := made_once(key)(cell[key]) or backwards(cell[key].get("interval", (0, 0))):
                    raise self.damaged(name, key + wrong)
                self.known[key] = cell[key]
        return cell

    def damaged(self, name: str, what: str) -> UserError:
        """What is said of a measurement."""
        message = f"{self.path / store.LINES}: the measurement of {name} is damaged: {what}"
        return UserError(message, "restore the file, or remove that line")


def backwards(interval: Sequence[float]) -> str:
    """That an interval ends before it begins."""
    return ".interval ends before it begins" if interval[0] > interval[1] else ""


@functools.cache
def made_once(key: str) -> Check:
    """The check of one key of a cell."""
    return made(parts()["cell"]["properties"][key])
