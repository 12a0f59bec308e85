"""The protocol of a measurement: when a warm-up is over, when launches are enough, which count, what is said of them.

The statistics are tested on the fake runtime, whose clock moves only in its calls: nothing here looks at a real one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import write_fake_model

from edgekit import config, evidence, noise, stats, timing
from edgekit.agent import measure, warmup
from edgekit.errors import UserError
from edgekit.plan import Effort
from edgekit.types import Caveat, Cell, Device, Model
from edgekit.verification import Subject

BOARD = Device("board", "a board", "host", "local", ("fake",))
EMULATED = Device("board", "a board", "host", "local", ("fake",), emulation={"cpu": "none"})
CELL = Cell("m", "fake", "fp32", "fake", "board")
REQUEST = {"emulated": False, "counters": False}
STOLEN = {"steal_share": 0.5}


def launch(*calls: float, **more: Any) -> dict[str, Any]:
    """A launch as the agent reports it, of samples in ms."""
    return {
        "samples_ns": [round(ms * 1e6) for ms in calls], "batch": 1, "first_ns": 1, "load_ns": 1, "timer": "native",
        "capped": False, "warmup_ns": 0, "warmup_steady": True, "evidence": {}, **more,
    }  # fmt: skip


class Scripted:
    """A session that answers each measurement with the next of some launches, and the last one for ever."""

    def __init__(self, *launches: dict[str, Any]) -> None:
        self.greeting = {"system": {"cores": 4}}
        self.launches = list(launches)
        self.asked: list[dict[str, Any]] = []

    def call(self, op: str, args: dict[str, Any], deadline_s: float) -> dict[str, Any]:
        assert op == "measure"
        self.asked.append(args)
        return self.launches.pop(0) if len(self.launches) > 1 else self.launches[0]


class Fake:
    """A session that measures the fake runtime in this process; every launch has a seed, and so a level, of its own."""

    def __init__(self, folder: Path, seeds: Iterator[int], **model: Any) -> None:
        self.greeting = {"system": {"cores": 4}}
        self.folder, self.seeds, self.model = folder, seeds, model
        (folder / "input").write_bytes(bytes(40))

    def call(self, op: str, args: dict[str, Any], deadline_s: float) -> dict[str, Any]:
        noise = {**self.model.get("noise", {}), "seed": next(self.seeds)}
        write_fake_model(self.folder / "model.fake", **{**self.model, "noise": noise, "jitter": 0.0})
        asked = {"runtime": "fake", "model": str(self.folder / "model.fake"), "input": str(self.folder / "input")}
        return measure.measure({**args, **asked, "continue": False}, lambda event: None)


def subject(effort: Effort, device: Device = BOARD) -> Subject:
    """What timing needs of the subject of a measurement."""
    model = Model("m", Path("m"), "task", "", "", (), ())
    return Subject(model, device, effort, None, 0, None)  # type: ignore[arg-type]


def measured(live: Any, effort: Effort, device: Device = BOARD) -> dict[str, Any]:
    """What a measurement adds to what was found."""
    found: dict[str, Any] = {"warnings": (), "memory": {}}
    said: list[str] = []
    timing.measure(subject(effort, device), CELL, live, REQUEST, found, said.append)
    return {**found, "said": said}


def codes(found: dict[str, Any]) -> list[str]:
    return [caveat.code for caveat in found["warnings"]]


# ---- the warm-up ----


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ([100] * 20, [103] * 20, True), ([1000] * 20, [1031] * 20, False), ([1000] * 20, [969] * 20, False),
        # spreads of 10 and 12 around 100, of 10 and 12.1; and what differs by no more than a percent of the median
        ([90, 100, 110] * 7, [88, 100, 112] * 7, True), ([900, 1000, 1100] * 7, [879, 1000, 1121] * 7, False),
        ([1000] * 21, [990, 1000, 1010] * 7, True), ([1000] * 21, [989, 1000, 1011] * 7, False),
    ],
)  # fmt: skip
def test_windows_agree_up_to_the_thresholds(before: list[int], after: list[int], same: bool) -> None:
    assert warmup.agree(before, after) is same


class Watch:
    """A stopwatch whose calls take what a function says of their number, in ns."""

    def __init__(self, latency_ns: Any) -> None:
        self.latency_ns = latency_ns
        self.calls = 0

    def time(self, samples: int, batch: int) -> tuple[list[int], None]:
        times = []
        for _ in range(samples):
            times.append(sum(round(self.latency_ns(self.calls + call)) for call in range(batch)))
            self.calls += batch
        return times, None


def warmed(latency_ns: Any, least_calls: int = 5, least_s: float = 0.5, **how: bool) -> warmup.WarmUp:
    """A finished warm-up."""
    found = warmup.WarmUp(1)
    found.run(Watch(latency_ns), least_calls, least_s * 1e9, **how)
    return found


def test_a_steady_model_is_warm_after_the_least_time() -> None:
    found = warmed(lambda call: 5_000_000)
    assert (found.calls, found.spent_ns, found.steady) == (105, 525_000_000, True)
    assert found.typical_ns == 5_000_000


def test_a_model_that_becomes_faster_is_waited_for() -> None:
    """It needs 20 ms at first and comes down to 10 ms within 150 calls."""
    found = warmed(lambda call: 20_000_000 - min(call, 150) * 66_667)
    assert found.steady is True
    assert 110 < found.calls < 250
    assert found.typical_ns < 11_500_000


def test_a_warm_up_without_end_is_capped_and_says_so() -> None:
    found = warmed(lambda call: 1_000_000 * 1.01 ** (call % 700))
    assert found.steady is False
    assert warmup.CAP_NS <= found.spent_ns < 2 * warmup.CAP_NS


@pytest.mark.parametrize(("latency_s", "calls"), [(0.1, 8), (0.02, 25), (1.0, 8), (4.0, 8)])
def test_slow_models_are_compared_over_a_few_calls(latency_s: float, calls: int) -> None:
    found = warmed(lambda call: latency_s * 1e9)
    assert (found.calls, found.steady) == (calls, True)


def test_slow_models_that_are_not_steady_stop_at_the_cap() -> None:
    found = warmed(lambda call: 1e9 * (1 + call % 8))
    assert (found.calls, found.steady) == (8, False)


def test_an_awake_device_compares_short_windows_by_their_medians() -> None:
    """5 calls, two windows of 10 calls of 5 ms: however varied, and as long as their medians differ by no more than 3 %."""
    varied = warmed(
        lambda call: 5_000_000 + (2_000_000 if call > 15 else 500_000) * (call % 3 - 1), least_s=0.1, awake=True
    )
    assert (varied.calls, varied.steady) == (25, True)
    faster = warmed(lambda call: 5_200_000 if call < 15 else 5_000_000, least_s=0.1, awake=True)
    assert (faster.calls, faster.steady) == (32, True), "windows of 9 calls, of which the second is faster"


def test_short_calls_are_batched_while_warming_up() -> None:
    found = warmed(lambda call: 1_000)
    assert (found.calls - 5) % 1000 == 0
    assert found.spent_ns >= 0.5e9 and found.steady is True
    assert found.typical_ns == 1_000


@pytest.mark.parametrize(("seconds", "windows", "calls"), [(0.0, True, 5), (0.0, False, 5), (0.1, False, 100)])
def test_without_windows_a_warm_up_is_so_many_calls_and_seconds(seconds: float, windows: bool, calls: int) -> None:
    found = warmed(lambda call: 1_000_000, least_s=seconds, windows=windows)
    assert (found.calls, found.steady) == (calls, None)


@pytest.mark.parametrize(
    ("typical", "least", "batch"),
    [
        (999_999, 1, 2),
        (1_000_000, 1, 1),
        (1, 1, warmup.MAX_BATCH),
        (0, 1, warmup.MAX_BATCH),
        (300, 1, 3334),
        (10**7, 10, 10),
    ],
)
def test_samples_shorter_than_a_millisecond_are_batched(typical: int, least: int, batch: int) -> None:
    assert warmup.batch_for(typical, warmup.BATCH_FLOOR_NS, least) == batch


def test_a_launch_takes_samples_for_the_time_that_is_wanted(tmp_path: Path) -> None:
    """Quick models many samples, up to a limit, and slow ones the least number; a block has its batch and no warm-up."""

    def taken(latency_ns: int, **asked: Any) -> dict[str, Any]:
        live = Fake(tmp_path, iter([1]), latency_ns=latency_ns)
        effort = {"warmup_calls": 1, "warmup_s": 0.0, "min_calls": 5, "seconds": 0.1, "max_seconds": 10.0}
        return live.call("measure", {**effort, **asked}, 1)

    assert len(taken(2_000_000)["samples_ns"]) == 60, "in goes of twenty"
    assert len(taken(30_000_000)["samples_ns"]) == 5
    assert len(taken(1_000_000, seconds=9.0)["samples_ns"]) == measure.MOST_SAMPLES
    assert len(taken(1_000_000, seconds=9.0, max_seconds=0.03)["samples_ns"]) == 40
    exact = taken(300_000_000, calls=4, seconds=0.0)
    assert (len(exact["samples_ns"]), exact["capped"]) == (4, False)
    block = taken(300, calls=10, batch=7, warmup=False)
    assert (block["samples_ns"], block["batch"], block["warmup_calls"]) == ([2100] * 10, 7, 0)


# ---- how many launches ----


def test_levels_of_precision() -> None:
    normal, quick, gate = (Effort.of(BOARD, {}, level) for level in (None, "quick", "gate"))
    assert (normal.launches, normal.target, normal.max_seconds) == (6, 0.02, 60.0)
    assert (quick.launches, quick.target, quick.max_seconds) == (3, 0.05, 15.0)
    assert (gate.launches, gate.target, gate.max_seconds) == (10, 0.01, 180.0)
    assert Effort.of(BOARD, {"max_seconds": 5}, "gate").max_seconds == 5
    assert Effort.of(EMULATED, {}, "gate") == Effort.of(EMULATED, {}), "counts need no more launches"
    with pytest.raises(UserError, match="unknown level of precision 'quik'"):
        Effort.of(BOARD, {}, "quik")


@pytest.mark.parametrize("fixed", [{"launches": 4}, {"calls": 9}, {"launches": 4, "calls": 9}])
def test_numbers_that_were_asked_for_are_exact(fixed: dict[str, int]) -> None:
    effort = Effort.of(BOARD, fixed, "gate")
    assert effort.target == 0.0
    live = Scripted(launch(1.0, 2.0), launch(9.0, 1.0))
    assert len(measured(live, effort)["launches"]) == fixed.get("launches", 10)
    assert {args["calls"] for args in live.asked} == {fixed.get("calls")}
    assert Effort.of(BOARD, {**fixed, "target": 0.03}).target == 0.03, "as an interrupted run goes on"


def test_the_interval_decides_exactly_at_its_target() -> None:
    launches = [launch(*[level] * 9) for level in (1.0, 1.01, 1.02, 1.03, 1.04, 1.05)]
    width = timing.half_width(launches)
    assert 0.01 < width < 0.03
    assert timing.enough(launches, Effort(target=width))
    assert not timing.enough(launches, Effort(target=math.nextafter(width, 0)))
    assert not timing.enough(launches[:5], Effort(target=1.0)), "six launches are the least"


def test_the_time_decides_exactly_at_its_cap() -> None:
    launches = [launch(level, warmup_ns=9 * 10**9) for level in (500, 1500) * 3]
    assert timing.spent_s(launches) == 60.0
    assert timing.enough(launches, Effort(target=0.02, max_seconds=60.0))
    assert not timing.enough(launches, Effort(target=0.02, max_seconds=60.001))


def test_only_the_first_launch_goes_on_in_the_verified_process() -> None:
    live = Scripted(launch(*[1.0] * 9))
    found = measured(live, Effort())
    assert [args["continue"] for args in live.asked] == [True] + [False] * 5
    assert {args["max_seconds"] for args in live.asked} == {10.0}
    assert [args["warmup_s"] for args in live.asked] == [0.5] + [0.1] * 5, "the device is awake from the second on"
    assert [args["awake"] for args in live.asked] == [False] + [True] * 5
    assert found["void"] is None
    assert codes(found) == []


def test_progress_tells_launch_width_and_target() -> None:
    found = measured(Scripted(launch(*[1.0] * 9)), Effort())
    assert found["said"][0] == f"{CELL.id}: measuring, launch 1 of at least 6, ±2 % wanted"
    assert found["said"][5] == f"{CELL.id}: measuring, launch 6 of at least 6, ±0.0 % so far, ±2 % wanted"
    fixed = measured(Scripted(launch(1.0)), Effort(launches=2, target=0.0))
    assert fixed["said"] == [f"{CELL.id}: measuring, launch {n} of 2" for n in (1, 2)]


# ---- a calibrated device ----


def test_the_drift_of_a_calibrated_device_is_in_the_interval_and_asks_for_no_launches(cold_cache: Path) -> None:
    known = noise.Noise(0.01, "2026-11-23", "board", "m", 24, drift=0.03)
    noise.keep(noise.device_key({"cores": 4}, {}), known)
    found = measured(Scripted(launch(*[1.0] * 9)), Effort())
    assert len(found["launches"]) == 6
    assert found["environment"]["noise"]["drift"] == 0.03
    assert codes(found) == ["drifting"]
    within = noise.Noise(0.01, "2026-11-23", "board", "m", 24, drift=0.02)
    noise.keep(noise.device_key({"cores": 4}, {}), within)
    assert codes(measured(Scripted(launch(*[1.0] * 9)), Effort())) == []
    assert "environment" not in measured(Scripted(launch(*[1.0] * 9)), Effort(), EMULATED)


# ---- void launches ----


@pytest.fixture
def cooled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Notes each wait for the device to cool down, in place of waiting."""
    waits: list[int] = []
    monkeypatch.setattr(evidence, "cool_down", lambda live, say: waits.append(1))
    return waits


