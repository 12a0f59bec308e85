"""Change points: found where there is one, at the place where it is, and none found where there is none."""

from __future__ import annotations

import random

import pytest

from edgekit import changes
from edgekit.changes import Point


def series(*levels: tuple[int, float], noise: float = 0.01, seed: int = 1, half_width: float = 0.01) -> list[Point]:
    """Points around these levels, so many of each."""
    drawn = random.Random(seed)
    return [Point(level * drawn.lognormvariate(0, noise), half_width) for count, level in levels for _ in range(count)]


@pytest.mark.parametrize("ratio", [1.2, 0.8])
def test_a_change_is_found_where_it_is(ratio: float) -> None:
    (found,) = changes.of_times(series((10, 1e6), (8, ratio * 1e6)))
    assert found.index == 10
    assert found.ratio == pytest.approx(ratio - 1, abs=0.02)


def test_two_changes_are_found_in_their_order() -> None:
    found = changes.of_times(series((12, 1e6), (12, 1.3e6), (12, 1e6)))
    assert [change.index for change in found] == [12, 24]
    assert [round(change.ratio, 1) for change in found] == [0.3, -0.2]


@pytest.mark.slow
def test_noise_alone_has_changes_about_as_often_as_chance_may_make_them() -> None:
    found = sum(bool(changes.of_times(series((20, 1e6), noise=0.10, seed=seed))) for seed in range(60))
    assert found <= 3, "1 % of 60 series"


def test_a_change_smaller_than_three_percent_is_none() -> None:
    assert changes.of_times(series((10, 1e6), (10, 1.02e6), noise=0.001)) == []


def test_a_change_within_the_intervals_of_its_points_is_none() -> None:
    points = series((10, 1e6), (10, 1.15e6))
    assert [change.index for change in changes.of_times(points)] == [10]
    assert changes.of_times(series((10, 1e6), (10, 1.15e6), half_width=0.10)) == []


def test_one_outlier_or_three_points_are_no_change() -> None:
    assert changes.of_times(series((10, 1e6), (1, 9e6), (10, 1e6))) == []
    assert changes.of_times(series((10, 1e6), (3, 2e6))) == []
    assert changes.of_times(series((3, 1e6), (3, 2e6))) == []
    assert changes.of_times([]) == []


def test_a_count_changes_at_one_point_and_beyond_what_counts_repeat_within() -> None:
    counts = [1000.0, 1001.0, 999.0, 1300.0, 1300.5, 1000.0]
    found = changes.of_counts([Point(value, 0.001) for value in counts])
    assert [change.index for change in found] == [3, 5]
    assert found[0].ratio == pytest.approx(0.30025)
    assert changes.of_counts([Point(1000.0), Point(1009.0)]) == []
    assert [change.index for change in changes.of_counts([Point(1000.0), Point(1011.0)])] == [1]
    assert changes.of_counts([Point(1000.0), Point(1300.0, 0.5)]) == [], "a count that spreads so decides nothing"
    assert changes.of_counts([]) == []
