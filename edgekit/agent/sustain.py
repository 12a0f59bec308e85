"""A model run back to back for a long time, in windows that are told as they end: what came of a run that is cut is kept.

Standard library only, Python 3.9.
"""

import time

from . import energy, measure, warmup
from .protocol import Fault

WINDOW_S = 1.0
WINDOWS = 2000  # at most about so many, however long it goes on
FEW_WINDOWS = 20  # at least so many where that leaves them long enough
P95_SAMPLES = 60  # fewer have no 95th percentile


def figures(samples, batch):
    """What the samples of a window (ns of `batch` calls each) tell; the percentile by linear interpolation (stats.percentile)."""
    found = {"calls": len(samples) * batch, "p50_ns": round(warmup.median(samples) / batch)}
    if len(samples) >= P95_SAMPLES and batch == 1:
        ordered, position = sorted(samples), 0.95 * (len(samples) - 1)
        low = int(position)
        found["p95_ns"] = round(ordered[low] + (ordered[low + 1] - ordered[low]) * (position - low))
    return found


def window_length(seconds):
    """Seconds of a window in a run of so many."""
    return max(min(WINDOW_S, seconds / FEW_WINDOWS), seconds / WINDOWS)


def sustain(args, emit):
    """Run the loaded model for `seconds`, in windows; before that the process is idle for `idle_s` (default 0).

    Each window is an event: start_s and end_s from the beginning, calls, p50_ns and p95_ns per call (p95_ns where there are 60
    samples of one call each; idle windows have no calls and no times). With `power` each window ends with a reading of the
    device's energy ("uj" since the beginning, or "uw" now; energy.py), of which there must be a source, else the answer is
    {"no_energy": why}; `sysfs` is where it is looked for, and the source has its own default for both times.
    """
    try:
        source = source_of(args) if args.get("power") else None
        return run(args, emit, source)
    except energy.NoEnergy as error:
        return {"no_energy": str(error)}


def source_of(args):
    """Where the energy of what runs the model can be read. Raises energy.NoEnergy."""
    if getattr(measure.runtime_module(args), "REMOTE", False):
        raise energy.NoEnergy("what runs the model is no part of this machine, and does not tell its energy")
    return energy.find(args.get("sysfs", "/sys"))


def run(args, emit, source):
    """As sustain(), with a source of energy or None."""
    current = measure.launch(args)
    loaded, watch = current.loaded, current.watch
    with open(args["input"], "rb") as stream:
        if not current.feed(stream):
            raise Fault("bad_model", "the input file is empty")
    if current.first_ns is None:
        current.run()
    if source:
        seconds, idle_s = args.get("seconds", source.seconds), args.get("idle_s", source.idle_s)
        length_s = source.window_s
    else:
        seconds, idle_s = args["seconds"], args.get("idle_s", 0.0)
        length_s = window_length(seconds)

    def told(window):
        emit({"window": dict(window, **source.reading()) if source else window, "timer": watch.kind})

    begun = time.monotonic()
    while (now := time.monotonic() - begun) < idle_s:
        left = idle_s - now
        time.sleep(length_s if left > 1.5 * length_s else left)  # no last window that is next to nothing
        told({"start_s": round(now, 3), "end_s": round(time.monotonic() - begun, 3), "calls": 0})

    typical = warmup.median([watch.time(1, 1)[0][0] for _ in range(5)])
    window_ns = int(length_s * 1e9)
    floor_ns = min(getattr(loaded, "sample_ns", warmup.BATCH_FLOOR_NS), window_ns)
    batch = warmup.batch_for(typical, floor_ns, 1)
    chunk = max(1, min(20, window_ns // 20 // max(1, batch * typical)))
    start = opened = watch.clock()
    offset = time.monotonic() - begun
    while seconds * 1e9 - (opened - start) > window_ns / 2:
        samples = []
        while (now := watch.clock()) - opened < window_ns:
            samples += watch.time(chunk, batch)[0]
        span = {
            "start_s": round(offset + (opened - start) / 1e9, 3),
            "end_s": round(offset + (now - start) / 1e9, 3),
        }
        told(dict(span, **figures(samples, batch)))
        opened = now
    result = {"batch": batch, "timer": watch.kind, "version": loaded.version, "load_ns": current.load_ns}
    if source:
        result["energy"] = {"method": source.method, "settle_s": source.settle_s, "coarse": source.coarse}
    return result
