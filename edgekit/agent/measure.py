"""What a child process of the agent does: probe, predict, measure. The protocol of a measurement lives here.

Times are taken on the device around the invocation alone, by the native loop where it is there, else from Python.
Standard library only, Python 3.9.
"""

import importlib
import time

from . import memory as memory_of
from .protocol import Fault
from .runtimes._library import size_bytes
from .warmup import BATCH_FLOOR_NS, WarmUp, batch_for

MOST_SAMPLES = 1000  # of one launch that is timed by seconds
CHUNK, CHUNK_NS = 20, 50_000_000  # so many samples in one go of the native loop, or what fits


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
    """A model loaded in this process: how long that took, its first inference, and with `emit` what it weighs. Nanoseconds."""

    def __init__(self, args, emit=None):
        module = runtime_module(args)
        remote = getattr(module, "REMOTE", False)  # something else than this process runs the model
        self.libraries = args.get("libraries", {})
        if hasattr(module, "check"):
            module.check(
                args["model"], self.libraries
            )  # refuses what would crash the runtime; no part of its load time
        module.probe(self.libraries)
        if hasattr(module, "start"):
            module.start(self.libraries)
        # The runtime is imported and no model is there: the baseline of the memory figures. A launch that is only timed has none.
        self.scale = memory_of.Scale(args.get("emulated"), emit) if emit and not remote else None
        options = {"threads": args.get("threads", 1), "libraries": self.libraries, "checked": True}
        # What the host knows of the artifact's tensors, for runtimes whose files do not say it; whether instructions are counted.
        options.update((key, args[key]) for key in ("inputs", "outputs", "counters") if key in args)
        started = time.perf_counter_ns()
        self.loaded = module.load(args["model"], options)
        self.load_ns = time.perf_counter_ns() - started
        if self.scale:
            self.scale.loaded()
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


LAUNCH = None


def launch(args, emit=None):
    """This process's launch: made now, or continued from the request before."""
    global LAUNCH
    if LAUNCH is None or not args.get("continue"):
        LAUNCH = Launch(args, emit)
    return LAUNCH


def probe(args, emit):
    """The runtime's version, from its own library."""
    return runtime_module(args).probe(args.get("libraries", {}))


def predict(args, emit):
    """Run every sample of the file `input` (raw bytes, sample after sample) and write the outputs to `output`."""
    current = launch(args, emit)
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
        "memory": current.scale.figures(args["model"]) if current.scale else {},
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
            import ctypes  # here and below: a runtime that needs it has it, and a child without starts faster

            self.library = ctypes.CDLL(libraries["loop"])
            self.library.edgekit_loop.restype = ctypes.c_uint64
        if hasattr(loaded, "repeat"):
            self.kind = "device"
            self.counting = False
            return
        self.kind = "native" if self.library else "python" if self.native else "in-process"
        self.counting = bool(counters) and not hasattr(loaded, "counts")
        if self.counting:
            from . import plugin

            self.count = plugin.Count()
            self.count.stop()
            if not self.count.read():
                raise Fault("internal", "instruction counts were asked for, but no counter answers on this device")

    def loop(self, address, arguments, mask, samples, batch):
        """One call of the native loop; returns (ns per batch, counts per batch or None)."""
        import ctypes

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
            import ctypes

            address = ctypes.cast(self.library.edgekit_nothing, ctypes.c_void_p).value
            return min(self.loop(address, (), 0, 5, batch)[1])
        return min(self.calls(nothing, 5, batch)[1])


def nothing():
    """Counted to learn what calling from Python costs by itself."""


def measure(args, emit):
    """The timed part of one launch: load and first inference where they have not been, warm-up, timed calls.

    `calls` samples are taken, or where that is not said as many as fit in `seconds`; never more than `max_seconds` of them,
    but `min_calls` in any case. `batch` fixes the calls per sample, and `warmup` False leaves the warm-up out: both for a
    launch that is measured in blocks. Samples are integer nanoseconds per batch of `batch` calls; `counts` are guest
    instructions per batch by class, the loop's own (`counter_overhead`, per batch) not yet taken off.
    """
    current = launch(args)
    watch = current.watch
    with open(args["input"], "rb") as stream:
        if not current.feed(stream):
            raise Fault("bad_model", "the input file is empty")
    if current.first_ns is None:
        current.run()

    warmup = WarmUp(current.first_ns)
    if args.get("warmup", True):
        least = (args["warmup_calls"], args["warmup_s"] * 1e9)
        warmup.run(watch, *least, windows=watch.kind != "device", awake=args.get("awake", False))
    floor_ns = getattr(current.loaded, "sample_ns", BATCH_FLOOR_NS)
    batch = args.get("batch") or batch_for(warmup.typical_ns, floor_ns, getattr(current.loaded, "least_batch", 1))
    chunk = max(1, min(CHUNK, CHUNK_NS // max(1, warmup.typical_ns * batch)))

    calls = args.get("calls")
    most = calls or MOST_SAMPLES
    enough_ns = 1e9 * (args["max_seconds"] if calls else min(args["seconds"], args["max_seconds"]))
    samples, counts = [], []
    spent, told = 0, time.monotonic()
    while len(samples) < most:
        times, rows = watch.time(min(chunk, most - len(samples)), batch)
        samples += times
        counts += rows or []
        spent += sum(times)
        if len(samples) >= args["min_calls"] and spent > enough_ns:
            break
        if time.monotonic() - told > 1:
            told = time.monotonic()
            emit({"phase": "measure", "done": len(samples)})
    result = {
        "load_ns": current.load_ns,
        "first_ns": current.first_ns,
        "warmup_calls": warmup.calls,
        "warmup_ns": warmup.spent_ns,
        "warmup_steady": warmup.steady,
        "batch": batch,
        "samples_ns": samples,
        "capped": len(samples) < (calls or 0),
        "timer": watch.kind,
        "version": current.loaded.version,
        "delegation": getattr(current.loaded, "delegation", None),
    }
    if counts:
        result["counts"] = counts
        result["counter_overhead"] = watch.overhead(batch) or [0] * 8
    return result
