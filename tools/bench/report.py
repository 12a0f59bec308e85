"""Bench: the report over 10,000 measurements, and the history of 10,000 measurements in many runs.

    .venv/bin/python tools/bench/report.py [--cells 10000] [--runs 2500]

Prints seconds (of wall clock and of CPU), and the peak of the process's resident memory, for a tenth of the measurements and
for all, with short and with long measurements: flat memory grows neither with the samples nor much with the cells.
"""

from __future__ import annotations

import argparse
import io
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
LIMIT_S = 2.0  # for a report over all of them, in CPU time, which other programs on the machine disturb little
GROWTH_LIMIT = 1.5  # its peak of memory, by that of a tenth


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
            "counts": [
                [round(count * random.lognormvariate(0, 0.01)) for count in row] for row in launch["counts"][:3]
            ],
        }
        for _ in range(launches)
    ]
    line["memory"] = {key: vary(value) for key, value in line["memory"].items()}
    return line


def vary(value: object) -> object:
    """A number a little different, so that no two cells share it."""
    number = isinstance(value, int) and not isinstance(value, bool)
    return round(value * random.lognormvariate(0, 0.01)) if number else value


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


def timed(do: Callable[[], object]) -> dict:
    """Seconds and memory of that."""
    before = peak_kib()
    wall, cpu = time.perf_counter(), time.process_time()
    do()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"wall_s": wall, "cpu_s": cpu, "peak_mib": peak_kib() / 1024, "before_mib": before / 1024}


def peak_kib() -> int:
    """The peak of this process's resident memory."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def child(what: str, place: str) -> None:
    """One measurement in a process of its own, so that its memory is its own."""
    import numpy  # noqa: F401 - not a part of what is measured

    from edgekit import store
    from edgekit.history import History
    from edgekit.report import Report, Reports, forms, html, table

    def shown() -> None:
        import rich.console

        table.show(Reports([Report.load(Path(place))], {}), rich.console.Console(file=io.StringIO(), width=100))

    def history() -> None:
        with History([Path(place)]) as known:
            known.runs()
            known.series("digits_cnn", "pi4")

    tasks: dict[str, Callable[[], object]] = {
        "report": lambda: Report.load(Path(place)),
        "table": shown,
        "html": lambda: html.render(Report.load(Path(place)), store.Lines(Path(place) / store.LINES)),
        "history": history,
    }
    tasks |= {name: lambda form=form: form(Report.load(Path(place))) for name, form in forms.FORMS.items()}
    print(json.dumps(timed(tasks[what])))


def main() -> int:
    """Make the runs, measure each in a process of its own, and judge the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=10_000, help="measurements of one run (default: 10000)")
    parser.add_argument("--runs", type=int, default=2_500, help="runs of four cells for the history (default: 2500)")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(*args.child)
        return 0
    random.seed(0)
    with tempfile.TemporaryDirectory(prefix="edgekit-report-") as name:
        folder = Path(name)
        environment = {**os.environ, "EDGEKIT_CACHE_DIR": str(folder / "cache"), "PYTHONPATH": str(ROOT)}

        def show(label: str, what: str, place: Path) -> dict:
            command = [sys.executable, __file__, "--child", what, str(place)]
            told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
            found = json.loads(told)
            print(
                f"{label:<58} {found['wall_s']:6.2f} s ({found['cpu_s']:5.2f} s CPU), "
                f"peak {found['peak_mib']:4.0f} MiB, {found['before_mib']:.0f} of them before",
                flush=True,
            )
            return found

        found = {}
        for count in (args.cells // 10, args.cells):
            for launches, samples in ((1, 10), (3, 100)):
                path = write_run(folder / "one", f"{count}-{launches}-{samples}", count, launches, samples)
                label = f"report of {count} cells, {launches} x {samples} samples"
                found[count, samples] = show(label, "report", path)
        slowest = max(found[args.cells, samples]["cpu_s"] for samples in (10, 100))
        growth = max(found[args.cells, n]["peak_mib"] / found[args.cells // 10, n]["peak_mib"] for n in (10, 100))
        print(
            f"report of {args.cells} cells: {slowest:.2f} s CPU (must hold: <= {LIMIT_S:g}), "
            f"{growth:.2f} times the memory of a tenth (must hold: <= {GROWTH_LIMIT:g})"
        )
        for form in ("table", "csv", "markdown", "junit", "trace", "json", "html"):
            show(f"the last, and written as {form}", form, path)
        for number in range(args.runs):
            write_run(folder / "many", f"{number:06}", 4, 1, 10, number)
        show(f"history of {args.runs} runs, index made", "history", folder / "many")
        show("history, nothing new", "history", folder / "many")
        write_run(folder / "many", "new", 4, 1, 10, args.runs)
        show("history, one more run", "history", folder / "many")
    return 0 if slowest <= LIMIT_S and growth <= GROWTH_LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
