"""What a child process of the agent does: probe, predict, measure, memory. The protocol of a measurement lives here.

Times are taken on the device around the invocation alone, by the native loop where it is there, else from Python.
Standard library only, Python 3.9.
"""

import ctypes
import importlib
import os
import time

from . import memory as memory_of
from . import sysinfo
from .protocol import Fault
from .runtimes._library import size_bytes

BATCH_FLOOR_NS = 1_000_000  # a sample shorter than this is mostly timer noise, so calls are batched up to it
MAX_BATCH = 100_000


def runtime_module(args):
    """The runtime module that `args` names. Raises Fault("unavailable") when this agent has none of that name."""
    name = args["runtime"]
    if not name.isidentifier() or name.startswith("_"):
        raise Fault("unavailable", "'%s' is not the name of a runtime" % name)
    try:
        return importlib.import_module(".runtimes." + name, __package__)
    except ModuleNotFoundError as error:
        raise Fault("unavailable", "this agent has no runtime '%s'" % name) from error


def load(args):
    """Load the model of a request; returns (loaded, nanoseconds it took)."""
    module = runtime_module(args)
    libraries = args.get("libraries", {})
    if hasattr(module, "check"):
        module.check(args["model"], libraries)  # refuses what would crash the runtime; no part of its load time
    options = {"threads": args.get("threads", 1), "libraries": libraries, "checked": True}
    started = time.perf_counter_ns()
    loaded = module.load(args["model"], options)
    return loaded, time.perf_counter_ns() - started


def read_sample(stream, loaded):
    """Feed the next sample of a file to the model; False at the end of the file."""
    for index, spec in enumerate(loaded.inputs):
        size = size_bytes(spec)
        data = stream.read(size)
        if not data and index == 0:
            return False
        if len(data) != size:
            raise Fault("bad_model", "an input takes %d bytes, the data has %d left" % (size, len(data)))
        loaded.set_input(index, data)
    return True


def probe(args, emit):
    """The runtime's version, from its own library."""
    return runtime_module(args).probe(args.get("libraries", {}))


def predict(args, emit):
    """Run every sample of the file `input` (raw bytes, sample after sample) and write the outputs to `output`."""
    loaded, load_ns = load(args)
    done = 0
    told = time.monotonic()
    started = time.perf_counter_ns()
    with open(args["input"], "rb") as source, open(args["output"], "wb") as sink:
        while read_sample(source, loaded):
            loaded.run()
            for index in range(len(loaded.outputs)):
                sink.write(loaded.output(index))
            done += 1
            if time.monotonic() - told > 1:
                told = time.monotonic()
                emit({"phase": "predict", "done": done})
    return {
        "samples": done,
        "elapsed_ns": time.perf_counter_ns() - started,
        "load_ns": load_ns,
        "inputs": loaded.inputs,
        "outputs": loaded.outputs,
    }


class Stopwatch:
    """Times `batch` calls of a loaded model: in native code where it can be, else from Python."""

    def __init__(self, loaded, libraries, counters):
        self.loaded = loaded
        self.clock = getattr(loaded, "clock", time.perf_counter_ns)
        self.native = getattr(loaded, "native", None)
        self.library = None
        if self.native and libraries.get("loop"):
            self.library = ctypes.CDLL(libraries["loop"])
            self.library.edgekit_loop.restype = ctypes.c_uint64
        # "python" is a choice of last resort: this runtime could be timed natively, but the loop's library is missing
        self.kind = "native" if self.library else "python" if self.native else "in-process"
        self.counting = bool(counters and self.library)
        if self.counting and not self.library.edgekit_counters((ctypes.c_uint64 * 8)()):
            raise Fault("internal", "instruction counts were asked for, but no counter answers on this device")

    def loop(self, address, arguments, mask, samples, batch):
        """One call of the native loop; returns (ns per batch, counts per batch or None)."""
        values = (ctypes.c_uint64 * 8)(*(list(arguments) + [0] * (8 - len(arguments))))
        times = (ctypes.c_uint64 * samples)()
        counts = (ctypes.c_uint64 * (8 * samples))() if self.counting else None
        failed = self.library.edgekit_loop(
            ctypes.c_void_p(address),
            values,
            ctypes.c_uint64(mask),
            ctypes.c_uint64(samples),
            ctypes.c_uint64(batch),
            times,
            counts,
        )
        if failed:
            raise Fault("internal", "the runtime failed in the timed loop with status 0x%x" % failed)
        rows = [list(counts[8 * i : 8 * i + 8]) for i in range(samples)] if counts is not None else None
        return list(times), rows

    def time(self, samples, batch):
        """`samples` times of `batch` calls each: (ns per batch, instruction counts per batch or None)."""
        if self.library:
            return self.loop(*self.native, samples, batch)
        times = []
        run, clock = self.loaded.run, self.clock
        for _ in range(samples):
            begin = clock()
            for _ in range(batch):
                run()
            times.append(clock() - begin)
        rows = None
        if hasattr(self.loaded, "counts"):
            rows = [[value * batch for value in self.loaded.counts] for _ in range(samples)]
        return times, rows

    def overhead(self):
        """Instruction counts of one empty batch of one call: what the loop itself adds to every sample."""
        if not self.counting:
            return None
        address = ctypes.cast(self.library.edgekit_nothing, ctypes.c_void_p).value
        _, rows = self.loop(address, (), 0, 5, 1)
        return min(rows)


