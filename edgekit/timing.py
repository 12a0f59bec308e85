"""The timed launches of a cell: how many, which of them count, when they are enough, and what is weak about them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

from edgekit import answers, evidence, noise, plan, session, stats
from edgekit.caveats import caveat
from edgekit.types import Caveat, Cell, Device, Json, to_json
from edgekit.verification import Subject

Say = Callable[[str], None]
LAUNCH_S = 300.0
AWAKE_WARMUP_S = 0.1  # of a launch right after another: the device's clock is up already, only the process is cold
VOIDS = 3  # of one cell are repeated; a device that disturbs more of them would disturb any number
STEADY_COUNTS = 0.005  # counts of which the middle eight tenths differ by more are said to
UNSTEADY = 0.5  # so large a share of the launches that were never steady is said aloud; their interval tells of fewer


def measure(subject: Subject, cell: Cell, live: session.Session, request: Json, found: Json, say: Say) -> None:
    """The timed launches, the first in the process that was verified; adds launches, void ones and their caveats to `found`.

    A launch that evidence speaks against is void: the device cools down, and the launch is repeated once.
    """
    effort, device = subject.effort, subject.device
    job = {
        **request,
        **dataclasses.asdict(effort),
        "max_seconds": effort.max_seconds / effort.launches,
        "another": True,
    }
    launches: list[Json] = []
    void: list[Json] = []
    repeated = False
    while not enough(launches, effort):
        say(f"{cell.id}: measuring, {progress(launches, effort)}")
        awake = bool(launches) and not repeated
        asked = {
            **job,
            "continue": not launches and not void,
            "awake": awake,
            "warmup_s": min(effort.warmup_s, AWAKE_WARMUP_S) if awake else effort.warmup_s,
        }
        launch = answers.launch(live.call("measure", asked, LAUNCH_S + 2 * effort.max_seconds))
        reason = evidence.void_reason(launch, device)
        if reason and not repeated and len(void) < VOIDS:
            say(f"{cell.id}: this launch does not count: {reason.message}")
            void.append({**launch, "void": to_json(reason)})
            evidence.cool_down(live, say)
            repeated = True
            continue
        launches.append(launch)
        repeated = False
    found["launches"] = tuple(launches)
    found["void"] = tuple(void) or None
    known = None if device.emulated else known_noise(live.greeting, launches[0])
    if known:
        found["environment"] = {**found.get("environment", {}), "noise": to_json(known)}
    weak = [
        *launch_caveats(launches, effort, device, cell.runtime, known.drift if known else 0.0),
        *evidence.caveats(launches, device, live.greeting),
        *device_caveats(cell, live.greeting, found),
    ]
    found["warnings"] = (*found["warnings"], *weak)


def enough(launches: Sequence[Json], effort: plan.Effort) -> bool:
    """Whether there are as many launches as asked for, and the interval is as narrow as wanted or the time is up."""
    if len(launches) < (max(effort.launches, 2) if effort.target else effort.launches):
        return False
    return not effort.target or half_width(launches) <= effort.target or spent_s(launches) >= effort.max_seconds


def half_width(launches: Sequence[Json], drift: float = 0.0) -> float:
    """Half of the median's interval, as a share of the median. Needs two launches.

    Without `drift` it is what more launches can narrow, and so what they are asked for.
    """
    calls = stats.per_call(launches)
    middle = stats.typical(calls)
    return stats.interval(calls).widened(middle, drift).half_width(middle)


def known_noise(greeting: Json, launch: Json) -> noise.Noise | None:
    """What `edgekit calibrate` found on this device; None where nobody did."""
    return noise.of(noise.device_key(greeting["system"], launch.get("evidence", {}).get("before", {})))


def spent_s(launches: Sequence[Json]) -> float:
    """Seconds of warm-up and samples, by the device's clock."""
    return float(sum(launch["warmup_ns"] + sum(launch["samples_ns"]) for launch in launches)) / 1e9


def progress(launches: Sequence[Json], effort: plan.Effort) -> str:
    """Which launch is next, how wide the interval is, and how wide it may be."""
    number = len(launches) + 1
    if not effort.target:
        return f"launch {number} of {effort.launches}"
    wanted = f"\N{PLUS-MINUS SIGN}{100 * effort.target:g} % wanted"
    if len(launches) < stats.SPREAD_LAUNCHES:
        return f"launch {number} of at least {effort.launches}, {wanted}"
    so_far = f"\N{PLUS-MINUS SIGN}{100 * half_width(launches):.1f} % so far"
    of = f" of at least {effort.launches}" if number <= effort.launches else ""
    return f"launch {number}{of}, {so_far}, {wanted}"


def launch_caveats(
    launches: Sequence[Json], effort: plan.Effort, device: Device, runtime: str, drift: float = 0.0
) -> Iterator[Caveat]:
    """What is weak about the timed samples; `drift` is the device's."""
    count = sum(len(launch["samples_ns"]) for launch in launches)
    if any(launch["timer"] == "python" for launch in launches):
        yield caveat("python-timer")
    if any("delegate" in (found := launch.get("delegation") or {}) and not found["delegate"] for launch in launches):
        yield caveat("no-delegate", runtime=runtime)
    if any(launch["capped"] for launch in launches):
        yield caveat("time-cap", count=count, wanted=(effort.calls or 0) * len(launches))
    if device.emulated:
        return
    if count < 20:
        yield caveat("few-samples", count=count)
    if len(launches) == 1 and launches[0]["timer"] != "device":
        yield caveat("one-launch")
    unsteady = sum(launch["warmup_steady"] is False for launch in launches)
    if unsteady >= UNSTEADY * len(launches):
        yield caveat("unsteady", unsteady=unsteady, launches=len(launches))
    if not effort.target:
        return
    if (width := half_width(launches)) > effort.target:
        figures = {"width": width, "target": effort.target, "launches": len(launches)}
        yield caveat("inconclusive", seconds=spent_s(launches), **figures)
    elif (width := half_width(launches, drift)) > effort.target:
        yield caveat("drifting", width=width, target=effort.target, drift=drift)


def device_caveats(cell: Cell, greeting: Json, found: Json) -> Iterator[Caveat]:
    """What is weak because of the device: its cores, its load, what its kernel and emulator can tell."""
    cores = int(greeting["system"].get("cores") or 1)
    if cell.threads > cores:
        yield caveat("more-threads-than-cores", threads=cell.threads, cores=cores)
    counts = stats.instructions(found["launches"])
    if counts and counts["decile_spread"] > STEADY_COUNTS:
        yield caveat("unsteady-counts", spread=counts["decile_spread"])
    if found["memory"].get("run_peak_includes_load"):
        yield caveat("run-peak-includes-load")
