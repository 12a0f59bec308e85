"""What host and agent say to each other: JSON lines. Files never travel in frames; tensors are raw bytes in files.

    agent   -> {"greeting": "edgekit-agent", "protocol": 1, "python": "3.11.2", "system": {...}}
    host    -> {"id": 1, "op": "measure", "args": {...}}
    host    -> {"alive": true}                                              from time to time; has no answer
    agent   -> {"id": 1, "event": {...}}                                    any number: progress, and the windows of `sustain`
    agent   -> {"id": 1, "ok": {...}}  or  {"id": 1, "error": {"kind": "...", "message": "..."}}

`probe`, `predict`, `measure`, `operators` and `sustain` each run in a fresh process on the device. One that was asked with
`keep` stays, and the next request with `continue` goes to it: so the very process whose outputs were verified is the one that
is timed.

`lock` makes the agent that is asked the holder of the device's lock until it ends: {"held": true}, or after `wait_s`
{"held": false, "holder": {...}}. Asked again it says whether it still holds it.

Standard library only, Python 3.9: this file runs on the device and is imported by the host.
"""

from .lean_json import dumps, loads

PROTOCOL = 1
GREETING = "edgekit-agent"
OPERATIONS = ("hello", "probe", "predict", "measure", "operators", "sustain", "lock", "bye")

# The order of the instruction counts in a reply; native/insn_counter.c says what falls into which class.
INSTRUCTION_CLASSES = ("total", "load_store", "simd_load_store", "fp_fma", "int_mac", "simd_other", "branch", "alu")

# The one table of error kinds an agent may answer with, and what each means.
ERROR_KINDS = {
    "unavailable": "the runtime or its library is not on the device",
    "unsupported": "the device or runtime cannot do this; an answer, not a failure",
    "out_of_memory": "the process ran out of memory or was killed for it",
    "crashed": "the process died of a signal",
    "timeout": "the process did not finish within its deadline and was ended",
    "bad_model": "the runtime refused the model file",
    "internal": "a bug in the agent",
}


class Fault(Exception):
    """An error with a kind of ERROR_KINDS; runtimes and operations raise it, the agent turns it into a reply."""

    def __init__(self, kind, message):
        if kind not in ERROR_KINDS:
            raise ValueError(kind)
        super().__init__(message)
        self.kind = kind
        self.message = message


def encode(frame):
    """One frame as a line of ASCII JSON bytes."""
    return dumps(frame).encode("ascii") + b"\n"


def decode(line):
    """The frame in a line of bytes. Raises ValueError when it is not a JSON object."""
    try:
        frame = loads(line)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(frame, dict):
        raise ValueError("a frame is a JSON object")
    return frame
