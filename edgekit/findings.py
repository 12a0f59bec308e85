"""What a run found out that its reader would want to know, with figures: precisions, delegates and threads that do not pay."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgekit import figures
from edgekit.report.words import duration, percent
from edgekit.types import Json

SLOWER = 1.05  # a smaller difference is the noise of many machines
SURE = 0.05  # of the test that two models are right on equally many inputs
DYNAMIC = "int8_dynamic"
ONE_LAUNCH = 1.10  # what is told of cells of one launch, which have no interval: another may differ by some percent
PAYS = 1.10  # a further thread that buys less is better left to others
FALLEN_BACK = ("partial-delegation", "no-delegate", "fallen-back", "slow-kernels")  # caveats.py


@dataclass(frozen=True)
class Finding:
    """Something about a cell: its kind, one sentence, and the ratio, difference or share it rests on (None: there is none)."""

    kind: str
    id: str
    says: str
    figure: float | None = None


def findings(cells: Sequence[Json]) -> list[Finding]:
    """All findings of a run's cells, in their order."""
    measured = [cell for cell in cells if cell["status"] == "ok"]
    return [*quantized(measured), *fallen_back(measured), *threads(measured)]


def options(cell: Json) -> list[str]:
    """What stands behind the device in an id besides the threads."""
    return [part for part in str(cell["id"]).rpartition("@")[2].split("+")[1:] if not part.startswith("threads=")]


def where(cell: Json) -> str:
    """The runtime of a cell, with the threads and the options that are not as ever."""
    threads = [f"threads={cell['threads']}"] if cell["threads"] != 1 else []
    return " ".join([cell["runtime"], *threads, *options(cell)])


def quantized(cells: Sequence[Json]) -> Iterator[Finding]:
    """Smaller precisions that are slower than fp32 beside them, or surely less accurate."""
    floats = {(c["runtime"], c["threads"], *options(c)): c for c in cells if c["precision"] == "fp32"}
    for cell in cells:
        sibling = floats.get((cell["runtime"], cell["threads"], *options(cell)))
        if sibling is None or cell is sibling:
            continue
        for found in (slower(cell, sibling), less_accurate(cell, sibling)):
            if found:
                yield found


def slower(cell: Json, sibling: Json) -> Finding | None:
    """A smaller precision that takes longer than fp32."""
    ours, theirs = figures.of(cell, "p50"), figures.of(sibling, "p50")
    if not ours or not theirs or theirs.value <= 0 or ours.value <= SLOWER * theirs.value or not surely(ours, theirs):
        return None
    ratio, times = ours.value / theirs.value, f"{duration(ours.value)}, fp32 {duration(theirs.value)}"
    said = f"{cell['precision']} takes {ratio:.2f}x the time of fp32 in {where(cell)} ({times})"
    if cell["precision"] == DYNAMIC:
        advice = "its activations are quantized anew in every call: take int8 with calibration"
        return Finding("dynamic-hurts", cell["id"], f"{said}: {advice}", ratio)
    return Finding("slower-than-fp32", cell["id"], f"{said}: it bought size, not speed", ratio)


def less_accurate(cell: Json, sibling: Json) -> Finding | None:
    """A smaller precision that is surely worse than fp32: by McNemar's test on the same inputs, else where intervals are apart."""
    was, has = figures.of(sibling, "accuracy"), figures.of(cell, "accuracy")
    metric = figures.METRICS.get(cell.get("accuracy", {}).get("metric"))
    if was is None or has is None or metric is None or has.value == was.value:
        return None
    paired = cell["accuracy"].get("paired")
    sure = paired["p"] < SURE if paired else was.known and has.known and was.apart(has)
    if not sure or (has.value > was.value) != metric.lower:
        return None
    kind = "dynamic-hurts" if cell["precision"] == DYNAMIC else "less-accurate"
    said = f"{cell['precision']} has {metric.name} {has.value:.4g} in {where(cell)}, fp32 {was.value:.4g}"
    advice = "another precision, or other calibration data"
    return Finding(kind, cell["id"], f"{said}: {advice}", has.value - was.value)


def surely(ours: figures.Figure, theirs: figures.Figure) -> bool:
    """Whether the intervals leave no doubt which is slower; of one launch there are none, and it takes more than ONE_LAUNCH."""
    return ours.apart(theirs) and (with_intervals(ours, theirs) or ours.value > ONE_LAUNCH * theirs.value)


def with_intervals(*found: figures.Figure) -> bool:
    """Whether all have an interval."""
    return all(figure.known for figure in found)


def fallen_back(cells: Sequence[Json]) -> Iterator[Finding]:
    """Delegates that did not take everything, by the caveats of the cell; the figure is the share of the operators they took."""
    for cell in cells:
        share = cell.get("artifact", {}).get("details", {}).get("delegated_share")
        for warning in cell.get("warnings", ()):  # a saved baseline has none
            if warning["code"] in FALLEN_BACK:
                said = f"{where(cell)} {cell['precision']}: {warning['message']}"
                yield Finding("fell-back", cell["id"], said, 0.0 if warning["code"] == "no-delegate" else share)


def threads(cells: Sequence[Json]) -> Iterator[Finding]:
    """Thread counts that surely buy less than PAYS over the next smaller one."""
    rows: dict[tuple[str, ...], list[Json]] = {}
    for cell in cells:
        if figures.of(cell, "p50"):
            rows.setdefault((cell["model"], cell["runtime"], cell["precision"], *options(cell)), []).append(cell)
    for row in rows.values():
        ordered = sorted(row, key=lambda cell: int(cell["threads"]))
        for fewer, more in itertools.pairwise(ordered):
            before, after = figures.of(fewer, "p50"), figures.of(more, "p50")
            assert before and after
            if after.low <= 0:  # a clock that stood still
                continue
            gain = before.value / after.value
            if before.high / after.low < (PAYS if with_intervals(before, after) else PAYS / ONE_LAUNCH) and gain < PAYS:
                times = f"{duration(after.value)} with {more['threads']} threads, {duration(before.value)} with {fewer['threads']}"
                change = percent(abs(1 - after.value / before.value)) + (" faster" if gain > 1 else " slower")
                said = f"{' '.join((more['runtime'], *options(more)))} {more['precision']}: {times}, {change}"
                yield Finding(
                    "threads-do-not-pay", more["id"], f"{said}: leave the other cores to the rest of the program", gain
                )
