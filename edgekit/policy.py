"""The gate's policy file: limits for all cells, for some, and what an inconclusive one counts as; read, and made from a run."""

from __future__ import annotations

import fnmatch
import glob
import json
import math
import re
import textwrap
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from edgekit import figures
from edgekit.errors import UserError, unknown
from edgekit.inert import printable
from edgekit.limits import EXAMPLE, Limit, parse
from edgekit.types import Json

CountsAs = Literal["fail", "pass", "warn"]
SWITCHES = ("inconclusive", "missing")
KEYS = (*SWITCHES, "limits", "cells")
# What --init writes where a cell has the figure: how far above the upper end of the interval, and in which unit.
MARGINS: Mapping[str, tuple[float, str, float]] = {
    "p50": (0.10, "ms", 1e6),
    "p95": (0.20, "ms", 1e6),
    "peak": (0.10, "mb", 1e6),
    "size": (0.05, "kb", 1e3),
}


@dataclass(frozen=True)
class Policy:
    """`limits` hold for every cell; those of a pattern that its id fits take their place, those of the last one before others.

    `inconclusive` is what a figure counts as whose interval lies on both sides of its limit, `missing` what one counts as that a
    cell has not.
    """

    limits: tuple[Limit, ...]
    cells: Mapping[str, tuple[Limit, ...]]
    inconclusive: CountsAs = "fail"
    missing: CountsAs = "fail"

    def of(self, cell_id: str) -> list[Limit]:
        """The limits of a cell. Those of a pattern take the place of general ones on the same metric in the same direction."""
        chosen = self.limits
        for pattern, limits in self.cells.items():
            if fnmatch.fnmatchcase(cell_id, pattern):
                taken = {(limit.metric, limit.op[0]) for limit in limits}
                chosen = (*(limit for limit in chosen if (limit.metric, limit.op[0]) not in taken), *limits)
        return list(chosen)

    @property
    def every(self) -> list[Limit]:
        """The limits of all tables."""
        return [*self.limits, *(limit for limits in self.cells.values() for limit in limits)]

    @property
    def relative(self) -> list[Limit]:
        """The limits that need a baseline."""
        return [limit for limit in self.every if limit.against]

    @property
    def backwards(self) -> list[Limit]:
        """The limits that ask for more of what is better when less, or the other way round, where none asks for the better."""
        better = {limit.metric for limit in self.every if (limit.op[0] == "<") == figures.METRICS[limit.metric].lower}
        return [limit for limit in self.every if limit.metric not in better and limit.metric != "accuracy"]


def read(path: Path) -> Policy:
    """A policy file. Raises UserError for anything it does not know, with what was meant."""
    try:
        found = tomllib.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError as error:
        raise UserError(f"there is no policy {path}", "edgekit gate --init writes one from a run") from error
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}", "a policy is TOML: edgekit gate --init writes one") from error
    try:
        return of(found)
    except UserError as error:
        raise UserError(f"{path}: {error.message}", error.hint) from error


def of(found: Mapping[str, Any]) -> Policy:
    """A policy from its TOML tables. Raises UserError."""
    for key in found:
        if key not in KEYS:
            raise unknown("key", key, KEYS)
    words = {switch: found.get(switch, "fail") for switch in SWITCHES}
    for switch, word in words.items():
        if word not in get_args(CountsAs):
            raise UserError(f"{switch} = {word!r} is not known", f"one of {', '.join(get_args(CountsAs))}")
    cells = table("cells", found.get("cells", {}))
    general = tuple(limits_of("limits", found.get("limits", {})))
    each = {pattern: tuple(limits_of(f'cells."{pattern}"', value)) for pattern, value in cells.items()}
    empty = [pattern for pattern, limits in each.items() if not limits]
    if empty or (not general and not each):
        where = f'[cells."{empty[0]}"]' if empty else "it"
        raise UserError(f"{where} limits nothing", 'a table has lines such as p95_ms = "<= 20"')
    return Policy(general, each, **cast(dict[str, CountsAs], words))


def table(name: str, value: object) -> Mapping[str, Any]:
    """A TOML table. Raises UserError for anything else."""
    if not isinstance(value, dict):
        raise UserError(f"{name} is no table", f"write it as [{name}]")
    return value


