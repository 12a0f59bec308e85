"""Statistics of raw samples: against numpy, against what must hold for any samples, and what they refuse to say."""

from __future__ import annotations

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


@given(st.lists(SAMPLES, min_size=1, max_size=4))
def test_latency_is_that_of_all_launches_together(launches: list[list[int]]) -> None:
    found = stats.latency([launch(samples) for samples in launches], True)
    pooled = [ns for samples in launches for ns in samples]
    assert found is not None
    assert found["p50_ns"] == pytest.approx(float(np.median(pooled)), abs=0.5, rel=1e-12)
    assert found["samples"] == len(pooled)
    assert found["launches"] == len(launches)
    assert found["emulated"] is True
    tails = [found[name] for name in ("p50_ns", "p90_ns", "p95_ns", "p99_ns") if name in found]
    assert tails == sorted(tails)


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
    assert found == {"total": 4_001, "spread": 0.0005, "samples": 2}


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
