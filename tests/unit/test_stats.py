"""Statistics of raw samples: against numpy, against what must hold for any samples, and what they refuse to say."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit import stats
from edgekit.agent.protocol import INSTRUCTION_CLASSES

SAMPLES = st.lists(st.integers(1, 10**12), min_size=1, max_size=60)
SHARES = st.floats(0, 1)


def launch(samples: list[int], **more: Any) -> dict[str, Any]:
    """A launch as the agent reports it."""
    return {"samples_ns": samples, "batch": 1, "first_ns": 7_000, "load_ns": 90_000, **more}


@given(SAMPLES, SHARES)
def test_percentile_is_numpys(values: list[int], share: float) -> None:
    assert stats.percentile(values, share) == pytest.approx(float(np.quantile(values, share)), rel=1e-12)


@given(SAMPLES, SHARES, SHARES)
def test_percentiles_rise_with_the_share_and_stay_among_the_values(values: list[int], a: float, b: float) -> None:
    low, high = stats.percentile(values, min(a, b)), stats.percentile(values, max(a, b))
    assert min(values) <= low <= high * (1 + 1e-12)
    assert high <= max(values) * (1 + 1e-12)


@given(SAMPLES, st.randoms())
def test_the_order_of_samples_does_not_matter(values: list[int], random: Any) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)
    assert stats.latency([launch(values)], False) == stats.latency([launch(shuffled)], False)


@given(st.lists(SAMPLES, min_size=1, max_size=8))
def test_latency_is_that_of_all_launches_alike(launches: list[list[int]]) -> None:
    found = stats.latency([launch(samples) for samples in launches], True)
    assert found is not None
    middle = float(np.median([np.median(samples) for samples in launches]))
    assert found["p50_ns"] == pytest.approx(middle, abs=0.5, rel=1e-12)
    assert found["samples"] == sum(map(len, launches))
    assert found["launches"] == len(launches)
    assert found["emulated"] is True
    tails = [found[name] for name in ("p90_ns", "p95_ns", "p99_ns") if name in found]
    assert tails == sorted(tails)
    assert ("low_ns" in found) == (len(launches) > 1)
    if len(launches) > 1:
        assert found["low_ns"] * (1 - 1e-9) - 1 <= found["p50_ns"] <= found["high_ns"] * (1 + 1e-9) + 1
    else:
        assert not {"low_ns", "high_ns", "half_width", "conclusive", "launch_spread"} & set(found)


def test_a_launch_counts_once_however_many_calls_it_took() -> None:
    found = stats.latency([launch([10] * 3), launch([20] * 3), launch([90] * 500)], False)
    assert found is not None
    assert found["p50_ns"] == 20


@pytest.mark.parametrize(("count", "several"), [(2, False), (3, True)])
def test_spreads_need_three_launches(count: int, several: bool) -> None:
    launches = [launch([100 + 10 * n], first_ns=200 + 20 * n, load_ns=400 + 80 * n) for n in range(count)]
    found = stats.latency(launches, False)
    assert found is not None
    assert {name for name in found if name.endswith("_spread")} == (
        {"launch_spread", "first_spread", "load_spread"} if several else set()
    )
    if several:
        figures = (found["launch_spread"], found["first_spread"], found["load_spread"])
        assert figures == pytest.approx((20 / 110, 40 / 220, 160 / 480), abs=1e-6)


def test_an_interval_is_conclusive_up_to_its_target() -> None:
    launches = [launch([1000 + 10 * n] * 9) for n in range(6)]
    plain = stats.latency(launches, False)
    assert plain is not None
    assert not {"target", "conclusive"} & set(plain)
    width = stats.interval(stats.per_call(launches)).half_width(1025)
    assert plain["half_width"] == round(width, 6)
    for target, conclusive in ((width, True), (math.nextafter(width, 0), False)):
        found = stats.latency(launches, False, target)
        assert found is not None
        assert (found["target"], found["conclusive"]) == (target, conclusive)


# ---- the interval ----

CALLS = 15


def launches_of(random: np.random.Generator, kind: str, count: int) -> list[list[float]]:
    """So many launches whose medians lie around 1.0 in one of several ways; calls have a long tail to the right."""
    levels = {
        "equal": lambda: np.zeros(count),
        "normal": lambda: random.normal(0, 0.02, count),
        "heavy tails": lambda: 0.02 * random.standard_t(3, count),
        "skewed": lambda: 0.02 * (random.exponential(1, count) - math.log(2)),
        "disturbed": lambda: disturbed(random, count),
    }[kind]()
    calls = np.maximum(random.normal(0, 0.01, (count, CALLS)), random.normal(0, 0.01, (count, CALLS)))
    calls = calls + 0.2 * random.exponential(1, (count, CALLS)) * (random.random((count, CALLS)) < 0.05)
    return [list(map(float, row)) for row in np.exp(levels[:, None] + calls)]


def disturbed(random: np.random.Generator, count: int) -> np.ndarray:
    """One launch in ten is 1.3 to 3 times slower, because something else ran."""
    slow = random.uniform(math.log(1.3), math.log(3), count) * (random.random(count) < 0.1)
    return random.normal(0, 0.02, count) + slow


@functools.cache
def truth(kind: str) -> float:
    """The median of the launches' medians, of very many launches."""
    return stats.typical(launches_of(np.random.default_rng(99), kind, 20_000))


