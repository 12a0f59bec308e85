"""Measuring by turns, without a device: the shape of the blocks, process pairs that do not count, two sessions that disagree."""

from __future__ import annotations

import math
from typing import Any

import pytest

from edgekit import abtest, evidence, pairs, turns
from edgekit.caveats import caveat
from edgekit.errors import UserError
from edgekit.pairs import ProcessPair, Shape
from edgekit.types import Caveat, Cell, Json

VOID = caveat("throttled", what="frequency capped")


def start(call_ns: int, batch: int = 1, count: int = 40) -> Json:
    """The launch record of a warm-up whose first half was ten times slower."""
    return {"batch": batch, "samples_ns": [10 * call_ns * batch] * (count // 2) + [call_ns * batch] * (count // 2)}


@pytest.mark.parametrize(
    ("old", "new", "shape"),
    [
        (start(10_000, 100), start(11_000, 91), Shape(12, 18, 100)),  # 20 ms of the slower one, in the larger batch
        (start(6_000_000), start(6_000_000), Shape(12, 3, 1)),
        (start(125_000_000), start(125_000_000), Shape(12, 1, 1)),  # 12 pairs just fit into 3 s
        (start(126_000_000), start(1_000_000), Shape(11, 1, 1)),
        (start(10_000_000_000), start(10_000_000_000), Shape(3, 1, 1)),  # no fewer
        (start(0), start(0), Shape(12, 20_000_000, 1)),
    ],
)
def test_blocks_are_short_and_process_pairs_are_not_long(old: Json, new: Json, shape: Shape) -> None:
    assert Shape.of({"old": old, "new": new}) == shape


class Fakes:
    """Process pairs as told, in place of a device: each is a log ratio, or None where the device disturbed it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, logs: list[float | None]) -> None:
        self.logs = iter(logs)
        self.cooled = 0
        self.lines: list[Json] = []
        monkeypatch.setattr(pairs, "measure", self.measure)
        monkeypatch.setattr(evidence, "cool_down", self.cool_down)

    def measure(self, sides: Any, shape: Shape | None, chance: object, keep: pairs.Keep) -> ProcessPair:
        log = next(self.logs)
        keep({"starts": {}})
        void: Caveat | None = VOID if log is None else None
        times = {"old": [[100.0]] * 3, "new": [[100 * math.exp(log or 0.0)]] * 3}
        launch = {"timer": "native", "samples_ns": [1], "batch": 1}
        return ProcessPair({"old": launch, "new": launch}, shape or Shape(3, 1, 1), times, void)

    def cool_down(self, live: object, say: object) -> float:
        self.cooled += 1
        return 0.0

    def line(self, value: Json) -> None:
        """In place of the record's."""
        self.lines.append(value)

    def session(self, limit: float = 0.03, seconds: float = 1e9) -> turns.Session:
        """A session with them."""
        sides: Any = {"old": type("Side", (), {"agent": None}), "new": None}
        record: Any = self
        clear = lambda found: found.verdict(limit) != "inconclusive"  # noqa: E731
        return turns.measure(sides, record, 1, seconds, clear, lambda _: None, None)


def test_a_process_pair_that_does_not_count_is_repeated_when_the_device_is_cool(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fakes = Fakes(monkeypatch, [0.001, None, 0.002, 0.001, None, 0.0, -0.001])
    found = fakes.session()
    assert [row[0] for row in found.logs] == pytest.approx([0.001, 0.002, 0.001, 0.0, -0.001])
    assert (found.void, fakes.cooled) == (2, 2)
    assert found.verdict(0.03) == "equal"
    assert [line["void"]["code"] for line in fakes.lines if "void" in line] == ["throttled"] * 2
    assert [line["pair"] for line in fakes.lines if "starts" in line] == [1, 2, 2, 3, 4, 4, 5]


def test_a_device_that_disturbs_every_process_pair_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Fakes(monkeypatch, [None] * 8).session()
    assert (found.void, len(found.logs)) == (turns.VOIDS, 5)


def test_one_process_pair_counts_even_when_the_time_is_over_before(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Fakes(monkeypatch, [None, 0.0]).session(seconds=1e-9)
    assert (found.void, len(found.logs)) == (1, 1)


def sessions_of(monkeypatch: pytest.MonkeyPatch, *logs: float) -> list[turns.Session]:
    """One session for each log ratio, with processes that all agree."""
    return [Fakes(monkeypatch, [log + 0.0001 * k for k in range(5)]).session() for log in logs]


def test_a_difference_is_told_when_two_sessions_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    assert abtest.judged(sessions_of(monkeypatch, 0.05, 0.05), 0.03, 60) == ("regression", True, "")
    assert abtest.judged(sessions_of(monkeypatch, -0.05, -0.05), 0.03, 60) == ("improvement", True, "")
    assert abtest.judged(sessions_of(monkeypatch, 0.01), 0.03, 60) == ("equal", None, "")


@pytest.mark.parametrize(("second", "says"), [(0.0, "equal"), (-0.05, "improvement")])
def test_a_difference_that_a_second_session_does_not_see_is_none(
    second: float, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict, confirmed, why = abtest.judged(sessions_of(monkeypatch, 0.05, second), 0.03, 60)
    assert (verdict, confirmed) == ("inconclusive", False)
    assert why.startswith(f"one session said regression (1.051), other processes {says}")


@pytest.mark.parametrize(("old", "new", "alike"), [(1, 1, True), (8, 8, True), (1, 8, False), (8, 1, False)])
def test_calls_of_more_inputs_are_no_slower_model(old: int, new: int, alike: bool) -> None:
    cells = [Cell("m", "tflite", "fp32", "tflite", "d", 1, (("batch", str(n)),) if n > 1 else ()) for n in (old, new)]
    if alike:
        abtest.check_calls(*cells)
    else:
        with pytest.raises(UserError, match=f"OLD takes {old} inputs in a call and NEW {new}"):
            abtest.check_calls(*cells)


def test_blocks_are_judged_by_the_evidence_of_all_of_them() -> None:
    quiet = {"before": {"throttled": 0}, "samples": [], "after": {"throttled": 0}}
    capped = {"before": {"throttled": 0}, "samples": [{"throttled": 2}], "after": {"throttled": 0}}
    device: Any = type("Device", (), {"emulated": False})
    assert evidence.void_reason(pairs.joined([quiet] * 3), device) is None
    found = evidence.void_reason(pairs.joined([quiet, capped, quiet]), device)
    assert found is not None and found.code == "throttled"
    assert pairs.joined([]) == {}
