"""Bench: `kill -9` at any moment of a run of 50 cells on the fake runtime, and what is left of the finished cells.

    .venv/bin/python tools/bench/kill.py [--times 100] [--seed 0]

The run is killed after a random time, looked at, resumed, killed again, and so on; when it is at its end, the next one begins.
Ends with exit code 1 when a cell that was finished has no line, or another one than before.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from edgekit import store
from edgekit.report import Report

ROOT = Path(__file__).resolve().parents[2]
FAKES = ROOT / "tests" / "fakes"
CELLS = 50
LONGEST_S = 2.5  # a start takes one, the fifty cells another; so every stretch of the run is met


def start(folder: Path, resume: bool) -> tuple[int, str]:
    """Run it, or go on with the last one, and kill it at a random moment; exit code (-9 of one that was killed), stderr."""
    command = [sys.executable, "-m", "edgekit", "profile", str(FAKES / "models" / "fake_identity.py")]
    command += ["--device", "board.toml", "--wait"]
    command += ["--resume", "last"] if resume else ["--threads", ",".join(str(n) for n in range(1, CELLS // 2 + 1))]
    environment = {**os.environ, "EDGEKIT_CACHE_DIR": str(folder / "cache"), "PYTHONPATH": str(ROOT)}
    with (folder / "stderr").open("w+") as said:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=said)
        try:
            process.wait(random.uniform(0.0, LONGEST_S))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        said.seek(0)
        return process.returncode, said.read()


def look(folder: Path, before: list[dict[str, object]], said: str) -> list[dict[str, object]]:
    """The lines of the run that was killed. Raises AssertionError when a finished cell is not among them as it was."""
    paths = sorted(store.all_runs(folder / "results"))
    if not paths:
        assert "cell " not in said, "a cell was begun, and there is no run"
        return []
    run = store.Run.load(paths[-1])
    begun = [int(number) for number in re.findall(rf"cell (\d+) of {CELLS}:", said)]
    assert len(run.lines) >= max(begun, default=1) - 1, f"{len(run.lines)} lines, and cell {begun[-1]} was begun"
    assert run.lines[: len(before)] == before, "a line of before is another one now"
    assert len(run.done()) == len(run.lines) <= CELLS
    codes = {warning["code"] for warning in Report.load(run.path).warnings}
    assert ("torn-line" in codes or "unfinished" in codes) == (len(run.lines) < CELLS)
    return list(run.lines)


def main() -> int:
    """Kill, look, resume."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=100, help="how often it is killed (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments (default: 0)")
    args = parser.parse_args()
    random.seed(args.seed)
    killed = finished = lost = 0
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="edgekit-kill-") as name:
        folder = Path(name)
        os.environ["EDGEKIT_CACHE_DIR"] = str(folder / "cache")
        device = (FAKES / "devices" / "fake.toml").read_text("utf-8").replace("threads = 16", f"threads = {CELLS // 2}")
        (folder / "board.toml").write_text(device, "utf-8")
        lines: list[dict[str, object]] = []
        while killed < args.times:
            code, said = start(folder, resume=any(store.all_runs(folder / "results")))
            if code not in (0, -9):
                print(f"it ended by itself, with exit code {code}:\n{said}", file=sys.stderr)
                return 1
            killed += code == -9
            try:
                lines = look(folder, lines, said)
            except AssertionError as error:
                lost += 1
                print(f"after kill {killed}: {error}", file=sys.stderr)
            if code == 0 or len(lines) == CELLS:
                finished += 1
                lines = []
                (folder / "results").rename(folder / f"results-{finished}")
    seconds = time.monotonic() - begun
    print(
        f"killed {killed} times, {finished} runs of {CELLS} cells finished, {lost} times a cell was lost, {seconds:.0f} s"
    )
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
