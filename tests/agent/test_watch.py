"""What the agent's own process sees of the device while a child works: what it reads, how often, and what that costs."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Agent, write_fake_model

from edgekit import evidence
from edgekit.agent import sysinfo, watch

PID = 4242
CPUFREQ = "/sys/devices/system/cpu/cpu%d/cpufreq/"
STAT = """cpu  {user} 10 20 5000 7 3 4 {steal} 9 0
cpu0 50 5 10 2500 3 1 2 {steal} 9 0
cpu1 50 5 10 2500 4 2 2 0 0 0
intr 12345 0
"""


def stat_of(ticks: int, core: int) -> str:
    """/proc/PID/stat of a process with a hostile name; `ticks` in user mode and 2 more in the kernel."""
    # proc(5): the third field is the state, the 14th and 15th are the ticks, the 39th is the core.
    fields = ["R", *map(str, range(4, 53))]
    fields[14 - 3], fields[15 - 3], fields[39 - 3] = str(ticks), "2", str(core)
    return f"{PID} (a) b (c) {' '.join(fields)}"


@pytest.fixture
def tree(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Every file that the agent looks at, path -> content, as a test wants them; none but these is there."""
    files: dict[str, str] = {}
    monkeypatch.setattr(sysinfo, "read", files.get)
    monkeypatch.setattr(sysinfo, "VCGENCMD", ())
    monkeypatch.setattr(sysinfo.os, "listdir", lambda path: sorted({p[len(path) + 1 :].split("/")[0] for p in files}))
    monkeypatch.setattr(sysinfo.os, "cpu_count", lambda: 2)
    return files


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """[now, CPU time of this thread], as a test sets them."""
    times = [100.0, 0.0]
    monkeypatch.setattr(watch.time, "monotonic", lambda: times[0])
    monkeypatch.setattr(watch.time, "thread_time", lambda: times[1])
    monkeypatch.setattr(watch.time, "process_time", lambda: times[1])
    return times


def set_clocks(tree: dict[str, str], *khz: int) -> None:
    """The clocks of the cores."""
    for core, value in enumerate(khz):
        tree[CPUFREQ % core + "scaling_cur_freq"] = str(value)


def watched() -> watch.Watch:
    """A watch over the process of these tests' files."""
    return watch.Watch(PID, watch.Told())


def test_a_look_tells_the_clock_of_the_core_that_ran_the_child(tree: dict[str, str], clock: list[float]) -> None:
    tree[f"/proc/{PID}/stat"] = stat_of(1000, 1)
    set_clocks(tree, 600_000, 1_800_000)
    tree["/sys/class/thermal/thermal_zone0/temp"] = "51234"
    tree["/sys/devices/platform/soc/soc:firmware/get_throttled"] = "50000"
    seen = watched()
    assert seen.due() == watch.LOOK_S
    seen.look()
    assert seen.samples == [], "it is not time yet"
    clock[0] += watch.LOOK_S
    tree[f"/proc/{PID}/stat"] = stat_of(1040, 1)
    seen.look()
    assert seen.samples == [
        {
            "t_s": watch.LOOK_S,
            "frequency_khz": 600_000,
            "frequency_max_khz": 1_800_000,
            "own_khz": 1_800_000,
            "own_cores": pytest.approx(40 / watch.TICKS / watch.LOOK_S),
            "temperature_millic": 51234,
            "throttled": 0x50000,
        }
    ]
    assert seen.latest() == seen.samples[-1]


def test_where_cores_differ_a_look_tells_what_its_core_can_do(tree: dict[str, str], clock: list[float]) -> None:
    tree[f"/proc/{PID}/stat"] = stat_of(1000, 1)
    set_clocks(tree, 600_000, 1_800_000)
    tree[CPUFREQ % 0 + "cpuinfo_max_freq"], tree[CPUFREQ % 1 + "cpuinfo_max_freq"] = "1000000", "2800000"
    seen = watched()
    clock[0] += watch.LOOK_S
    seen.look()
    assert (seen.samples[0]["own_khz"], seen.samples[0]["own_most_khz"]) == (1_800_000, 2_800_000)
    tree[CPUFREQ % 0 + "cpuinfo_max_freq"] = "2800000"
    alike = watched()
    clock[0] += watch.LOOK_S
    alike.look()
    assert "own_most_khz" not in alike.samples[0]


def test_before_and_after_tell_what_a_look_leaves_out(tree: dict[str, str], clock: list[float]) -> None:
    set_clocks(tree, 600_000, 1_800_000)
    for core in (0, 1):
        tree[CPUFREQ % core + "scaling_governor"] = "ondemand"
        tree[CPUFREQ % core + "scaling_max_freq"] = "1500000"
    tree["/sys/class/power_supply/AC/type"], tree["/sys/class/power_supply/AC/online"] = "Mains", "0"
    tree["/sys/class/power_supply/BAT0/type"] = "Battery"
    seen = watched()
    tree["/sys/class/power_supply/AC/online"] = "1"
    found = seen.end()
    assert found["before"]["governor"] == "ondemand"
    assert (found["before"]["frequency_khz"], found["before"]["frequency_max_khz"]) == (600_000, 1_800_000)
    assert found["before"]["limit_khz"] == 1_500_000
    assert (found["before"]["on_battery"], found["after"]["on_battery"]) == (True, False)
    assert "own_cores" not in found, "no time has passed"


