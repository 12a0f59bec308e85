"""Statistics of NEW / OLD: the ratio of two medians from interleaved pairs, its interval, the verdict. Pure functions.

The data are those of a paired design with two levels (Kalibera & Jones, "Rigorous benchmarking in reasonable time", ISMM 2013):
process pairs - a fresh process of OLD and one of NEW - and in each of them pairs of blocks, measured one right after the
other. What disturbs both blocks of a pair leaves their ratio alone; what a process brings along (where its memory lies) is
the same in all of its blocks, so only further process pairs make it smaller.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edgekit import stats

Verdict = Literal["regression", "improvement", "equal", "inconclusive"]
Pairs = Sequence[Sequence[float]]  # log ratios [process pairs, pairs of blocks]

LEVEL = 0.95
LEAST_PAIRS = 5  # process pairs before anything is decided: below, the interval is mostly the correction for so few
RESAMPLES = 1000
FLOOR = 0.03  # of the threshold in time: a smaller difference is nothing to act on, and costs too long to be sure of
COUNT_THRESHOLD = 0.01  # in instructions, which repeat within 0.1 %
DRAWS = 2000
SEED = 20130620


@dataclass(frozen=True)
class Estimate:
    """NEW / OLD with its interval; `pairs` are process pairs, `blocks` the pairs of blocks in all of them."""

    ratio: float
    low: float
    high: float
    pairs: int
    blocks: int


def log_ratio(old_ns: Sequence[float], new_ns: Sequence[float]) -> float:
    """The log of the ratio of the medians of two blocks, times per call."""
    return math.log(statistics.median(new_ns) / statistics.median(old_ns))


def estimate(pairs: Pairs, level: float = LEVEL) -> Estimate:
    """The median of all log ratios, and its interval by hierarchical bootstrap: process pairs, then pairs of blocks in each.

    With few process pairs a percentile interval is too narrow; it is stretched about the estimate by
    sqrt(n / (n - 1)) * t / z for n process pairs (Hesterberg 2015, The American Statistician 69:371, "expanded percentile
    interval"). The same data give the same interval. Raises ValueError for fewer than three process pairs.
    """
    import numpy as np

    table = np.asarray(pairs, dtype=np.float64)
    count = len(table)
    if count < 3:
        raise ValueError(f"an interval needs at least three process pairs, not {count}")
    rng = np.random.default_rng(SEED)
    processes = rng.integers(0, count, (RESAMPLES, count, 1))
    blocks = rng.integers(0, table.shape[1], (RESAMPLES, *table.shape))
    medians = np.median(table[processes, blocks].reshape(RESAMPLES, -1), axis=1)
    middle = float(np.median(table))
    tail = (1 - level) / 2
    low, high = (float(end) for end in np.quantile(medians, [tail, 1 - tail]))
    stretch = (
        math.sqrt(count / (count - 1)) * stats.student(1 - tail, count - 1) / statistics.NormalDist().inv_cdf(1 - tail)
    )
    ends = (middle - (middle - low) * stretch, middle + (high - middle) * stretch)
    return Estimate(math.exp(middle), math.exp(ends[0]), math.exp(ends[1]), count, table.size)


def verdict(found: Estimate, threshold: float) -> Verdict:
    """What is to be said of one session of pairs.

    regression   NEW takes longer by more than the threshold, and the interval excludes 1
    improvement  the same the other way round
    equal        the whole interval lies within the threshold
    """
    limit = math.log1p(threshold)
    middle, low, high = math.log(found.ratio), math.log(found.low), math.log(found.high)
    if middle > limit and low > 0:
        return "regression"
    if middle < -limit and high < 0:
        return "improvement"
    return "equal" if -limit < low and high < limit else "inconclusive"


def of_counts(old: Sequence[float], new: Sequence[float]) -> tuple[Estimate, list[Estimate]]:
    """NEW / OLD of instruction counts, one per fresh process: between the furthest ends, and process pair by process pair."""
    ratios = [after / before for before, after in zip(old, new, strict=True)]
    whole = Estimate(statistics.median(ratios), min(new) / max(old), max(new) / min(old), len(ratios), len(ratios))
    return whole, [Estimate(value, value, value, 1, 1) for value in ratios]


def threshold(noise: float | None) -> float:
    """The smallest difference in time that is told: 3 %, or twice the noise of a device that is noisier than that."""
    return max(FLOOR, 2 * (noise or 0.0))


def noise(pairs: Pairs) -> float:
    """The noise of comparing an artifact with itself: what |NEW / OLD - 1| stays below in 95 % of the comparisons that are
    decided as early as they can be, after LEAST_PAIRS process pairs.

    Drawn from the process pairs of one long session, each time LEAST_PAIRS different ones. Raises ValueError when there are
    fewer than twice as many.
    """
    import numpy as np

    if len(pairs) < 2 * LEAST_PAIRS:
        raise ValueError(f"noise takes at least {2 * LEAST_PAIRS} process pairs, not {len(pairs)}")
    table = np.asarray(pairs, dtype=np.float64)
    rng = np.random.default_rng(SEED)
    chosen = rng.permuted(np.tile(np.arange(len(table)), (DRAWS, 1)), axis=1)[:, :LEAST_PAIRS]
    sizes = np.abs(np.median(table[chosen].reshape(DRAWS, -1), axis=1))
    return math.expm1(float(np.quantile(sizes, 0.95)))
