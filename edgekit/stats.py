"""Statistics of raw samples, computed on reading. Pure functions; numbers in, plain numbers out."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.agent.protocol import INSTRUCTION_CLASSES

if TYPE_CHECKING:
    import numpy as np

LEVEL = 0.95
RESAMPLES = 5000
SPREAD_LAUNCHES = 3  # fewer say nothing of a spread
DRIFT_PAIRS = 3  # process pairs in a row: the six launches that a default run has at least
TAIL_SAMPLES = {"p90_ns": (0.90, 20), "p95_ns": (0.95, 60), "p99_ns": (0.99, 300)}


@dataclass(frozen=True)
class Interval:
    """Where the median of a call lies, in the unit of the samples."""

    low: float
    high: float

    def widened(self, middle: float, drift: float) -> Interval:
        """With an independent error of +-`drift`, a share, about `middle`: the two reaches add up as squares of their logs."""
        if not drift:
            return self
        below, above = (math.hypot(math.log(end / middle), math.log1p(drift)) for end in (self.low, self.high))
        return Interval(middle * math.exp(-below), middle * math.exp(above))

    def half_width(self, middle: float) -> float:
        """Half of its width as a share of `middle`."""
        return (self.high - self.low) / (2 * middle) if middle else 0.0


def percentile(values: Sequence[float], share: float) -> float:
    """The `share` quantile by linear interpolation (Hyndman & Fan 1996, type 7, numpy's default)."""
    return quantile(sorted(values), share)


def quantile(ordered: Sequence[float], share: float) -> float:
    """`percentile` of values that are in order."""
    position = share * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def middle_of(ordered: Sequence[float]) -> float:
    """The median of values that are in order."""
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def student(share: float, freedom: int) -> float:
    """The `share` quantile of Student's t: exact for 1 and 2 degrees of freedom, else Abramowitz & Stegun 26.7.5.

    The series is right to 0.2 % at the 97.5 % quantile of 3 degrees of freedom, and better beyond.
    """
    if freedom == 1:
        return math.tan(math.pi * (share - 0.5))
    if freedom == 2:
        return 2 * (share - 0.5) * math.sqrt(2 / (4 * share * (1 - share)))
    z = statistics.NormalDist().inv_cdf(share)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + math.fsum(term / float(freedom) ** power for power, term in enumerate(terms, 1))


def interval(launches: Sequence[Sequence[float]], level: float = LEVEL) -> Interval:
    """Where the typical launch's median lies with probability `level`; each launch is its samples per call (> 0).

    A bootstrap of hierarchical data (Davison & Hinkley 1997, section 3.8; launches as the upper level: Kalibera & Jones 2013):
    launches are drawn with replacement, each with all of its calls, and the median of their medians is taken. This is their
    second strategy; drawing the calls anew as well, their first, counts the spread of the calls twice, because the launches'
    medians differ by it already. A bootstrap of few launches is too narrow, so its percentiles are those further out that
    Student's t and the factor n / (n - 1) ask for (the expanded percentile interval of Hesterberg 2015, "What Teachers Should
    Know About the Bootstrap"). That cannot reach beyond the range of the launches, which holds the median with probability
    1 - 2^(1 - n): of fewer launches than `level` needs (6 for 95 %) the interval is Student's for the mean of their log
    medians. Same samples, same answer. Raises ValueError for fewer than two launches.
    """
    return interval_of(sorted(statistics.median(calls) for calls in launches), level)


def interval_of(medians: Sequence[float], level: float = LEVEL) -> Interval:
    """`interval` of launches by their medians, which are in order."""
    import numpy as np

    count = len(medians)
    if count < 2:
        raise ValueError("an interval needs two launches")
    share = (1 + level) / 2
    if 2 ** (1 - count) > 1 - level:
        logs = [math.log(median) for median in medians]
        mean = statistics.fmean(logs)
        # Not statistics.stdev, whose exact fractions cost more than all the rest.
        deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in logs) / (count - 1))
        reach = student(share, count - 1) * deviation / math.sqrt(count)
        return Interval(math.exp(mean - reach), math.exp(mean + reach))
    values = np.array(medians)
    below, above = middles(count)
    resampled = (values[below] + values[above]) / 2
    tail = statistics.NormalDist().cdf(-student(share, count - 1) * math.sqrt(count / (count - 1)))
    low, high = np.quantile(resampled, (tail, 1 - tail))
    return Interval(float(low), float(high))


