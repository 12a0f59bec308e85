"""Where a series of figures of one cell changed its level. Pure functions; conservative: a change that is named is one."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

LEAST_SIDE = 4  # points on each side of a change; of fewer, chance makes such an order too often
LEVEL = 0.01  # how often chance may make a change, for each that is looked for
PERMUTATIONS = 999
LEAST_CHANGE = 0.03  # a smaller change of a time is nobody's trouble
LEAST_COUNT_CHANGE = 0.01  # counts repeat within 0.1 %, and from system to system within 0.5 %


@dataclass(frozen=True)
class Change:
    """The point (its index) with which a new level begins, and that level over the one before, less one."""

    index: int
    ratio: float


@dataclass(frozen=True)
class Point:
    """One figure (> 0), and half the width of its interval as a share of it; 0 where it has none."""

    value: float
    half_width: float = 0.0


def of_times(points: Sequence[Point]) -> list[Change]:
    """The changes in a series of times, oldest first.

    Circular binary segmentation (Olshen, Venkatraman, Lucito & Wigler 2004, Biostatistics 5:557) of the ranks, so that one
    outlier decides nothing: the stretch that differs most from the rest is kept where no more than 1 % of the permutations of
    the series have one that differs as much, and then its parts are looked at alike. A change counts only with four points on
    each side, and where the medians differ by more than 3 % and by more than the points' own intervals are wide.
    """
    places: list[int] = []
    cut(points, 0, places)
    places = settled(points, sorted(set(places)))
    return ratios(points, places)


def cut(points: Sequence[Point], offset: int, found: list[int]) -> None:
    """Add the ends of the stretch that stands out most of these points to `found`, and those within its parts."""
    import numpy as np

    count = len(points)
    if count < 2 * LEAST_SIDE:
        return
    values = np.array([point.value for point in points])
    _, inverse, times = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(times) - (times - 1) / 2)[inverse]  # equal values share their mean rank
    ends = [place for place in range(count + 1) if place in (0, count) or LEAST_SIDE <= place <= count - LEAST_SIDE]
    pairs = [(i, j) for i, j in itertools.combinations(ends, 2) if LEAST_SIDE <= j - i <= count - LEAST_SIDE]
    begun, ended = np.array(pairs).T
    inside, total = ended - begun, ranks.sum()
    scale = np.sqrt(inside * (count - inside) / count)

    def contrast(row: np.ndarray) -> np.ndarray:
        """|mean rank inside - mean rank outside| of each stretch, scaled: float [stretches]."""
        sums = np.concatenate(([0.0], np.cumsum(row)))
        within = sums[ended] - sums[begun]
        found: np.ndarray = np.abs(within / inside - (total - within) / (count - inside)) * scale
        return found

    own = contrast(ranks)
    random = np.random.default_rng(0)
    reached = sum(bool(contrast(random.permutation(ranks)).max() >= own.max() - 1e-9) for _ in range(PERMUTATIONS))
    if (reached + 1) / (PERMUTATIONS + 1) > LEVEL:
        return
    edges = [0, *(int(place) for place in pairs[int(own.argmax())] if 0 < place < count), count]
    found += [offset + place for place in edges[1:-1]]
    for start, end in itertools.pairwise(edges):
        cut(points[start:end], offset + start, found)


def settled(points: Sequence[Point], places: list[int]) -> list[int]:
    """The places of changes moved to where the levels part best, without those of no matter."""
    places = list(places)
    for index in range(len(places)):
        start = places[index - 1] if index else 0
        end = places[index + 1] if index + 1 < len(places) else len(points)
        choices = range(start + LEAST_SIDE, end - LEAST_SIDE + 1)
        places[index] = min(choices, key=lambda place: deviation(points[start:place]) + deviation(points[place:end]))
    ends = [0, *places, len(points)]
    for index, place in enumerate(places, 1):
        if not matters(points[ends[index - 1] : place], points[place : ends[index + 1]]):
            return settled(points, [other for other in places if other != place])
    return places


def deviation(points: Sequence[Point]) -> float:
    """The sum of the distances to the median, of the logarithms of the values."""
    logs = [math.log(point.value) for point in points]
    middle = statistics.median(logs)
    return math.fsum(abs(value - middle) for value in logs)


def matters(before: Sequence[Point], after: Sequence[Point]) -> bool:
    """Whether two levels differ by more than 3 %, and by more than their points' intervals are wide."""
    old, new = (statistics.median(point.value for point in side) for side in (before, after))
    width = max(statistics.median(point.half_width for point in side) for side in (before, after))
    return abs(new - old) > max(LEAST_CHANGE, 2 * width) * min(old, new)


def of_counts(points: Sequence[Point]) -> list[Change]:
    """The changes in a series of instruction counts, oldest first: every step beyond what counts repeat within.

    `half_width` is the spread of a count's own samples. Nothing is drawn by chance there, so one point is enough.
    """
    found, begun = [], 0
    for index in range(1, len(points)):
        level = statistics.median(point.value for point in points[begun:index])
        slack = max(LEAST_COUNT_CHANGE, points[index].half_width, points[index - 1].half_width)
        if abs(points[index].value - level) > slack * level:
            found.append(index)
            begun = index
    return ratios(points, found)


def ratios(points: Sequence[Point], places: Sequence[int]) -> list[Change]:
    """The changes at these indices, each with the medians of the stretches on its two sides."""
    ends = [0, *places, len(points)]
    levels = [statistics.median(p.value for p in points[a:b]) for a, b in itertools.pairwise(ends) if b > a]
    return [Change(place, levels[i + 1] / levels[i] - 1) for i, place in enumerate(places)]
