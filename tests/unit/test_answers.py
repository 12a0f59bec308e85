"""Answers that no measurement gives: refused as the device's fault, by name, before any of it becomes a figure."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from edgekit import answers, energy, evidence, pairs, sustained
from edgekit.errors import ProtocolError
from edgekit.types import Json

NAN, HUGE = float("nan"), 10**400
WRONG = (None, "1", -1, NAN, float("inf"), HUGE, True, [], {})
LOOK = {
    "governor": "ondemand",
    "own_khz": 1_500_000,
    "own_cores": 0.99,
    "throttled": 0x50000,
    "temperature_millic": -4000,
}
LAUNCH: Json = {
    "batch": 2, "load_ns": 5, "first_ns": 4, "warmup_ns": 0, "samples_ns": [0, 3, 4], "timer": "native",
    "counts": [[9, 1], [9, 1], [8, 0]], "counter_overhead": [1, 0],
    "evidence": {"before": LOOK, "after": LOOK, "samples": [LOOK, {}], "steal_share": 0.5, "cores": 4, "seconds": 0.4},
}  # fmt: skip
WINDOW: Json = {
    "window": {"start_s": 0, "end_s": 1.5, "calls": 3, "p50_ns": 7, "uj": -3},
    "timer": "native",
    "evidence": LOOK,
}
OPERATORS: Json = {
    "total_ns": [0, 5], "plain_ns": [4], "profiled_ns": [5, 6], "operators": [{"name": "a", "ns": [0, 2]}],
}  # fmt: skip


def spoiled(whole: Json, path: str, value: object) -> Json:
    """A copy in which one place has another value, or is gone (...)."""
    found: Any = copy.deepcopy(whole)
    *way, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    place = found
    for step in way:
        place = place[step]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return dict(found)


def test_what_can_be_a_measurement_is_taken_as_it_is() -> None:
    for check, whole in ((answers.launch, LAUNCH), (answers.window, WINDOW), (answers.operators, OPERATORS)):
        assert check(whole) is whole
    uncounted = {key: value for key, value in LAUNCH.items() if key not in ("counts", "counter_overhead", "evidence")}
    assert answers.launch(uncounted) is uncounted
    idle = {"window": {"start_s": 0, "end_s": 1, "calls": 0}}
    assert answers.window(idle) is idle


@pytest.mark.parametrize("value", [..., *WRONG], ids=repr)
@pytest.mark.parametrize("path", ["batch", "load_ns", "first_ns", "warmup_ns", "samples_ns", "counter_overhead"])
def test_a_launch_without_its_figures(path: str, value: object) -> None:
    with pytest.raises(ProtocolError, match=f"the device says {path}: .*which no measurement gives"):
        answers.launch(spoiled(LAUNCH, path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("batch", 0),
        ("samples_ns", [3, 4.0, 5]),
        ("samples_ns", [3, -4, 5]),
        ("samples_ns", [3, 10**18 + 1, 5]),
        ("samples_ns", [0, 0, 5]),  # a clock that stands still for most of them
        ("timer", None),
        ("counts", [[9, 1]] * 2),
        ("counts", [[9, 1], [9], [8, 0]]),
        ("counts", [[9, 1], [9, "1"], [8, 0]]),
        ("counts", {"0": [9, 1]}),
        ("evidence", []),
        ("evidence.samples", {}),
        ("evidence.samples.1", "look"),
        ("evidence.before", None),
        ("evidence.before.governor", 5),
        ("evidence.before.throttled", 0.5),
        ("evidence.cores", 0),
    ],
)
def test_a_launch_that_does_not_fit_together(path: str, value: object) -> None:
    with pytest.raises(ProtocolError):
        answers.launch(spoiled(LAUNCH, path, value))


@pytest.mark.parametrize("value", WRONG, ids=repr)
@pytest.mark.parametrize("path", ["steal_share", "seconds", "samples.0.own_khz", "before.own_cores", "after.throttled"])
def test_evidence_that_is_none(path: str, value: object) -> None:
    with pytest.raises(ProtocolError):
        answers.launch(spoiled(LAUNCH, f"evidence.{path}", value))


@pytest.mark.parametrize("value", [..., *WRONG], ids=repr)
@pytest.mark.parametrize("path", ["start_s", "end_s", "calls", "p50_ns"])
def test_a_window_without_its_figures(path: str, value: object) -> None:
    with pytest.raises(ProtocolError):
        answers.window(spoiled(WINDOW, f"window.{path}", value))


@pytest.mark.parametrize(
    ("path", "value"),
    [("window", None), ("window.end_s", 0), ("window.p50_ns", 0), ("window.uj", NAN), ("window.uw", "1"), ("evidence", 3),
     ("evidence.temperature_millic", "hot")],
)  # fmt: skip
def test_a_window_that_does_not_fit_together(path: str, value: object) -> None:
    with pytest.raises(ProtocolError):
        answers.window(spoiled(WINDOW, path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [("total_ns", []), ("total_ns", [1, -1]), ("plain_ns", ...), ("profiled_ns", [NAN]), ("operators", None), ("operators.0", 3),
     ("operators.0.name", ...), ("operators.0.ns", [1]), ("operators.0.ns", [1, True])],
)  # fmt: skip
def test_operators_that_do_not_fit_together(path: str, value: object) -> None:
    with pytest.raises(ProtocolError):
        answers.operators(spoiled(OPERATORS, path, value))


@pytest.mark.parametrize(
    "value",
    [None, {}, [], {"method": 1, "settle_s": 1.0, "coarse": False}, {"method": "RAPL", "settle_s": NAN, "coarse": False},
     {"method": "RAPL", "settle_s": 1}],
)  # fmt: skip
def test_a_source_of_energy_that_is_none(value: object) -> None:
    with pytest.raises(ProtocolError):
        answers.source({"energy": value})


@pytest.mark.parametrize("value", [None, [], {"throttled": "0x5"}, {"thermal_status": -1}, {"temperature_millic": NAN}])
def test_a_device_whose_state_is_none_does_not_cool_down(value: object) -> None:
    live: Any = type("Live", (), {"call": staticmethod(lambda *_: {"state": value})})
    with pytest.raises(ProtocolError):
        evidence.cool_down(live, lambda _: None, lambda _: None)


@pytest.mark.parametrize(
    "progress", [sustained.Progress("net", 60, lambda _: None), energy.Progress("net", lambda _: None)]
)
def test_a_long_run_takes_no_such_window(progress: Any) -> None:
    take: Callable[[Json], None] = progress.take
    with pytest.raises(ProtocolError, match="p50_ns: 0"):
        take(spoiled(WINDOW, "window.p50_ns", 0))
    assert progress.windows == []
    take(WINDOW)
    with pytest.raises(ProtocolError, match=r"end_s: 1\.5"):
        take(WINDOW)
    assert len(progress.windows) == 1
    take(spoiled(spoiled(WINDOW, "window.start_s", 1.5), "window.end_s", 1.501))
    assert len(progress.windows) == 2


def test_no_side_of_a_comparison_takes_such_a_launch() -> None:
    live: Any = type("Live", (), {"call": staticmethod(lambda *_: spoiled(LAUNCH, "samples_ns", [0, 0, 0]))})
    side = pairs.Side("new", *[None] * 3, live)  # type: ignore[arg-type]
    with pytest.raises(ProtocolError, match="NEW: the device says samples_ns"):
        side.measure()


# ---- what is said before and while a model is verified ----

PREDICTION: Json = {
    "samples": 3, "inputs": [{"name": "x", "shape": [1, 4], "dtype": "float32"}],
    "outputs": [{"name": "y", "shape": [], "dtype": "float32"}], "memory": {},
}  # fmt: skip


def test_a_prediction_has_tensors_and_memory() -> None:
    assert answers.prediction(PREDICTION) is PREDICTION
    for path in ("inputs", "outputs", "memory", "inputs.0", "inputs.0.name", "inputs.0.shape", "outputs.0.dtype"):
        for value in (..., None, 7, [None], ["1"]):
            if (path, value) != ("inputs.0", ...):  # that leaves a list of none
                with pytest.raises(ProtocolError):
                    answers.prediction(spoiled(PREDICTION, path, value))


@pytest.mark.parametrize("key", ["cores", "memory_bytes", "page_bytes"])
@pytest.mark.parametrize("value", ["many", 0, -4, NAN, True, 2.0, []])
def test_a_greeting_of_odd_numbers_is_refused(key: str, value: object) -> None:
    known: Json = {"system": {"cores": 4, "memory_bytes": 1 << 30, "page_bytes": None}}
    assert answers.greeting(known) is known
    with pytest.raises(ProtocolError, match=key):
        answers.greeting({"system": {**known["system"], key: value}})
