"""The statistics of an A/B test against known distributions, without a clock: coverage, false alarms, power, edges."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from edgekit import metrics, ratio
from edgekit.ratio import Estimate

BLOCKS = 12
MOST_PAIRS = 20
LIMIT = ratio.FLOOR
World = Callable[[np.random.Generator, float], list[float]]


def usual(rng: np.random.Generator, effect: float) -> list[float]:
    """A process pair of a device as this project meets it: launch effects of 1 %, blocks with the tails of a Student's t of two."""
    return list(effect + rng.normal(0, 0.01) + 0.025 * rng.standard_t(2, BLOCKS))


def two_modes(rng: np.random.Generator, effect: float) -> list[float]:
    """Processes that are fast or slow as their memory happens to lie."""
    return list(effect + 0.015 * rng.choice([-1, 1]) + rng.normal(0, 0.02, BLOCKS))


def disturbed(rng: np.random.Generator, effect: float) -> list[float]:
    """One process pair in seven met something that hit one side alone, by 15 %."""
    hit = rng.normal(0, 0.15) if rng.random() < 0.15 else 0.0
    return list(effect + hit + rng.normal(0, 0.01) + 0.025 * rng.standard_t(2, BLOCKS))


def drifting(rng: np.random.Generator, effect: float) -> list[float]:
    """The device becomes slower by 20 % during the process pair; OLD and NEW go first by chance."""
    step = 0.2 / BLOCKS / 2
    return list(effect + rng.choice([-1, 1], BLOCKS) * step + rng.normal(0, 0.01) + rng.normal(0, 0.02, BLOCKS))


WORLDS = (usual, two_modes, disturbed, drifting)


def session(world: World, effect: float, rng: np.random.Generator) -> ratio.Verdict:
    """Process pairs until the verdict is clear, as turns.measure does."""
    logs: list[list[float]] = []
    while len(logs) < MOST_PAIRS:
        logs.append(world(rng, math.log1p(effect)))
        if len(logs) >= ratio.LEAST_PAIRS:
            said = ratio.verdict(ratio.estimate(logs), LIMIT)
            if said != "inconclusive":
                return said
    return "inconclusive"


def compared(world: World, effect: float, rng: np.random.Generator) -> ratio.Verdict:
    """A whole A/B test: what one session says, and of a difference what a second one confirms."""
    said = session(world, effect, rng)
    if said in ("regression", "improvement") and session(world, effect, rng) != said:
        return "inconclusive"
    return said


