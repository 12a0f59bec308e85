"""The drift of a device: what runs one after another differ by beyond their launches, on made-up sessions without a clock."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgekit import stats

GROUPS = 8  # of three process pairs: a calibration has 24


def session(seed: int, launches: float, drift: float, groups: int = GROUPS) -> list[list[float]]:
    """Process pairs whose levels spread by `launches` in each group and by `drift` from group to group: medians in ns."""
    random = np.random.default_rng(seed)
    levels = np.repeat(random.normal(0, drift, groups), stats.DRIFT_PAIRS)
    return [list(1e6 * np.exp(level + random.normal(0, launches, 2))) for level in levels]


@pytest.mark.parametrize(("launches", "drift"), [(0.02, 0.03), (0.01, 0.01), (0.0, 0.05)])
def test_drift_is_found_whatever_the_launches_spread_by(launches: float, drift: float) -> None:
    found = [stats.drift(session(seed, launches, drift)) for seed in range(200)]
    # Squared and averaged, because a component of variance is free of bias, and its root is not.
    deviation = math.sqrt(np.mean([math.log1p(one) ** 2 for one in found])) / stats.student(0.975, GROUPS - 1)
    assert deviation == pytest.approx(drift, rel=0.12)


def test_launches_alone_are_hardly_taken_for_drift() -> None:
    """Of a component that cannot be below 0 half of the estimates are 0, the others small."""
    found = [stats.drift(session(seed, 0.02, 0.0)) for seed in range(200)]
    assert sum(one == 0 for one in found) > 80
    assert np.mean(found) < 0.02


def test_drift_takes_two_groups() -> None:
    few = session(1, 0.0, 0.1, groups=2)
    assert stats.drift(few[: 2 * stats.DRIFT_PAIRS - 1]) == 0.0
    assert stats.drift(few) > 0.05
    assert stats.drift([]) == 0.0


@pytest.mark.parametrize(("launches", "drift"), [(0.01, 0.03), (0.02, 0.015)])
def test_two_runs_of_a_calibrated_device_overlap(launches: float, drift: float) -> None:
    """Six launches each, their levels apart by the drift: 95 of 100 pairs of intervals must overlap; without it they do not."""
    random = np.random.default_rng(5)

    def run() -> list[list[float]]:
        level = random.normal(0, drift)
        return [[1e6 * math.exp(level + random.normal(0, launches))] for _ in range(6)]

    def overlap(known: float) -> float:
        hits = 0
        for _ in range(300):
            one, other = (stats.interval(run).widened(stats.typical(run), known) for run in (run(), run()))
            hits += one.low <= other.high and other.low <= one.high
        return hits / 300

    known = float(np.median([stats.drift(session(seed, launches, drift)) for seed in range(50)]))
    assert overlap(known) >= 0.95
    assert overlap(0.0) < overlap(known)


def test_two_independent_errors_add_up_as_squares() -> None:
    wide = stats.Interval(100 / 1.03, 100 * 1.03).widened(100, 0.04)
    reach = math.hypot(math.log(1.03), math.log(1.04))
    assert (wide.low, wide.high) == pytest.approx((100 * math.exp(-reach), 100 * math.exp(reach)))
    same = stats.Interval(99, 102)
    assert same.widened(100, 0.0) == same


def test_latency_says_what_drift_it_includes() -> None:
    launches = [{"samples_ns": [1000, 1000], "batch": 1, "first_ns": 1, "load_ns": 1} for _ in range(6)]
    found = stats.latency(launches, False, 0.02, 0.03)
    assert found is not None
    assert (found["low_ns"], found["high_ns"], found["drift"], found["conclusive"]) == (971, 1030, 0.03, False)
    plain = stats.latency(launches, False, 0.02)
    assert plain is not None and "drift" not in plain and plain["conclusive"]
