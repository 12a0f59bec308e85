"""What a device's own state says for or against a launch: what voids it, what only weakens it, and waiting until it is cool.

The agent gathers it (agent/watch.py); here are the rules, each with its threshold by name. Emulated time is no evidence.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

from edgekit import answers, session
from edgekit.caveats import caveat
from edgekit.types import Caveat, Device, Json

# Bits of a Raspberry Pi's get_throttled; 16 bits further up they say that it has happened since it was switched on.
THROTTLE_BITS = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}
SINCE_BOOT = 16
# Android's thermal status (android.os.PowerManager.THERMAL_STATUS_*): the user notices from severe on.
THERMAL_STATUS = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
SEVERE, LIGHT = 3, 1

# A launch is void from these on: part of it was measured on another device than the rest, so to say.
VOID_CLOCK_FALL = 0.15  # of the highest clock of the core, in two looks or more; a Pi that is throttled loses a third
VOID_STEAL = 0.10  # more than stray samples were hit: the median itself has moved

# And weak from these on.
WEAK_STEAL = 0.02  # a busy hypervisor's neighbours take a percent as a rule
WEAK_OTHERS = 0.20  # of all cores: they share its caches and memory even where cores are left free
WEAK_OTHERS_FULL = 0.05  # where no core is left free, this comes from the model's own time
FULL = 0.95  # so much of all cores in use means that none is free
WEAK_CLOCK_SPREAD = 0.05  # between the launches' median clocks
WEAK_CLOCK_LOW = 0.60  # of the most that its core can do
WEAK_STALL = 0.01  # of the time some program waited for memory
WEAK_SWAP_BYTES = 1 << 20

BUSY_CORES = 0.5  # below this share of a core the child waited, and the core's clock tells nothing
COOL_S, POLL_S = 120.0, 5.0
HELLO_S = 20.0
STILL_FALLING_MILLIC = 500  # in POLL_S; slower than that, it is about as cool as it gets
IDLE_POLLS = 3  # in a row without a fall: what still throttles the device is no heat, and waiting does not mend it


def void_reason(launch: Json, device: Device) -> Caveat | None:
    """Why a launch counts for nothing: the device slowed itself, or another machine took its time. None when it counts."""
    found = {} if device.emulated else launch.get("evidence", {})
    slowed = throttling(found)
    if slowed:
        return caveat("throttled", what=", ".join(slowed))
    clocks = fallen_clock(found)
    if clocks:
        high, low = clocks
        return caveat("clock-fell", high_mhz=round(high / 1000), low_mhz=round(low / 1000))
    if found.get("steal_share", 0.0) >= VOID_STEAL:
        return caveat("stolen", share=found["steal_share"])
    return None


def throttling(found: Json) -> list[str]:
    """What a device says of having slowed itself while this evidence was gathered."""
    looks = [look for look in (found.get("before"), *found.get("samples", ()), found.get("after")) if look]
    words = [look["throttled"] for look in looks if "throttled" in look]
    bits = 0
    for word in words:
        bits |= word | (word & ~words[0]) >> SINCE_BOOT
    status = max((look["thermal_status"] for look in looks if "thermal_status" in look), default=0)
    hot = [f"thermal status {THERMAL_STATUS[min(status, len(THERMAL_STATUS) - 1)]}"] if status >= SEVERE else []
    return [text for bit, text in THROTTLE_BITS.items() if bits >> bit & 1] + hot


def busy_clocks(found: Json) -> dict[int | None, list[int]]:
    """The clocks in kHz of the core that the child ran on, in the samples in which it did run.

    Of cores of several kinds by the most that the core can do: to be moved from a fast core to a slow one is no falling clock.
    """
    clocks: dict[int | None, list[int]] = {}
    for look in found.get("samples", ()):
        if "own_khz" in look and look.get("own_cores", 0.0) >= BUSY_CORES:
            clocks.setdefault(look.get("own_most_khz"), []).append(look["own_khz"])
    return clocks


def fallen_clock(found: Json) -> tuple[int, int] | None:
    """(kHz, kHz): the highest clock and the low one it fell to, where the governor stayed the same; None when it held."""
    before, after = found.get("before", {}), found.get("after", {})
    if before.get("governor") != after.get("governor"):
        return None
    ordered = [sorted(clocks) for clocks in busy_clocks(found).values()]
    # The second lowest: one odd look does not count.
    pairs = [(clocks[-1], clocks[1]) for clocks in ordered if len(clocks) > 1]
    if "limit_khz" in before and "limit_khz" in after:
        pairs.append((before["limit_khz"], after["limit_khz"]))
    for high, low in pairs:
        if low <= high * (1 - VOID_CLOCK_FALL):
            return high, low
    return None


def caveats(launches: Sequence[Json], device: Device, greeting: Json) -> Iterator[Caveat]:
    """What is weak about launches that count, by the evidence kept with them."""
    if device.emulated:
        return
    reasons: dict[str, Caveat] = {}
    for launch in launches:
        reason = void_reason(launch, device)
        if reason:
            reasons.setdefault(reason.code, reason)
    yield from reasons.values()
    evidence = [launch["evidence"] for launch in launches if launch.get("evidence")]
    stolen = max((found.get("steal_share", 0.0) for found in evidence), default=0.0)
    if stolen >= WEAK_STEAL and "stolen" not in reasons:
        yield caveat("stolen", share=stolen)
    yield from others_caveats(evidence)
    if not reasons.keys() & {"clock-fell", "throttled"}:
        yield from clock_caveats(evidence, greeting)
    stalled = max((found.get("memory_stall_share", 0.0) for found in evidence), default=0.0)
    swapped = max((found.get("swapped_bytes", 0) for found in evidence), default=0)
    if stalled >= WEAK_STALL or swapped >= WEAK_SWAP_BYTES:
        yield caveat("swapping", share=stalled, swapped_mb=swapped / 1e6)
    if any(found.get("before", {}).get("on_battery") for found in evidence):
        yield caveat("on-battery")


def others_caveats(evidence: Sequence[Json]) -> Iterator[Caveat]:
    """Whether other programs used so much of the cores that it shows."""
    told = [found for found in evidence if "other_cpu_share" in found]
    if not told:
        return
    share = statistics.median(found["other_cpu_share"] for found in told)
    own = statistics.median(found["own_cores"] / found["cores"] for found in told)
    if share >= (WEAK_OTHERS_FULL if own + share >= FULL else WEAK_OTHERS):
        yield caveat("busy", share=share)


def clock_caveats(evidence: Sequence[Json], greeting: Json) -> Iterator[Caveat]:
    """Whether the clock differed between launches, was low in all of them, or may have moved unseen."""
    governor = next((found["before"]["governor"] for found in evidence if "governor" in found.get("before", {})), None)
    every = [list(itertools.chain(*busy_clocks(found).values())) for found in evidence]
    medians = [statistics.median(clocks) for clocks in every if clocks]
    if not medians:
        seen = any("frequency_khz" in found.get("before", {}) for found in evidence)
        if governor not in (None, "performance") and not seen:
            yield caveat("clock-unknown", governor=governor)
        return
    low, high = min(medians), max(medians)
    most = min(greeting.get("system", {}).get("max_khz", [0]))  # where cores differ, that of the slower ones
    if low <= high * (1 - WEAK_CLOCK_SPREAD):
        figures = {"low_mhz": round(low / 1000), "high_mhz": round(high / 1000)}
        yield caveat("clock-moved", governor=governor or "unknown", **figures)
    elif high <= most * WEAK_CLOCK_LOW:
        yield caveat("clock-low", mhz=round(high / 1000), most_mhz=round(most / 1000))


def cool_down(live: session.Session, say: Callable[[str], None], wait: Callable[[float], object] = time.sleep) -> float:
    """Wait until the device slows itself no more and its temperature falls no further; returns the seconds waited.

    At most COOL_S, and where the temperature stands still no longer than IDLE_POLLS, whatever throttles the device (a weak power
    supply). A device that tells neither gets POLL_S. Raises DeviceError when it does not answer.
    """
    waited, heat, idle = 0.0, None, 0
    while waited < COOL_S:
        wait(POLL_S)
        waited += POLL_S
        state = answers.state(live.call("hello", {}, HELLO_S))
        before, heat = heat, state.get("temperature_millic")
        bits, status = state.get("throttled", 0) & (1 << SINCE_BOOT) - 1, state.get("thermal_status", 0)
        falls = heat is not None and (before is None or before - heat >= STILL_FALLING_MILLIC)
        idle = idle + 1 if heat is not None and not falls else 0
        if (not bits and status <= LIGHT and not falls) or idle >= IDLE_POLLS:
            break
        told = [f"{heat / 1000:.0f} C"] if heat is not None else []
        told += throttling({"before": {"throttled": bits, "thermal_status": status}})
        told += [f"thermal status {THERMAL_STATUS[status]}"] if LIGHT < status < SEVERE else []
        say(f"{live.device.name} cools down ({', '.join(told)}): {waited:.0f} s so far")
    return waited
