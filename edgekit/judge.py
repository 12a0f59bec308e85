"""The gate with a policy: a run's figures against limits, and against a baseline where a limit says so. Nothing is measured."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgekit import baseline, figures, gate, limits
from edgekit.errors import UserError
from edgekit.figures import Figure
from edgekit.limits import Limit, Status
from edgekit.policy import Policy
from edgekit.types import Json, to_json

Verdict = Status | Literal["missing", "skip"]
NAMED = 8  # cells that a message tells


@dataclass(frozen=True)
class Row:
    """One limit on one cell. `figure` is what was judged (for a limit against the baseline: the ratio or the difference), `now` and
    `was` the figures themselves; None where there is none. `why` says what is wrong, without the cell and the metric.

    Besides what Limit.judge() says: "missing" where there is no figure, "skip" of a cell that the device or runtime cannot do.
    """

    id: str
    limit: Limit
    status: Verdict
    figure: Figure | None
    now: Figure | None
    was: Figure | None
    why: str = ""

    def to_json(self) -> Json:
        """The machine form, in the metric's base unit."""
        form = {
            "id": self.id, "metric": self.limit.metric, "limit": self.limit.text, "against": self.limit.against or None,
            "status": self.status, "figure": self.figure, "now": self.now, "baseline": self.was, "why": self.why,
        }  # fmt: skip
        return {key: to_json(value) for key, value in form.items() if value is not None}


@dataclass(frozen=True)
class Judged:
    """All limits on all cells, and what the whole comes to: "warn" where only the policy lets it pass."""

    run: str
    baseline: str | None
    rows: list[Row]
    notes: list[str]
    policy: Policy

    @property
    def failed(self) -> list[Row]:
        """The rows that fail the gate."""
        return [row for row in self.rows if self.counts_as(row) == "fail"]

    def counts_as(self, row: Row) -> str:
        """pass, warn, fail or skip: what the policy makes of a row."""
        words = {"inconclusive": self.policy.inconclusive, "missing": self.policy.missing}
        return words.get(row.status, row.status)

    @property
    def status(self) -> str:
        """The worst of the rows: pass, warn or fail."""
        found = {self.counts_as(row) for row in self.rows}
        return next(word for word in ("fail", "warn", "pass") if word in found)

    def to_json(self) -> Json:
        """The machine form."""
        return {
            "status": self.status, "run": self.run, "baseline": self.baseline, "inconclusive": self.policy.inconclusive,
            "missing": self.policy.missing, "cells": [row.to_json() for row in self.rows], "notes": self.notes,
        }  # fmt: skip


def check(now: str, rules: Policy, before: str | None = None, output: Path = Path("results")) -> Judged:
    """Hold a run against a policy; `now` and `before` as in baseline.read().

    Cells that the run was to have, or that were ok before, fail where they are not in it.

    Raises UserError when one cannot be read, when they are not alike, when a limit needs a baseline and there is none, when a
    pattern fits no cell, and when a limit cannot be judged on any cell.
    """
    after = baseline.read(now, output)
    if not after["cells"]:
        raise UserError(f"{after['run']} has no cell", "edgekit profile --resume finishes a run")
    earlier = baseline.read(before, output) if before else None
    if rules.relative and earlier is None:
        raise UserError(
            f"the limit {rules.relative[0]} is against a baseline", "give one: --baseline RUN, or a file of gate --save"
        )
    if earlier:
        baseline.check_alike(earlier, after)
    gone = {row_id: (f"it is not in {after['run']}", cell) for row_id, cell in lost(earlier, after)}
    gone |= {
        row_id: ("it was to be measured and was not: edgekit profile --resume finishes the run", {})
        for row_id in baseline.unmeasured(after)
    }
    check_patterns(rules, [*(str(cell["id"]) for cell in after["cells"]), *gone])
    known = {gate.key_of(cell): cell for cell in earlier["cells"]} if earlier else {}
    rows = [
        row_of(cell, known.get(gate.key_of(cell)), limit)
        for cell in after["cells"]
        for limit in rules.of(str(cell["id"]))
    ]
    rows += [
        Row(row_id, limit, "fail", None, None, figures.of(cell, limit.metric), why)
        for row_id, (why, cell) in gone.items()
        for limit in rules.of(row_id)
    ]
    unjudged(rows, rules)
    notes = list(baseline.notes(earlier, after)) if earlier else []
    for limit in rules.backwards:
        less = "less" if figures.METRICS[limit.metric].lower else "more"
        notes.append(f"{limit} is no limit on what is worse: of {limit.metric} {less} is better")
    return Judged(str(after["run"]), str(earlier["run"]) if earlier else None, rows, notes, rules)


def check_patterns(rules: Policy, ids: list[str]) -> None:
    """Raise UserError for a pattern that fits no cell."""
    for pattern in rules.cells:
        if not fnmatch.filter(ids, pattern):
            near = difflib.get_close_matches(pattern, ids, 1)
            more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
            hint = f"the nearest is {near[0]}" if near else f"the cells: {', '.join(ids[:NAMED])}{more}"
            raise UserError(f'the pattern "{pattern}" fits no cell', hint)


def lost(earlier: Json | None, after: Json) -> Iterator[tuple[str, Json]]:
    """The cells that were ok in the baseline and are not in the run, with their ids."""
    here = {gate.key_of(cell) for cell in after["cells"]}
    for cell in (earlier or {}).get("cells", ()):
        if cell["status"] == "ok" and gate.key_of(cell) not in here:
            yield str(cell["id"]), cell


def row_of(cell: Json, before: Json | None, limit: Limit) -> Row:
    """One limit on one cell of the run."""
    row_id, ok_before = str(cell["id"]), before is not None and before["status"] == "ok"
    was = figures.of(before, limit.metric) if before and ok_before and limit.against else None
    if cell["status"] != "ok":  # whatever was found out before it failed
        gone = ok_before or cell["status"] != "unsupported"
        return Row(row_id, limit, "fail" if gone else "skip", None, None, was, figures.why_not(cell, limit.metric))
    now = figures.of(cell, limit.metric)
    if now is None:
        return Row(row_id, limit, "missing", None, None, was, figures.why_not(cell, limit.metric))
    if not limit.against:
        figure: Figure | None = now
    elif was is None:
        why = (
            "the baseline has no such cell"
            if before is None
            else f"the baseline: {figures.why_not(before, limit.metric)}"
        )
        return Row(row_id, limit, "missing", None, now, None, why)
    else:
        assert before is not None
        against = figures.ratio_of if limit.against == "ratio" else figures.difference_of
        figure = against(before, cell, limit.metric)
    if figure is None:
        return Row(row_id, limit, "missing", None, now, was, "no ratio to a baseline that is not surely above 0")
    status = limit.judge(figure)
    change = f"{figures.show(limit.metric, was.value)} -> {figures.show(limit.metric, now.value)}: " if was else ""
    why = "" if status == "pass" else f"{change}{limits.shown(limit, figure)}, the limit is {limit.text}"
    return Row(row_id, limit, status, figure, now, was, why)


def unjudged(rows: list[Row], rules: Policy) -> None:
    """Raise UserError when a limit of the policy was judged on no cell: a gate that cannot fail is none."""
    rows_of: dict[int, list[Row]] = {}
    for row in rows:
        rows_of.setdefault(id(row.limit), []).append(row)
    for limit in rules.every:
        of = rows_of.get(id(limit), [])
        if of and not any(row.figure or row.status == "fail" for row in of):
            raise UserError(
                f"no cell can be judged by {limit}: {of[0].why}", "leave the limit out, or measure what it is about"
            )
