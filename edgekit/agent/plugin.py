"""Asks the QEMU plug-in for its figures, by system calls that no kernel has. Standard library only, Python 3.9.

native/insn_counter.c answers them; a real kernel, and QEMU without the plug-in, leaves the buffer as it was.
"""

import ctypes
import functools

# The same in native/loop.c and native/insn_counter.c.
MAGIC_COUNTERS, MAGIC_MEMORY, MAGIC_CLOCK = 7777, 7778, 7779
INSTRUCTION_NS = 1000  # what each instruction takes by the clocks while they tell instructions
LIBC = ctypes.CDLL(None)


def ask(number, size, argument=0):
    """The `size` figures that a magic system call brings, or None when nobody answers."""
    values = (ctypes.c_uint64 * size)()
    # ctypes passes a plain int in 32 bits.
    LIBC.syscall(ctypes.c_long(number), values, ctypes.c_long(argument))
    return list(values) if values[0] else None


class Count:
    """Guest instructions between start() and stop(), which do as little of their own as can be."""

    def __init__(self):
        self.before, self.after = (ctypes.c_uint64 * 8)(), (ctypes.c_uint64 * 8)()
        syscall, number = LIBC.syscall, ctypes.c_long(MAGIC_COUNTERS)
        self.start, self.stop = (functools.partial(syscall, number, buffer) for buffer in (self.before, self.after))

    def read(self):
        """The total, then by class where the plug-in tells classes apart: 64-bit Arm. None without a plug-in."""
        if not self.after[0]:
            return None
        counts = [after - before for before, after in zip(self.before, self.after)]
        return counts if any(self.after[1:]) else counts[:1]


def guest_memory(restart):
    """Bytes of the guest alone: [resident now, its peak, then anonymous, then PSS] since the last restart, or None."""
    return ask(MAGIC_MEMORY, 6, 1 if restart else 0)


def instructions_as_time(wanted):
    """Let this process's clocks tell the instructions executed so far, INSTRUCTION_NS for each; or the time again."""
    LIBC.syscall(ctypes.c_long(MAGIC_CLOCK), ctypes.c_long(1 if wanted else 0))