@functools.cache
def middles(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The two middle ranks (one rank twice for an odd count) of each resample of so many sorted values: int [RESAMPLES]."""
    import numpy as np

    drawn = np.sort(np.random.default_rng(0).integers(0, count, (RESAMPLES, count)), axis=1)
    return drawn[:, (count - 1) // 2], drawn[:, count // 2]


def drift(pairs: Sequence[Sequence[float]], group: int = DRIFT_PAIRS) -> float:
    """How far apart runs lie, one after the other, beyond what the spread of their launches explains: as a share, in 95 % of them.

    `pairs` are the medians of process pairs in the order in which they were measured; so many in a row as a default run has
    launches stand for one. The component of variance between these groups, from the analysis of variance of the logs with
    random effects (Searle, Casella & McCulloch 1992, "Variance Components", section 3.6), times Student's t. 0 with fewer than
    two groups, and where the launches explain all of it.
    """
    levels = [math.fsum(math.log(value) for value in pair) / len(pair) for pair in pairs]
    groups = [levels[start : start + group] for start in range(0, len(levels) - group + 1, group)]
    if len(groups) < 2:
        return 0.0
    between = statistics.variance([statistics.fmean(values) for values in groups])
    within = statistics.fmean([statistics.variance(values) for values in groups])
    deviation = math.sqrt(max(0.0, between - within / group))
    return math.expm1(student((1 + LEVEL) / 2, len(groups) - 1) * deviation)


def per_call(launches: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """The samples of each launch that has some, in ns per call."""
    return [[ns / launch["batch"] for ns in launch["samples_ns"]] for launch in launches if launch["samples_ns"]]


def typical(launches: Sequence[Sequence[float]]) -> float:
    """The median of the launches' medians: every launch counts alike, however many calls it took."""
    return statistics.median(statistics.median(calls) for calls in launches)


def spread(values: Sequence[float]) -> float:
    """From the least to the greatest, as a share of the median."""
    middle = statistics.median(values)
    return round((max(values) - min(values)) / middle, 6) if middle else 0.0


def latency(
    launches: Sequence[Mapping[str, Any]], emulated: bool, target: float = 0.0, drift: float = 0.0
) -> dict[str, Any] | None:
    """Latency per call in ns over all launches.

    p50_ns is the median of the launches' medians, low_ns to high_ns its 95 % interval (of two launches and more) and
    half_width half of that as a share of p50_ns. `drift` is the device's, which the interval then includes (see drift()).
    `conclusive` says whether half_width is within `target`, where there was one.
    Spreads are from the least to the greatest launch, as a share of their median. Tails are given only where the sample count
    bears them and nothing was batched.
    """
    # Whole nanoseconds, as samples of one call are, are the same numbers as floats. Each sample is put in order once.
    calls = [
        sorted(launch["samples_ns"] if launch["batch"] == 1 else [ns / launch["batch"] for ns in launch["samples_ns"]])
        for launch in launches
        if launch["samples_ns"]
    ]
    if not calls:
        return None
    medians = sorted(map(middle_of, calls))
    middle = middle_of(medians)
    result: dict[str, Any] = {"p50_ns": round(middle), "emulated": emulated}
    if len(calls) > 1:
        found = interval_of(medians).widened(middle, drift)
        width = found.half_width(middle)
        result |= {"low_ns": round(found.low), "high_ns": round(found.high), "half_width": round(width, 6)}
        result |= {"drift": drift} if drift else {}
        if target:
            result |= {"target": target, "conclusive": width <= target}
    count = sum(map(len, calls))
    batch = max(launch["batch"] for launch in launches)
    if batch == 1 and count >= min(needed for _, needed in TAIL_SAMPLES.values()):
        pooled = sorted([ns for samples in calls for ns in samples])
        for name, (share, needed) in TAIL_SAMPLES.items():
            if count >= needed:
                result[name] = round(quantile(pooled, share))
    result |= {"samples": count, "launches": len(launches), "batch": batch}
    several = len(launches) >= SPREAD_LAUNCHES
    if several:
        result["launch_spread"] = spread(medians)
    for name in ("first", "load"):
        values = [launch[f"{name}_ns"] for launch in launches]
        result[f"{name}_ns"] = round(statistics.median(values))
        if several:
            result[f"{name}_spread"] = spread(values)
    return result


def instructions(launches: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Guest instructions of one inference by class: the median over all samples, the loop's own overhead taken off.

    `spread` is that of the totals of all samples, `launch_spread` that of the launches' medians: (max - min) / median;
    `decile_spread` leaves the least and the greatest tenth of the samples out, so that a single call decides nothing.
    """
    rows: list[list[float]] = []
    by_launch: list[list[float]] = []
    for launch in launches:
        overhead, batch = launch.get("counter_overhead", [0] * len(INSTRUCTION_CLASSES)), launch["batch"]
        own = [
            [(value - extra) / batch for value, extra in zip(row, overhead, strict=True)]
            for row in launch.get("counts", ())
        ]
        by_launch += [[row[0] for row in own]] if own else []
        rows += own
    if not rows:
        return None
    columns = [sorted(column) for column in zip(*rows, strict=True)]
    medians = [max(0, round(middle_of(column))) for column in columns]
    totals = columns[0]
    # The total comes first; of a 32-bit guest it is all that is known.
    result: dict[str, Any] = dict(zip(INSTRUCTION_CLASSES, medians, strict=False))
    result["spread"] = round((totals[-1] - totals[0]) / medians[0], 6) if medians[0] else 0.0
    within = quantile(totals, 0.9) - quantile(totals, 0.1)
    result["decile_spread"] = round(within / medians[0], 6) if medians[0] else 0.0
    result["samples"] = len(rows)
    if len(by_launch) > 1:
        between = [statistics.median(totals) for totals in by_launch]
        result["launch_spread"] = round((max(between) - min(between)) / medians[0], 6) if medians[0] else 0.0
    return result
