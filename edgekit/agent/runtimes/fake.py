"""A runtime that runs nothing: it answers from a JSON file, with its own clock, and misbehaves when the file says so.

For tests of the pipeline, statistics and faults without a clock; never one of a device's real runtimes.
"""

import math
import mmap
import os
import time

from ..lean_json import loads
from ..protocol import Fault

FORMATS = ("fake",)


def probe(libraries):
    """The fake runtime is always there."""
    return {"version": "1"}


def load(path, options):
    """Read the JSON; `fault` in it may strike here."""
    try:
        with open(path, encoding="utf-8") as stream:
            description = loads(stream.read())
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
        import ctypes  # here and below: what only some models need makes the start of all others no dearer

        libc = ctypes.CDLL(None)
        libc.puts(b'{"id": 1, "ok": "C stdio printed this"}')
        libc.fflush(None)
        print('{"id": 1, "ok": "Python printed this"}', flush=True)  # noqa: T201
    return Loaded(description)


def touched(mebibytes):
    """So much anonymous memory, every page of it written."""
    return b"\1" * (mebibytes << 20)


def mapped(path):
    """A file mapped into this process, every page of it read."""
    with open(path, "rb") as stream:
        pages = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    pages[:: mmap.PAGESIZE]
    return pages


class Loaded:
    """Outputs are the first floats of the input; the clock advances by `latency_ns`, spread by `jitter` in a repeating
    pattern, or by the distribution that `noise` describes."""

    version = "1"

    def __init__(self, description):
        self.description = description
        self.inputs = description["inputs"]
        self.outputs = description["outputs"]
        self.delegation = description.get("delegation")
        self.profiler = Profiler(description.get("operators") or [])
        self.now_ns = 0
        self.calls = 0
        self.data = b""
        self.noise = description.get("noise") or {}
        self.level = 1.0
        if self.noise:
            import random  # takes longer than all the rest

            self.random = random.Random(self.noise.get("seed"))
            self.level = math.exp(self.random.gauss(0, self.noise.get("launch", 0)))
        self.memory = description.get("memory") or {}
        touched(self.memory.get("load_mib", 0))
        self.kept = touched(self.memory.get("keep_mib", 0))
        self.mapped = mapped(self.memory["map"]) if "map" in self.memory else None
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
        scratch = touched(self.memory.get("run_mib", 0))
        if "hold_s" in self.memory:
            time.sleep(self.memory["hold_s"])
        if fault == "crash":
            os.abort()
        elif fault == "segfault":
            import ctypes

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
        if self.calls >= (self.description.get("slow_after_calls") or float("inf")):
            latency_ns *= self.description["slow_factor"]
        if self.noise:
            latency_ns *= self.level * math.exp(self.random.gauss(0, self.noise.get("calls", 0)))
        self.now_ns += round(latency_ns * (1 + jitter * (self.calls % 5 - 2)))
        self.calls += 1
        del scratch

    def output(self, index):
        """The first floats of the input; wrong ones where the file says so."""
        count = 1
        for extent in self.outputs[index]["shape"]:
            count *= extent
        data = self.data[: 4 * count]
        if self.description.get("fault") == "wrong":
            import struct

            values = struct.unpack("<%df" % count, data)
            data = struct.pack("<%df" % count, *[-value + 0.5 for value in values])
        elif self.description.get("fault") == "short":
            data = data[: len(data) // 2]
        return data

    def close(self):
        """Nothing to free."""


class Profiler:
    """Says of each inference what the file says of its operators."""

    name, resolution_ns = "fake profiler", 1

    def __init__(self, events):
        self.events = events
        self.count = 0

    def begin(self):
        """Nothing is kept."""

    def end(self):
        """One inference more."""
        self.count += 1

    def runs(self):
        """(nanoseconds, events) of each inference."""
        return [(sum(event["ns"] for event in self.events), self.events)] * self.count
