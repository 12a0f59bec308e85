"""What the benches share: two programs run by turns, their medians and the ratio of these."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def by_turns(rounds: int, **programs: Callable[[], float | None]) -> dict[str, list[float]]:
    """Run the programs by turns, `rounds` times each; the figure each returns, or the seconds it took."""
    figures: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            started = time.perf_counter()
            figure = program()
            figures[name].append(figure if figure is not None else time.perf_counter() - started)
    return figures


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
