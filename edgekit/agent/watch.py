"""What happens on the device while a child works: sampled by the agent's own process, never in the measured one.

Rates and shares come from the kernel's running totals (proc(5): stat, [pid]/stat, pressure/memory, vmstat), read once before
and once after; clocks, heat and throttle bits are looked at in between. What a look costs sets how often there is one.
Standard library only, Python 3.9.
"""

import os
import time

from . import sysinfo

LOOK_S = 0.5
COST_SHARE = 0.001  # of one core, at the most: a slow device is looked at less often
TOLD_KEYS = ("temperature_millic", "throttled", "thermal_status")
MOST_SAMPLES = 600  # beyond that, two neighbours become one, so that a launch of hours stays small
# What only a program of the device tells is no older, so that what made the host wait (evidence.POLL_S) is never taken for
# what came after; while a child works, it is asked no more often.
TOLD_S, TOLD_WHILE_S = 4.0, 30.0
WORST = (
    ("frequency_khz", min),
    ("own_khz", min),
    ("own_cores", max),
    ("temperature_millic", max),
    ("thermal_status", max),
)
LEAST_S = 0.5  # the totals count in ticks of 10 ms, so shares of a shorter time would be noise
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS = os.sysconf("SC_CLK_TCK")


class Told:
    """The last answer of the device's own programs, and when it was given; of cores of several kinds the most that each can do."""

    def __init__(self):
        self.answer = {}
        self.asked = None
        most = sysinfo.clocks("cpuinfo_max_freq")
        self.most_khz = most if len(set(most.values())) > 1 else {}

    def get(self, age_s=TOLD_S):
        """An answer of the last `age_s` seconds."""
        if self.asked is None or time.monotonic() - self.asked > age_s:
            self.answer, self.asked = sysinfo.told(), time.monotonic()
        return self.answer


class Watch:
    """Evidence about one operation of one child, from its making until end()."""

    def __init__(self, pid, told):
        self.pid = pid
        self.told = told
        self.before = dict(sysinfo.evidence(), **told.get())
        self.samples = []
        self.step_s = LOOK_S
        self.cost_s = 0.0
        self.begun = self.next = time.monotonic()
        self.next += LOOK_S
        self.first = self.last = Totals.read(pid)

    def due(self):
        """The seconds until the next look."""
        return max(0.0, self.next - time.monotonic())

    def look(self):
        """Take a sample, if it is time."""
        now = time.monotonic()
        if now < self.next:
            return
        began = time.thread_time()
        self.samples.append(self.sample(now))
        if len(self.samples) >= MOST_SAMPLES:
            self.samples = [merged(*pair) for pair in zip(self.samples[::2], self.samples[1::2])]
            self.step_s *= 2
        cost = time.thread_time() - began
        self.cost_s += cost
        # The first look is dearer than all others.
        self.next = now + max(self.step_s, cost / COST_SHARE if len(self.samples) > 1 else 0.0)

    def sample(self, now):
        """One look: the clocks of all cores, that of the core the child ran on, its share of a core, heat, throttle bits.

        `own_most_khz`, what that core can do at the most, only where cores differ in it.
        """
        clocks, cpu = sysinfo.clocks(), own(self.pid)
        share = None
        if cpu and self.last.own:
            passed = now - self.last.at
            share = round((cpu[0] - self.last.own[0]) / TICKS / passed, 3) if passed > 0 else None
        self.last = Totals(now, cpu)
        found = {
            "t_s": round(now - self.begun, 3),
            "frequency_khz": min(clocks.values(), default=None),
            "frequency_max_khz": max(clocks.values(), default=None),
            "own_khz": clocks.get(cpu[1]) if cpu else None,
            "own_most_khz": self.told.most_khz.get(cpu[1]) if cpu else None,
            "own_cores": share,
            "temperature_millic": sysinfo.hottest(),
            "throttled": sysinfo.throttled(),
        }
        told = self.told.get(TOLD_WHILE_S)
        found.update((key, told[key]) for key in TOLD_KEYS if key in told)
        return {key: value for key, value in found.items() if value is not None}

    def latest(self):
        """The last sample with what only a program tells; before the first, what was seen before."""
        return dict(self.told.get(TOLD_WHILE_S), **self.samples[-1]) if self.samples else self.before

    def end(self):
        """The evidence: before, after, samples, and what they and the kernel's totals say of the whole time."""
        totals = Totals.read(self.pid)
        after = dict(sysinfo.evidence(), **self.told.get())
        seconds = totals.at - self.first.at
        found = {
            "before": self.before,
            "after": after,
            "samples": self.samples,
            "seconds": round(seconds, 3),
            "cost_share": round(self.cost_s / seconds, 6) if seconds > 0 else 0.0,
        }
        if seconds >= LEAST_S:
            found.update(shares(self.first, totals))
        return found


