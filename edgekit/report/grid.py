"""The columns of the terminal's table: what each shows of a cell, in which unit, and which go first when room is short."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.inert import cut, printable
from edgekit.report import Reports, choice, marks
from edgekit.report.columns import COLUMNS
from edgekit.report.words import percent, together
from edgekit.types import Json

BY_NAME = {column.name: column for column in COLUMNS}
FIXED = {"MiB": 1 / (1 << 20), "%": 100, "dB": 1}  # units that are always the same: how many of them one of the base is
NAMES_WIDTH = 24  # of a name in the table; a longer one is cut
PER_CALL = choice.LATENCY.within
STAYS = 0
BEST, DOUBT = "*", "?"


@dataclass(frozen=True)
class Column:
    """One column. `of` gives what a cell has there: a number in the unit `base`, words where that is "", None for nothing.

    `rank` orders what is left out of a narrow table, the highest first; what STAYS is never left out. `lower` says whether
    less is better, None where nothing is. Figures are best among cells alike in `within`; `extra` columns are for wide
    terminals only, and nobody is told that they were left out. `emulated` time is no board's.
    """

    heading: str
    of: Callable[[Json], Any]
    base: str = ""
    rank: int = STAYS
    lower: bool | None = None
    within: tuple[str, ...] = ()
    extra: bool = False
    unit: str = ""
    name: bool = False
    emulated: bool = False


@dataclass(frozen=True)
class Drawn:
    """A column as it is written: by row a text and what is behind it, BEST, DOUBT or nothing."""

    column: Column
    unit: str
    texts: list[str]
    marks: list[str]


def figure(name: str) -> Callable[[Json], Any]:
    """What a cell has in that column of columns.py."""
    return BY_NAME[name].of


def latency(name: str, emulated: bool = False) -> Callable[[Json], Any]:
    """A time of a cell that ran on a real device, or on an emulated one: the two never stand in one column."""
    of = figure(name)
    return lambda cell: of(cell) if cell.get("latency", {}).get("emulated") is emulated else None


def interval(cell: Json) -> str | None:
    """Half of the interval of a real device's median, as a share of it."""
    found = cell.get("latency", {})
    if found.get("emulated", True) or "half_width" not in found:
        return None
    return f"\N{PLUS-MINUS SIGN}{percent(found['half_width'])}"


def error(cell: Json) -> str | None:
    """How far an estimate may be off."""
    found = cell.get("estimate", {})
    return f"\N{PLUS-MINUS SIGN}{percent(found['error'])}" if "latency_ns" in found else None


def right(cell: Json) -> str | None:
    """Right answers, and of how many."""
    found = cell.get("accuracy") or {}
    return f"{found['correct']}/{found['total']}" if "correct" in found else None


def columns(found: Reports) -> list[Column]:
    """The columns that can tell something of these cells, from left to right."""
    cells = found.cells

    def differ(key: str, otherwise: object = None) -> bool:
        return len({cell.get(key, otherwise) for cell in cells}) > 1

    names = [
        Column(key, figure(key), name=True)
        for key, wanted in (("device", len(found.reports) > 1), ("model", differ("model")))
        if wanted
    ]
    names += [Column(key, figure(key), name=True) for key in ("runtime", "precision")]
    if {cell["threads"] for cell in cells} != {1}:
        names.append(Column("threads", lambda cell: str(cell["threads"])))
    if differ("batch", 1) or any("batch" in cell for cell in cells):
        names.append(Column("batch", lambda cell: str(cell.get("batch", 1))))
    return [
        *names,
        *accuracy(cells),
        Column("agree", figure("agreement"), "%", 41, lower=False),
        Column("SQNR", figure("sqnr_db"), "dB", 40, lower=False),
        Column("file", figure("file_bytes"), "B", 20, lower=True),
        Column("load", figure("load_peak_bytes"), "MiB", 42, lower=True),
        Column("run", figure("run_peak_bytes"), "MiB", 21, lower=True),
        Column("delta", figure("delta_bytes"), "MiB", 95, lower=True, extra=True),
        Column("instr.", figure("instructions"), "count", lower=True, within=choice.INSTRUCTIONS.within),
        Column("emul.", latency("p50_ns", emulated=True), "ns", 30, emulated=True),
        Column("estimated", figure("estimate_ns"), "ns", lower=True, within=PER_CALL),
        Column("error", error, unit="of it"),
        Column("energy", figure("mj_per_inference"), "mJ", 10, lower=True),
        Column("p50", latency("p50_ns"), "ns", lower=True, within=PER_CALL),
        Column("interval", interval, unit="95 %"),
        Column("p90", latency("p90_ns"), "ns", 92, lower=True, within=PER_CALL, extra=True),
        Column("p95", latency("p95_ns"), "ns", 90, lower=True, within=PER_CALL, extra=True),
        Column("p99", latency("p99_ns"), "ns", 91, lower=True, within=PER_CALL, extra=True),
        Column("first", latency("first_ns"), "ns", 93, lower=True, within=PER_CALL, extra=True),
        Column("loading", latency("load_ns"), "ns", 94, lower=True, extra=True),
    ]


