"""Bench: seconds until the median is known to +-2 %: edgekit's default run, LiteRT's own benchmark repeated until its figures
are as narrow, and the rule of optimum-benchmark (warm-up for 10 s, then runs for at least 10 s, in one process), by turns.

.venv/bin/python tools/bench/time_to_interval.py [--rounds 5] [--model digits_cnn,mobilenet_v2] [--patience 120]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from side_by_side import litert_benchmark

from edgekit import config, convert, data, plan, profile, sources, stats
from edgekit.session import Session
from edgekit.types import Artifact

TARGET = 0.02
SHARE_LIMIT = 0.5  # of what a peer's protocol spends
ROUNDING_MS = 0.005  # of what litert-benchmark reports
RULE_S = 10.0  # optimum-benchmark's, for warm-up and again for the runs


class Clock:
    """Notes when the first launch of a run begins."""

    def __init__(self) -> None:
        self.begun: float | None = None

    def say(self, text: str) -> None:
        """Receives the progress of the run."""
        if "measuring, launch 1 " in text:
            self.begun = time.perf_counter()


def ours(model: str, folder: Path) -> tuple[float, float]:
    """(seconds of a default run's timed part, half-width of its interval)."""
    clock = Clock()
    report = profile(
        model, "local", runtimes="tflite", precisions="fp32", samples=4, output=folder, say=clock.say, wait=True
    )
    finished = time.perf_counter()
    (cell,) = report.cells
    assert clock.begun is not None and cell["status"] == "ok", cell["error"]
    return finished - clock.begun, cell["latency"]["half_width"]


def repeated(artifact: Artifact, patience_s: float) -> tuple[float, float, float]:
    """(seconds until litert-benchmark, run again and again with its defaults, has an interval of TARGET; its half-width;
    what its rounding alone makes of that). As many processes are the least as for edgekit."""
    begun = time.perf_counter()
    medians: list[float] = []
    width = float("inf")
    while time.perf_counter() - begun < patience_s and width > TARGET:
        medians.append(litert_benchmark(artifact.path))
        if len(medians) >= plan.Effort().launches:
            width = stats.interval([[median] for median in medians]).half_width(statistics.median(medians))
    return time.perf_counter() - begun, width, ROUNDING_MS / statistics.median(medians)


def ruled(artifact: Artifact, folder: Path, model: str) -> tuple[float, float]:
    """(seconds by optimum-benchmark's rule, the median in ns that it gives)."""
    source = folder / "input.bin"
    source.write_bytes(data.encode((data.load(sources.load(model)).x[0][:1],), artifact.inputs, ["NHWC"]))
    with Session.open(config.device("local"), "tflite", lambda _: None) as live:
        block = {
            "runtime": "tflite", "model": live.push(artifact.path), "input": live.push(source), "threads": 1, "warmup_calls": 5,
            "libraries": live.libraries, "warmup_s": 0.0, "calls": 10**7, "min_calls": 1, "max_seconds": RULE_S,
        }  # fmt: skip
        begun = time.perf_counter()
        live.call("measure", {**block, "keep": True}, 60)
        told = live.call("measure", {**block, "continue": True}, 60)
        return time.perf_counter() - begun, statistics.median(told["samples_ns"]) / told["batch"]


def main() -> int:
    """Compare by turns and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", default="digits_cnn,mobilenet_v2")
    parser.add_argument("--patience", type=float, default=120.0)
    args = parser.parse_args()
    kept = True
    for model in args.model.split(","):
        artifact = convert.artifact(sources.load(model), "tflite", "fp32")
        mine, theirs, rule = [], [], []
        with tempfile.TemporaryDirectory() as name:
            for _ in range(args.rounds):
                mine.append(ours(model, Path(name)))
                theirs.append(repeated(artifact, args.patience))
                rule.append(ruled(artifact, Path(name), model))
                print(
                    f"{model}: edgekit {mine[-1][0]:.1f} s ±{mine[-1][1]:.1%}, litert-benchmark {theirs[-1][0]:.1f} s "
                    f"±{theirs[-1][1]:.1%} (it rounds to ±{theirs[-1][2]:.1%}), "
                    f"10 s + 10 s rule {rule[-1][0]:.1f} s: {rule[-1][1] / 1e3:.2f} us",
                    flush=True,
                )
        spent = [statistics.median(figures[0] for figures in every) for every in (mine, theirs, rule)]
        told = theirs[-1][2] <= TARGET  # else it never tells the median so finely, however often it is run
        medians = [median for _, median in rule]
        print(
            f"{model}: median {spent[0]:.1f} s against {spent[1]:.1f} s{'' if told else ' (never, as it rounds)'} and "
            f"{spent[2]:.1f} s: {spent[0] / spent[1]:.2f} and {spent[0] / spent[2]:.2f} of them   "
            f"(must hold: <= {SHARE_LIMIT:g}); the rule's own figures were {stats.spread(medians):.1%} apart"
        )
        kept = kept and spent[0] <= SHARE_LIMIT * min(spent[1:] if told else spent[2:])
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
