"""Which cells are worth a choice: what they are judged by, which of them no other beats, and which to pick. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from edgekit.report import apart
from edgekit.report.words import count, duration, size
from edgekit.types import Json

# The metrics whose direction is known, and how a value is written; of a function of the user's own neither is.
METRICS: Mapping[str, Callable[[float], str]] = {
    "top1": "{:.2%}".format,
    "top5": "{:.2%}".format,
    "auc": "{:.4g}".format,
    "mae": "{:.4g}".format,
}
LESS_IS_BETTER = ("mae",)


@dataclass(frozen=True)
class Axis:
    """One figure by which cells are judged. `of` gives it, in the unit of the machine form, or None; `text` writes it.

    `within` are the keys of a cell that must be alike for its figure to be compared with another's; `metric` is that of an
    accuracy.
    """

    title: str
    of: Callable[[Json], float | None]
    text: Callable[[float], str]
    lower: bool = True
    within: tuple[str, ...] = ()
    metric: str = ""

    def group(self, cell: Json) -> tuple[str, ...]:
        """Cells of one group can be compared."""
        return tuple(str(cell.get(key, 1)) for key in self.within)  # without a batch it is 1


def figure(*keys: str) -> Callable[[Json], float | None]:
    """What a cell has below these keys."""

    def of(cell: Json) -> float | None:
        found = cell
        for key in keys:
            found = found.get(key) or {}
        return float(found) if isinstance(found, (int, float)) else None

    return of


def mebi(value: float) -> str:
    """Bytes in MiB."""
    return f"{value / (1 << 20):.1f} MiB"


# What a call costs is compared within a batch size only: a call with more inputs does more.
LATENCY = Axis("latency, median of a call", figure("latency", "p50_ns"), duration, within=("batch",))
ESTIMATE = Axis("latency of the board, estimated", figure("estimate", "latency_ns"), duration, within=("batch",))
# And an fp32 instruction takes longer than an int8 one, so their counts are compared within a precision only.
INSTRUCTIONS = Axis(
    "instructions of an inference", figure("instructions", "total"), count, within=("precision", "batch")
)
SIZE = Axis("file", figure("artifact", "size_bytes"), size)
MEMORY = Axis("peak memory", figure("memory", "run_peak_bytes"), mebi)


def cost(cells: Sequence[Json]) -> Axis | None:
    """What an inference costs: time on a real device, else the estimate where all have one, else instructions; else nothing.

    Its `within` are those keys alone in which the measured cells differ.
    """
    measured = [cell for cell in cells if cell["status"] == "ok" and "latency" in cell]
    if not measured:
        return None
    if not any(cell["latency"]["emulated"] for cell in measured):
        return _of_these(LATENCY, measured)
    for axis in (ESTIMATE, INSTRUCTIONS):
        if all(axis.of(cell) is not None for cell in measured):
            return _of_these(axis, measured)
    return None


def _of_these(axis: Axis, cells: Sequence[Json]) -> Axis:
    """The axis for these cells."""
    differ = tuple(key for key in axis.within if len({cell.get(key, 1) for cell in cells}) > 1)
    return replace(axis, within=differ)


def quality(cells: Sequence[Json]) -> Axis | None:
    """How good the answers are: accuracy by one metric where there is one, else agreement with the source, else its SQNR."""
    metrics = {cell["accuracy"]["metric"] for cell in cells if "value" in cell.get("accuracy", {})}
    if len(metrics) == 1 and metrics <= METRICS.keys():
        (metric,) = metrics
        lower = metric in LESS_IS_BETTER
        title = f"{metric} accuracy" if metric.startswith("top") else metric
        return Axis(title, figure("accuracy", "value"), METRICS[metric], lower, metric=metric)
    for axis in (
        Axis("agreement with the float model", figure("fidelity", "agreement"), "{:.2%}".format, lower=False),
        Axis("SQNR against the float model, dB", figure("fidelity", "sqnr_db"), "{:.1f} dB".format, lower=False),
    ):
        if any(axis.of(cell) is not None for cell in cells):
            return axis
    return None


def front(cells: Sequence[Json], axes: Sequence[Axis]) -> set[str]:
    """The ids of the cells that none of their group beats: none is as good in every axis and better in one (the Pareto front).

    A cell that lacks a figure is no member, and beats nothing. Two cells alike in every axis are both members.
    """
    import numpy as np

    groups: dict[tuple[tuple[str, ...], ...], list[tuple[tuple[float, ...], str]]] = {}
    for cell in cells:
        values = [axis.of(cell) for axis in axes]
        if cell["status"] == "ok" and all(value is not None for value in values):
            signed = tuple(v if axis.lower else -v for v, axis in zip(values, axes, strict=True) if v is not None)
            groups.setdefault(tuple(axis.group(cell) for axis in axes), []).append((signed, str(cell["id"])))
    found = set()
    for group in groups.values():
        kept, count = np.empty((len(group), len(axes))), 0
        for signed, name in sorted(group):  # what beats a cell stands before it
            point, others = np.array(signed), kept[:count]
            if not bool(((others <= point).all(1) & (others < point).any(1)).any()):
                kept[count], count = point, count + 1
                found.add(name)
    return found


def pick(cells: Sequence[Json]) -> list[tuple[Json, str]]:
    """The cell to take, and why: the cheapest of those whose accuracy is not known to be worse than the best one's.

    One for each group that can be compared; none where nothing tells what an inference costs. Cells whose costs cannot be told
    apart are decided by their file's size.
    """
    axis, good = cost(cells), quality(cells)
    if axis is None:
        return []
    groups: dict[tuple[str, ...], list[Json]] = {}
    for cell in cells:
        if cell["status"] == "ok" and axis.of(cell) is not None:
            groups.setdefault(axis.group(cell), []).append(cell)
    picked = []
    for group in groups.values():
        kept, why = as_good(group, good)
        best = min(kept, key=lambda cell: (axis.of(cell) or 0.0, cell["id"]))
        ties = [cell for cell in kept if not dearer(cell, best, axis)]
        best = min(ties, key=lambda cell: (SIZE.of(cell) or float("inf"), axis.of(cell) or 0.0, cell["id"]))
        what = "fewest instructions" if axis.of is INSTRUCTIONS.of else "fastest"
        told = "the smallest file of those that cannot be told from the fastest" if len(ties) > 1 else what
        picked.append((best, told + why))
    return picked


def dearer(cell: Json, best: Json, axis: Axis) -> bool:
    """Whether a cell surely costs more: by the intervals of measured time, by any difference of a count or an estimate."""
    if cell is best:
        return False
    return apart(cell, best) if axis.of is LATENCY.of else (axis.of(cell) or 0.0) > (axis.of(best) or 0.0)


def as_good(cells: Sequence[Json], axis: Axis | None) -> tuple[list[Json], str]:
    """The cells whose answers are not known to be worse than the best, and the words for that."""
    if axis is None:
        return list(cells), ""
    known = {cell["id"]: value for cell in cells if (value := axis.of(cell)) is not None}
    if not known:
        return list(cells), ""
    best = min(known.values()) if axis.lower else max(known.values())
    leaders = [cell for cell in cells if known.get(cell["id"]) == best]
    bounds = [cell["accuracy"]["interval"] for cell in leaders if "interval" in cell.get("accuracy", {})]
    if not axis.metric or not bounds:
        return leaders, f" of those with the best {axis.title}"
    if axis.lower:
        limit = max(high for _, high in bounds)
        kept = [cell for cell in cells if known.get(cell["id"], float("inf")) <= limit]
    else:
        limit = min(low for low, _ in bounds)
        kept = [cell for cell in cells if known.get(cell["id"], float("-inf")) >= limit]
    return kept, f" of those whose {axis.title} is within the interval of the best one's"
