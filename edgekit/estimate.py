"""An estimate of a real board's latency from what is counted on its emulated twin, and the fit that it rests on.

    latency = call + byte * (bytes of the model file) + instruction * (all instructions) + fp_fma * (FP multiply-adds)

The coefficients are fitted to published measurements of the board, which stand in its profile ([estimate]); tools/fit_estimate.py
fits them. What no published figure speaks for is refused, not guessed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgekit.agent.protocol import INSTRUCTION_CLASSES
from edgekit.types import Json

METHOD = "fitted to published measurements: a constant, bytes of the model file, instructions, FP multiply-adds"
TERMS = ("call", "byte", "instruction", "fp_fma")
REACH = 2.0  # a count may be so many times beyond the largest point, or below the smallest
MIX = 0.10  # a class's share of the instructions may be so far outside that of the points
RANGES = {"size_bytes": "model file of {value:.3g} MB", "total": "{value:.3g} M instructions"}


def of(cell: Json, device: Json) -> Json | None:
    """The estimate for a cell in its machine form, by its device's; None where there is nothing to estimate from.

    {"latency_ns", "error", "low_ns", "high_ns", "method", "sources"}, or {"refused": why}. `error` is relative: the largest that
    leaving a model out of the fit leads to, with what the rounding of the published figures may add, and no less than what else
    is known of the law.
    """
    section = device.get("estimate")
    if not section or not device.get("emulated") or "instructions" not in cell or "artifact" not in cell:
        return None
    point = {"precision": cell["precision"], "size_bytes": cell["artifact"]["size_bytes"], **cell["instructions"]}
    reason = refusal(cell, point, section)
    if reason:
        return {"refused": reason}
    latency, error = predict(section["coefficients"], point), section["error"]
    if not 0 <= error < 1:
        return {"refused": f"the law that was fitted to this board's figures may miss by {error:.0%}"}
    return {
        "latency_ns": round(latency),
        "error": error,
        "low_ns": round(latency / (1 + error)),
        "high_ns": round(latency / (1 - error)),
        "method": METHOD,
        "sources": list(section["sources"]),
    }


def refusal(cell: Json, point: Mapping[str, Any], section: Mapping[str, Any]) -> str | None:
    """Why no published figure speaks for a cell; None when some do."""
    if cell["runtime"] != section["runtime"] or cell["threads"] != section["threads"]:
        return f"figures of the board are published for {section['runtime']} with {section['threads']} threads only"
    if cell.get("batch", 1) != 1:
        return "the published figures are of single inputs"
    points = [known for known in section["points"] if known["precision"] == cell["precision"]]
    if not points:
        known = sorted({str(known["precision"]) for known in section["points"]})
        return f"no figure is published for {cell['precision']}, only for {' and '.join(known)}"
    for key, words in RANGES.items():
        low, high = min(known[key] for known in points) / REACH, max(known[key] for known in points) * REACH
        if not low <= point[key] <= high:
            what = words.format(value=point[key] / 1e6)
            return f"a {what} is outside {low / 1e6:.3g} to {high / 1e6:.3g}, for which figures are published"
    for name in INSTRUCTION_CLASSES[1:]:
        if any(name not in one for one in (point, *points)):
            continue  # of a 32-bit guest the total alone is known
        shares = [known[name] / known["total"] for known in points]
        share = point[name] / point["total"]
        if not min(shares) - MIX <= share <= max(shares) + MIX:
            told = f"{min(shares):.0%} to {max(shares):.0%}"
            return f"{share:.0%} of the instructions are {name}, and {told} of those that figures are published for"
    return None


def terms(point: Mapping[str, Any]) -> dict[str, float]:
    """What each coefficient is multiplied by: 1, bytes, instructions, FP multiply-adds of one inference."""
    return {
        "call": 1.0,
        "byte": float(point["size_bytes"]),
        "instruction": float(point["total"]),
        "fp_fma": float(point.get("fp_fma", 0)),
    }


def predict(coefficients: Mapping[str, float], point: Mapping[str, Any]) -> float:
    """The latency in ns by coefficients in ns per unit of each term."""
    values = terms(point)
    return sum(coefficient * values[name] for name, coefficient in coefficients.items())


def fit(points: Sequence[Mapping[str, Any]], names: Sequence[str] = TERMS) -> dict[str, float]:
    """The coefficients >= 0, in ns, with the least squares of the relative error over points with a `latency_ms`.

    Non-negative least squares (Lawson and Hanson 1974, chapter 23), here by trying every subset of so few terms.
    """
    import numpy as np

    rows = [[terms(point)[name] / (point["latency_ms"] * 1e6) for name in names] for point in points]
    matrix, ones = np.array(rows), np.ones(len(points))
    best, chosen = float("inf"), dict.fromkeys(names, 0.0)
    for size in range(1, min(len(names), len(points)) + 1):
        for subset in itertools.combinations(range(len(names)), size):
            scale = np.abs(matrix[:, subset]).max(axis=0) + 1e-300
            found, *_ = np.linalg.lstsq(matrix[:, subset] / scale, ones, rcond=None)
            error = float(((matrix[:, subset] / scale @ found - 1) ** 2).sum())
            if (found >= 0).all() and error < best:
                best = error
                values = dict(zip(subset, found / scale, strict=True))
                chosen = {name: float(values.get(place, 0.0)) for place, name in enumerate(names)}
    return chosen


def left_out(points: Sequence[Mapping[str, Any]], names: Sequence[str] = TERMS) -> Iterator[float]:
    """For each point, the relative error of its estimate by a fit without its model, in whatever precision that was."""
    for point in points:
        others = [other for other in points if other["model"] != point["model"]]
        yield predict(fit(others, names), point) / (point["latency_ms"] * 1e6) - 1


def error_of(points: Sequence[Mapping[str, Any]], unit_ms: float, names: Sequence[str] = TERMS) -> float:
    """The error to state: the largest of left_out() and what the rounding of the published figure to `unit_ms` may add to it."""
    pairs = zip(left_out(points, names), points, strict=True)
    return max(abs(error) + unit_ms / 2 / float(point["latency_ms"]) for error, point in pairs)
