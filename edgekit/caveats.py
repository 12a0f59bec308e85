"""Every named weakness of a figure, with its advice; the report repeats these words and no others."""

from __future__ import annotations

from edgekit.types import Caveat

CAVEATS = {
    "emulated-latency": "latency is the emulator's, not the board's; compare instructions instead, and only within one precision, "
    "because an fp32 instruction takes longer than an int8 one",
    "python-timer": "timed from Python, which adds about a microsecond to a call: install gcc for the native timing loop",
    "few-samples": "only {count} timed samples: no percentile above the median is given",
    "time-cap": "stopped at the time cap after {count} of {wanted} samples: raise --max-seconds",
    "random-inputs": "the recipe has no data(): inputs and calibration are random numbers, so int8 figures are a guess",
    "no-labels": "the model has no labelled data: fidelity is measured, accuracy is not",
    "few-inputs": "accuracy on {count} of {total} held-out inputs only (--samples)",
    "partial-delegation": "{delegated} of {total} operators run on the fast backend, the rest on reference kernels",
    "partly-float": "{count} of {total} {what} compute in float although {precision} was asked for",
    "int8-slower": "int8 takes {ratio:.2f}x the time of fp32 in this runtime: quantizing bought size, not speed",
    "no-metric": "no metric is known for the task '{task}': fidelity is measured, accuracy is not",
    "more-threads-than-cores": "{threads} threads share {cores} cores",
    "no-counts-with-threads": "instructions are not counted with several threads, because waiting threads count too",
    "busy": "the device was busy (load {load:.1f} on {cores} cores): latency is higher and less steady than it can be",
    "run-peak-includes-load": "this kernel cannot restart the memory peak: the run peak includes the load",
    "torn-line": "the last line of measurements.jsonl was torn by a crash: that cell has no figures; --resume redoes it",
}


def caveat(code: str, **figures: object) -> Caveat:
    """The caveat of that code with its figures filled in."""
    return Caveat(code, CAVEATS[code].format(**figures))
