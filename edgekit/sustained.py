"""Latency, clock and temperature over a long time: the start, the steady state, and when it began.

A device that is cool runs faster than the same device after minutes of work. What a product sees is the steady state.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence

from edgekit import answers, evidence, session
from edgekit.caveats import caveat
from edgekit.errors import UserError
from edgekit.report.words import span
from edgekit.types import Caveat, Cell, Device, Json
from edgekit.verification import Subject

Say = Callable[[str], None]
LAUNCH_S = 300.0  # for loading, and for a call that lasts longer than a window
LEAST_S = 1.0  # a shorter run has windows that whole milliseconds do not tell apart
START_S, START_SHARE = 10.0, 0.1  # the start is so many seconds, and no more than that share of a short run
SMOOTHED = 9  # windows of the running median: four that were disturbed do not count
LEVEL_SHARE = 1 / 3  # the end of the run, whose median is the level
BAND = 0.03  # what the level may be missed by ...
OUTSIDE = 0.05  # ... but for so few windows: without them, a few disturbed seconds would decide over half an hour
SLOWER = 1.05
HEAT = ("temperature_millic", "throttled", "thermal_status")  # evidence by which it is known whether a device is cool
KEPT = ("batch", "timer", "version", "load_ns", "cut")


def check(seconds: float | None, devices: Sequence[Device]) -> None:
    """A sustained run of so many seconds makes sense on these devices. Raises UserError."""
    if seconds is None:
        return
    if not isinstance(seconds, (int, float)) or not LEAST_S <= seconds < float("inf"):
        raise UserError(
            f"sustained must be a number of seconds of at least {LEAST_S:g}, not {seconds!r}", "--sustained 30m"
        )
    for device in devices:
        if device.emulated:
            message = f"{device.name} is emulated, and its time and heat are no board's: it cannot run --sustained"
            raise UserError(message, "measure on the board itself (--host, --serial), or leave --sustained out")


def measure(subject: Subject, cell: Cell, live: session.Session, request: Json, found: Json, say: Say) -> None:
    """Run the model back to back in a fresh process on a device that has cooled down; adds the curve and its caveats to `found`.

    The windows of a run that ends early are kept too, as a curve with `cut`; then the error goes on to the caller.
    """
    seconds = subject.request.sustained_s
    assert seconds is not None
    seen = found["launches"][-1].get("evidence", {}).get("after", {})
    if any(key in seen for key in HEAT):
        evidence.cool_down(live, say)
    progress = Progress(cell.id, seconds, say)
    reply: Json = {"cut": True}
    try:
        reply = answers.evidence(
            live.call("sustain", {**request, "seconds": seconds}, seconds + LAUNCH_S, progress.take)
        )
    finally:
        if progress.windows:
            found["sustained"] = curve(progress.windows, seconds) | {key: reply[key] for key in KEPT if key in reply}
    if not progress.windows:
        raise answers.odd("window", "none came of the whole run")
    told = {key: value for key, value in reply.get("evidence", {}).items() if key != "samples"}  # the windows have them
    found["sustained"] |= {"evidence": told} if told else {}
    said = {warning.code for warning in found["warnings"]} | {"throttled"}
    others = evidence.caveats([reply], subject.device, live.greeting)
    found["warnings"] = (
        *found["warnings"],
        *weak(found["sustained"]),
        *(one for one in others if one.code not in said),
    )


class Progress:
    """Gathers the windows of a run as they come, and now and then says how long it will go on."""

    def __init__(self, name: str, seconds: float, say: Say) -> None:
        self.name, self.seconds, self.say = name, seconds, say
        self.windows: list[Json] = []
        self.every_s = min(10.0, max(1.0, seconds / 60))
        self.told = time.monotonic()
        say(f"{name}: sustained, for {span(seconds)}")

    def take(self, event: Json) -> None:
        """One event of the agent."""
        if "window" not in event:
            return
        window = of_event(answers.window(event, self.windows))
        if "p50_ns" not in window:
            return
        self.windows.append(window)
        if time.monotonic() - self.told < self.every_s:
            return
        self.told = time.monotonic()
        left = max(0.0, self.seconds - window["end_s"])
        ratio = window["p50_ns"] / self.windows[0]["p50_ns"]
        heat = f", {window['temperature_c']:.0f} C" if "temperature_c" in window else ""
        self.say(f"{self.name}: sustained, {span(left)} left, {ratio:.2f}x the time of the start{heat}")


def of_event(event: Json) -> Json:
    """A window as it is kept: what the child timed, and what its agent saw of the device as it ended.

    Keys: start_s, end_s, calls, p50_ns, p95_ns; clock_mhz (of the core that ran it), temperature_c, throttled (the bits of a
    Raspberry Pi's firmware), thermal_status (Android's, 0 to 6). What the device does not tell is absent.
    """
    window = dict(event["window"])
    seen = (
        event.get("evidence", {}) if event["timer"] != "device" else {}
    )  # this machine's is none of a microcontroller's
    khz = seen.get("own_khz", seen.get("frequency_khz"))
    if khz is not None:
        window["clock_mhz"] = round(khz / 1000)
    if "temperature_millic" in seen:
        window["temperature_c"] = round(seen["temperature_millic"] / 1000, 1)
    return window | {key: seen[key] for key in ("throttled", "thermal_status") if key in seen}


def curve(windows: Sequence[Json], asked_s: float) -> Json:
    """What the windows of a run (at least one) tell; latencies are medians over windows of their medians, in ns.

    start_ns is of the first ten seconds, or of the first tenth of a shorter run. end_ns, the level, is of the last third. The
    steady state begins with the first window from which on the running median over nine windows is within 3 % of that level, there
    and in 95 % of the windows; it has to begin before the last third does, else there is none and steady_ns, steady_from_s and
    slowdown are absent.
    steady_ns is of all windows from there; slowdown = steady_ns / start_ns.
    """
    begun, ended = windows[0]["start_s"], windows[-1]["end_s"]
    early = begun + min(START_S, START_SHARE * (ended - begun))
    start_ns = level([w for w in windows if w["end_s"] <= early] or windows[:1])
    tail = last_third(windows)
    told: Json = {
        "asked_s": asked_s,
        "ran_s": round(ended - begun, 3),
        "calls": sum(window["calls"] for window in windows),
        "start_ns": start_ns,
        "end_ns": level(windows[tail:]),
    }
    first = steady_from(windows)
    if first is not None:
        steady_ns = level(windows[first:])
        told |= {"steady_ns": steady_ns, "steady_from_s": round(windows[first]["start_s"] - begun, 3)}
        told["slowdown"] = round(steady_ns / start_ns, 4)
    return told | {"windows": list(windows)}


def level(windows: Sequence[Json]) -> int:
    """The median of the windows' medians, in ns."""
    return round(statistics.median(int(window["p50_ns"]) for window in windows))


