"""Bench: the report over 10,000 measurements, and the history of 10,000 measurements in many runs.

    .venv/bin/python tools/bench/report.py [--cells 10000] [--runs 2500]

Prints seconds (of wall clock and of CPU), and the peak of resident memory over that of the imports, for a tenth of the
measurements and for all, with short and with long measurements: flat memory does not grow with the samples.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "run-schema-1"


def line_of(base: dict, number: int, launches: int, samples: int) -> dict:
    """A measurement like a recorded one, of a cell of its own."""
    line = json.loads(json.dumps(base))
    line["cell"]["precision"] = f"p{number}"
    line["id"] = f"digits_cnn/p{number}/tflite@pi4+threads=1"
    launch = line["launches"][0]
    level = 1e6 * random.lognormvariate(0, 0.01)
    line["launches"] = [
        {
            **launch,
            "samples_ns": [round(level * random.lognormvariate(0, 0.01)) for _ in range(samples)],
            "counts": launch["counts"][:3],
        }
        for _ in range(launches)
    ]
    return line


def write_run(folder: Path, name: str, count: int, launches: int, samples: int, day: int = 1) -> Path:
    """A run of that many cells on the disk."""
    header = json.loads((GOLDEN / "run.json").read_text("utf-8"))
    base = json.loads((GOLDEN / "measurements.jsonl").read_text("utf-8").splitlines()[0])
    path = folder / name
    path.mkdir(parents=True)
    made = [line_of(base, number, launches, samples) for number in range(count)]
    header["started"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(1.7e9 + 3600 * day))
    header["plan"]["cells"] = [line["id"] for line in made]
    (path / "run.json").write_text(json.dumps(header), "utf-8")
    (path / "measurements.jsonl").write_text("".join(json.dumps(line) + "\n" for line in made), "utf-8")
    return path


def timed(do: Callable[[], object]) -> str:
    """Seconds and memory of that."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = peak_kib()
    wall, cpu = time.perf_counter(), time.process_time()
    do()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return f"{wall:6.2f} s ({cpu:5.2f} s CPU), {(peak_kib() - before) / 1024:6.0f} MiB more"


def peak_kib() -> int:
    """The peak of this process's resident memory."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def child(what: str, place: str) -> None:
    """One measurement in a process of its own, so that its memory is its own."""
    import numpy  # noqa: F401 - not a part of what is measured

    from edgekit.history import History
    from edgekit.report import Report, forms

    def page() -> None:
        for name in ("csv", "json"):
            forms.FORMS[name](Report.load(Path(place)))

    def history() -> None:
        with History([Path(place)]) as known:
            known.runs()
            known.series("digits_cnn", "pi4")

    tasks: dict[str, Callable[[], object]] = {
        "report": lambda: Report.load(Path(place)),
        "forms": page,
        "history": history,
    }
    print(timed(tasks[what]))


def main() -> None:
    """Make the runs, and measure each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=10_000, help="measurements of one run (default: 10000)")
    parser.add_argument("--runs", type=int, default=2_500, help="runs of four cells for the history (default: 2500)")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(*args.child)
        return
    random.seed(0)
    with tempfile.TemporaryDirectory(prefix="edgekit-report-") as name:
        folder = Path(name)
        environment = {**os.environ, "EDGEKIT_CACHE_DIR": str(folder / "cache"), "PYTHONPATH": str(ROOT)}

        def show(label: str, what: str, place: Path) -> None:
            command = [sys.executable, __file__, "--child", what, str(place)]
            told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
            print(f"{label:<58} {told.strip()}", flush=True)

        for count in (args.cells // 10, args.cells):
            for launches, samples in ((1, 10), (3, 100)):
                path = write_run(folder / "one", f"{count}-{launches}-{samples}", count, launches, samples)
                show(f"report of {count} cells, {launches} x {samples} samples", "report", path)
        show(f"the same, and as CSV and JSON ({args.cells} cells)", "forms", path)
        for number in range(args.runs):
            write_run(folder / "many", f"{number:06}", 4, 1, 10, number)
        show(f"history of {args.runs} runs, index made", "history", folder / "many")
        show("history, nothing new", "history", folder / "many")
        write_run(folder / "many", "new", 4, 1, 10, args.runs)
        show("history, one more run", "history", folder / "many")


if __name__ == "__main__":
    main()
