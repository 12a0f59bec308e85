"""Peak memory of this process, one definition for every runtime and target. Standard library only, Python 3.9.

resident = pages of this process in RAM, shared libraries and mapped files included (Linux VmRSS; its peak is VmHWM).
anonymous = those of them that no file stands behind: they cannot be dropped, only swapped (RssAnon).
pss = resident, each page divided by the number of processes that map it.

On hardware the kernel keeps the peak of the first and `echo 5 > /proc/self/clear_refs` restarts it (proc(5)); of the other two
it tells what is there now, so this process reads them at the end of loading and of running, and its parent samples them
in between (weigh.py). Under qemu-user the kernel's figures include the emulator, so the instruction-counter plug-in sums the
guest's own mappings instead, and keeps the peak of all three.
"""

import os

from .weigh import maps_bytes, status_bytes


def file_bytes(path):
    """The size of a model's file, or of all files in its folder."""
    if not os.path.isdir(path):
        return os.path.getsize(path)
    return sum(os.path.getsize(os.path.join(at, name)) for at, _, names in os.walk(path) for name in names)


def is_mapped(path):
    """Whether the file is mapped into this process (its pages can be dropped and shared) rather than copied."""
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as stream:
        return any(line.rstrip("\n").endswith(path) for line in stream)


class KernelMeter:
    """VmHWM, as the kernel keeps it, and no less than what is resident; what is anonymous and proportional now."""

    def __init__(self):
        self.method = "VmHWM"
        self.restartable = True

    def restart(self):
        """Start a new peak; returns what is resident now."""
        try:
            with open("/proc/self/clear_refs", "w") as stream:
                stream.write("5")
        except OSError:
            self.restartable = False
        return {"resident": maps_bytes().get("Rss", status_bytes("VmRSS"))}

    def peak(self):
        """The resident peak since the last restart; what is anonymous and proportional now, where the kernel tells."""
        now = maps_bytes()
        found = {"resident": max(status_bytes("VmHWM"), now.get("Rss", 0))}
        found.update((name.lower(), now[name]) for name in ("Anonymous", "Pss") if name in now)
        return found


class GuestMeter:
    """The guest's share of an emulated process, from the QEMU plug-in: exact, because it looks before every unmapping.

    `ask` is plugin.guest_memory.
    """

    method = "guest mappings of the emulated process"
    restartable = True

    def __init__(self, ask):
        self.ask = ask

    def restart(self):
        """Start a new peak; returns what is resident now."""
        now = self.ask(True)
        return {"resident": now[0], "anonymous": now[2], "pss": now[4]}

    def peak(self):
        """The peak since the last restart."""
        now = self.ask(False)
        return {"resident": now[1], "anonymous": now[3], "pss": now[5]}


def meter(emulated):
    """The right meter for where this process runs."""
    if emulated:
        from . import plugin  # and with it ctypes, which takes a tenth of the start of a child

        if plugin.guest_memory(False):
            return GuestMeter(plugin.guest_memory)
    return KernelMeter()


class Scale:
    """The memory of this process from its baseline on: made when the runtime is imported and no model is there."""

    def __init__(self, emulated, emit):
        self.meter = meter(emulated)
        self.baseline = self.meter.restart()
        self.load_peak = self.after_load = self.baseline
        emit({"weigh": True})  # for the parent, which samples what has no peak of its own (weigh.py)

    def loaded(self):
        """The model is loaded: its peak so far is that of loading."""
        self.load_peak = self.meter.peak()
        self.after_load = self.meter.restart()

    def figures(self, model):
        """All figures up to now, in bytes; `model` is the path of the file."""
        run_peak = self.meter.peak()
        top = max(self.load_peak["resident"], run_peak["resident"])
        result = {
            "method": self.meter.method,
            "baseline_bytes": self.baseline["resident"],
            "load_peak_bytes": self.load_peak["resident"],
            "loaded_bytes": self.after_load["resident"],
            "run_peak_bytes": run_peak["resident"],
            "delta_bytes": top - self.baseline["resident"],
            "model_file_bytes": file_bytes(model),
            "model_mapped": is_mapped(model),
        }
        if not self.meter.restartable:
            result["run_peak_includes_load"] = True
        for what in ("anonymous", "pss"):
            if what in run_peak:
                result[what + "_peak_bytes"] = max(self.load_peak[what], run_peak[what])
        return result