def test_a_device_that_tells_nothing_is_no_error(tree: dict[str, str], clock: list[float]) -> None:
    seen = watched()
    clock[0] += 2.0
    seen.look()
    found = seen.end()
    assert seen.samples == [{"t_s": 2.0}]
    assert not {"own_cores", "other_cpu_share", "steal_share", "memory_stall_share", "swapped_bytes"} & set(found)
    assert set(found["before"]) == {"load"}


def test_shares_come_from_the_kernels_totals(tree: dict[str, str], clock: list[float]) -> None:
    tree["/proc/stat"] = STAT.format(user=1000, steal=100)
    tree["/proc/pressure/memory"] = "some avg10=0.00 avg60=0.00 avg300=0.00 total=1000\nfull avg10=0.00 total=7\n"
    tree["/proc/vmstat"] = "pgfault 5\npswpin 10\npswpout 20\n"
    tree[f"/proc/{PID}/stat"] = stat_of(0, 0)
    seen = watched()
    clock[0] += 4.0
    clock[1] += 0.1
    # Of 8 s of two cores: 3 s the child, 0.1 s the agent, 0.9 s others, 1 s stolen.
    tree["/proc/stat"] = STAT.format(user=1000 + 4 * watch.TICKS, steal=100 + watch.TICKS)
    tree["/proc/pressure/memory"] = "some avg10=0.00 avg60=0.00 avg300=0.00 total=201000\n"
    tree["/proc/vmstat"] = "pgfault 9\npswpin 11\npswpout 22\n"
    tree[f"/proc/{PID}/stat"] = stat_of(3 * watch.TICKS, 1)
    found = seen.end()
    assert found["seconds"] == 4.0
    assert found["own_cores"] == pytest.approx(0.75)
    assert found["other_cpu_share"] == pytest.approx(0.9 / 8, abs=1e-4)
    assert found["steal_share"] == pytest.approx(0.2)
    assert found["cores"] == 2
    assert found["memory_stall_share"] == pytest.approx(0.05)
    assert found["swapped_bytes"] == 3 * watch.PAGE_BYTES


@pytest.mark.parametrize(("seconds", "told"), [(watch.LEAST_S, True), (watch.LEAST_S - 0.001, False)])
def test_shares_of_a_moment_are_not_told(tree: dict[str, str], clock: list[float], seconds: float, told: bool) -> None:
    tree["/proc/stat"] = STAT.format(user=1000, steal=0)
    seen = watched()
    clock[0] += seconds
    assert ("steal_share" in seen.end()) is told