@pytest.mark.parametrize("count", [5, 6, 10, 20])
@pytest.mark.parametrize("kind", ["equal", "normal", "heavy tails", "skewed", "disturbed"])
def test_the_interval_holds_the_truth_as_often_as_it_says(kind: str, count: int) -> None:
    random, trials = np.random.default_rng(count), 400
    held = 0
    for _ in range(trials):
        found = stats.interval(launches_of(random, kind, count))
        held += found.low <= truth(kind) <= found.high
    assert 0.93 <= held / trials <= 0.985


@pytest.mark.parametrize("count", [2, 3, 4])
def test_few_launches_have_a_wide_interval(count: int) -> None:
    random = np.random.default_rng(count)
    found = [stats.interval(launches_of(random, "normal", count)) for _ in range(400)]
    held = sum(one.low <= truth("normal") <= one.high for one in found)
    assert 0.93 <= held / len(found) <= 0.985


def test_a_percentile_of_launches_is_taken_where_their_range_holds_the_level() -> None:
    """Five launches hold the median in their range with 93.75 %, six with 96.9 %."""
    levels = [1.0, 1.01, 1.02, 1.03, 1.04, 9.0]
    six, five = (stats.interval([[level] * 3 for level in levels[-count:]]) for count in (6, 5))
    assert six.low >= 1.0 and six.high <= 9.0, "within their range"
    assert five.low < 1.01, "Student's t reaches beyond it"
    wider = stats.interval([[level] * 3 for level in levels], level=0.97)
    assert wider.low < 1.0, "of which the range of six is not enough"


def test_the_interval_is_the_same_for_the_same_samples_in_any_order() -> None:
    launches = launches_of(np.random.default_rng(1), "normal", 9)
    assert stats.interval(launches) == stats.interval(launches[::-1])
    shuffled = [calls[::-1] for calls in launches]
    assert stats.interval(shuffled) == stats.interval(launches)


@given(st.lists(st.lists(st.integers(1, 10**9), min_size=1, max_size=9), min_size=2, max_size=12), st.integers(2, 1000))
def test_the_interval_knows_no_unit(launches: list[list[int]], factor: int) -> None:
    found, scaled = (stats.interval([[by * ns for ns in calls] for calls in launches]) for by in (1, factor))
    assert scaled.low == pytest.approx(factor * found.low, rel=1e-9)
    assert scaled.high == pytest.approx(factor * found.high, rel=1e-9)


def test_equal_launches_leave_no_doubt_and_one_launch_leaves_all() -> None:
    assert stats.interval([[5.0]] * 6) == stats.Interval(5.0, 5.0)
    found = stats.interval([[5.0]] * 2)
    assert (found.low, found.high) == pytest.approx((5.0, 5.0))
    with pytest.raises(ValueError, match="two launches"):
        stats.interval([[5.0, 6.0]])


def test_one_disturbed_launch_of_ten_does_not_widen_the_interval() -> None:
    quiet = [[1.0 + n / 1000] * 5 for n in range(10)]
    found = stats.interval([*quiet[:9], [30.0] * 5])
    assert found.half_width(1.0) < 0.01


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 12.7062), (2, 4.30265), (3, 3.18245), (4, 2.77645), (9, 2.26216), (29, 2.04523)]
)
def test_students_quantiles(freedom: int, quantile: float) -> None:
    assert stats.student(0.975, freedom) == pytest.approx(quantile, rel=0.002)
    assert stats.student(0.025, freedom) == pytest.approx(-quantile, rel=0.002)


