"""The gate's policy file: limits for all cells, for some, and what an inconclusive one counts as; read, and made from a run."""

from __future__ import annotations

import fnmatch
import glob
import json
import math
import textwrap
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from edgekit import figures
from edgekit.errors import UserError, unknown
from edgekit.limits import Limit, parse
from edgekit.types import Json

Inconclusive = Literal["fail", "pass", "warn"]
KEYS = ("inconclusive", "limits", "cells")
# What --init writes where a cell has the figure: how far above the upper end of the interval, and in which unit.
MARGINS: Mapping[str, tuple[float, str, float]] = {
    "p50": (0.10, "ms", 1e6),
    "p95": (0.20, "ms", 1e6),
    "peak": (0.10, "mb", 1e6),
    "size": (0.05, "kb", 1e3),
}


@dataclass(frozen=True)
class Policy:
    """`limits` hold for every cell; those of a pattern that its id fits take their place, those of the last one before others."""

    limits: tuple[Limit, ...]
    cells: Mapping[str, tuple[Limit, ...]]
    inconclusive: Inconclusive = "fail"

    def of(self, cell_id: str) -> list[Limit]:
        """The limits of a cell. One of a pattern takes the place of a general one on the same metric in the same direction."""
        chosen = {(limit.metric, limit.op[0]): limit for limit in self.limits}
        for pattern, limits in self.cells.items():
            if fnmatch.fnmatchcase(cell_id, pattern):
                chosen |= {(limit.metric, limit.op[0]): limit for limit in limits}
        return list(chosen.values())

    @property
    def relative(self) -> list[Limit]:
        """The limits that need a baseline."""
        every = [*self.limits, *(limit for limits in self.cells.values() for limit in limits)]
        return [limit for limit in every if limit.against]


def read(path: Path) -> Policy:
    """A policy file. Raises UserError for anything it does not know, with what was meant."""
    try:
        found = tomllib.loads(path.read_text("utf-8"))
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
    word = found.get("inconclusive", "fail")
    if word not in get_args(Inconclusive):
        raise UserError(f"inconclusive = {word!r} is not known", f"one of {', '.join(get_args(Inconclusive))}")
    cells = table("cells", found.get("cells", {}))
    general = tuple(limits_of("limits", found.get("limits", {})))
    each = {pattern: tuple(limits_of(f'cells."{pattern}"', value)) for pattern, value in cells.items()}
    if not general and not any(each.values()):
        raise UserError("it limits nothing", 'write a table [limits] with, for instance, p95_ms = "<= 20"')
    return Policy(general, each, cast(Inconclusive, word))


def table(name: str, value: object) -> Mapping[str, Any]:
    """A TOML table. Raises UserError for anything else."""
    if not isinstance(value, dict):
        raise UserError(f"{name} is no table", f"write it as [{name}]")
    return value


def limits_of(name: str, found: object) -> Iterator[Limit]:
    """The limits of one table; a metric with several has a list. Raises UserError."""
    known: set[tuple[str, str]] = set()
    for key, value in table(name, found).items():
        for text in value if isinstance(value, list) else [value]:
            if not isinstance(text, str):
                raise UserError(
                    f"[{name}] {key} = {json.dumps(text, default=str)} does not say which way",
                    f'write {key} = "<= {text}" or ">= {text}"',
                )
            limit = parse(key, text)
            if (limit.metric, limit.op[0]) in known:
                raise UserError(f"[{name}] limits {limit.metric} twice in one direction", "leave one out")
            known.add((limit.metric, limit.op[0]))
            yield limit


def written(form: Json) -> str:
    """A commented policy that a run passes: its figures with a margin. Raises UserError for a run without any."""
    sections = [section for cell in form["cells"] if cell["status"] == "ok" and (section := list(section_of(cell)))]
    if not sections:
        raise UserError(f"{form['run']} has no figure to make a limit of", "edgekit profile makes a run with some")
    head = f"""\
# What `edgekit gate RUN --policy THIS_FILE` holds a run against. Made from {form["run"]}: its figures with a margin.
# A metric may carry its unit (p95_ms, peak_mb), or its limit does (p95 = "<= 20 ms").
{textwrap.fill("metrics: " + ", ".join(figures.METRICS), 100, initial_indent="# ", subsequent_indent="#   ")}

# When the 95 % interval of a figure lies on both sides of its limit: "fail", "warn" or "pass".
inconclusive = "fail"

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
        bound = math.ceil(found.high * 1.05e3) / 1e3 if up else math.floor(found.low * 1e3) / 1e3
        ends = f", at 95 %: {found.low:.4g} to {found.high:.4g}" if found.known else ""
        lines.append(f'{judged} = "{"<=" if up else ">="} {bound:g}"  # measured {found.value:.4g}{ends}')
    if lines:
        yield f"[cells.{json.dumps(glob.escape(cell['id']), ensure_ascii=False)}]"
        yield from lines


def upper(cell: Json, name: str) -> str:
    """One line with an upper limit on a figure, rounded up to three digits; "" where there is none."""
    found = figures.of(cell, name)
    if found is None:
        return ""
    margin, unit, scale = MARGINS[name]
    bound = found.high * (1 + margin) / scale
    digits = max(0, 2 - math.floor(math.log10(bound))) if bound > 0 else 0
    raised = math.ceil(bound * 10**digits) / 10**digits
    return f'{name}_{unit} = "<= {raised:.{digits}f}"  # measured {figures.show(name, found.value)}'
