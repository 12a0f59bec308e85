"""Statistics of raw samples, computed on reading. Pure functions; numbers in, plain numbers out."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.agent.protocol import INSTRUCTION_CLASSES

TAIL_SAMPLES = {"p90_ns": (0.90, 20), "p95_ns": (0.95, 60), "p99_ns": (0.99, 300)}


def percentile(values: Sequence[float], share: float) -> float:
    """The `share` quantile by linear interpolation (Hyndman & Fan 1996, type 7, numpy's default)."""
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def latency(launches: Sequence[Mapping[str, Any]], emulated: bool) -> dict[str, Any] | None:
    """Latency per call in ns over all launches; tails only where the sample count bears them and nothing was batched."""
    per_call = [ns / launch["batch"] for launch in launches for ns in launch["samples_ns"]]
    if not per_call:
        return None
    result: dict[str, Any] = {"p50_ns": round(statistics.median(per_call)), "emulated": emulated}
    batch = max(launch["batch"] for launch in launches)
    if batch == 1:
        for name, (share, needed) in TAIL_SAMPLES.items():
            if len(per_call) >= needed:
                result[name] = round(percentile(per_call, share))
    result["samples"] = len(per_call)
    result["launches"] = len(launches)
    result["batch"] = batch
    result["first_ns"] = round(statistics.median(launch["first_ns"] for launch in launches))
    result["load_ns"] = round(statistics.median(launch["load_ns"] for launch in launches))
    return result


def instructions(launches: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Guest instructions of one inference by class: the median over all samples, the loop's own overhead taken off."""
    rows: list[list[float]] = []
    for launch in launches:
        overhead = launch.get("counter_overhead", [0] * len(INSTRUCTION_CLASSES))
        for row in launch.get("counts", ()):
            rows.append([(value - extra) / launch["batch"] for value, extra in zip(row, overhead, strict=True)])
    if not rows:
        return None
    medians = [max(0, round(statistics.median(column))) for column in zip(*rows, strict=True)]
    totals = [row[0] for row in rows]
    # The total comes first; of a 32-bit guest it is all that is known.
    result: dict[str, Any] = dict(zip(INSTRUCTION_CLASSES, medians, strict=False))
    result["spread"] = round((max(totals) - min(totals)) / medians[0], 6) if medians[0] else 0.0
    result["samples"] = len(rows)
    return result
