"""Two runs side by side: for each cell and metric both figures, their ratio and what it says. Nothing is measured here."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit import baseline, figures, gate, ratio
from edgekit.errors import UserError
from edgekit.figures import METRICS, Figure
from edgekit.ratio import Verdict
from edgekit.types import Json, to_json

# In the order shown; accuracy stands for whatever metric there is.
COMPARED = (
    "p50", "p95", "first", "load", "steady", "instructions", "peak", "size", "energy", "accuracy", "agreement", "sqnr",
)  # fmt: skip
SQNR_DB = 1.0  # a smaller change of the signal to noise is nothing to act on
SQNR_ENOUGH_DB = 60.0  # from here on the rounding of fp16 and of another order of additions shows, and nothing else
NO_INTERVAL = "no interval: "


@dataclass(frozen=True)
class Row:
    """One metric of one cell. `ratio` is NEW / BASE; `why` says what an inconclusive verdict is for want of."""

    id: str
    metric: str
    base: Figure
    new: Figure
    ratio: Figure | None
    verdict: Verdict
    why: str = ""

    def to_json(self) -> Json:
        """The machine form, in the metric's base unit."""
        form = {
            name: to_json(getattr(self, name)) for name in ("id", "metric", "base", "new", "ratio", "verdict", "why")
        }
        return {key: value for key, value in form.items() if value is not None}


@dataclass(frozen=True)
class Compared:
    """All cells that both runs have; `gone` are those of BASE that are not ok in NEW, with why, `fresh` those only NEW has."""

    base: str
    new: str
    rows: list[Row]
    gone: dict[str, str]
    fresh: list[str]
    notes: list[str]
    threshold: float

    @property
    def regressions(self) -> list[Row]:
        """The rows that got worse."""
        return [row for row in self.rows if row.verdict == "regression"]

    def to_json(self) -> Json:
        """The machine form."""
        return {
            "base": self.base, "new": self.new, "threshold": self.threshold, "cells": [row.to_json() for row in self.rows],
            "gone": self.gone, "fresh": self.fresh, "notes": self.notes,
        }  # fmt: skip


def compare(base: str, new: str, output: Path = Path("results")) -> Compared:
    """Compare two runs, or files of gate --save, as in baseline.read().

    Raises UserError when one cannot be read, when they are not alike (with the key that differs), or share no cell.
    """
    before, after = baseline.read(base, output), baseline.read(new, output)
    baseline.check_alike(before, after)
    known = max((one["noise"]["relative"] for one in (before, after) if one.get("noise")), default=None)
    limit = ratio.threshold(known)
    here = {gate.key_of(cell): cell for cell in after["cells"]}
    there = {gate.key_of(cell) for cell in before["cells"] if cell["status"] == "ok"}
    rows: list[Row] = []
    gone: dict[str, str] = {}
    lost: dict[str, list[str]] = {}
    for cell in before["cells"]:
        now = here.get(gate.key_of(cell))
        if cell["status"] != "ok":
            continue
        if now is None:
            gone[str(cell["id"])] = f"it is not in {after['run']}"
        elif now["status"] != "ok":
            gone[str(cell["id"])] = figures.why_not(now, "p50")
        else:
            rows += rows_of(cell, now, limit)
            for name in COMPARED:
                if figures.of(cell, name) and not figures.of(now, name):
                    lost.setdefault(name, []).append(str(now["id"]))
    if not rows and not any(cell["status"] == "failed" for cell in after["cells"] if gate.key_of(cell) in there):
        raise UserError(f"{before['run']} and {after['run']} share no figure", f"gone: {', '.join(gone) or 'nothing'}")
    fresh = [str(c["id"]) for c in after["cells"] if c["status"] == "ok" and gate.key_of(c) not in there]
    said = list(notes(before, after, lost))
    if any(row.metric == "p50" for row in rows):
        said.append(
            "the two were measured one after the other: edgekit ab measures by turns, and finds smaller differences"
        )
    return Compared(str(before["run"]), str(after["run"]), rows, gone, fresh, said, limit)


