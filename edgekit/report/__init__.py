"""A run as something to read: the machine form of each cell, what is weak about it, and the table. Pure functions of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgekit import stats, store
from edgekit.caveats import caveat
from edgekit.types import Json, to_json


@dataclass(frozen=True)
class Report:
    """A finished (or interrupted) run. `cells` are the cells in their machine form, `warnings` those of the whole run."""

    run: str
    path: Path
    schema: int
    header: Json
    cells: list[Json]
    warnings: list[Json]

    @classmethod
    def of(cls, run: store.Run) -> Report:
        """The report of a run."""
        cells = [summary(line, bool(run.header["device"]["emulated"])) for line in run.lines]
        compare_precisions(cells)
        warnings = []
        if run.header["device"]["emulated"] and any("latency" in cell for cell in cells):
            warnings.append(to_json(caveat("emulated-latency")))
        if run.torn:
            warnings.append(to_json(caveat("torn-line")))
        return cls(run.path.name, run.path, int(run.header["schema"]), run.header, cells, warnings)

    def to_json(self) -> Json:
        """The machine form: schema, run, warnings, cells, and the plan and device they belong to."""
        form: Json = {"schema": self.schema, "run": self.run}
        form |= {
            key: self.header[key] for key in ("started", "edgekit", "device", "plan", "host") if key in self.header
        }
        return {**form, "warnings": self.warnings, "cells": self.cells}

    @property
    def failed(self) -> list[Json]:
        """The cells that failed; unsupported ones are an answer, not a failure."""
        return [cell for cell in self.cells if cell["status"] == "failed"]


def summary(line: Json, emulated: bool) -> Json:
    """One measurement's machine form. What was not measured is absent."""
    cell = line["cell"]
    result: Json = {
        "id": line["id"],
        **{key: cell[key] for key in ("model", "format", "precision", "runtime", "device", "threads")},
        "status": line["status"],
        "error": line.get("error"),
        "warnings": list(line.get("warnings", ())),
    }
    launches = line.get("launches", ())
    if line["status"] == "ok":
        result["latency"] = stats.latency(launches, emulated)
        result["instructions"] = stats.instructions(launches)
        result["memory"] = line.get("memory")
    for key in ("accuracy", "fidelity", "artifact"):
        result[key] = line.get(key)
    delegation = (line.get("artifact") or {}).get("details", {})
    if delegation.get("delegated_share", 1) < 1:
        figures = {"delegated": delegation["delegated_ops"], "total": delegation["total_ops"]}
        result["warnings"].append(to_json(caveat("partial-delegation", **figures)))
    greeting = line.get("environment", {}).get("greeting", {})
    if launches:
        result["runtime_version"] = launches[0].get("version")
    result["system"] = greeting.get("system")
    return {key: value for key, value in result.items() if value is not None or key == "error"}


def compare_precisions(cells: list[Json]) -> None:
    """Add to each int8 cell what its fp32 sibling (same runtime and threads) tells about it."""
    floats = {(c["runtime"], c["threads"]): c for c in cells if c["precision"] == "fp32" and c["status"] == "ok"}
    for cell in cells:
        sibling = floats.get((cell["runtime"], cell["threads"]))
        if sibling is None or not cell["precision"].startswith("int8") or cell["status"] != "ok":
            continue
        share = cell["artifact"]["size_bytes"] / sibling["artifact"]["size_bytes"]
        if share > 0.8:
            cell["warnings"].append(to_json(caveat("int8-not-smaller", share=share)))
        # Only by time: an int8 instruction and an fp32 one cost differently, so their counts decide nothing here.
        if not cell["latency"]["emulated"]:
            ratio = cell["latency"]["p50_ns"] / sibling["latency"]["p50_ns"]
            if ratio > 1.02:
                cell["warnings"].append(to_json(caveat("int8-slower", ratio=ratio)))
