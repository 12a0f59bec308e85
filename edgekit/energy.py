"""Energy per inference: by the device's own counter or gauge, or by a power meter on a line of this machine; else absent."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgekit import answers, session
from edgekit.caveats import caveat
from edgekit.errors import EdgekitError, UserError
from edgekit.powermeter import PowerMeter
from edgekit.types import Cell, Device, Json
from edgekit.verification import Subject

Say = Callable[[str], None]
IDLE_S, ACTIVE_S, SETTLE_S = 8.0, 20.0, 2.0  # for a power meter; a device's own source has its own (agent/energy.py)
LAUNCH_S = 900.0  # for loading, and for the minutes that a charge counter takes
LEAST_WINDOWS = 3
LEAST_STEPS = 20  # of a counter that moves in steps: one step is 5 % then
DEVIATIONS, LEAST_RISE = 2.0, 0.001  # standard errors, and share of the power: what differs by less is the same


def check(request_energy: bool, power_meter: str | None, devices: Sequence[Device]) -> None:
    """Energy can be asked of these devices, and the power meter answers. Raises UserError, ConnectError or SetupError."""
    if not request_energy and power_meter is None:
        return
    for device in devices:
        if device.emulated:
            message = f"{device.name} is emulated, and its energy is this machine's: it cannot be asked for --energy"
            raise UserError(message, "measure on the board itself (--host, --serial), or leave --energy out")
    if power_meter is not None:
        if len(devices) > 1:
            raise UserError("--power-meter measures one device", "measure the devices one after another")
        PowerMeter(power_meter).close()


def measure(subject: Subject, cell: Cell, live: session.Session, request: Json, found: Json, say: Say) -> None:
    """An idle and a busy phase in a process of their own; adds the energy to `found`, or the caveat that says why there is none."""
    tty = subject.request.power_meter
    progress = Progress(cell.id, say)
    try:
        if tty is not None:
            found["energy"] = by_meter(tty, live, request, progress)
        else:
            found["energy"] = by_device(live, request, progress)
    except NoEnergy as error:
        found["warnings"] = (*found["warnings"], caveat("no-energy", why=error.message))
        return
    if found["energy"]["noisy"]:
        found["warnings"] = (*found["warnings"], caveat("energy-within-noise"))


def by_device(live: session.Session, request: Json, progress: Progress) -> Json:
    """The figures by what the device itself tells. Raises NoEnergy."""
    reply = live.call("sustain", {**request, "power": True}, LAUNCH_S, progress.take)
    if "no_energy" in reply:
        raise NoEnergy(reply["no_energy"])
    told = answers.source(reply)
    return figures(Phases.told(progress.windows), told["settle_s"], told["coarse"]) | {"method": told["method"]}


def by_meter(tty: str, live: session.Session, request: Json, progress: Progress) -> Json:
    """The figures by a power meter on a line of this machine. Raises NoEnergy."""
    try:
        meter = PowerMeter(tty)
    except EdgekitError as error:
        raise NoEnergy(error.message) from error
    with meter:
        live.call("sustain", {**request, "seconds": ACTIVE_S, "idle_s": IDLE_S}, LAUNCH_S, progress.take)
        phases = Phases.metered(progress.windows, progress.arrived, meter)
    return figures(phases, SETTLE_S) | {"method": f"power meter ({tty})"}


class NoEnergy(EdgekitError):
    """The energy cannot be told; the message says why. It never leaves this module."""


class Progress:
    """Gathers the windows of the pass, and when each arrived here (time.monotonic())."""

    def __init__(self, name: str, say: Say) -> None:
        self.name, self.say = name, say
        self.windows: list[Json] = []
        self.arrived: list[float] = []
        say(f"{name}: energy, the device is idle first")

    def take(self, event: Json) -> None:
        """One event of the agent."""
        if "window" not in event:
            return
        self.arrived.append(time.monotonic())
        self.windows.append(answers.window(event, self.windows)["window"])
        calls = [window["calls"] for window in self.windows[-2:]]
        if calls in ([0, calls[-1]], [calls[-1]]) and calls[-1]:
            self.say(f"{self.name}: energy, the device works")


@dataclass(frozen=True)
class Interval:
    """A stretch of time within one phase: from start_s to end_s after the beginning, calls made, millijoules spent."""

    start_s: float
    end_s: float
    calls: int
    mj: float


@dataclass(frozen=True)
class Phases:
    """The intervals of the pass, in their order: idle ones have no calls."""

    intervals: Sequence[Interval]

    @classmethod
    def told(cls, windows: Sequence[Json]) -> Phases:
        """From windows that each end with a reading of energy ("uj" since the beginning) or of power ("uw" now)."""
        found = []
        for before, window in itertools.pairwise(windows):
            # From the reading before on: between idle windows that takes time too, and the energy of it is in the next one.
            start_s, end_s = before["end_s"], window["end_s"]
            spent = (
                window["uj"] - before["uj"] if "uj" in window else (before["uw"] + window["uw"]) / 2 * (end_s - start_s)
            )
            found.append(Interval(start_s, end_s, window["calls"], spent / 1e3))
        return cls(found)

    @classmethod
    def metered(cls, windows: Sequence[Json], arrived: Sequence[float], meter: PowerMeter) -> Phases:
        """From the readings of a meter between the arrivals of the windows. Raises NoEnergy."""
        if len(windows) < 2:
            raise NoEnergy("the pass was too short")
        try:
            joules = meter.energy(arrived)
        except EdgekitError as error:
            raise NoEnergy(error.message) from error
        spans = zip(windows[1:], joules, arrived, arrived[1:], strict=False)
        begun = arrived[0]
        return cls([Interval(a - begun, b - begun, w["calls"], 1e3 * joule) for w, joule, a, b in spans])

    def phase(self, active: bool, settle_s: float) -> list[Interval]:
        """The intervals of one phase that begin `settle_s` after its beginning or later."""
        chosen = [interval for interval in self.intervals if (interval.calls > 0) == active]
        return [interval for interval in chosen if interval.start_s >= chosen[0].start_s + settle_s]


def figures(phases: Phases, settle_s: float, coarse: bool = False) -> Json:
    """What the pass tells, powers in mW, energies in mJ. Raises NoEnergy where it tells too little.

    mj_per_inference is all that was spent while the model ran, over its calls, and mj_error two standard errors of it by how the
    windows differ (a source that is wrong in all of them alike is not told by that); mj_above_idle leaves out what the idle device
    would have spent meanwhile. `noisy` where the two powers differ by no more than two standard errors of their difference,
    or by no more than a thousandth.
    """
    idle, active = phases.phase(False, settle_s), phases.phase(True, settle_s)
    if min(len(idle), len(active)) < LEAST_WINDOWS:
        raise NoEnergy("one call of the model lasts so long that the pass holds too few of them")
    if coarse and min(sum(interval.mj > 0 for interval in phase) for phase in (idle, active)) < LEAST_STEPS:
        raise NoEnergy(
            f"the charge counter moved less than {LEAST_STEPS} times: its steps are too coarse for this device"
        )
    idle_mw, active_mw = power_mw(idle), power_mw(active)
    if active_mw <= 0:
        raise NoEnergy(
            "no energy was spent by this account: the counter stands still, or the meter's leads are swapped"
        )
    noise_mw = DEVIATIONS * math.hypot(error_mw(idle), error_mw(active))
    seconds = sum(interval.end_s - interval.start_s for interval in active)
    calls = sum(interval.calls for interval in active)
    return {
        "mj_per_inference": active_mw * seconds / calls,
        "mj_above_idle": (active_mw - idle_mw) * seconds / calls,
        "mj_error": DEVIATIONS * error_mw(active) * seconds / calls,
        "idle_mw": idle_mw,
        "active_mw": active_mw,
        "seconds": round(seconds, 3),
        "calls": calls,
        "noisy": active_mw - idle_mw <= max(noise_mw, LEAST_RISE * active_mw),
    }


def power_mw(intervals: Sequence[Interval]) -> float:
    """The mean power over the intervals, in mW."""
    return sum(interval.mj for interval in intervals) / sum(interval.end_s - interval.start_s for interval in intervals)


def error_mw(intervals: Sequence[Interval]) -> float:
    """The standard error of that mean, from how the intervals differ."""
    powers = [interval.mj / (interval.end_s - interval.start_s) for interval in intervals]
    return statistics.stdev(powers) / math.sqrt(len(powers))
