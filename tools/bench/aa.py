"""Bench: how often `edgekit ab` on this machine, with a busy process beside it, cries wolf, and how often it finds what is there.

    .venv/bin/python tools/bench/aa.py [--compares 100] [--trials 40] [--log aa.jsonl]

A/A compares a model of 100 equal layers with itself; a trial compares it with one of 105 layers (+5 %) or 102 (+2 %). What
the two really cost more is counted first, in instructions on the emulated Pi 4. Every result is a line of the log as soon as
it exists, and a log that is there already is continued: an interrupted bench is taken up by the same command.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from edgekit import abtest, metrics, plan

RECIPE = '''"""{layers} equal layers: a model whose cost is their number."""

TASK = "none"
DESCRIPTION = "{layers} pointwise convolutions of 32 channels on 16x16"
LICENCE = "Apache-2.0"
INPUT = {{"name": "image", "shape": (1, 16, 16, 32), "dtype": "float32", "layout": "NHWC"}}


def keras_model():
    import keras

    keras.utils.set_random_seed(0)
    inputs = x = keras.Input((16, 16, 32))
    for _ in range({layers}):
        x = keras.layers.Conv2D(32, 1, activation="relu", kernel_initializer="he_normal")(x)
    return keras.Model(inputs, x)
'''
# Ends with the bench, however that ends.
BUSY = """
import os
bench = os.getppid()
while os.getppid() == bench:
    for _ in range(1_000_000):
        pass
"""
LAYERS = {"base": 100, "+2 %": 102, "+5 %": 105}
TOLERANCE = 0.003  # of a planted difference
FALSE_ALARMS, FOUND = 0.02, 0.95
VERDICTS = ("regression", "improvement", "equal", "inconclusive")


def request(model: Path, device: str, output: Path) -> plan.Request:
    """One side of a comparison."""
    return plan.Request(str(model), device, ("tflite",), ("fp32",), output=output, wait=True)


def plants(models: dict[str, Path], output: Path) -> bool:
    """Count what the other models need more, and whether it is what was planned."""
    right = True
    for name, layers in LAYERS.items():
        if name != "base":
            wanted = layers / LAYERS["base"]
            found = abtest.run(*(request(models[m], "pi4", output) for m in ("base", name)), lambda _: None)
            right = right and found.ratio is not None and abs(found.ratio - wanted) <= TOLERANCE
            print(f"{name}: {found.ratio:.4f} times the instructions on the emulated Pi 4", flush=True)
    return right


def summary(lines: list[dict[str, object]]) -> bool:
    """Print what the log says, and whether it holds what is asked of it."""
    holds = True
    for kind in ("A/A", "+5 %", "+2 %"):
        of_kind = [line for line in lines if line["kind"] == kind]
        if not of_kind:
            continue
        told = {verdict: sum(line["verdict"] == verdict for line in of_kind) for verdict in VERDICTS}
        hits = told["regression"] + (told["improvement"] if kind == "A/A" else 0)
        low, high = metrics.wilson(hits, len(of_kind))
        what = "false alarms" if kind == "A/A" else "found"
        seconds = statistics.median(float(str(line["seconds"])) for line in of_kind)
        ratios = [float(str(line["ratio"])) for line in of_kind if line["ratio"] is not None]
        print(
            f"{kind}: {what} {hits} of {len(of_kind)} ({100 * low:.1f} to {100 * high:.1f} % at 95 %); "
            + ", ".join(f"{verdict} {count}" for verdict, count in told.items())
            + f"; median {seconds:.0f} s; NEW / OLD {min(ratios):.3f} to {max(ratios):.3f}"
        )
        share = hits / len(of_kind)
        holds = holds and (share <= FALSE_ALARMS if kind == "A/A" else kind != "+5 %" or share >= FOUND)
    return holds


def main() -> int:
    """Count the plants, then compare in random order until there are as many of each kind as asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compares", type=int, default=100, help="A/A compares")
    parser.add_argument("--trials", type=int, default=40, help="trials of each planted difference")
    parser.add_argument("--busy", type=int, default=1, help="busy processes beside it")
    parser.add_argument("--max-seconds", type=float, default=None, help="per session, as of edgekit ab")
    parser.add_argument("--log", type=Path, default=Path("aa.jsonl"))
    args = parser.parse_args()
    lines = [json.loads(line) for line in args.log.read_text().splitlines()] if args.log.exists() else []
    wanted = {"A/A": args.compares, "+5 %": args.trials, "+2 %": args.trials}
    left = [kind for kind, count in wanted.items() for _ in range(count - sum(x["kind"] == kind for x in lines))]
    random.shuffle(left)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = {}
        for kind, layers in LAYERS.items():
            models[kind] = folder / f"chain_{layers}.py"
            models[kind].write_text(RECIPE.format(layers=layers))
        if not plants(models, folder):
            print(f"a plant is further than {TOLERANCE} from what was planned")
            return 1
        busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(args.busy)]
        try:
            for number, kind in enumerate(left, 1):
                began = time.monotonic()
                sides = models["base"], models.get(kind, models["base"])
                found = abtest.run(*(request(m, "local", folder) for m in sides), lambda _: None, args.max_seconds)
                line = {
                    "kind": kind, "verdict": found.verdict, "ratio": found.ratio, "interval": found.interval,
                    "pairs": found.pairs, "confirmed": found.confirmed, "threshold": found.threshold,
                    "seconds": round(time.monotonic() - began, 1),
                    "sessions": found.sessions, "old": found.old["p50_ns"], "load": os.getloadavg()[0], "at": round(time.time()),
                }  # fmt: skip
                lines.append(line)
                with args.log.open("a") as stream:
                    stream.write(json.dumps(line) + "\n")
                shown = f"{found.ratio:.4f}" if found.ratio is not None else "unknown"
                print(f"{number} of {len(left)}, {kind}: {found.verdict}, {shown}, {line['seconds']} s", flush=True)
        except KeyboardInterrupt:
            print("interrupted; the same command goes on")
        finally:
            for process in busy:
                process.kill()
                process.wait()
    print(f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, {args.busy} busy beside it")
    return 0 if summary(lines) else 1


if __name__ == "__main__":
    sys.exit(main())