def accuracy(cells: Sequence[Json]) -> list[Column]:
    """The column of the task's metric, a share in percent where answers are right or wrong, and how many are right."""
    known = {cell["accuracy"]["metric"] for cell in cells if "value" in cell.get("accuracy", {})}
    shares = any("correct" in cell.get("accuracy", {}) for cell in cells)
    if len(known) > 1:
        return [Column("accuracy", lambda cell: said(cell.get("accuracy") or {}))]
    metric = printable(next(iter(known), ""))
    lower = metric in choice.LESS_IS_BETTER if metric in choice.METRICS else None
    if shares:
        return [
            Column("accuracy", figure("accuracy"), "%", lower=lower, unit=f"{cut(metric, NAMES_WIDTH)} %"),
            Column("right", right, rank=50, unit="of all"),
        ]
    return [Column("accuracy", figure("accuracy"), "1", lower=lower, unit=cut(metric, NAMES_WIDTH))]


def said(found: Json) -> str | None:
    """An accuracy beside those of other metrics."""
    if "value" not in found:
        return None
    value = f"{100 * found['value']:.1f} %" if "correct" in found else f"{found['value']:.4g}"
    return f"{value} {found['metric']}"


def drawn(found: Reports, rows: Sequence[int], chosen: Sequence[marks.Chosen]) -> list[Drawn]:
    """The columns that some of these rows fill. What is best is looked for among all cells of a device and a model."""
    every = found.cells
    group_of = {place: number for number, one in enumerate(chosen) for place in one.places}
    told = []
    for column in columns(found):
        values = [column.of(every[place]) for place in rows]
        if all(value is None for value in values):
            continue
        unit, texts = written(column, values)
        behind = best(column, every, rows, texts, group_of)
        if column.of is interval:
            behind = ["" if every[p].get("latency", {}).get("conclusive", True) else DOUBT for p in rows]
        told.append(Drawn(column, column.unit or unit, texts, behind))
    return told


def best(
    column: Column, every: Sequence[Json], rows: Sequence[int], texts: Sequence[str], group_of: Mapping[int, int]
) -> list[str]:
    """What is behind each of these texts: BEST where it reads as the best figure of its device, model and `within` does.

    Of medians those are best, too, that their intervals do not tell from the best. Where all are best, none is marked.
    """
    if column.lower is None:
        return [""] * len(rows)
    values = [column.of(cell) for cell in every]
    groups = [(group_of[place], *(cell.get(key, 1) for key in column.within)) for place, cell in enumerate(every)]
    ahead = marks.best(values, every, groups, column.lower)
    ahead = marks.as_fast(ahead, values, every, groups) if column.heading == "p50" else ahead
    ok = {(groups[p], text) for p, text in zip(rows, texts, strict=True) if text and every[p]["status"] == "ok"}
    alike = {(groups[p], text) for p, text in zip(rows, texts, strict=True) if p in ahead}
    telling = {group for group, text in ok - alike} | ({*groups} if len(rows) < len(every) else set())
    return [
        BEST if every[p]["status"] == "ok" and groups[p] in telling and (groups[p], text) in alike else ""
        for p, text in zip(rows, texts, strict=True)
    ]


def written(column: Column, values: Sequence[Any]) -> tuple[str, list[str]]:
    """A column's unit, and its text of each value."""
    if not column.base:
        return "", ["" if value is None else printable(str(value)[: 8 * NAMES_WIDTH]) for value in values]
    if column.base in FIXED:
        return column.base, ["" if value is None else f"{value * FIXED[column.base]:.1f}" for value in values]
    if column.base == "1":
        return "", ["" if value is None else f"{value:.4g}" for value in values]
    return together(values, column.base)
