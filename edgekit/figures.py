"""The figures of a cell that limits and comparisons speak of: their names, units, intervals, and the ratio of two cells' figures.

Pure functions of cells in their machine form. Base units: ns, bytes, mJ, instructions, shares of 1, dB.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from edgekit import ratio, stats
from edgekit.report import words
from edgekit.report.energy import millijoules
from edgekit.types import Json

Kind = Literal["time", "bytes", "count", "share", "db", "energy", "number"]
STUDENT_BELOW = 6  # launches; stats.interval says why
RESAMPLES = 5000
SEED = 20131018
MEMORY = 0.03  # what pages and allocators add from run to run stays below
SIZE = 0.01
EMULATED = "its latency is the emulator's, not the board's"


@dataclass(frozen=True)
class Figure:
    """A figure and its 95 % interval; without one, low and high are the figure itself and `known` is False.

    Of a ratio or a difference `known` is False too where only one of the two has an interval: its ends are then that one's.
    """

    value: float
    low: float
    high: float
    known: bool = True

    @classmethod
    def exact(cls, value: float) -> Figure:
        """A figure without an interval."""
        return cls(value, value, value, False)

    def apart(self, other: Figure) -> bool:
        """Whether their intervals leave no doubt that they differ."""
        return self.low > other.high or self.high < other.low


@dataclass(frozen=True)
class Metric:
    """A figure's name in policies and budgets. `read` finds it in a cell; None where it is not there.

    `lower` says that less is better. A comparison calls a ratio within `tolerance` of 1 equal; None: the interval and the
    device's noise decide.
    """

    name: str
    says: str
    kind: Kind
    lower: bool
    read: Callable[[Json], Figure | None]
    tolerance: float | None = None


def latency(key: str) -> Callable[[Json], Figure | None]:
    """A key of a cell's latency, in ns; nothing of an emulator's."""

    def read(cell: Json) -> Figure | None:
        found = cell.get("latency", {})
        if found.get("emulated", True) or key not in found:
            return None
        if key == "p50_ns" and "low_ns" in found:
            return Figure(found[key], found["low_ns"], found["high_ns"])
        return Figure.exact(found[key])

    return read


def memory(key: str) -> Callable[[Json], Figure | None]:
    """A key of a cell's memory, in bytes."""
    return lambda cell: Figure.exact(cell["memory"][key]) if key in cell.get("memory", {}) else None


def accuracy(name: str | None) -> Callable[[Json], Figure | None]:
    """A cell's accuracy by that metric, or by whatever it was judged by."""

    def read(cell: Json) -> Figure | None:
        found = cell.get("accuracy", {})
        if "value" not in found or name not in (None, found["metric"]):
            return None
        return Figure(found["value"], *found["interval"]) if "interval" in found else Figure.exact(found["value"])

    return read


def fidelity(key: str) -> Callable[[Json], Figure | None]:
    """A key of a cell's fidelity."""
    return lambda cell: Figure.exact(cell["fidelity"][key]) if key in cell.get("fidelity", {}) else None


def instructions(cell: Json) -> Figure | None:
    """Instructions of one inference; the ends are as far away as their spread over the samples, without the tenths at its ends."""
    found = cell.get("instructions")
    if not found:
        return None
    reach = found["total"] * found.get("decile_spread", found.get("spread", 0.0))
    return Figure(found["total"], found["total"] - reach, found["total"] + reach)


def energy(cell: Json) -> Figure | None:
    """Energy of one inference in mJ, with the error of its source where that is told."""
    found = cell.get("energy", {})
    if "mj_per_inference" not in found:
        return None
    value = found["mj_per_inference"]
    if "mj_error" not in found:
        return Figure.exact(value)
    return Figure(value, max(0.0, value - found["mj_error"]), value + found["mj_error"])


def steady(cell: Json) -> Figure | None:
    """Latency of the steady state of a sustained run in ns; nothing of one that was cut."""
    found = cell.get("sustained", {})
    return Figure.exact(found["steady_ns"]) if "steady_ns" in found and not found.get("cut") else None


