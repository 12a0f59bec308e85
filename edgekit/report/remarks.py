"""What the terminal says below its table: what failed, and what weakens the figures, gathered by its name. Pure functions."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from functools import cache

from edgekit.caveats import Weakness
from edgekit.report import Reports
from edgekit.report.words import those
from edgekit.types import Json

WORDS = {"unsupported": "unsupported", "failed": "FAILED"}
MOST = 20  # remarks of one kind; the others are counted
SHORT = 24  # words in which sentences differ are listed up to so many characters, and up to FEW of them
FEW = 3
NUMBER = re.compile(r"([-+]?\d+(?:\.\d+)?)(.*)", re.DOTALL)


def failures(found: Reports) -> list[str]:
    """Why cells have no figures, failed ones first: a line for each reason, with the cells that share it."""
    reasons: dict[tuple[str, str], list[Json]] = {}
    for cell in found.cells:
        if cell["status"] != "ok":
            error = cell.get("error") or {}
            hint = str(error.get("hint") or "").strip()
            reason = str(error.get("message", "")) + (f" ({hint.splitlines()[-1]})" if hint else "")
            reasons.setdefault((cell["status"], reason), []).append(cell)
    lines = [f"{WORDS['failed']}: {name}: {error.message}" for name, error in found.errors.items()]
    for status in ("failed", "unsupported"):
        told = [(reason, cells) for (of, reason), cells in reasons.items() if of == status]
        lines += [f"{WORDS[status]}: {those(cells, found.cells, found)}: {reason}" for reason, cells in told[:MOST]]
        if rest := sum(len(cells) for _, cells in told[MOST:]):
            lines.append(f"{WORDS[status]}: {rest} more cells, for {len(told) - MOST} other reasons")
    return lines


def weaknesses(found: Reports) -> list[str]:
    """What weakens the figures: a line for each named weakness, with where it is so, the range of its figures, and its advice."""
    gathered: dict[tuple[str, str], tuple[list[str], list[Json | str]]] = {}

    def add(warning: Json, where: Json | str) -> None:
        code, message = str(warning["code"]), str(warning["message"])
        messages, places = gathered.setdefault((code, kind_of(code, message)), ([], []))
        messages.append(message)
        places.append(where)

    devices = [report.header["device"]["name"] for report in found.reports if report.cells]
    for report in found.reports:
        for warning in report.warnings:
            add(warning, report.header["device"]["name"])
    for cell in found.cells:
        for warning in cell["warnings"]:
            add(warning, cell)
    lines = []
    for (code, _), (messages, places) in list(gathered.items())[:MOST]:
        where = place_of(places, devices, found)
        lines.append(f"weak: {where}{merged(code, list(dict.fromkeys(messages)))}")
    if len(gathered) > MOST:
        lines.append(f"weak: {len(gathered) - MOST} more remarks, in --format markdown")
    return lines


def place_of(places: Sequence[Json | str], devices: Sequence[str], found: Reports) -> str:
    """Where a weakness is: nothing for the whole run, devices by their names where not all have it, else the cells."""
    cells = [place for place in places if isinstance(place, dict)]
    if not cells:
        names = list(dict.fromkeys(str(place) for place in places))
        return "" if len(devices) == 1 or names == list(devices) else f"{', '.join(names)}: "
    if len(found.cells) == 1:
        return ""
    meant = {id(cell): cell for cell in cells}
    every = [cell for cell in found.cells if cell["status"] == "ok" or id(cell) in meant]
    return f"{those(list(meant.values()), every, found)}: "


def kind_of(code: str, message: str) -> str:
    """What messages of one code have in common that may share a line; those that no sentence of ours explains share none."""
    try:
        weakness = Weakness.of(code)
    except KeyError:
        return message
    return "" if weakness.says != "{what}" and pattern(code).fullmatch(message) else message


@cache
def pattern(code: str) -> re.Pattern[str]:
    """The sentence of a weakness, with a group for each figure and name in it."""
    weakness = Weakness.of(code)
    sentence = f"{weakness.says}: {weakness.advice}" if weakness.advice else weakness.says
    parts, seen = [], set()
    for text, name, _, _ in string.Formatter().parse(sentence):
        parts.append(re.escape(text))
        if name is not None:
            parts.append(f"(?P={name})" if name in seen else f"(?P<{name}>.+?)")
            seen.add(name)
    return re.compile("".join(parts), re.DOTALL)


def merged(code: str, messages: Sequence[str]) -> str:
    """One sentence for several of one weakness, which differ in their figures and names."""
    first, *others = messages
    if not others:
        return first
    weakness = Weakness.of(code)
    matches = [match for message in messages if (match := pattern(code).fullmatch(message))]
    values = {name: spread([match[name] for match in matches]) for name in pattern(code).groupindex}
    parts = []
    for text, name, _, _ in string.Formatter().parse(weakness.says):
        parts += [text, values[name] if name is not None else ""]
    advice = "".join(
        text + (values[name] if name is not None else "")
        for text, name, _, _ in string.Formatter().parse(weakness.advice)
    )
    return "".join(parts) + (f": {advice}" if advice else "")


def spread(texts: Sequence[str]) -> str:
    """What stands in one place of several sentences: the range of figures, a few short words, or the first of long ones."""
    unique = list(dict.fromkeys(texts))
    if len(unique) == 1:
        return unique[0]
    numbers = [NUMBER.fullmatch(text) for text in unique]
    if all(numbers) and len({match[2] for match in numbers if match}) == 1:
        ordered = sorted((float(match[1]), text) for match, text in zip(numbers, unique, strict=True) if match)
        return f"{ordered[0][1]} to {ordered[-1][1]}"
    if len(unique) <= FEW and all(len(text) <= SHORT for text in unique):
        return "/".join(unique)
    return f"{unique[0]} (elsewhere {len(unique) - 1} other{'s' if len(unique) > 2 else ''})"