@pytest.mark.parametrize(
    ("count", "tails"),
    [
        (1, []), (19, []), (20, ["p90_ns"]), (59, ["p90_ns"]), (60, ["p90_ns", "p95_ns"]),
        (299, ["p90_ns", "p95_ns"]), (300, ["p90_ns", "p95_ns", "p99_ns"]),
    ],
)  # fmt: skip
def test_no_tail_is_given_that_the_samples_do_not_bear(count: int, tails: list[str]) -> None:
    found = stats.latency([launch(list(range(1, count + 1)))], False)
    assert found is not None
    assert [name for name in found if name.startswith("p") and name != "p50_ns"] == tails
    if "p99_ns" in tails:
        assert found["p99_ns"] == round(float(np.quantile(range(1, 301), 0.99)))


def test_batches_have_a_median_per_call_and_no_tails() -> None:
    """The p99 of batches of 10 is not the p99 of calls."""
    found = stats.latency([launch([10_000] * 200, batch=10), launch([12_000] * 200, batch=10)], False)
    assert found is not None
    assert found["p50_ns"] == 1_100
    assert found["batch"] == 10
    assert not {"p90_ns", "p95_ns", "p99_ns"} & set(found)
    mixed = stats.latency([launch([1_000] * 400), launch([10_000] * 400, batch=10)], False)
    assert mixed is not None
    assert "p99_ns" not in mixed, "one launch was batched"


def test_first_and_load_are_apart_from_the_samples() -> None:
    found = stats.latency([launch([5], first_ns=n, load_ns=10 * n) for n in (100, 300, 200)], False)
    assert found is not None
    assert (found["first_ns"], found["load_ns"], found["p50_ns"]) == (200, 2_000, 5)


def test_without_samples_there_is_no_latency_and_without_counts_no_instructions() -> None:
    assert stats.latency([], False) is None
    assert stats.latency([launch([])], False) is None
    assert stats.instructions([]) is None
    assert stats.instructions([launch([5])]) is None


def row(total: int, step: int = 0) -> list[int]:
    """Counts by class."""
    return [total, *(10 * index + step for index in range(1, len(INSTRUCTION_CLASSES)))]


def test_instructions_are_medians_by_class_without_the_loops_own() -> None:
    overhead = [100, *([1] * 7)]
    counts = [row(10_100), row(10_300), row(10_200)]
    found = stats.instructions([launch([1] * 3, counts=counts, counter_overhead=overhead)])
    assert found is not None
    assert found["total"] == 10_100
    assert [found[name] for name in INSTRUCTION_CLASSES[1:]] == [10 * index - 1 for index in range(1, 8)]
    assert found["samples"] == 3
    assert found["spread"] == pytest.approx(200 / 10_100, abs=1e-6)


def test_instructions_of_a_32_bit_guest_have_no_classes() -> None:
    found = stats.instructions([launch([1], counts=[[5_000], [5_002]], counter_overhead=[1_000])])
    assert found == {"total": 4_001, "spread": 0.0005, "decile_spread": 0.0004, "samples": 2}


def test_instructions_of_a_batch_are_those_of_one_call() -> None:
    found = stats.instructions([launch([1], counts=[row(10_050)], counter_overhead=[50] + [0] * 7, batch=10)])
    assert found is not None
    assert found["total"] == 1_000


def test_launches_of_other_batch_sizes_count_alike() -> None:
    launches = [
        launch([1], counts=[row(1_000)], batch=1),
        launch([1], counts=[[10 * value for value in row(1_000)]], batch=10),
    ]
    found = stats.instructions(launches)
    assert found is not None
    assert found["spread"] == 0
    assert found["total"] == 1_000


def test_a_count_below_the_loops_own_is_none_and_not_less() -> None:
    found = stats.instructions([launch([1], counts=[[0] * 8], counter_overhead=[5] * 8)])
    assert found is not None
    assert {found[name] for name in INSTRUCTION_CLASSES} == {0}
    assert found["spread"] == 0


@given(st.lists(st.integers(10**3, 10**12), min_size=1, max_size=30), st.integers(1, 50))
def test_equal_work_has_equal_counts_whatever_the_batch(totals: list[int], batch: int) -> None:
    single = stats.instructions([launch([1], counts=[row(total) for total in totals])])
    batched = stats.instructions(
        [launch([1], counts=[[batch * v for v in row(total)] for total in totals], batch=batch)]
    )
    assert single == batched


def test_counts_that_are_not_of_every_class_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        stats.instructions([launch([1], counts=[[1, 2, 3]])])