def measure(args, emit):
    """One launch: load, first inference, warm-up, timed calls.

    Samples are integer nanoseconds per batch of `batch` calls; `counts` are guest instructions per batch by class,
    the loop's own (`counter_overhead`, per batch) not yet taken off.
    """
    libraries = args.get("libraries", {})
    before = sysinfo.evidence()
    loaded, load_ns = load(args)
    with open(args["input"], "rb") as stream:
        if not read_sample(stream, loaded):
            raise Fault("bad_model", "the input file is empty")
    watch = Stopwatch(loaded, libraries, args.get("counters", False))
    first, _ = watch.time(1, 1)

    warmup, spent = [], 0
    while len(warmup) < args["warmup_calls"] or spent < args["warmup_s"] * 1e9:
        once, _ = watch.time(1, 1)
        warmup += once
        spent += once[0]
        if len(warmup) >= MAX_BATCH:
            break
    typical = sorted(warmup or first)[len(warmup) // 2]
    batch = max(1, min(MAX_BATCH, -(-BATCH_FLOOR_NS // max(1, typical)))) if typical < BATCH_FLOOR_NS else 1

    samples, counts = [], []
    budget_ns = args["max_seconds"] * 1e9
    told = time.monotonic()
    while len(samples) < args["calls"]:
        times, rows = watch.time(1 if typical > 5_000_000 else min(20, args["calls"] - len(samples)), batch)
        samples += times
        counts += rows or []
        if len(samples) >= args["min_calls"] and sum(samples) > budget_ns:
            break
        if time.monotonic() - told > 1:
            told = time.monotonic()
            emit({"phase": "measure", "done": len(samples)})
    result = {
        "load_ns": load_ns,
        "first_ns": first[0],
        "warmup_calls": len(warmup),
        "batch": batch,
        "samples_ns": samples,
        "capped": len(samples) < args["calls"],
        "timer": watch.kind,
        "version": loaded.version,
        "delegation": getattr(loaded, "delegation", None),
        "evidence": {"before": before, "after": sysinfo.evidence()},
    }
    if counts:
        result["counts"] = counts
        result["counter_overhead"] = watch.overhead() or [0] * 8
    return result


def memory(args, emit):
    """The memory pass, one definition for every runtime; see memory.py for the terms. Bytes."""
    module = runtime_module(args)
    libraries = args.get("libraries", {})
    module.probe(libraries)  # the runtime is imported, no model is there: the baseline
    meter = memory_of.meter(libraries if args.get("emulated") else {})
    baseline = meter.restart()
    loaded, _ = load(args)
    load_peak = meter.peak()
    resident_after_load = meter.restart()
    with open(args["input"], "rb") as stream:
        read_sample(stream, loaded)
    for _ in range(args.get("calls", 3)):
        loaded.run()
    run_peak = meter.peak()
    result = {
        "method": meter.method,
        "baseline_bytes": baseline["resident"],
        "load_peak_bytes": load_peak["resident"],
        "loaded_bytes": resident_after_load["resident"],
        "run_peak_bytes": run_peak["resident"],
        "model_file_bytes": os.path.getsize(args["model"]),
        "model_mapped": memory_of.is_mapped(args["model"]),
    }
    result["delta_bytes"] = max(load_peak["resident"], run_peak["resident"]) - baseline["resident"]
    if "anonymous" in run_peak:
        result["anonymous_peak_bytes"] = max(load_peak["anonymous"], run_peak["anonymous"])
    return result
