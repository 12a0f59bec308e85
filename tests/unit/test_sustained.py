"""The curve of a sustained run: its start, its steady state, the thresholds of both, what is kept of one that is cut."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from harness import FAKE_BOARD, FAKE_DEVICE

from edgekit import config, evidence, sustained
from edgekit.agent import sustain
from edgekit.errors import ProtocolError, TransportClosed, UserError
from edgekit.report import Report, Reports
from edgekit.report.sustained import lines
from edgekit.report.words import span
from edgekit.types import Caveat, Cell, Json

LOCAL, BOARD = config.device(str(FAKE_DEVICE)), config.device(str(FAKE_BOARD))


def windows(times: Iterable[float], **each: object) -> list[Json]:
    """One-second windows of these medians."""
    return [
        {"start_s": float(at), "end_s": at + 1.0, "calls": 10, "p50_ns": round(ns), **each}
        for at, ns in enumerate(times)
    ]


def codes(found: Iterable[Caveat]) -> list[str]:
    """Their codes."""
    return [caveat.code for caveat in found]


def test_a_device_that_slows_down_has_a_start_and_a_steady_state() -> None:
    noise = random.Random(1)
    told = sustained.curve(windows(noise.gauss(1000 if at < 60 else 1300, 8) for at in range(300)), 300)
    assert told["start_ns"] == pytest.approx(1000, rel=0.01)
    assert told["steady_ns"] == pytest.approx(1300, rel=0.01)
    assert told["end_ns"] == pytest.approx(1300, rel=0.01)
    assert 55 <= told["steady_from_s"] <= 65
    assert told["slowdown"] == pytest.approx(1.3, rel=0.01)
    assert (told["asked_s"], told["ran_s"], told["calls"]) == (300, 300.0, 3000)
    (weak,) = sustained.weak(told)
    assert weak.code == "slows-down"
    assert "30% slower" in weak.message and "60 s" in weak.message


def test_a_steady_device_is_steady_from_the_start() -> None:
    noise = random.Random(2)
    told = sustained.curve(windows(noise.gauss(1000, 10) for _ in range(200)), 200)
    assert told["steady_from_s"] == 0
    assert told["slowdown"] == pytest.approx(1, abs=0.01)
    assert not list(sustained.weak(told))


@pytest.mark.parametrize("count", [20, 60, 300])
def test_a_device_that_does_not_change_is_seldom_said_to(count: int) -> None:
    """Windows whose medians scatter by 1.5 %, a tenth of them disturbed: neither slower nor without a steady state."""
    chance = random.Random(count)
    told = []
    for _ in range(200):
        times = [chance.gauss(1000, 15) * (1.3 if chance.random() < 0.1 else 1.0) for _ in range(count)]
        told.append(codes(sustained.weak(sustained.curve(windows(times), count))))
    assert sum(said != [] for said in told) <= 6, "3 %"


@pytest.mark.parametrize("count", [60, 300])
def test_a_device_that_becomes_a_tenth_slower_is_said_to(count: int) -> None:
    chance = random.Random(count)
    found = 0
    for _ in range(100):
        times = [chance.gauss(1000 if at < count // 4 else 1100, 15) for at in range(count)]
        curve = sustained.curve(windows(times), count)
        found += codes(sustained.weak(curve)) == ["slows-down"] and abs(curve["slowdown"] - 1.1) < 0.03
    assert found >= 95


def test_single_disturbed_windows_do_not_count() -> None:
    """Four of nine may be disturbed: the running median is of the others."""
    times = [1000.0] * 90
    for at in range(20, 24):
        times[at] = 5000
    assert sustained.curve(windows(times), 90)["steady_from_s"] == 0
    times[24] = 5000
    assert sustained.curve(windows(times), 90)["steady_from_s"] > 0


@pytest.mark.parametrize(("disturbed", "steady"), [(5, True), (6, False)])
def test_one_window_in_twenty_may_be_outside(disturbed: int, steady: bool) -> None:
    """So many windows on end are outside as were disturbed on end, once they are more than four of nine."""
    for at in (20, 80):
        times = [1000.0] * 100
        times[at : at + disturbed] = [5000.0] * disturbed
        told = sustained.curve(windows(times), 100)
        assert (told.get("steady_from_s") == 0) is steady
        assert ("steady_ns" in told) is (steady or at == 20), "in the last third it leaves none"


def test_half_an_hour_is_not_decided_by_some_seconds() -> None:
    times = [1000.0] * 1800
    times[1500:1520] = [2000.0] * 20
    told = sustained.curve(windows(times), 1800)
    assert (told["steady_from_s"], told["steady_ns"]) == (0, 1000)


def test_a_device_that_never_settles_has_no_steady_state() -> None:
    told = sustained.curve(windows(1000 + 10 * at for at in range(100)), 100)
    assert not {"steady_ns", "steady_from_s", "slowdown"} & set(told)
    assert told["end_ns"] > 1.5 * told["start_ns"], "what is known is told all the same"
    assert codes(sustained.weak(told)) == ["no-steady-state"]


@pytest.mark.parametrize(("level", "steady"), [(1030, True), (1031, False), (970, True), (969, False)])
def test_the_band_of_the_steady_state_is_three_percent(level: int, steady: bool) -> None:
    told = sustained.curve(windows([level] * 30 + [1000] * 60), 90)
    assert (told["steady_from_s"] == 0) is steady


@pytest.mark.parametrize(("change", "steady"), [(60, True), (65, False)])
def test_the_steady_state_has_to_begin_before_the_last_third(change: int, steady: bool) -> None:
    told = sustained.curve(windows([1200] * change + [1000] * (90 - change)), 90)
    assert ("steady_ns" in told) is steady


@pytest.mark.parametrize(("count", "steady"), [(9, True), (8, False)])
def test_fewer_than_nine_windows_tell_no_steady_state(count: int, steady: bool) -> None:
    assert ("steady_ns" in sustained.curve(windows([1000] * count), count)) is steady


@pytest.mark.parametrize(("steady", "said"), [(1050, []), (1051, ["slows-down"])])
def test_slower_by_more_than_five_percent_is_said(steady: int, said: list[str]) -> None:
    assert codes(sustained.weak(sustained.curve(windows([1000] * 10 + [steady] * 90), 100))) == said


@pytest.mark.parametrize(("seconds", "start"), [(300, 10), (100, 10), (40, 4)])
def test_the_start_is_ten_seconds_or_a_tenth_of_a_short_run(seconds: int, start: int) -> None:
    """All windows of the start are as fast as that, all others slower."""
    times = [1000] * (start // 2 + 1) + [2000] * (seconds - start // 2 - 1)
    assert sustained.curve(windows(times), seconds)["start_ns"] == 1000
    times = [1000] * (start // 2 - 1) + [2000] * (seconds - start // 2 + 1)
    assert sustained.curve(windows(times), seconds)["start_ns"] == 2000


def test_one_window_is_a_curve() -> None:
    told = sustained.curve(windows([1000]), 60)
    assert (told["start_ns"], told["end_ns"], told["ran_s"]) == (1000, 1000, 1.0)


@pytest.mark.parametrize(
    ("seconds", "length"), [(3, 0.15), (19, 0.95), (20, 1.0), (1800, 1.0), (2000, 1.0), (7200, 3.6), (86400, 43.2)]
)
def test_a_run_of_any_length_has_at_most_two_thousand_windows(seconds: float, length: float) -> None:
    assert sustain.window_length(seconds) == pytest.approx(length)
    assert seconds / sustain.window_length(seconds) <= 2000.5


def test_evidence_of_the_device_is_kept_with_its_window() -> None:
    event = {
        "window": {"start_s": 0.0, "end_s": 1.0, "calls": 5, "p50_ns": 7},
        "timer": "native",
        "evidence": {
            "own_khz": 1_500_400,
            "frequency_khz": 600_000,
            "temperature_millic": 61_230,
            "throttled": 0x50000,
            "thermal_status": 0,
            "load": [1, 1, 1],
        },
    }
    assert sustained.of_event(event) == {
        "start_s": 0.0,
        "end_s": 1.0,
        "calls": 5,
        "p50_ns": 7,
        "clock_mhz": 1500,
        "temperature_c": 61.2,
        "throttled": 0x50000,
        "thermal_status": 0,
    }
    assert set(sustained.of_event({**event, "timer": "device"})) == set(event["window"]), "of a microcontroller nothing"  # type: ignore[call-overload]
    assert sustained.of_event({"window": {}, "timer": "native", "evidence": {"frequency_khz": 600_000}}) == {
        "clock_mhz": 600
    }


def test_throttling_is_told_with_when_and_why() -> None:
    run = windows([1000] * 100, throttled=0x50000)  # it happened before, so it says nothing of this run
    assert not list(sustained.weak(sustained.curve(run, 100)))
    for window in run[40:]:
        window["throttled"] = 0x50004
    (weak,) = sustained.weak(sustained.curve(run, 100))
    assert weak.code == "throttled"
    assert "throttled, first seen 41 s into the sustained run" in weak.message


class Live:
    """A session whose agent answers with these events, and then with this answer or this error."""

    def __init__(self, events: list[Json], answer: Json | BaseException) -> None:
        self.device = LOCAL
        self.greeting: Json = {"system": {}}
        self.events, self.answer = events, answer
        self.asked: list[tuple[str, Json, float]] = []

    def call(self, op: str, args: Json, deadline_s: float, on_event: Callable[[Json], None]) -> Json:
        self.asked.append((op, args, deadline_s))
        for event in self.events:
            on_event(event)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


def measured(live: Live, found: Json, seconds: float = 60.0) -> None:
    """Run sustained.measure against it."""

    class Subject:
        request = type("Request", (), {"sustained_s": seconds})
        device = LOCAL

    found |= {"warnings": (), "launches": found.get("launches", ({},))}
    cell = Cell("net", "tflite", "int8", "tflite", "local")
    sustained.measure(Subject, cell, live, {"model": "m"}, found, lambda _: None)  # type: ignore[arg-type]


def events(count: int) -> list[Json]:
    """The windows as the agent sends them, and another event among them."""
    return [{"phase": "something else"}, *({"window": window, "timer": "native"} for window in windows([1000] * count))]


def test_the_curve_its_facts_and_its_deadline() -> None:
    live = Live(
        events(60),
        {"batch": 3, "timer": "native", "version": "2", "load_ns": 5, "evidence": {"seconds": 60, "samples": [{}]}},
    )
    found: Json = {}
    measured(live, found)
    told = found["sustained"]
    assert live.asked == [("sustain", {"model": "m", "seconds": 60.0}, 60.0 + sustained.LAUNCH_S)]
    assert (told["batch"], told["timer"], told["version"], told["load_ns"]) == (3, "native", "2", 5)
    assert told["evidence"] == {"seconds": 60}
    assert len(told["windows"]) == 60
    assert "cut" not in told


@pytest.mark.parametrize("error", [TransportClosed("the link is gone"), KeyboardInterrupt()])
def test_the_windows_of_a_run_that_is_cut_are_kept(error: BaseException) -> None:
    found: Json = {}
    with pytest.raises(type(error)):
        measured(Live(events(7), error), found)
    assert found["sustained"]["cut"] is True
    assert len(found["sustained"]["windows"]) == 7
    nothing: Json = {}
    with pytest.raises(type(error)):
        measured(Live([], error), nothing)
    assert "sustained" not in nothing


def test_a_run_without_windows_is_the_devices_fault() -> None:
    with pytest.raises(ProtocolError, match="none came of the whole run"):
        measured(Live([], {}), {})


@pytest.mark.parametrize(("seen", "cooled"), [({"temperature_millic": 60_000}, True), ({"load": [0.1]}, False)])
def test_a_device_that_tells_its_heat_cools_down_first(
    seen: Json, cooled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(evidence, "cool_down", lambda live, say: asked.append(len(live.asked)))
    measured(Live(events(9), {}), {"launches": ({"evidence": {"after": {}}}, {"evidence": {"after": seen}})})
    assert asked == [0] * cooled, "before the agent was asked for anything"


def test_what_makes_no_sense_is_refused_before_anything_is_done() -> None:
    sustained.check(None, [LOCAL, BOARD])
    sustained.check(1.0, [LOCAL])
    with pytest.raises(UserError, match="fake_board is emulated"):
        sustained.check(60, [LOCAL, BOARD])
    for seconds in (0.999, 0, -1, float("inf"), float("nan"), "30m"):
        with pytest.raises(UserError, match="number of seconds of at least 1"):
            sustained.check(seconds, [LOCAL])  # type: ignore[arg-type]


def reported(cells: list[Json]) -> Reports:
    """A report of nothing but sustained runs."""
    header = {"device": {"name": "board"}, "plan": {"name": "net"}, "schema": 1}
    return Reports([Report("run", FAKE_DEVICE, 1, header, cells, [])], {})


def cell(runtime: str, start: float, end: float, **run: Any) -> Json:
    """A cell that began at one latency and ended at another."""
    facts = {"id": runtime, "runtime": runtime, "precision": "int8", "threads": 1, "device": "board"}
    times = [start] * 20 + [end] * 180
    return {**facts, "sustained": {**sustained.curve(windows(times), 1800), **run}}


def test_the_ranking_is_by_the_steady_state_and_says_what_was_another_order() -> None:
    told = lines(reported([cell("tflite", 1e6, 1.5e6), cell("onnxruntime", 1.2e6, 1.2e6)]))
    assert told == [
        "sustained for 30 min, by steady state:",
        "  1  onnxruntime int8  1.2 ms from 0.0 s on, 1.2 ms at the start (+0.0 %)",
        "  2  tflite int8       1.5 ms from 20 s on, 1 ms at the start (+50.0 %)",
        "tflite int8 was faster than onnxruntime int8 at the start, and is slower at the end",
    ]


@pytest.mark.parametrize(
    ("start", "end", "said"), [(1.031e6, 1.031e6, True), (1.03e6, 1.031e6, False), (1.031e6, 1.03e6, False)]
)
def test_an_order_within_three_percent_is_no_order(start: float, end: float, said: bool) -> None:
    told = lines(reported([cell("tflite", 1e6, end), cell("onnxruntime", start, 1e6)]))
    assert any("was faster than" in line for line in told) is said


def test_what_has_no_steady_state_is_not_ranked() -> None:
    rising = sustained.curve(windows(1e6 + 1e4 * at for at in range(100)), 100)
    rising["windows"][0] |= {"clock_mhz": 1500, "temperature_c": 50.0}
    rising["windows"][-1] |= {"clock_mhz": 1000, "temperature_c": 80.4}
    moving = {**cell("executorch", 1, 1), "sustained": rising}
    told = lines(reported([cell("tflite", 1e6, 1e6, cut=True), moving]))
    assert told[1] == "  -  tflite int8      cut after 3 min: 1 ms -> 1 ms"
    assert told[2] == "  -  executorch int8  not steady: 1.04 ms -> 1.82 ms, 1500 -> 1000 MHz, 50 -> 80 C"
    assert len(told) == 3


def test_a_report_without_sustained_runs_says_nothing() -> None:
    assert lines(reported([{**cell("tflite", 1, 1), "sustained": None}][:0])) == []


def test_spans_of_time_in_words() -> None:
    assert [span(s) for s in (3, 9.96, 45, 119, 120, 7199, 7200)] == [
        "3.0 s", "10.0 s", "45 s", "119 s", "2 min", "120 min", "2.0 h",
    ]  # fmt: skip
