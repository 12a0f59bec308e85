"""Estimates of a real board's latency, as a column and lines for people. Pure functions of reports."""

from __future__ import annotations

from edgekit.report import Reports, words
from edgekit.types import Json


def value(cell: Json) -> str:
    """What the column shows: the estimate with its error, nothing where there is none."""
    found = cell.get("estimate", {})
    if "latency_ns" not in found:
        return ""
    return f"{words.duration(found['latency_ns'])} \N{PLUS-MINUS SIGN}{words.percent(found['error'])}"


def lines(found: Reports) -> list[str]:
    """What the estimates rest on, and why cells have none."""
    given: dict[str, None] = {}
    refused: dict[str, list[str]] = {}
    for cell in found.cells:
        estimate = cell.get("estimate", {})
        if "refused" in estimate:
            refused.setdefault(estimate["refused"], []).append(words.label(cell, found))
        for source in estimate.get("sources", ()):
            given[f"estimated: the real board's latency, {estimate['method']} ({source})"] = None
    for reason, cells in refused.items():
        where = "" if len(cells) == len(found.cells) else f"{', '.join(cells)}: "
        given[f"not estimated: {where}{reason}"] = None
    return list(given)