class Totals:
    """The kernel's running totals at one moment; None for what it does not tell."""

    def __init__(self, at, own_ticks):
        self.at = at
        self.own = own_ticks
        self.mine = self.cpu = self.stalled_us = self.swapped = None

    @classmethod
    def read(cls, pid):
        """All of them, now."""
        totals = cls(time.monotonic(), own(pid))
        totals.mine = time.process_time()
        totals.cpu = cpu_ticks(sysinfo.read("/proc/stat") or "")
        totals.stalled_us = stall_us(sysinfo.read("/proc/pressure/memory") or "")
        totals.swapped = swapped_pages(sysinfo.read("/proc/vmstat") or "")
        return totals


def shares(first, last):
    """What the difference of two totals says.

    own_cores: CPU time of the child by the time that passed. other_cpu_share: CPU time of everything but the child and the
    agent, by that of all cores. steal_share: time that a hypervisor took, by the time this machine wanted to run.
    memory_stall_share: time in which some program waited for memory. swapped_bytes: to and from swap, by all programs.
    """
    passed = last.at - first.at
    found = {}
    if first.own and last.own:
        found["own_cores"] = round((last.own[0] - first.own[0]) / TICKS / passed, 4)
    if first.cpu and last.cpu:
        busy, stolen = ((after - before) / TICKS for before, after in zip(first.cpu[:2], last.cpu[:2]))
        cores = found["cores"] = last.cpu[2]
        if "own_cores" in found:
            others = busy - found["own_cores"] * passed - (last.mine - first.mine)
            found["other_cpu_share"] = round(max(0.0, others / (passed * cores)), 4)
        found["steal_share"] = round(max(0.0, stolen / (busy + stolen)), 4) if busy + stolen > 0 else 0.0
    if first.stalled_us is not None and last.stalled_us is not None:
        found["memory_stall_share"] = round((last.stalled_us - first.stalled_us) / 1e6 / passed, 4)
    if first.swapped is not None and last.swapped is not None:
        found["swapped_bytes"] = (last.swapped - first.swapped) * PAGE_BYTES
    return found


def own(pid):
    """(ticks of CPU time of all threads of a process, the core its first thread ran on last), or None when it is gone."""
    fields = (sysinfo.read("/proc/%d/stat" % pid) or "").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12]), int(fields[36])) if len(fields) > 36 else None


def cpu_ticks(text):
    """(busy, stolen, cores) in /proc/stat: ticks over all cores since boot; None where it cannot be read."""
    lines = [line.split() for line in text.splitlines() if line.startswith("cpu")]
    if not lines or len(lines[0]) < 9:
        return None
    user, nice, system, _, _, irq, softirq, steal = map(int, lines[0][1:9])
    return user + nice + system + irq + softirq, steal, max(1, len(lines) - 1)


def stall_us(text):
    """Microseconds in which some program waited for memory, in /proc/pressure/memory; None without it."""
    for line in text.splitlines():
        if line.startswith("some"):
            return int(line.rpartition("total=")[2])
    return None


def swapped_pages(text):
    """Pages to and from swap, in /proc/vmstat; None without it."""
    found = [int(line.split()[1]) for line in text.splitlines() if line.startswith(("pswpin ", "pswpout "))]
    return sum(found) if found else None


def merged(one, other):
    """Two samples as one: the worst of both, at the time of the later."""
    found = dict(one, **other)
    for key, worst in WORST:
        if key in one and key in other:
            found[key] = worst(one[key], other[key])
    if one.get("own_most_khz") != other.get(
        "own_most_khz"
    ):  # clocks of cores of two kinds: the one that is further down
        lower = min((one, other), key=lambda look: look.get("own_khz", 0) / look.get("own_most_khz", float("inf")))
        found.update((key, lower[key]) for key in ("own_khz", "own_most_khz") if key in lower)
    if "throttled" in one and "throttled" in other:
        found["throttled"] = one["throttled"] | other["throttled"]
    return found