def test_a_void_launch_is_kept_apart_and_repeated_once(cooled: list[int]) -> None:
    good, bad = launch(*[1.0] * 9), launch(*[9.0] * 9, evidence=STOLEN)
    live = Scripted(good, bad, good)
    found = measured(live, Effort(launches=3, target=0.0))
    assert [one["samples_ns"][0] for one in found["launches"]] == [1_000_000] * 3
    (void,) = found["void"]
    assert void["samples_ns"][0] == 9_000_000
    assert void["void"]["code"] == "stolen"
    assert len(cooled) == 1
    assert "stolen" not in codes(found), "none of those that count"
    assert any("does not count" in line for line in found["said"])


def test_a_launch_that_is_void_again_counts_and_is_a_weakness(cooled: list[int]) -> None:
    good, bad = launch(*[1.0] * 9), launch(*[9.0] * 9, evidence=STOLEN)
    found = measured(Scripted(bad, bad, good), Effort(launches=3, target=0.0))
    assert [one["samples_ns"][0] for one in found["launches"]] == [9_000_000, 1_000_000, 1_000_000]
    assert len(found["void"]) == len(cooled) == 1
    assert "stolen" in codes(found)


def test_a_repeated_launch_is_a_fresh_process(cooled: list[int]) -> None:
    """And a rested device has to warm up again."""
    live = Scripted(launch(1.0), launch(1.0, evidence=STOLEN), launch(1.0))
    measured(live, Effort(launches=3, target=0.0))
    assert [args["continue"] for args in live.asked] == [True, False, False, False]
    assert [args["warmup_s"] for args in live.asked] == [0.5, 0.1, 0.5, 0.1]
    live = Scripted(launch(1.0, evidence=STOLEN), launch(1.0))
    measured(live, Effort(launches=1, target=0.0))
    assert [(args["continue"], args["warmup_s"]) for args in live.asked] == [(True, 0.5), (False, 0.5)]


