"""The agent's long run: windows as events while it goes on, idle ones first, readings of energy where they were asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from harness import Agent, write_fake_model

from edgekit import stats
from edgekit.agent import measure, sustain


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    """A live agent in a folder that holds an input row."""
    (tmp_path / "input").write_bytes(bytes(40))
    with contextlib.closing(Agent(tmp_path)) as live:
        yield live


def sustained(agent: Agent, folder: Path, model: dict[str, Any], **args: object) -> tuple[list[Any], Any]:
    """The events of a long run of a fake model, and its answer."""
    name = write_fake_model(folder / "model.fake", **model)
    asked = {"runtime": "fake", "model": name, "input": "input", "deadline_s": 30, **args}
    agent.send({"id": 7, "op": "sustain", "args": asked})
    events = []
    while "event" in (frame := agent.receive()):
        events.append(frame["event"])
    return events, frame


def test_windows_follow_one_another_and_see_the_device_slow_down(agent: Agent, tmp_path: Path) -> None:
    """On the fake clock: 1.2 ms a call, from the 20,000th call on 1.5 times that."""
    events, answer = sustained(agent, tmp_path, {"slow_after_calls": 20_000, "slow_factor": 1.5}, seconds=60)
    told = [event["window"] for event in events]
    assert answer["ok"]["batch"] == 1 and answer["ok"]["version"] == "1"
    assert 58 <= len(told) <= 61
    assert told[0]["start_s"] == pytest.approx(0, abs=0.1)
    assert [one["end_s"] for one in told[:-1]] == [next_one["start_s"] for next_one in told[1:]]
    assert told[-1]["end_s"] == pytest.approx(60, abs=1)
    assert (told[0]["p50_ns"], told[-1]["p50_ns"]) == (1_200_000, 1_800_000)
    assert told[0]["p95_ns"] == 1_224_000, "1 % jitter: the slowest fifth of the calls takes 2 % longer"
    slow = next(at for at, one in enumerate(told) if one["p50_ns"] == 1_800_000)
    assert slow == pytest.approx(20_000 * 0.0012, abs=2)
    assert sum(one["calls"] for one in told) == pytest.approx(20_000 + (60 - 24) / 0.0018, rel=0.02)
    assert all("load" in event["evidence"] for event in events), "and the agent says what it saw of the device"


def test_calls_under_a_millisecond_are_batched_and_have_no_tail(agent: Agent, tmp_path: Path) -> None:
    events, answer = sustained(agent, tmp_path, {"latency_ns": 10_000}, seconds=3)
    assert answer["ok"]["batch"] == pytest.approx(100, abs=5)
    assert {event["window"]["p50_ns"] for event in events} == {10_000}
    assert not any("p95_ns" in event["window"] for event in events)


@pytest.mark.parametrize(("latency_ns", "tail"), [(2_400_000, True), (2_600_000, False)])
def test_a_tail_needs_sixty_samples(agent: Agent, tmp_path: Path, latency_ns: int, tail: bool) -> None:
    """Windows of 150 ms hold some 62 calls of 2.4 ms, and 58 of 2.6."""
    events, _ = sustained(agent, tmp_path, {"latency_ns": latency_ns, "jitter": 0.0}, seconds=3)
    assert all(event["window"]["calls"] >= 60 for event in events) is tail
    assert all(("p95_ns" in event["window"]) is tail for event in events[:-1])


def test_the_tail_of_a_window_at_the_edge_of_its_samples() -> None:
    samples = list(range(1, 61))
    assert sustain.figures(samples, 1) == {"calls": 60, "p50_ns": 31, "p95_ns": round(stats.percentile(samples, 0.95))}
    assert "p95_ns" not in sustain.figures(samples[:59], 1)
    assert "p95_ns" not in sustain.figures(samples, 2)
    skewed = [1000] * 95 + [9000] * 5
    assert sustain.figures(skewed, 1)["p95_ns"] == round(stats.percentile(skewed, 0.95)) == 1400


def test_a_call_longer_than_a_window_is_a_window(agent: Agent, tmp_path: Path) -> None:
    events, _ = sustained(agent, tmp_path, {"latency_ns": 2_000_000_000, "jitter": 0.0}, seconds=10)
    assert [event["window"]["calls"] for event in events] == [1] * 5


def test_idle_windows_come_first_and_every_window_has_its_reading(agent: Agent, tmp_path: Path) -> None:
    zone = tmp_path / "sys/class/powercap/intel-rapl:0"
    zone.mkdir(parents=True)
    for file, text in (("name", "package-0"), ("energy_uj", "500"), ("max_energy_range_uj", "1000")):
        (zone / file).write_text(f"{text}\n")
    events, answer = sustained(agent, tmp_path, {}, power=True, sysfs="sys", seconds=3, idle_s=0.05)
    told = [event["window"] for event in events]
    assert [one["calls"] > 0 for one in told] == [False] + [True] * 3
    assert told[0]["end_s"] == pytest.approx(told[0]["start_s"] + 0.05, abs=0.05)
    assert "p50_ns" not in told[0]
    assert [one["uj"] for one in told] == [0] * 4, "the counter in this /sys stands still"
    assert answer["ok"]["energy"] == {"method": "RAPL (package-0)", "settle_s": 1.0, "coarse": False}


@pytest.mark.parametrize(("idle_s", "windows"), [(0.4, 2), (0.29, 1), (0.31, 2)])
def test_the_last_idle_window_is_no_scrap(
    idle_s: float, windows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows of 0.2 s on a clock that moves only while it sleeps and is read; one of a moment would have no power."""
    now = [0.0]
    monkeypatch.setattr(sustain.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(sustain.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    (tmp_path / "input").write_bytes(bytes(40))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(measure, "LAUNCH", None)
    asked = {"runtime": "fake", "model": write_fake_model(tmp_path / "model.fake"), "input": "input", "seconds": 0.2}
    times = {"window_s": 0.2, "seconds": 0.2, "idle_s": 0.2, "settle_s": 0.0}
    source = SimpleNamespace(reading=dict, method="made up", coarse=False, **times)
    events: list[Any] = []
    sustain.run({**asked, "idle_s": idle_s}, events.append, source)
    idle = [event["window"] for event in events if not event["window"]["calls"]]
    assert len(idle) == windows
    assert idle[-1]["end_s"] - idle[-1]["start_s"] > 0.1
    assert idle[-1]["end_s"] == pytest.approx(idle_s)


def test_without_a_source_of_energy_the_answer_is_why(agent: Agent, tmp_path: Path) -> None:
    events, answer = sustained(agent, tmp_path, {}, power=True, sysfs="nothing")
    assert events == []
    assert "neither a RAPL counter nor a battery" in answer["ok"]["no_energy"]


def test_the_energy_of_this_machine_is_none_of_a_microcontrollers(agent: Agent) -> None:
    asked = {"runtime": "mlperf_tiny", "model": "model", "input": "input", "power": True}
    assert "does not tell its energy" in agent.call("sustain", **asked)["ok"]["no_energy"]
