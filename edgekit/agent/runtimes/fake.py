"""A runtime that runs nothing: it answers from a JSON file, with its own clock, and misbehaves when the file says so.

For tests of the pipeline, statistics and faults without a clock; never one of a device's real runtimes.
"""

import ctypes
import json
import os
import signal
import struct
import time

from ..protocol import Fault

FORMATS = ("fake",)


def probe(libraries):
    """The fake runtime is always there."""
    return {"version": "1"}


def load(path, options):
    """Read the JSON; `fault` in it may strike here."""
    try:
        with open(path, encoding="utf-8") as stream:
            description = json.load(stream)
        if description.get("format") != "edgekit-fake":
            raise ValueError("not a fake model")
    except (ValueError, OSError) as error:
        raise Fault("bad_model", "not a fake model: %s" % error) from error
    fault = description.get("fault")
    if isinstance(fault, dict):  # only in one precision or with so many threads: {"int8": "crash", "2": "oom"}
        fault = description["fault"] = fault.get(description["precision"], fault.get(str(options["threads"])))
    if fault == "bad_model":
        raise Fault("bad_model", "the file says it is bad")
    if fault == "oom":
        raise MemoryError
    if fault == "print":
        # As a native library, as C's stdio and as Python: all of it must end up on stderr.
        os.write(1, b'{"id": 1, "ok": "a native library printed this"}\n' * 3)
        libc = ctypes.CDLL(None)
        libc.puts(b'{"id": 1, "ok": "C stdio printed this"}')
        libc.fflush(None)
        print('{"id": 1, "ok": "Python printed this"}', flush=True)  # noqa: T201
    return Loaded(description)


class Loaded:
    """Outputs are the first floats of the input; the clock advances by `latency_ns`,
    spread by `jitter` in a repeating pattern."""

    version = "1"

    def __init__(self, description):
        self.description = description
        self.inputs = description["inputs"]
        self.outputs = description["outputs"]
        self.now_ns = 0
        self.calls = 0
        self.data = b""
        if description.get("instructions"):
            total = int(description["instructions"])
            self.counts = [total, total // 4, total // 8, total // 2, 0, total // 16, total // 32, total // 32]

    def clock(self):
        """The fake clock, in nanoseconds; it moves only in run()."""
        return self.now_ns

    def set_input(self, index, data):
        """Keep the bytes of the one input."""
        self.data = data

    def run(self):
        """Advance the clock, or misbehave."""
        fault = self.description.get("fault")
        if fault == "crash":
            os.kill(os.getpid(), signal.SIGABRT)
        elif fault == "segfault":
            ctypes.string_at(8)
        elif fault == "exit":
            os._exit(3)
        elif fault == "hang":
            time.sleep(3600)
        elif fault and fault.startswith("pause "):
            while not os.path.exists(fault[6:]):
                time.sleep(0.01)
        latency_ns = self.description.get("latency_ns") or 1_000_000
        jitter = self.description.get("jitter") or 0.0
        self.now_ns += round(latency_ns * (1 + jitter * (self.calls % 5 - 2)))
        self.calls += 1

    def output(self, index):
        """The first floats of the input; wrong ones where the file says so."""
        count = 1
        for extent in self.outputs[index]["shape"]:
            count *= extent
        data = self.data[: 4 * count]
        if self.description.get("fault") == "wrong":
            values = struct.unpack("<%df" % count, data)
            data = struct.pack("<%df" % count, *[-value + 0.5 for value in values])
        elif self.description.get("fault") == "short":
            data = data[: len(data) // 2]
        return data

    def close(self):
        """Nothing to free."""
