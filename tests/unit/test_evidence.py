"""The rules by which a device's state voids or weakens a launch, each at the edge of its threshold; cooling down."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from edgekit import config, evidence
from edgekit.types import Device

LOCAL = config.device("local")
EMULATED = dataclasses.replace(LOCAL, emulation={"cpu": "cortex-a72"})
GREETING = {"system": {"cores": 4, "max_khz": [1_800_000]}}


def launch(clocks: tuple[int, ...] = (), share: float = 1.0, **found: Any) -> dict[str, Any]:
    """A launch with this evidence; `clocks` are those of its core, look by look."""
    samples = [{"t_s": n / 2, "own_khz": khz, "own_cores": share} for n, khz in enumerate(clocks)]
    whole = {"before": {}, "after": {}, "samples": samples, "seconds": 2.0}
    return {"evidence": {**whole, **found}}


def void(one: dict[str, Any], device: Device = LOCAL) -> str | None:
    """The code of what voids a launch."""
    found = evidence.void_reason(one, device)
    return found.code if found else None


def weak(*launches: dict[str, Any], device: Device = LOCAL, greeting: dict[str, Any] = GREETING) -> list[str]:
    """The codes of what is weak about launches."""
    return [found.code for found in evidence.caveats(launches, device, greeting)]


def at_full(others: float, own: float = 4.0, cores: int = 4) -> dict[str, Any]:
    """A launch beside other programs."""
    return launch(other_cpu_share=others, own_cores=own, cores=cores)


def test_without_evidence_nothing_is_said() -> None:
    assert void({}) is void(launch()) is None
    assert weak({}, launch(), launch((1_800_000,) * 4)) == []


@pytest.mark.parametrize(
    ("before", "during", "after", "expected"),
    [
        (0, 0, 0, None),
        (0x50000, 0x50000, 0x50000, None),  # it happened before, and not now
        (0, 0, 0x50000, "throttled"),  # it happened meanwhile, between two looks
        (0, 0x4, 0, "throttled"),
        (0x1, 0, 0, "throttled"),
        (0x40000, 0x40000, 0x48000 | 0x80000, "throttled"),
        (0, 0x10, 0x10, None),  # a bit that means nothing
    ],
)
def test_throttle_bits_set_meanwhile_void_a_launch(before: int, during: int, after: int, expected: str | None) -> None:
    one = launch(before={"throttled": before}, after={"throttled": after}, samples=[{"throttled": during}])
    assert void(one) == expected
    assert weak(one) == ([expected] if expected else [])


def test_the_bits_are_named() -> None:
    found = evidence.void_reason(launch(before={"throttled": 0x5}), LOCAL)
    assert found and "(under-voltage, throttled)" in found.message


@pytest.mark.parametrize(
    ("status", "expected"), [(0, None), (2, None), (3, "throttled"), (6, "throttled"), (9, "throttled")]
)
def test_androids_thermal_status_voids_from_severe_on(status: int, expected: str | None) -> None:
    assert void(launch(after={"thermal_status": status})) == expected


@pytest.mark.parametrize(
    ("clocks", "expected"),
    [
        ((2_000_000, 1_700_000, 1_700_000), "clock-fell"),
        ((2_000_000, 1_700_001, 1_700_001), None),
        ((2_000_000, 1_000_000), None),  # one odd look does not count
        ((2_000_000, 1_000_000, 2_000_000), None),
        ((1_000_000, 1_000_000, 2_000_000), "clock-fell"),  # rising is no better
        ((), None),
    ],
)
def test_a_clock_that_falls_voids_a_launch(clocks: tuple[int, ...], expected: str | None) -> None:
    assert void(launch(clocks)) == expected


def test_to_be_moved_between_fast_and_slow_cores_is_no_falling_clock() -> None:
    """A phone whose model wanders: each core holds its clock. What falls on cores of one kind falls all the same."""
    big, little = {"own_khz": 2_800_000, "own_most_khz": 2_800_000}, {"own_khz": 1_800_000, "own_most_khz": 1_800_000}
    low = {"own_khz": 2_380_000, "own_most_khz": 2_800_000}
    samples = [{"own_cores": 1.0, **look} for look in (big, little, little, big)]
    assert void(launch(samples=samples)) is None
    found = evidence.void_reason(launch(samples=[*samples, *({"own_cores": 1.0, **low},) * 2]), LOCAL)
    assert found and "from 2800 to 2380 MHz" in found.message
    assert void(launch(samples=[*samples, {"own_cores": 1.0, **low}])) is None, "one odd look"


def test_a_clock_tells_nothing_where_the_model_waited_or_the_governor_changed() -> None:
    fallen = (2_000_000, 1_000_000, 1_000_000)
    assert void(launch(fallen, share=evidence.BUSY_CORES)) == "clock-fell"
    assert void(launch(fallen, share=evidence.BUSY_CORES - 0.001)) is None
    governors = {"before": {"governor": "performance"}, "after": {"governor": "powersave"}}
    assert void(launch(fallen, **governors)) is None


@pytest.mark.parametrize(("after", "expected"), [(1_700_000, "clock-fell"), (1_700_001, None), (2_000_000, None)])
def test_a_limit_of_the_clock_that_falls_voids_a_launch(after: int, expected: str | None) -> None:
    assert void(launch(before={"limit_khz": 2_000_000}, after={"limit_khz": after})) == expected


@pytest.mark.parametrize(
    ("share", "voids", "weakens"),
    [(0.0199, None, []), (0.02, None, ["stolen"]), (0.0999, None, ["stolen"]), (0.1, "stolen", ["stolen"])],
)
def test_time_that_was_stolen(share: float, voids: str | None, weakens: list[str]) -> None:
    assert void(launch(steal_share=share)) == voids
    assert weak(launch(), launch(steal_share=share)) == weakens


def test_emulated_time_is_no_evidence() -> None:
    worst = launch((2_000_000, 1_000_000, 1_000_000), steal_share=0.5, other_cpu_share=0.9, own_cores=1.0, cores=4)
    assert void(worst) and weak(worst)
    assert void(worst, EMULATED) is None
    assert weak(worst, device=EMULATED) == []


@pytest.mark.parametrize(
    ("others", "own", "expected"),
    [
        (0.199, 1.0, []),
        (0.2, 1.0, ["busy"]),
        (0.049, 3.9, []),
        (0.05, 3.6, ["busy"]),  # 3.6 + 0.2 of 4: no core is left free
        (0.05, 3.59, []),
    ],
)
def test_what_else_ran(others: float, own: float, expected: list[str]) -> None:
    assert weak(at_full(others, own)) == expected


def test_one_disturbed_launch_of_three_is_no_busy_device() -> None:
    assert weak(at_full(0.0), at_full(0.5), at_full(0.0)) == []
    assert weak(at_full(0.5), at_full(0.5), at_full(0.0)) == ["busy"]


@pytest.mark.parametrize(("slow", "expected"), [(1_710_000, ["clock-moved"]), (1_710_001, [])])
def test_launches_at_different_clocks(slow: int, expected: list[str]) -> None:
    both = launch((1_800_000,) * 3, before={"governor": "ondemand"}), launch((slow,) * 3)
    assert weak(*both) == expected
    messages = [found.message for found in evidence.caveats(both, LOCAL, GREETING)]
    assert all("between 1710 and 1800 MHz (governor ondemand)" in message for message in messages)


@pytest.mark.parametrize(("khz", "expected"), [(1_080_000, ["clock-low"]), (1_080_001, [])])
def test_a_clock_that_is_low_all_along(khz: int, expected: list[str]) -> None:
    assert weak(launch((khz,) * 3), launch((khz,) * 3)) == expected
    assert weak(launch((khz,) * 3), greeting={"system": {}}) == []
    little_and_big = {"system": {"max_khz": [1_000_000, 2_800_000]}}
    assert weak(launch((1_000_000,) * 3), greeting=little_and_big) == []


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ({"governor": "schedutil"}, ["clock-unknown"]),
        ({"governor": "performance"}, []),
        (
            {"governor": "schedutil", "frequency_khz": 600_000},
            [],
        ),  # the kernel tells it; the launch was too short to look
        ({}, []),
    ],
)
def test_a_governor_is_a_weakness_only_where_nobody_sees_what_it_does(
    before: dict[str, Any], expected: list[str]
) -> None:
    assert weak(launch(before=before)) == expected


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"memory_stall_share": 0.0099, "swapped_bytes": (1 << 20) - 1}, []),
        ({"memory_stall_share": 0.01}, ["swapping"]),
        ({"swapped_bytes": 1 << 20}, ["swapping"]),
        ({"before": {"on_battery": True}}, ["on-battery"]),
        ({"before": {"on_battery": False}}, []),
    ],
)
def test_short_memory_and_the_battery(found: dict[str, Any], expected: list[str]) -> None:
    assert weak(launch(), launch(**found)) == expected


def test_what_voids_is_said_once_though_it_voids_several() -> None:
    hot = launch((2_000_000, 1_000_000, 1_000_000), before={"throttled": 4})
    assert weak(hot, hot) == ["throttled"]


class Cooling:
    """A session whose device tells one state after another; the last one stays."""

    device = LOCAL

    def __init__(self, *states: dict[str, Any]) -> None:
        self.states = list(states)
        self.waits: list[float] = []

    def call(self, op: str, args: dict[str, Any], deadline_s: float) -> dict[str, Any]:
        assert op == "hello"
        return {"state": self.states.pop(0) if len(self.states) > 1 else self.states[0]}


@pytest.mark.parametrize(
    ("states", "polls"),
    [
        ([{}], 1),  # nothing is told: one pause
        ([{"throttled": 4}, {"throttled": 4}, {"throttled": 0x40000}], 3),
        ([{"temperature_millic": 80_000}, {"temperature_millic": 79_500}, {"temperature_millic": 79_001}], 3),
        ([{"temperature_millic": 80_000}, {"temperature_millic": 79_501}], 2),
        ([{"thermal_status": 3}, {"thermal_status": 2}, {"thermal_status": 1}], 3),
        ([{"throttled": 5, "temperature_millic": 48_000}], 4),  # the first look tells no fall: three that do are enough
        (
            [
                {"throttled": 5, "temperature_millic": t}
                for t in (80_000, 79_900, 79_800, 79_300, 79_300, 79_300, 79_300)
            ],
            7,
        ),
        ([{"throttled": 1}], round(evidence.COOL_S / evidence.POLL_S)),  # never: a weak power supply
    ],
)
def test_cooling_down_ends_when_it_is_cool_or_has_lasted_long_enough(states: list[dict[str, Any]], polls: int) -> None:
    live, said = Cooling(*states), []
    waited = evidence.cool_down(live, said.append, live.waits.append)  # type: ignore[arg-type]
    assert live.waits == [evidence.POLL_S] * polls
    assert waited == polls * evidence.POLL_S <= evidence.COOL_S
    assert len(said) == polls - (states != [{"throttled": 1}])
    assert all(line.startswith("local cools down (") for line in said)