def estimate(cell: Json) -> Figure | None:
    """The estimate of the real board's latency in ns."""
    found = cell.get("estimate", {})
    return Figure(found["latency_ns"], found["low_ns"], found["high_ns"]) if "latency_ns" in found else None


def size(cell: Json) -> Figure | None:
    """Bytes of the model file."""
    return Figure.exact(cell["artifact"]["size_bytes"]) if "artifact" in cell else None


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("p50", "median latency of a call", "time", True, latency("p50_ns")),
        Metric("p90", "90 % of the calls are faster", "time", True, latency("p90_ns")),
        Metric("p95", "95 % of the calls are faster", "time", True, latency("p95_ns")),
        Metric("p99", "99 % of the calls are faster", "time", True, latency("p99_ns")),
        Metric("first", "the first inference", "time", True, latency("first_ns")),
        Metric("load", "loading the model", "time", True, latency("load_ns")),
        Metric("steady", "latency of the steady state of a sustained run", "time", True, steady),
        Metric("estimate", "estimated latency on the real board", "time", True, estimate),
        Metric("instructions", "instructions of one inference", "count", True, instructions, ratio.COUNT_THRESHOLD),
        Metric("peak", "most memory while it runs", "bytes", True, memory("run_peak_bytes"), MEMORY),
        Metric("load_peak", "most memory while it loads", "bytes", True, memory("load_peak_bytes"), MEMORY),
        Metric("pss_peak", "most memory while it runs, shared pages divided", "bytes", True, memory("pss_peak_bytes"), MEMORY),
        Metric("delta", "memory over the same process without a model", "bytes", True, memory("delta_bytes"), MEMORY),
        Metric("size", "the model file", "bytes", True, size, SIZE),
        Metric("energy", "energy of one inference", "energy", True, energy),
        Metric("accuracy", "the task's metric, whatever it is", "number", False, accuracy(None)),
        Metric("top1", "top-1 accuracy", "share", False, accuracy("top1")),
        Metric("top5", "top-5 accuracy", "share", False, accuracy("top5")),
        Metric("auc", "area under the ROC curve", "share", False, accuracy("auc")),
        Metric("mae", "mean absolute error", "number", True, accuracy("mae")),
        Metric("agreement", "share of the inputs answered as the float model does", "share", False, fidelity("agreement")),
        Metric("sqnr", "signal to quantization noise", "db", False, fidelity("sqnr_db")),
    )
}  # fmt: skip
PER_LAUNCH = ("p50", "first", "load")
TAILS = ("p90", "p95", "p99")
ON_SAME_INPUTS = ("accuracy", "top1", "top5", "auc", "mae", "agreement", "sqnr")


def of(cell: Json, name: str) -> Figure | None:
    """A cell's figure by the name of its metric."""
    return METRICS[name].read(cell)


def why_not(cell: Json, name: str) -> str:
    """Why a cell has no such figure."""
    if cell["status"] != "ok":
        return f"{cell['status']}: {(cell.get('error') or {}).get('message', 'no reason is known')}"
    found = cell.get("latency", {})
    if name in PER_LAUNCH + TAILS and found.get("emulated"):
        return EMULATED
    if name in TAILS and found:
        needed = stats.TAIL_SAMPLES[f"{name}_ns"][1]
        batched = f"its {found['batch']} calls per sample hide it" if found["batch"] > 1 else ""
        return batched or f"{name} takes {needed} samples, and it has {found['samples']}: raise --calls"
    if name == "estimate" and "refused" in cell.get("estimate", {}):
        return str(cell["estimate"]["refused"])
    if "accuracy" in cell and name in ("top1", "top5", "auc", "mae"):
        return f"it was judged by {cell['accuracy']['metric']}"
    return f"it has no {name}"


