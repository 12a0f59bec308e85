"""--metric instructions, and what is said of counts: without a device."""

from __future__ import annotations

from typing import Any

import pytest

from edgekit import config, plan, stats, timing
from edgekit.errors import UserError
from edgekit.types import Cell, Json

CELL = Cell("m", "tflite", "fp32", "tflite", "pi4", 4)
GREETING: Json = {"system": {"cores": 4}}


def counting(**changes: Any) -> plan.Request:
    """--metric instructions as a request on the emulated Pi 4."""
    return plan.counting(plan.Request(metric="instructions", **changes), [config.device("pi4")])


def test_counting_takes_few_inputs_and_few_calls() -> None:
    request = counting()
    assert request.samples == plan.COUNTING_SAMPLES
    effort = plan.Effort.of(config.device("pi4"), request.effort)
    assert (effort.launches, effort.warmup_calls, effort.calls) == (1, 1, 3)


def test_what_was_said_goes_before() -> None:
    request = counting(samples=9, effort={"launches": 5, "calls": None})
    assert request.samples == 9
    assert request.effort == {**plan.COUNTING, "launches": 5}


def test_counting_twice_is_counting_once() -> None:
    request = counting()
    assert plan.counting(request, [config.device("pi4")]) == request


@pytest.mark.parametrize("metric", [None, "top1", "mae"])
def test_any_other_metric_is_left_alone(metric: str | None) -> None:
    request = plan.Request(metric=metric)
    assert plan.counting(request, [config.device("local")]) is request


@pytest.mark.parametrize("name", ["local", "pi4-vm"])
def test_a_device_that_counts_nothing_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"not counted on {name}") as caught:
        plan.counting(plan.Request(metric="instructions"), [config.device("pi4"), config.device(name)])
    assert "pi4" in (caught.value.hint or "")


def test_a_real_board_counts_nothing() -> None:
    board = config.device("pi4", {"host": "192.0.2.7"})
    with pytest.raises(UserError, match="not counted"):
        plan.counting(plan.Request(metric="instructions"), [board])


def launch(*totals: int, batch: int = 1) -> Json:
    """A launch with these totals per call, all of them ALU."""
    counts = [[total * batch + 10, 0, 0, 0, 0, 0, 0, total * batch + 10] for total in totals]
    return {"batch": batch, "counts": counts, "counter_overhead": [10, 0, 0, 0, 0, 0, 0, 10]}


def test_spread_of_calls_and_of_launches() -> None:
    found = stats.instructions([launch(1000, 1010, 1020), launch(1030, 1030, 1030, batch=4)])
    assert found is not None
    assert found["total"] == found["alu"] == 1025
    assert found["spread"] == round(30 / 1025, 6)
    assert found["launch_spread"] == round(20 / 1025, 6)


def test_one_launch_has_no_spread_of_launches() -> None:
    found = stats.instructions([launch(1000, 1010), {"batch": 1, "samples_ns": [5]}])
    assert found is not None
    assert "launch_spread" not in found


@pytest.mark.parametrize(("top", "said"), [(100_625, False), (100_626, True)])
def test_counts_that_differ_by_more_than_half_a_percent_are_said_to(top: int, said: bool) -> None:
    """Nine tenths of the way from the least of three to the greatest: 0.8 of the last step."""
    found = {"launches": (launch(100_000, 100_000, top),), "memory": {}}
    codes = [weak.code for weak in timing.device_caveats(CELL, GREETING, found)]
    assert ("unsteady-counts" in codes) == said


def test_a_single_call_that_differs_is_no_weakness() -> None:
    found = {"launches": (launch(*[100_000] * 9, 101_100),), "memory": {}}
    assert "unsteady-counts" not in [weak.code for weak in timing.device_caveats(CELL, GREETING, found)]