def notes(before: Json, after: Json, lost: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """What decides nothing, each a sentence; `lost` are the ids of the cells that have a metric in BASE alone."""
    yield from (note for note in baseline.notes(before, after) if not note.startswith("not in "))  # Compared.fresh
    for one in (before, after):
        if lacking := baseline.unmeasured(one):
            yield f"{one['run']} ended early or goes on, and says nothing of {', '.join(lacking)}"
    for name, ids in lost.items():
        yield f"{name} is in {before['run']} and not in {after['run']}: {', '.join(ids)}"
    known = {gate.key_of(cell) for cell in before["cells"]}
    for cell in after["cells"]:
        if cell["status"] == "failed" and gate.key_of(cell) not in known:
            yield f"{cell['id']} is not in {before['run']}, and {figures.why_not(cell, 'p50')}"


def rows_of(base: Json, new: Json, limit: float) -> Iterator[Row]:
    """The metrics that both cells have."""
    for name in COMPARED:
        was, has = figures.of(base, name), figures.of(new, name)
        if was is not None and has is not None:
            change = figures.ratio_of(base, new, name)
            metric = base["accuracy"]["metric"] if name == "accuracy" else name
            yield Row(str(new["id"]), metric, was, has, change, *verdict_of(base, new, name, change, limit))


def verdict_of(base: Json, new: Json, name: str, change: Figure | None, limit: float) -> tuple[Verdict, str]:
    """What a metric says, and why it says nothing.

    Times and energy: by the interval of the ratio, as an A/B test does. Instructions, memory and size: beyond what each varies by
    itself. What is judged on inputs: see by_inputs().
    """
    metric = METRICS[name]
    if name in figures.ON_SAME_INPUTS:
        return by_inputs(base, new, name)
    if change is None:
        return "inconclusive", "BASE is not above 0"
    if metric.tolerance is not None:
        return said_of(change, metric.tolerance)
    if not change.known:
        wanted = "that takes two launches of each" if name in figures.PER_LAUNCH else "each run has one such figure"
        return "inconclusive", NO_INTERVAL + wanted
    return said_of(change, limit)


def said_of(change: Figure, limit: float) -> tuple[Verdict, str]:
    """The verdict of ratio.verdict() on a ratio where less is better; of one without a spread by itself, its edges are equal."""
    if change.low == change.high:
        edge = 1 + limit
        return ("regression" if change.value > edge else "improvement" if change.value < 1 / edge else "equal"), ""
    if min(change.value, change.low) <= 0 or not math.isfinite(change.high):
        return "inconclusive", "NEW is not above 0"
    found = ratio.verdict(ratio.Estimate(change.value, change.low, change.high, 0, 0), limit)
    return found, f"it may lie on either side of {100 * limit:.3g} %" if found == "inconclusive" else ""


def by_inputs(base: Json, new: Json, name: str) -> tuple[Verdict, str]:
    """Of figures on the same inputs: equal when they are the same; else by the interval of the difference.

    That is from the two figures' intervals (Newcombe 1998, Statistics in Medicine 17:873, method 10 without pairing, which is wider
    than with it). The signal to noise has none: it differs when it does by SQNR_DB, below SQNR_ENOUGH_DB.
    """
    was, has = figures.of(base, name), figures.of(new, name)
    assert was is not None and has is not None
    judged_by = base["accuracy"]["metric"] if name == "accuracy" else name
    worse: Mapping[bool, Verdict] = {True: "regression", False: "improvement"}
    difference = has.value - was.value
    if name == "sqnr":
        difference = min(has.value, SQNR_ENOUGH_DB) - min(was.value, SQNR_ENOUGH_DB)
    if difference == 0 or (name == "sqnr" and abs(difference) < SQNR_DB):
        return "equal", ""
    if judged_by not in METRICS:
        return "inconclusive", f"{difference:+.4g}, and whether more of {judged_by} is better is not known"
    verdict = worse[(difference > 0) == METRICS[judged_by].lower]
    if name == "sqnr":
        return verdict, ""
    if not (was.known and has.known):
        return "inconclusive", NO_INTERVAL + f"{difference:+.4g}"
    low = difference - math.hypot(has.value - has.low, was.high - was.value)
    high = difference + math.hypot(has.high - has.value, was.value - was.low)
    return ("inconclusive", f"{difference:+.4g}, too few inputs to be sure") if low <= 0 <= high else (verdict, "")
