"""Bench: two runs of the same cell with the default protocol, one right after the other: how often do their intervals overlap?

The device is calibrated first, so that its drift is in them; --uncalibrated shows what launches alone tell.

.venv/bin/python tools/bench/overlap.py [--repetitions 40] [--model digits_cnn,mobilenet_v2] [--uncalibrated]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from edgekit import metrics, profile

LIMIT = 0.95


def latency(model: str, folder: Path) -> dict[str, Any]:
    """One default run on this machine; a few inputs are enough to verify it."""
    report = profile(model, "local", runtimes="tflite", precisions="fp32", samples=4, output=folder, wait=True)
    (cell,) = report.cells
    assert cell["status"] == "ok", cell["error"]
    return dict(cell["latency"])


def shown(found: dict[str, Any]) -> str:
    """An interval in us."""
    doubt = "" if found["conclusive"] else " inconclusive"
    low, high = found["low_ns"] / 1e3, found["high_ns"] / 1e3
    return f"{low:.2f}..{high:.2f} us ({found['launches']} launches, ±{found['half_width']:.1%}{doubt})"


def main() -> int:
    """Repeat, print every pair, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=40)
    parser.add_argument("--model", default="digits_cnn,mobilenet_v2")
    parser.add_argument("--uncalibrated", action="store_true")
    args = parser.parse_args()
    kept = True
    for model in args.model.split(","):
        overlapping = conclusive = 0
        with tempfile.TemporaryDirectory() as name:
            if not args.uncalibrated:
                command = [sys.executable, "-m", "edgekit", "calibrate", model, "--device", "local", "--output", name]
                said = subprocess.run([*command, "--wait", "--json", "-q"], check=True, stdout=subprocess.PIPE).stdout
                known = json.loads(said)["noise"]
                print(f"{model}: A/A noise {known['relative']:.1%}, drift {known['drift']:.1%}", flush=True)
            for repetition in range(1, args.repetitions + 1):
                first, second = latency(model, Path(name)), latency(model, Path(name))
                overlap = first["low_ns"] <= second["high_ns"] and second["low_ns"] <= first["high_ns"]
                overlapping += overlap
                conclusive += first["conclusive"] + second["conclusive"]
                word = "overlap" if overlap else "APART"
                print(f"{model} {repetition}: {shown(first)}, {shown(second)}: {word}", flush=True)
        share = overlapping / args.repetitions
        low, high = metrics.wilson(overlapping, args.repetitions)
        print(
            f"{model}: {overlapping} of {args.repetitions} overlap = {share:.1%} ({low:.1%} to {high:.1%}), "
            f"{conclusive} of {2 * args.repetitions} runs conclusive   (must hold: >= {LIMIT:.0%})"
        )
        kept = kept and share >= LIMIT
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