def show(name: str, value: float) -> str:
    """A figure in words, with its unit; of a metric of the user's own the bare number."""
    kind = METRICS[name].kind if name in METRICS else "number"
    if kind == "time":
        return words.duration(value)
    if kind == "bytes":
        return words.size(value)
    if kind == "count":
        return f"{value:,.0f}"
    if kind == "energy":
        return millijoules(value)
    return f"{value:.4g} dB" if kind == "db" else f"{value:.4g}"


def launches_of(cell: Json, name: str) -> list[float]:
    """One value per launch in ns, where they were kept (baseline.read); else none."""
    return list(cell.get("latency", {}).get("each_launch", {}).get(name, ())) if name in PER_LAUNCH else []


def ratio_of(base: Json, new: Json, name: str) -> Figure | None:
    """NEW / BASE of two cells' figures, None where one has none or BASE's is not surely above 0; 1 where both are exactly 0.

    Times that are known launch by launch: between(). What was judged on the same inputs: the figures as they are, because what
    chance there was in the inputs is the same in both. Else between the furthest ends of the intervals that there are.
    """
    was, has = of(base, name), of(new, name)
    if was is None or has is None:
        return None
    if was.value == has.value == 0 and not (was.known or has.known):
        return Figure.exact(1.0)
    if name in ON_SAME_INPUTS and was.value > 0:
        return Figure.exact(round(has.value / was.value, 12))
    if was.low <= 0 or was.value <= 0:
        return None
    found = between(launches_of(base, name), launches_of(new, name))
    if found is not None:
        return Figure(has.value / was.value, *found)
    return Figure(has.value / was.value, has.low / was.high, has.high / was.low, was.known and has.known)


def difference_of(base: Json, new: Json, name: str) -> Figure | None:
    """NEW - BASE in the metric's unit, by the same rules; of times, between the furthest ends."""
    was, has = of(base, name), of(new, name)
    if was is None or has is None:
        return None
    if name in ON_SAME_INPUTS:
        return Figure.exact(round(has.value - was.value, 12))  # 189/200 - 190/200 is -0.005
    return Figure(has.value - was.value, has.low - was.high, has.high - was.low, was.known and has.known)


def between(base: Sequence[float], new: Sequence[float], level: float = stats.LEVEL) -> tuple[float, float] | None:
    """The interval of NEW / BASE, one value > 0 per launch each; None for fewer than two launches of one.

    A bootstrap of two independent samples: launches of each are drawn with replacement, and the ratio of their medians is taken
    (Efron & Tibshirani 1993, chapter 8). Its percentiles are those further out that the smaller of the samples asks for (Hesterberg
    2015, "expanded percentile interval"). Of fewer launches than six, Welch's interval for the difference of the mean logs
    (Welch 1947, Biometrika 34:28), because a bootstrap cannot reach beyond so few.
    """
    import numpy as np

    fewest = min(len(base), len(new))
    if fewest < 2 or min(*base, *new) <= 0:
        return None
    share = (1 + level) / 2
    if fewest < STUDENT_BELOW:
        logs = [[math.log(value) for value in values] for values in (base, new)]
        parts = [statistics.variance(row) / len(row) for row in logs]
        middle, total = statistics.fmean(logs[1]) - statistics.fmean(logs[0]), sum(parts)
        if not total:
            return math.exp(middle), math.exp(middle)
        freedom = total**2 / sum(part**2 / (len(row) - 1) for part, row in zip(parts, logs, strict=True))
        reach = stats.student(share, max(1, int(freedom))) * math.sqrt(total)
        return math.exp(middle - reach), math.exp(middle + reach)
    rng = np.random.default_rng(SEED)
    drawn = [np.median(rng.choice(np.asarray(row), (RESAMPLES, len(row))), axis=1) for row in (base, new)]
    tail = statistics.NormalDist().cdf(-stats.student(share, fewest - 1) * math.sqrt(fewest / (fewest - 1)))
    low, high = np.quantile(drawn[1] / drawn[0], (tail, 1 - tail))
    return float(low), float(high)
