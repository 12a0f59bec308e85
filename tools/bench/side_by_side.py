"""What the benches share: two programs run by turns, their medians and the ratio of these."""

from __future__ import annotations

import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PUSH_LIMIT = 1.1
AGAIN_LIMIT_S = 1.0


def by_turns(rounds: int, **programs: Callable[[], float | None]) -> dict[str, list[float]]:
    """Run the programs by turns, `rounds` times each; the figure each returns, or the seconds it took."""
    figures: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            started = time.perf_counter()
            figure = program()
            figures[name].append(figure if figure is not None else time.perf_counter() - started)
    return figures


def seconds(action: Callable[[], object]) -> float:
    """How long an action takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def pushes(
    title: str,
    rounds: int,
    source: Path,
    megabytes: int,
    push: Callable[[], object],
    clear: Callable[[], object],
    **other: Callable[[], object],
) -> bool:
    """Our push of ever new content of `source` beside another program's, and a second push of the same; are the limits kept?"""

    def fresh(action: Callable[[], object]) -> float:
        with source.open("wb") as stream:
            for _ in range(megabytes):
                stream.write(os.urandom(1 << 20))
        clear()
        return seconds(action)

    programs = {name: functools.partial(fresh, action) for name, action in {"edgekit": push, **other}.items()}
    ratio = show(title, by_turns(rounds, **programs), "s", PUSH_LIMIT)
    push()
    again = statistics.median(seconds(push) for _ in range(rounds))
    print(f"  second push of the same: {again:.3f} s (limit {AGAIN_LIMIT_S:g} s)")
    return ratio <= PUSH_LIMIT and again <= AGAIN_LIMIT_S


def litert_benchmark(model: Path) -> float:
    """The median in ms that one process of LiteRT's own benchmark reports with its defaults (5 runs of warm-up, 50 timed ones).

    It rounds to hundredths of a millisecond, which says nothing of a small model: its figures are taken before that.
    """
    program = "import ai_edge_litert.tools.benchmark_litert_model as m; m.round = lambda value, digits: value; m.main()"
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "told.json"
        argv = [sys.executable, "-c", program, "--model", model, "--result_json", told]
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return float(json.loads(told.read_text("utf-8"))["latency"]["median_ms"])


def show(title: str, figures: dict[str, list[float]], unit: str, limit: float) -> float:
    """Print each program's runs and median, and the ratio of the first to the second beside its limit; that ratio."""
    print(title)
    medians = {name: statistics.median(values) for name, values in figures.items()}
    for name, values in figures.items():
        print(
            f"  {name:<12} median {medians[name]:9.3f} {unit}   runs: {', '.join(f'{value:.3f}' for value in values)}"
        )
    first, second = list(medians)[:2]
    ratio = medians[first] / medians[second]
    print(f"  {first} / {second} = {ratio:.3f}   (must hold: <= {limit})")
    return ratio
