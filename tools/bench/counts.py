"""Instruction counts in several commands: how far they are apart, for one thread and for four, in each runtime.

python tools/bench/counts.py [--model digits_cnn] [--commands 2] [--runtimes tflite,onnxruntime,executorch]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

# Must hold for (max - min) / min of the totals of the same cell, by its threads.
LIMITS = {1: 0.0001, 4: 0.005}


def counted(args: argparse.Namespace, folder: str) -> dict[str, Any]:
    """The cells of one command by their ids."""
    argv = [sys.executable, "-m", "edgekit", "profile", args.model, "--device", args.device, "--metric", "instructions"]
    argv += ["--runtime", args.runtimes, "--threads", "1,4", "--json", "--quiet", "--output", folder]
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return {cell["id"]: cell for cell in json.loads(done.stdout)["cells"]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="digits_cnn")
    parser.add_argument("--device", default="pi4")
    parser.add_argument("--commands", type=int, default=2)
    parser.add_argument("--runtimes", default="tflite,onnxruntime,executorch")
    args = parser.parse_args()
    runs, seconds = [], []
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        for _ in range(args.commands):
            started = time.monotonic()
            runs.append(counted(args, folder))
            seconds.append(time.monotonic() - started)
    print(f"{args.model} on {args.device}, {args.commands} commands, {statistics.median(seconds):.0f} s each")
    kept = True
    for name, cell in runs[0].items():
        totals = [run[name]["instructions"]["total"] for run in runs]
        apart, limit = max(totals) / min(totals) - 1, LIMITS[cell["threads"]]
        kept &= apart <= limit
        within = max(run[name]["instructions"]["spread"] for run in runs)
        verdict = "" if apart <= limit else "   OVER"
        print(
            f"  {name:<50} {statistics.median(totals):>13,.0f}   between commands {100 * apart:.4f} % "
            f"(must hold: <= {100 * limit:g} %), from call to call {100 * within:.3f} %{verdict}"
        )
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
