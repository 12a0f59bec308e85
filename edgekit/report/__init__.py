"""A run as something to read: the machine form of each cell, what is weak about it, and the table. Pure functions of a run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgekit import stats, store
from edgekit.caveats import caveat
from edgekit.types import Caveat, Json, to_json

SLOWER = 1.05  # a smaller difference may be the noise of a machine that nobody has calibrated


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
    result["warnings"] += [to_json(found) for found in artifact_caveats(cell["precision"], line.get("artifact"))]
    greeting = line.get("environment", {}).get("greeting", {})
    if launches:
        result["runtime_version"] = launches[0].get("version")
    result["system"] = greeting.get("system")
    return {key: value for key, value in result.items() if value is not None or key == "error"}


def artifact_caveats(precision: str, artifact: Json | None) -> Iterator[Caveat]:
    """What its converter found out about an artifact that weakens its figures."""
    details = artifact["details"] if artifact else {}
    if details.get("delegated_share", 1) < 1:
        yield caveat("partial-delegation", delegated=details["delegated_ops"], total=details["total_ops"])
    if details.get("not_quantized"):
        figures = {"count": details["not_quantized"], "total": details["total_ops"], "what": "operators"}
        yield caveat("partly-float", precision=precision, **figures)
    elif details.get("quantized_layers", 0) < details.get("layers", 0) and precision != "fp32":
        figures = {
            "count": details["layers"] - details["quantized_layers"],
            "total": details["layers"],
            "what": "layers",
        }
        yield caveat("partly-float", precision=precision, **figures)


def compare_precisions(cells: list[Json]) -> None:
    """Add to each int8 cell that was timed on a real device whether it is slower than its fp32 sibling.

    Only by time: an int8 instruction and an fp32 one cost differently, so their counts decide nothing here.
    """
    floats = {(c["runtime"], c["threads"]): c for c in cells if c["precision"] == "fp32" and "latency" in c}
    for cell in cells:
        sibling = floats.get((cell["runtime"], cell["threads"]))
        if sibling is None or not cell["precision"].startswith("int8") or "latency" not in cell:
            continue
        ratio = cell["latency"]["p50_ns"] / sibling["latency"]["p50_ns"]
        if ratio > SLOWER and not cell["latency"]["emulated"]:
            cell["warnings"].append(to_json(caveat("int8-slower", ratio=ratio)))
