"""Every named weakness of a figure, with its advice; the report repeats these words and no others."""

from __future__ import annotations

from edgekit.types import Caveat

CAVEATS = {
    "emulated-latency": "latency is the emulator's, not the board's; compare instructions instead, and only within one precision, "
    "because an fp32 instruction takes longer than an int8 one",
    "uncounted-latency": "latency is the emulator's, not the board's, and nothing counts instructions there; what fits in memory, "
    "and the outputs, are the board's",
    "python-timer": "timed from Python, which adds about a microsecond to a call: install gcc for the native timing loop",
    "few-samples": "only {count} timed samples: no percentile above the median is given",
    "time-cap": "stopped at the time cap after {count} of {wanted} samples: raise --max-seconds",
    "random-inputs": "no data were given: inputs and calibration are random numbers, so int8 figures are a guess",
    "opened": "{what}",
    "no-reference": "the file is taken as it is, and nothing tells what it should answer: give its float model with --reference",
    "no-labels": "the model has no labelled data: fidelity is measured, accuracy is not",
    "chance": "accuracy is no better than guessing ({chance:.2%}): look at the range of the pixels (--preprocess), at their "
    "layout, and at the order of the classes",
    "few-inputs": "accuracy on {count} of {total} held-out inputs only (--samples)",
    "partial-delegation": "{delegated} of {total} operators run on the fast backend, the rest on reference kernels",
    "no-delegate": "no operator runs on the fast backend (XNNPACK): {runtime} has no kernels there for this model on this device",
    "partly-float": "{count} of {total} {what} compute in float although {precision} was asked for",
    "weights-kept": "only {share:.0%} of the weights became smaller by {precision}; the format keeps the others as they were",
    "slow-kernels": "{what}",
    "slower-than-fp32": "{precision} takes {ratio:.2f}x the time of fp32 in this runtime: it bought size, not speed",
    "slower-runtime": "{runtime} needs {ratio:.1f}x the {what} of {other} for the very same file",
    "no-accuracy": "accuracy could not be measured: {why}",
    "no-metric": "no metric is known for the task '{task}', so accuracy is not measured: name one with --metric",
    "more-threads-than-cores": "{threads} threads share {cores} cores",
    "no-counts-with-threads": "instructions are not counted with several threads, because waiting threads count too",
    "busy": "the device was busy (load {load:.1f} on {cores} cores): latency is higher and less steady than it can be",
    "run-peak-includes-load": "this kernel cannot restart the memory peak: the run peak includes the load",
    "torn-line": "the last line of measurements.jsonl was torn by a crash: that cell has no figures; --resume redoes it",
}


def caveat(code: str, **figures: object) -> Caveat:
    """The caveat of that code with its figures filled in."""
    return Caveat(code, CAVEATS[code].format(**figures))
