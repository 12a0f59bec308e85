"""What a child process of the agent does: probe, predict, measure. The protocol of a measurement lives here.

Times are taken on the device around the invocation alone, by the native loop where it is there, else from Python.
Standard library only, Python 3.9.
"""

import ctypes
import importlib
import time

from . import memory as memory_of
from . import plugin, sysinfo
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


class Launch:
    """A model loaded in this process: its first inference and its memory so far. Bytes and nanoseconds."""

    def __init__(self, args):
        module = runtime_module(args)
        self.remote = getattr(module, "REMOTE", False)  # something else than this process runs the model
        self.libraries = args.get("libraries", {})
        if hasattr(module, "check"):
            module.check(
                args["model"], self.libraries
            )  # refuses what would crash the runtime; no part of its load time
        module.probe(self.libraries)
        # The runtime is imported and no model is there: the baseline of the memory figures.
        self.meter = memory_of.meter(args.get("emulated"))
        self.baseline = self.meter.restart()
        options = {"threads": args.get("threads", 1), "libraries": self.libraries, "checked": True}
        # What the host knows of the artifact's tensors, for runtimes whose files do not say it.
        options.update((key, args[key]) for key in ("inputs", "outputs") if key in args)
        started = time.perf_counter_ns()
        self.loaded = module.load(args["model"], options)
        self.load_ns = time.perf_counter_ns() - started
        self.load_peak = self.meter.peak()
        self.after_load = self.meter.restart()
        self.watch = Stopwatch(self.loaded, self.libraries, args.get("counters", False))
        self.first_ns = None

    def feed(self, stream):
        """Put the next sample of a file into the inputs; False at the end of the file."""
        for index, spec in enumerate(self.loaded.inputs):
            size = size_bytes(spec)
            data = stream.read(size)
            if not data and index == 0:
                return False
            if len(data) != size:
                raise Fault("bad_model", "an input takes %d bytes, the data has %d left" % (size, len(data)))
            self.loaded.set_input(index, data)
        return True

    def run(self):
        """One inference; the first one is timed."""
        if self.first_ns is None:
            self.first_ns = self.watch.time(1, 1)[0][0]
        else:
            self.loaded.run()

    def memory(self, model):
        """The memory figures up to now; memory.py has their definition. None of a model that runs elsewhere."""
        if self.remote:
            return {}
        run_peak = self.meter.peak()
        top = max(self.load_peak["resident"], run_peak["resident"])
        result = {
            "method": self.meter.method,
            "baseline_bytes": self.baseline["resident"],
            "load_peak_bytes": self.load_peak["resident"],
            "loaded_bytes": self.after_load["resident"],
            "run_peak_bytes": run_peak["resident"],
            "delta_bytes": top - self.baseline["resident"],
            "model_file_bytes": memory_of.file_bytes(model),
            "model_mapped": memory_of.is_mapped(model),
        }
        if not self.meter.restartable:
            result["run_peak_includes_load"] = True
        if "anonymous" in run_peak:
            result["anonymous_peak_bytes"] = max(self.load_peak["anonymous"], run_peak["anonymous"])
        return result


LAUNCH = None


def launch(args):
    """This process's launch: made now, or continued from the request before."""
    global LAUNCH
    if LAUNCH is None or not args.get("continue"):
        LAUNCH = Launch(args)
    return LAUNCH


def probe(args, emit):
    """The runtime's version, from its own library."""
    return runtime_module(args).probe(args.get("libraries", {}))


def predict(args, emit):
    """Run every sample of the file `input` (raw bytes, sample after sample) and write the outputs to `output`."""
    current = launch(args)
    loaded = current.loaded
    done = 0
    told = time.monotonic()
    with open(args["input"], "rb") as source, open(args["output"], "wb") as sink:
        while current.feed(source):
            current.run()
            for index in range(len(loaded.outputs)):
                sink.write(loaded.output(index))
            done += 1
            if time.monotonic() - told > 1:
                told = time.monotonic()
                emit({"phase": "predict", "done": done})
    return {
        "samples": done,
        "load_ns": current.load_ns,
        "inputs": loaded.inputs,
        "outputs": loaded.outputs,
        "memory": current.memory(args["model"]),
    }