def limits_of(name: str, found: object) -> Iterator[Limit]:
    """The limits of one table; a metric with several has a list. Raises UserError."""
    known: set[tuple[str, str, str]] = set()
    for key, value in table(name, found).items():
        if value == []:
            raise UserError(f"[{name}] {key} = [] limits nothing", "leave it out")
        for text in value if isinstance(value, list) else [value]:
            if not isinstance(text, str):
                number = isinstance(text, (int, float)) and not isinstance(text, bool) and math.isfinite(text)
                raise UserError(
                    f"[{name}] {key} = {json.dumps(text, default=str)} does not say which way",
                    f'write {key} = "<= {text}" or ">= {text}"' if number else EXAMPLE,
                )
            limit = parse(key, text)
            place = (limit.metric, limit.op[0], limit.against)
            if place in known:
                raise UserError(f"[{name}] limits {limit.metric} twice in one direction", "leave one out")
            known.add(place)
            yield limit


def written(form: Json) -> str:
    """A commented policy that a run passes: its figures with a margin. Raises UserError for a run without any."""
    sections = [section for cell in form["cells"] if cell["status"] == "ok" and (section := list(section_of(cell)))]
    if not sections:
        raise UserError(f"{form['run']} has no figure to make a limit of", "edgekit profile makes a run with some")
    head = f"""\
# What `edgekit gate RUN --policy THIS_FILE` holds a run against. Made from {printable(form["run"])}: its figures with a margin.
# A metric may carry its unit (p95_ms, peak_mb), or its limit does (p95 = "<= 20 ms").
{textwrap.fill("metrics: " + ", ".join(figures.METRICS), 100, initial_indent="# ", subsequent_indent="#   ")}

# When the 95 % interval of a figure lies on both sides of its limit: "fail", "warn" or "pass".
inconclusive = "fail"
# When a cell has no such figure, for instance no p95 of batched calls: likewise.
missing = "fail"

# For every cell. With a sign it is against a baseline: edgekit gate RUN --policy THIS_FILE --baseline RUN_OR_FILE
[limits]
# instructions = "<= +1%"
# top1 = ">= -0.5 pp"

# For the cells whose id fits a pattern with * and ?, in place of a general limit on the same metric.
"""
    return head + "\n".join("\n".join(section) + "\n" for section in sections)


def section_of(cell: Json) -> Iterator[str]:
    """The lines of one cell; none where it has no figure to limit."""
    lines = [line for name in MARGINS if (line := upper(cell, name))]
    counts = figures.of(cell, "instructions")
    if counts:
        lines.append(f'instructions = "<= {math.ceil(counts.high * 1.01)}"  # measured {counts.value:.0f}')
    judged = cell.get("accuracy", {}).get("metric")
    if judged in figures.METRICS and (found := figures.of(cell, judged)):
        up = figures.METRICS[judged].lower
        bound = raised(found.high * 1.05) if up else str(math.floor(found.low * 1e3) / 1e3)
        ends = f", at 95 %: {found.low:.4g} to {found.high:.4g}" if found.known else ""
        if up or float(bound) > 0:
            lines.append(f'{judged} = "{"<=" if up else ">="} {bound}"  # measured {found.value:.4g}{ends}')
    if lines:
        yield f"[cells.{quoted(glob.escape(cell['id']))}]"
        yield from lines


def quoted(pattern: str) -> str:
    """A TOML string; what TOML cannot hold, bytes of a file's name that are no text, becomes the ? of a pattern."""
    bare = re.sub("[\ud800-\udfff]", "?", pattern)
    return json.dumps(bare, ensure_ascii=False).replace("\x7f", "\\u007f")


def raised(value: float) -> str:
    """A figure of 0 or more, rounded up to three digits."""
    digits = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{math.ceil(value * 10**digits) / 10**digits:.{digits}f}"


def upper(cell: Json, name: str) -> str:
    """One line with an upper limit on a figure, rounded up to three digits; "" where there is none."""
    found = figures.of(cell, name)
    if found is None:
        return ""
    margin, unit, scale = MARGINS[name]
    bound = raised(found.high * (1 + margin) / scale)
    return f'{name}_{unit} = "<= {bound}"  # measured {figures.show(name, found.value)}'