@pytest.fixture
def fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough for counting verdicts; the tests below look at hundreds of intervals."""
    monkeypatch.setattr(ratio, "RESAMPLES", 300)


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS)
def test_the_same_artifact_twice_is_seldom_called_different(world: World, fewer_resamples: None) -> None:
    rng = np.random.default_rng(11)
    told = [compared(world, 0.0, rng) for _ in range(300)]
    assert told.count("regression") + told.count("improvement") <= 6
    assert told.count("equal") >= 210


@pytest.mark.parametrize("world", WORLDS)
def test_five_percent_more_is_found(world: World, fewer_resamples: None) -> None:
    rng = np.random.default_rng(12)
    told = [compared(world, 0.05, rng) for _ in range(100)]
    assert told.count("regression") >= 95
    assert told.count("improvement") + told.count("equal") == 0


def test_five_percent_less_is_an_improvement(fewer_resamples: None) -> None:
    rng = np.random.default_rng(13)
    assert [compared(usual, 1 / 1.05 - 1, rng) for _ in range(10)].count("improvement") >= 9


@pytest.mark.slow
def test_two_percent_more_is_below_the_threshold_and_mostly_called_equal(fewer_resamples: None) -> None:
    rng = np.random.default_rng(14)
    told = [compared(usual, 0.02, rng) for _ in range(60)]
    assert told.count("regression") <= 6
    assert told.count("equal") >= 25
    assert told.count("improvement") == 0


@pytest.mark.parametrize("count", [5, 8, 20])
def test_the_interval_covers_the_ratio_as_often_as_it_says(count: int, fewer_resamples: None) -> None:
    rng = np.random.default_rng(count)
    rows = [ratio.estimate([usual(rng, math.log(1.1)) for _ in range(count)]) for _ in range(200)]
    covered = sum(found.low <= 1.1 <= found.high for found in rows)
    assert 0.92 <= covered / 200 <= 0.995, metrics.wilson(covered, 200)


def test_the_interval_narrows_with_process_pairs_and_not_with_blocks_alone() -> None:
    rng = np.random.default_rng(3)

    def width(processes: int, blocks: int) -> float:
        logs = [list(rng.normal(0, 0.01) + rng.normal(0, 0.001, blocks)) for _ in range(processes)]
        found = ratio.estimate(logs)
        return found.high - found.low

    few = float(np.median([width(5, 12) for _ in range(15)]))
    assert float(np.median([width(20, 12) for _ in range(15)])) < 0.6 * few
    assert float(np.median([width(5, 60) for _ in range(15)])) > 0.6 * few


def test_the_estimate_is_the_median_and_the_same_every_time() -> None:
    logs = [[0.01, 0.02, 0.03], [0.02, 0.02, 9.0], [-9.0, 0.02, 0.02]]
    found = ratio.estimate(logs)
    assert found.ratio == pytest.approx(math.exp(0.02))
    assert (found.pairs, found.blocks) == (3, 9)
    assert ratio.estimate(logs) == found
    assert found.low < found.ratio < found.high


def test_turned_round_the_ratio_is_its_inverse() -> None:
    rng = np.random.default_rng(4)
    logs = [usual(rng, 0.05) for _ in range(6)]
    found, turned = ratio.estimate(logs), ratio.estimate([[-log for log in row] for row in logs])
    assert turned.ratio == pytest.approx(1 / found.ratio)
    assert turned.low == pytest.approx(1 / found.high, rel=0.01)


def test_fewer_than_three_process_pairs_give_no_interval() -> None:
    with pytest.raises(ValueError, match="at least three process pairs, not 2"):
        ratio.estimate([[0.0], [0.0]])
    assert ratio.estimate([[0.0], [0.0], [0.0]]).ratio == 1


def test_a_pair_of_blocks_is_the_ratio_of_their_medians() -> None:
    assert ratio.log_ratio([10, 10, 1000], [11, 11, 11]) == pytest.approx(math.log(1.1))


EDGE = 1 + LIMIT


@pytest.mark.parametrize(
    ("middle", "low", "high", "said"),
    [
        (EDGE + 1e-9, 1 + 1e-9, 1.2, "regression"),
        (EDGE - 1e-9, 1 + 1e-9, 1.2, "inconclusive"),  # clear of 1, but smaller than what is told
        (EDGE + 1e-9, 1 - 1e-9, 1.2, "inconclusive"),  # large, but it may be nothing
        (1 / EDGE - 1e-9, 0.8, 1 - 1e-9, "improvement"),
        (1 / EDGE + 1e-9, 0.8, 1 - 1e-9, "inconclusive"),
        (1 / EDGE - 1e-9, 0.8, 1 + 1e-9, "inconclusive"),
        (1.0, 1 / EDGE + 1e-9, EDGE - 1e-9, "equal"),
        (1.0, 1 / EDGE - 1e-9, EDGE - 1e-9, "inconclusive"),
        (1.0, 1 / EDGE + 1e-9, EDGE + 1e-9, "inconclusive"),
        (1.02, 1.01, EDGE - 1e-9, "equal"),  # a difference for sure, and a small one for sure
    ],
)
def test_verdicts_at_their_edges(middle: float, low: float, high: float, said: str) -> None:
    assert ratio.verdict(Estimate(middle, low, high, 5, 60), LIMIT) == said


def test_the_threshold_follows_the_noise_of_a_noisy_device() -> None:
    assert ratio.threshold(None) == 0.03
    assert ratio.threshold(0.015) == 0.03
    assert ratio.threshold(0.0151) == pytest.approx(0.0302)


def test_the_noise_is_what_95_percent_of_the_comparisons_stay_below() -> None:
    rng = np.random.default_rng(5)
    found = ratio.noise([usual(rng, 0.0) for _ in range(24)])
    others = [abs(float(np.median([usual(rng, 0.0) for _ in range(ratio.LEAST_PAIRS)]))) for _ in range(300)]
    assert found == pytest.approx(float(np.quantile(others, 0.95)), rel=0.5)
    with pytest.raises(ValueError, match="at least 10 process pairs, not 9"):
        ratio.noise([[0.0]] * 9)
    assert ratio.noise([[0.0]] * 10) == 0


def test_counts_are_compared_between_their_furthest_ends_and_process_by_process() -> None:
    whole, each = ratio.of_counts([1000, 1010], [1100, 1111])
    assert (whole.ratio, whole.low, whole.high) == pytest.approx((1.1, 1100 / 1010, 1111 / 1000))
    assert [one.ratio for one in each] == pytest.approx([1.1, 1.1])
    assert [ratio.verdict(one, ratio.COUNT_THRESHOLD) for one in each] == ["regression", "regression"]
    assert ratio.verdict(ratio.of_counts([1000], [1009])[0], ratio.COUNT_THRESHOLD) == "equal"
    assert ratio.verdict(ratio.of_counts([1000], [1011])[0], ratio.COUNT_THRESHOLD) == "regression"