class Stopwatch:
    """Times and counts `batch` calls of a loaded model: in native code where it can be, else from Python.

    `kind` says which: "native"; "in-process" for a runtime that is called from Python only, whose counts then hold the
    Python of a call too; "python" where the native loop could do it, but its library is missing; "device" where what runs the
    model is no process, and tells the time of a batch itself.
    """

    def __init__(self, loaded, libraries, counters):
        self.loaded = loaded
        self.clock = getattr(loaded, "clock", time.perf_counter_ns)
        self.native = getattr(loaded, "native", None)
        self.library = None
        if self.native and libraries.get("loop"):
            self.library = ctypes.CDLL(libraries["loop"])
            self.library.edgekit_loop.restype = ctypes.c_uint64
        if hasattr(loaded, "repeat"):
            self.kind = "device"
            self.counting = False
            return
        self.kind = "native" if self.library else "python" if self.native else "in-process"
        self.counting = bool(counters) and not hasattr(loaded, "counts")
        if self.counting:
            self.count = plugin.Count()
            self.count.stop()
            if not self.count.read():
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
        if hasattr(self.loaded, "repeat"):
            return [self.loaded.repeat(batch) for _ in range(samples)], None
        if self.library:
            return self.loop(*self.native, samples, batch)
        times, rows = self.calls(self.loaded.run, samples, batch)
        if hasattr(self.loaded, "counts"):
            rows = [[value * batch for value in self.loaded.counts] for _ in range(samples)]
        return times, rows

    def calls(self, run, samples, batch):
        """As loop(), of a Python function."""
        clock, counting = self.clock, self.counting
        times, rows = [], []
        for _ in range(samples):
            if counting:
                self.count.start()
            begin = clock()
            for _ in range(batch):
                run()
            end = clock()
            if counting:
                self.count.stop()
                rows.append(self.count.read())
            times.append(end - begin)
        return times, rows if counting else None

    def overhead(self, batch):
        """Instruction counts of a batch of empty calls: what the loop itself adds to every sample."""
        if not self.counting:
            return None
        if self.library:
            address = ctypes.cast(self.library.edgekit_nothing, ctypes.c_void_p).value
            return min(self.loop(address, (), 0, 5, batch)[1])
        return min(self.calls(nothing, 5, batch)[1])


def nothing():
    """Counted to learn what calling from Python costs by itself."""


def measure(args, emit):
    """The timed part of one launch: load and first inference where they have not been, warm-up, timed calls.

    Samples are integer nanoseconds per batch of `batch` calls; `counts` are guest instructions per batch by class,
    the loop's own (`counter_overhead`, per batch) not yet taken off.
    """
    remote = getattr(runtime_module(args), "REMOTE", False)
    before = {} if remote else sysinfo.evidence()
    current = launch(args)
    watch = current.watch
    with open(args["input"], "rb") as stream:
        if not current.feed(stream):
            raise Fault("bad_model", "the input file is empty")
    if current.first_ns is None:
        current.run()

    warmup, spent = [], 0
    while len(warmup) < args["warmup_calls"] or spent < args["warmup_s"] * 1e9:
        once, _ = watch.time(1, 1)
        warmup += once
        spent += once[0]
        if len(warmup) >= MAX_BATCH:
            break
    typical = sorted(warmup)[len(warmup) // 2] if warmup else current.first_ns
    floor_ns = getattr(current.loaded, "sample_ns", BATCH_FLOOR_NS)
    batch = max(1, min(MAX_BATCH, -(-floor_ns // max(1, typical)))) if typical < floor_ns else 1
    batch = max(batch, getattr(current.loaded, "least_batch", 1))

    samples, counts = [], []
    budget_ns = args["max_seconds"] * 1e9
    told = time.monotonic()
    while len(samples) < args["calls"]:
        times, rows = watch.time(1 if typical > 5_000_000 or remote else min(20, args["calls"] - len(samples)), batch)
        samples += times
        counts += rows or []
        if len(samples) >= args["min_calls"] and sum(samples) > budget_ns:
            break
        if time.monotonic() - told > 1:
            told = time.monotonic()
            emit({"phase": "measure", "done": len(samples)})
    result = {
        "load_ns": current.load_ns,
        "first_ns": current.first_ns,
        "warmup_calls": len(warmup),
        "batch": batch,
        "samples_ns": samples,
        "capped": len(samples) < args["calls"],
        "timer": watch.kind,
        "version": current.loaded.version,
        "delegation": getattr(current.loaded, "delegation", None),
        "evidence": {"before": before, "after": {} if remote else sysinfo.evidence()},
    }
    if counts:
        result["counts"] = counts
        result["counter_overhead"] = watch.overhead(batch) or [0] * 8
    return result
