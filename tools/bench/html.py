"""The size of a run's page, and the time and memory that it takes to make and to open: .venv/bin/python tools/bench/html.py

A page of 200 cells with everything in them is opened in Chromium; those of 1,000 and 10,000 cells, without operators and sustained
curves, are made in processes of their own for the peak of their memory.
"""

from __future__ import annotations

import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import page as made  # noqa: E402
from playwright.sync_api import sync_playwright  # noqa: E402

from edgekit.report import Report, html  # noqa: E402

OPENED, MANY, TIMES = 200, 10_000, 5


def make(path: Path) -> str:
    """The seconds for reading a run and for writing its page, and the peak of this process's memory after each."""
    told = []
    begun = time.perf_counter()
    report = Report.load(path)
    for what in ("read", "page written"):
        if what != "read":
            html.write(report)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        told.append(f"{what} after {time.perf_counter() - begun:.2f} s (peak {peak} MiB)")
    return ", ".join(told)


def opened(path: Path) -> list[tuple[float, ...]]:
    """Seconds from the navigation to the first and to the last chart, by the browser's clock, each in a fresh browser."""
    found = []
    with sync_playwright() as driver:
        for _ in range(TIMES):
            browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page()
            page.goto(path.as_uri())
            page.wait_for_selector("html[data-drawn]")
            marks = [
                page.evaluate(f"performance.getEntriesByName('{name}')[0].startTime") for name in ("chart", "drawn")
            ]
            found.append(tuple(mark / 1000 for mark in marks))
            browser.close()
    return found


def main(*args: str) -> None:
    """Print the figures; with a run's folder, make its page in this process."""
    if args:
        print(make(Path(args[0])))
        return
    with tempfile.TemporaryDirectory() as folder:
        for count in (OPENED, MANY // 10, MANY):
            place = Path(folder) / str(count)
            path = made.write(place, [])
            with (path / "measurements.jsonl").open("w") as stream:
                for number in range(count):
                    line = made.line(number)
                    if count > OPENED:
                        del line["operators"], line["sustained"]
                    stream.write(json.dumps(line) + "\n")
            own = [sys.executable, __file__, str(path)]
            print(
                f"{count} cells: {subprocess.run(own, check=True, capture_output=True, text=True).stdout.strip()}",
                end="",
            )
            print(f", page {(path / html.NAME).stat().st_size / 1e6:.2f} MB")
            if count == OPENED:
                for what, times in zip(
                    ("first chart", "all charts"), zip(*opened(path / html.NAME), strict=True), strict=True
                ):
                    told = f"median {statistics.median(times):.2f} s, {min(times):.2f} to {max(times):.2f} s"
                    print(f"{count} cells opened: {what} after {told}")
            shutil.rmtree(place)


if __name__ == "__main__":
    main(*sys.argv[1:])