def test_a_device_that_is_never_undisturbed_is_measured_all_the_same(cooled: list[int]) -> None:
    live = Scripted(launch(*[1.0] * 9, evidence=STOLEN))
    found = measured(live, Effort())
    assert (len(found["launches"]), len(found["void"]), len(cooled)) == (6, timing.VOIDS, timing.VOIDS)


# ---- what is said of the samples ----


def told(launches: list[dict[str, Any]], effort: Effort, device: Device = BOARD) -> dict[str, Caveat]:
    return {caveat.code: caveat for caveat in timing.launch_caveats(launches, effort, device, "tflite")}


@pytest.mark.parametrize(("count", "few"), [(19, True), (20, False)])
def test_few_samples(count: int, few: bool) -> None:
    launches = [launch(*[1.0] * (count - 5)), launch(*[1.0] * 5)]
    assert list(told(launches, Effort(target=0.0))) == (["few-samples"] if few else [])


@pytest.mark.parametrize(
    ("steady", "said"), [([True, True, False], False), ([True, False], True), ([None, None], False)]
)
def test_launches_that_were_never_steady(steady: list[bool | None], said: bool) -> None:
    launches = [launch(*[1.0] * 20, warmup_steady=one) for one in steady]
    assert list(told(launches, Effort(target=0.0))) == (["unsteady"] if said else [])


