"""What the kernel tells of a process's memory, and the peaks that it does not keep, sampled by the process's parent.

The parent of the process that is verified does this, never that of one that is timed. Standard library only, Python 3.9.
"""

import time

ANONYMOUS_S, PSS_S = 0.01, 0.1
COST_SHARE = 0.02  # of one core, at the most, for each of the two


def status_bytes(field, pid="self"):
    """A kB field of /proc/PID/status in bytes, or None."""
    return summed("/proc/%s/status" % pid, (field,)).get(field)


def maps_bytes(pid="self"):
    """Rss, Pss and Anonymous of a process in bytes, from its page tables; {} where they are not told.

    From smaps_rollup, which Linux has since 4.14; before, the sum over smaps. Exact, where VmRSS and VmHWM may lag by 64 faults
    of each thread (Linux up to 6.1 counts these apart), which is 4 MiB of a mapped file.
    """
    wanted = ("Rss", "Pss", "Anonymous")
    return summed("/proc/%s/smaps_rollup" % pid, wanted) or summed("/proc/%s/smaps" % pid, wanted)


def summed(path, fields):
    """The sums of the lines "FIELD:  N kB" of a file in bytes, by field; without those that it does not have."""
    found = {}
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            for line in stream:
                name, _, rest = line.partition(":")
                if name in fields:
                    found[name] = found.get(name, 0) + int(rest.split()[0]) * 1024
    except OSError:
        return {}
    return found


class Weigher:
    """Peaks of the anonymous and the proportional memory of a child, from its baseline on."""

    def __init__(self, pid):
        self.pid = pid
        self.begun = False
        self.peaks = {"anonymous": None, "pss": None}
        self.samples = {"anonymous": 0, "pss": 0}
        self.next = {"anonymous": 0.0, "pss": 0.0}

    def takes(self, event):
        """Whether an event of the child is for this: the runtime is imported now, and no model is there."""
        if "weigh" not in event:
            return False
        self.begun = True
        return True

    def due(self):
        """The seconds until the next look; None before the baseline."""
        return max(0.0, min(self.next.values()) - time.monotonic()) if self.begun else None

    def look(self):
        """Take the samples for which it is time."""
        if self.begun:
            self.sample("anonymous", ANONYMOUS_S, lambda: status_bytes("RssAnon", self.pid))
            self.sample("pss", PSS_S, lambda: maps_bytes(self.pid).get("Pss"))

    def sample(self, what, step_s, read):
        """One figure, when it is due; what reading it costs sets how soon the next one is."""
        now = time.monotonic()
        if now < self.next[what]:
            return
        began = time.thread_time()
        value = read()
        cost_s = time.thread_time() - began if self.samples[what] else 0.0  # the first look is dearer than all others
        self.next[what] = now + max(step_s, cost_s / COST_SHARE)
        if value is not None:
            self.samples[what] += 1
            self.peaks[what] = max(value, self.peaks[what] or 0)

    def add_to(self, memory):
        """Raise a child's own figures, which are those at the end of loading and of running, to the peaks seen meanwhile.

        `sampled` says how often each was looked at.
        """
        for what, value in self.peaks.items():
            key = what + "_peak_bytes"
            if key in memory:
                memory[key] = max(memory[key], value or 0)
                memory.setdefault("sampled", {})[what] = self.samples[what]