def test_a_slow_device_is_looked_at_less_often(
    tree: dict[str, str], clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def dear(name: str = "") -> dict[int, int]:
        clock[1] += 0.004
        return {}

    monkeypatch.setattr(sysinfo, "clocks", dear)
    seen = watched()
    for _ in range(3):
        clock[0] += seen.due()
        seen.look()
    assert seen.due() == pytest.approx(0.004 / watch.COST_SHARE)
    clock[0] += 100.0
    assert seen.end()["cost_share"] == pytest.approx(0.012 / (0.5 + 0.5 + 4.0 + 100.0), rel=0.01)


def test_a_launch_of_hours_stays_small_and_keeps_its_worst_moment(tree: dict[str, str], clock: list[float]) -> None:
    seen = watched()
    for number in range(5000):
        tree["/sys/devices/platform/soc/soc:firmware/get_throttled"] = "4" if number == 2500 else "0"
        clock[0] += seen.due()
        seen.look()
    assert len(seen.samples) < watch.MOST_SAMPLES
    assert [sample["throttled"] for sample in seen.samples].count(4) == 1
    moments = [sample["t_s"] for sample in seen.samples]
    assert moments == sorted(moments) and moments[-1] - moments[0] > 5000 * watch.LOOK_S / 2


def test_two_samples_become_one_with_the_worst_of_both() -> None:
    one = {"t_s": 1.0, "frequency_khz": 5, "own_khz": 9, "temperature_millic": 70, "throttled": 1, "own_cores": 0.2}
    other = {"t_s": 2.0, "frequency_khz": 7, "own_khz": 8, "temperature_millic": 60, "throttled": 4, "own_cores": 1.0}
    worst = {"t_s": 2.0, "frequency_khz": 5, "own_khz": 8, "temperature_millic": 70, "throttled": 5, "own_cores": 1.0}
    assert watch.merged(one, other) == worst
    assert watch.merged({"t_s": 1.0}, {"t_s": 2.0, "throttled": 4}) == {"t_s": 2.0, "throttled": 4}
    fallen = {"t_s": 1.0, "own_khz": 1_400_000, "own_most_khz": 2_800_000}
    little = {"t_s": 2.0, "own_khz": 1_000_000, "own_most_khz": 1_000_000}
    assert watch.merged(fallen, little) == {**fallen, "t_s": 2.0}, "the one that is further below what it can do"
    assert watch.merged({"t_s": 1.0}, little) == watch.merged(little, {"t_s": 2.0}) == little


@pytest.mark.parametrize("text", ["", "cpu\n", "cpu 1 2 3\n", "nonsense\n"])
def test_totals_that_are_not_there_are_none(text: str) -> None:
    assert watch.cpu_ticks(text) is watch.stall_us(text) is watch.swapped_pages(text) is None


def test_programs_of_the_device_are_asked_now_and_then(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    asked: list[float] = []
    monkeypatch.setattr(sysinfo, "told", lambda: asked.append(clock[0]) or {"thermal_status": len(asked)})
    told = watch.Told()
    assert told.get() == told.get() == {"thermal_status": 1}
    clock[0] += watch.TOLD_S + 0.1
    assert told.get(watch.TOLD_WHILE_S) == {"thermal_status": 1}
    assert told.get() == {"thermal_status": 2}
    clock[0] += watch.TOLD_WHILE_S + 0.1
    assert told.get(watch.TOLD_WHILE_S) == {"thermal_status": 3}


@pytest.mark.parametrize(("printed", "bits"), [("throttled=0x50005", 0x50005), ("throttled=0x0", 0), ("error=1", None)])
def test_a_raspberry_pi_without_the_file_is_asked_by_its_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: str, bits: int | None
) -> None:
    program = tmp_path / "vcgencmd"
    program.write_text(f'#!/bin/sh\ntest "$*" = get_throttled && echo {printed}\n', "utf-8")
    program.chmod(0o755)
    monkeypatch.setattr(sysinfo, "VCGENCMD", ("/nowhere/vcgencmd", str(program)))
    assert sysinfo.told() == ({} if bits is None else {"throttled": bits})


def test_what_a_program_said_before_the_device_cooled_down_is_not_said_of_what_came_after(
    monkeypatch: pytest.MonkeyPatch, tree: dict[str, str], clock: list[float]
) -> None:
    """A Raspberry Pi without the file, throttled as a launch ends: its repetition starts POLL_S later at the soonest."""
    states = iter([{"throttled": 0x50005}, {"throttled": 0x50000}])
    monkeypatch.setattr(sysinfo, "told", lambda: next(states))
    told = watch.Told()
    hot = watch.Watch(PID, told).end()
    assert evidence.throttling(hot) == ["under-voltage", "throttled"]
    clock[0] += evidence.POLL_S
    assert evidence.throttling(watch.Watch(PID, told).end()) == []


def test_windows_of_a_long_run_ask_the_devices_programs_no_more_often_than_looks_do(
    monkeypatch: pytest.MonkeyPatch, tree: dict[str, str], clock: list[float]
) -> None:
    asked: list[float] = []
    monkeypatch.setattr(sysinfo, "told", lambda: asked.append(clock[0]) or {})
    seen = watched()
    begun = clock[0]
    while clock[0] < begun + 2 * watch.TOLD_WHILE_S - 1:
        clock[0] += seen.due()
        seen.look()
        seen.latest()
    assert len(asked) == 2


# ---- in the agent ----


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    (tmp_path / "input").write_bytes(struct.pack("<10f", *range(10)))
    with contextlib.closing(Agent(tmp_path)) as live:
        yield live


def asked(folder: Path, **model: Any) -> dict[str, Any]:
    """A request to time a fake model: few calls, no warm-up to speak of."""
    effort = {"warmup_calls": 2, "warmup_s": 0.0, "calls": 5, "min_calls": 3, "max_seconds": 5}
    name = write_fake_model(folder / "model.fake", **model)
    return {"runtime": "fake", "model": name, "input": "input", "output": "output", "deadline_s": 30, **effort}


def test_a_timed_launch_brings_its_evidence(agent: Agent, tmp_path: Path) -> None:
    found = agent.call("measure", **asked(tmp_path, memory={"hold_s": 0.2}))["ok"]["evidence"]
    assert {"before", "after", "samples", "seconds", "cost_share"} <= set(found)
    assert found["seconds"] > 1.0 and len(found["samples"]) >= 1
    assert 0 <= found["own_cores"] < 0.9, "it slept most of the time"
    assert found["cores"] == os.cpu_count()
    assert 0 <= found["other_cpu_share"] <= 1
    assert found["cost_share"] < 2 * watch.COST_SHARE
    assert found["before"]["available_bytes"] > 0


@pytest.mark.parametrize(("op", "more"), [("predict", {}), ("measure", {"emulated": True}), ("probe", {})])
def test_nothing_is_watched_that_is_not_timed_or_not_the_devices(
    agent: Agent, tmp_path: Path, op: str, more: dict[str, Any]
) -> None:
    assert "evidence" not in agent.call(op, **asked(tmp_path), **more)["ok"]