def last_third(windows: Sequence[Json]) -> int:
    """The index of the first window that ends in the last third of the run."""
    begun, ended = windows[0]["start_s"], windows[-1]["end_s"]
    border = ended - LEVEL_SHARE * (ended - begun)
    return next(index for index, window in enumerate(windows) if window["end_s"] > border)


def steady_from(windows: Sequence[Json]) -> int | None:
    """The index of the window with which the steady state begins (see curve); None where there is none, or too few windows."""
    if len(windows) < SMOOTHED:
        return None
    tail = last_third(windows)
    end_ns = level(windows[tail:])
    times = [window["p50_ns"] for window in windows]
    first, outside = None, 0
    for index in reversed(range(len(windows))):
        away = abs(middle(times, index) - end_ns) > BAND * end_ns
        outside += away
        if not away and outside <= OUTSIDE * (len(windows) - index):
            first = index
    return first if first is not None and first <= tail else None


def middle(times: Sequence[int], index: int) -> float:
    """The median of the nine values around an index; at the ends, of the first or last nine."""
    start = min(max(0, index - SMOOTHED // 2), len(times) - SMOOTHED)
    return statistics.median(times[start : start + SMOOTHED])


def weak(told: Json) -> Iterator[Caveat]:
    """What is weak about a curve, or has to be known before its start is believed."""
    if "steady_ns" not in told:
        yield caveat("no-steady-state", ran=span(told["ran_s"]))
    elif told["slowdown"] > SLOWER:
        yield caveat("slows-down", share=told["slowdown"] - 1, after=span(told["steady_from_s"]))
    windows = told["windows"]
    slowed = evidence.throttling({"samples": windows})
    if slowed:
        known = next((window for window in windows if "throttled" in window), windows[0])
        first = next(window for window in windows if evidence.throttling({"samples": [known, window]}))
        after = span(first["end_s"] - windows[0]["start_s"])
        yield caveat("throttled", what=f"{', '.join(slowed)}, first seen {after} into the sustained run")
