"""Peak memory of this process, one definition for every runtime and target. Standard library only, Python 3.9.

resident = pages of this process in RAM, shared libraries and mapped files included (Linux VmRSS; its peak is VmHWM).
On hardware the kernel keeps the peak and `echo 5 > /proc/self/clear_refs` restarts it (proc(5)). Under qemu-user the
kernel's figures include the emulator, so the instruction-counter plug-in sums the guest's own mappings instead.
"""

import os

from . import plugin


def status_bytes(field):
    """A kB field of /proc/self/status in bytes, or None."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as stream:
        for line in stream:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return None


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
    """VmRSS and VmHWM, as the kernel keeps them."""

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
        return {"resident": status_bytes("VmRSS")}

    def peak(self):
        """The peak since the last restart."""
        return {"resident": status_bytes("VmHWM")}


class GuestMeter:
    """The guest's share of an emulated process, from the QEMU plug-in: exact, because it looks before every unmapping."""

    method = "guest mappings of the emulated process"
    restartable = True

    def restart(self):
        """Start a new peak; returns what is resident now."""
        now = plugin.guest_memory(True)
        return {"resident": now[0], "anonymous": now[2]}

    def peak(self):
        """The peak since the last restart."""
        now = plugin.guest_memory(False)
        return {"resident": now[1], "anonymous": now[3]}


def meter(emulated):
    """The right meter for where this process runs."""
    return GuestMeter() if emulated and plugin.guest_memory(False) else KernelMeter()
