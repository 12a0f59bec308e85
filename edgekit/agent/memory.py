"""Peak memory of this process, one definition for every runtime and target. Standard library only, Python 3.9.

resident = pages of this process in RAM, shared libraries and mapped files included (Linux VmRSS; its peak is VmHWM).
On hardware the kernel keeps the peak and `echo 5 > /proc/self/clear_refs` restarts it (proc(5)). Under qemu-user the
kernel's figures include the emulator, so the instruction-counter plug-in sums the guest's own mappings instead.
"""

import ctypes


def status_bytes(field):
    """A kB field of /proc/self/status in bytes, or None."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as stream:
        for line in stream:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return None


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

    def __init__(self, library):
        self.library = library

    def read(self, restart):
        values = (ctypes.c_uint64 * 4)()
        if not self.library.edgekit_guest_memory(ctypes.c_int(1 if restart else 0), values):
            return None
        return list(values)

    def restart(self):
        """Start a new peak; returns what is resident now."""
        now = self.read(True)
        return {"resident": now[0], "anonymous": now[2]}

    def peak(self):
        """The peak since the last restart."""
        now = self.read(False)
        return {"resident": now[1], "anonymous": now[3]}


def meter(libraries):
    """The right meter for where this process runs."""
    if libraries.get("loop"):
        guest = GuestMeter(ctypes.CDLL(libraries["loop"]))
        if guest.read(False):
            return guest
    return KernelMeter()