def test_one_launch_has_no_interval() -> None:
    fixed = Effort(launches=1, target=0.0)
    assert list(told([launch(*[1.0] * 20)], fixed)) == ["one-launch"]
    assert told([launch(*[1.0] * 20)], fixed, EMULATED) == {}
    assert told([launch(*[1.0] * 20, timer="device")], fixed) == {}, "the rules of such a benchmark ask for one"


def test_other_weaknesses_of_launches() -> None:
    weak = launch(*[1.0] * 10, timer="python", capped=True, delegation={"delegate": None})
    found = told([weak, launch(*[1.0] * 15)], Effort(launches=2, calls=15, target=0.0))
    assert list(found) == ["python-timer", "no-delegate", "time-cap"]
    assert "25 of 30 samples" in found["time-cap"].message


def test_inconclusive_says_how_wide_it_is_and_what_was_wanted() -> None:
    launches = [launch(*[level] * 9) for level in (1.0, 1.01, 1.02, 1.03, 1.04, 1.05)]
    width = timing.half_width(launches)
    assert told(launches, Effort(target=width)) == {}
    found = told(launches, Effort(target=math.nextafter(width, 0)))
    assert f"±{width:.1%}" in found["inconclusive"].message
    assert "--max-seconds" in found["inconclusive"].message


