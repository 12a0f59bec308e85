"""Time per operator, by the runtime's own profiler: a pass of its own, in a process of its own, so that no latency has it in it.

A runtime module that has such a profiler loads a model with options["profile"]; the loaded model then has a `profiler` with
`name`, `resolution_ns`, begin() and end() around an inference, and runs(): for each inference since the first begin() its
nanoseconds by the profiler, and its events. A module without one says in NO_PROFILER why. Standard library only, Python 3.9.
"""

import time

from . import plugin
from .measure import Stopwatch, runtime_module
from .protocol import Fault
from .runtimes._library import size_bytes

LEAST_RUNS = 3


def operators(args, emit):
    """First inferences without the profiler, then as many with it, each after a warm-up; see `merged` for the events.

    Takes "runs", "warmup_calls" and "max_seconds", the cap of each of the two. Nanoseconds.
    """
    module = runtime_module(args)
    reason = getattr(module, "NO_PROFILER", None)
    if reason:
        raise Fault("unsupported", reason)
    emit({"phase": "operators", "done": "without the profiler"})
    loaded, watch = prepared(module, args, False)
    plain = [watch.time(1, 1)[0][0] for _ in capped(args)]
    loaded.close()

    emit({"phase": "operators", "done": "with the profiler"})
    loaded, watch = prepared(module, args, True)
    profiler, times = loaded.profiler, []
    for _ in capped(args):
        profiler.begin()
        times += watch.time(1, 1)[0]
        profiler.end()
    runs, version = profiler.runs()[-len(times) :], loaded.version
    loaded.close()
    found = merged(runs)
    if args.get("counters"):
        emit({"phase": "operators", "done": "counting their instructions"})
        found["counted"] = counted(module, args)
    return dict(
        found,
        profiler=profiler.name,
        resolution_ns=profiler.resolution_ns,
        version=version,
        plain_ns=plain,
        profiled_ns=times,
    )


def counted(module, args):
    """As merged(), in instructions: the clock that the runtime's profiler reads tells these meanwhile.

    "plain" without the profiler, "total" with it, and "operators".
    """
    plugin.instructions_as_time(True)
    try:
        loaded, watch = prepared(module, args, False)
        plain = min(watch.time(LEAST_RUNS, 1)[0])
        loaded.close()
        loaded, watch = prepared(module, args, True)
        for _ in range(LEAST_RUNS):
            loaded.profiler.begin()
            watch.time(1, 1)
            loaded.profiler.end()
        found = merged(loaded.profiler.runs()[-LEAST_RUNS:])
        loaded.close()
    finally:
        plugin.instructions_as_time(False)
    return {
        "plain": plain // plugin.INSTRUCTION_NS,
        "total": [ns // plugin.INSTRUCTION_NS for ns in found["total_ns"]],
        "operators": [
            {"name": event["name"], "instructions": [ns // plugin.INSTRUCTION_NS for ns in event["ns"]]}
            for event in found["operators"]
        ],
    }


def prepared(module, args, profile):
    """The model loaded and warmed up on its first sample, and the stopwatch for it."""
    libraries = args.get("libraries", {})
    options = {"threads": args.get("threads", 1), "libraries": libraries, "profile": profile}
    options.update((key, args[key]) for key in ("inputs", "outputs", "counters") if key in args)
    loaded = module.load(args["model"], options)
    with open(args["input"], "rb") as stream:
        for index, spec in enumerate(loaded.inputs):
            loaded.set_input(index, stream.read(size_bytes(spec)))
    watch = Stopwatch(loaded, libraries, False)
    for _ in range(args["warmup_calls"]):
        loaded.run()
    return loaded, watch


def capped(args):
    """Counts the inferences up to "runs", or until "max_seconds" are over and there are enough."""
    started = time.monotonic()
    for index in range(args["runs"]):
        if index >= LEAST_RUNS and time.monotonic() - started > args["max_seconds"]:
            return
        yield index


def merged(runs):
    """The inferences laid over one another: "total_ns" of each, and "operators" with the "ns" of each.

    An inference that went another way than most (a branch, a loop of another length) is left out.
    """
    ways = {}
    for total, events in runs:
        way = tuple((event["name"], event.get("place")) for event in events)
        ways.setdefault(way, []).append((total, events))
    if not ways:
        raise Fault("internal", "the profiler kept no inference")
    kept = max(ways.values(), key=len)
    first = kept[0][1]
    if not first:
        raise Fault("unsupported", "the runtime's profiler reports no operators for this model")
    operators = []
    for index, event in enumerate(first):
        told = {key: value for key, value in event.items() if value is not None}
        operators.append(dict(told, ns=[events[index]["ns"] for _, events in kept]))
    return {"total_ns": [total for total, _ in kept], "operators": operators}