# ---- the fake runtime, whose distribution is known ----

QUICK = {"warmup_calls": 1, "warmup_s": 0.0, "seconds": 0.02, "min_calls": 5, "max_seconds": 1.5}


def trials(folder: Path, count: int, effort: Effort, **noise: float) -> list[dict[str, Any]]:
    """The latencies of so many measurements of a model that takes 1.2 ms in the middle."""
    seeds = iter(range(10**9))
    found = []
    for _ in range(count):
        launches = measured(Fake(folder, seeds, latency_ns=1_200_000, noise=noise), effort)["launches"]
        latency = stats.latency(launches, False, effort.target)
        assert latency is not None
        found.append(latency)
    return found


def covered(found: list[dict[str, Any]]) -> float:
    """The share of intervals that hold the truth."""
    return sum(one["low_ns"] <= 1_200_000 <= one["high_ns"] for one in found) / len(found)


def test_a_quiet_device_needs_the_least_launches(tmp_path: Path) -> None:
    found = trials(tmp_path, 60, Effort(**QUICK), launch=0.005, calls=0.03)
    assert all(one["conclusive"] for one in found)
    assert sum(one["launches"] == 6 for one in found) >= 57
    assert covered(found) >= 0.93


@pytest.mark.slow
def test_a_noisy_device_gets_more_launches_and_its_interval_still_holds_the_truth(tmp_path: Path) -> None:
    found = [one for one in trials(tmp_path, 100, Effort(**QUICK), launch=0.015, calls=0.05) if one["conclusive"]]
    assert len(found) >= 95
    assert max(one["half_width"] for one in found) <= 0.02
    assert 7 < sum(one["launches"] for one in found) / len(found) < 13
    assert covered(found) >= 0.90, "looking again and again costs some of the 95 %"


def test_a_device_too_noisy_for_its_time_is_inconclusive(tmp_path: Path) -> None:
    found = measured(Fake(tmp_path, iter(range(999)), latency_ns=1_200_000, noise={"launch": 0.3}), Effort(**QUICK))
    assert codes(found) == ["inconclusive"]
    assert timing.spent_s(found["launches"]) >= 1.5 > timing.spent_s(found["launches"][:-1])
    latency = stats.latency(found["launches"], False, 0.02)
    assert latency is not None and latency["conclusive"] is False and latency["half_width"] > 0.02


def test_the_shipped_devices_have_an_effort() -> None:
    for name in config.device_names():
        effort = Effort.of(config.device(name), {})
        assert effort.launches >= 1 and (effort.target == 0.02) == (effort.launches == 6)
