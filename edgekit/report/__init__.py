"""A run as something to read: the machine form of each cell, what is weak about it, and the table. Pure functions of a run."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit import estimate, stats, store
from edgekit.caveats import caveat
from edgekit.errors import EdgekitError
from edgekit.types import Caveat, Json, to_json

if TYPE_CHECKING:
    import pandas

SLOWER_RUNTIME = 1.25  # below this, versions of the same kernels differ as well
SLOWER = 1.05  # a smaller difference is the noise of many machines, and worth nobody's while


@dataclass(frozen=True)
class Report:
    """A finished (or interrupted) run. `cells` are the cells in their machine form, `warnings` those of the whole run.

    `noise` is the A/A noise of a device that was calibrated here (noise.py).
    """

    run: str
    path: Path
    schema: int
    header: Json
    cells: list[Json]
    warnings: list[Json]
    noise: Json | None = None

    @classmethod
    def load(cls, path: Path) -> Report:
        """The report of a run on the disk, read line by line. Raises UserError."""
        return cls.of(store.Stored.open(path))

    @classmethod
    def of(cls, run: store.Run | store.Stored) -> Report:
        """The report of a run."""
        target = run.header.get("plan", {}).get("effort", {}).get("target", 0.0)
        emulated = bool(run.header["device"]["emulated"])
        known: Json = {}
        cells = [shared(summary(line, emulated, target), known) for line in run.lines]
        compare_precisions(cells)
        compare_runtimes(cells)
        warnings = []
        device = run.header["device"]
        for cell in cells:
            cell |= {"estimate": found} if (found := estimate.of(cell, device)) else {}
        if device["emulated"] and any("latency" in cell for cell in cells):
            counted = device.get("transport", "emulator") == "emulator"
            warnings.append(to_json(caveat("emulated-latency") if counted else caveat("uncounted-latency")))
        if run.torn:
            warnings.append(to_json(caveat("torn-line")))
        elif (planned := len(run.header["plan"].get("cells", ()))) > len(cells):
            warnings.append(to_json(caveat("unfinished", done=len(cells), total=planned)))
        return cls(run.path.name, run.path, int(run.header["schema"]), run.header, cells, warnings, noise_of(run))

    def to_json(self) -> Json:
        """The machine form: schema, run, warnings, cells, and the plan and device they belong to."""
        form: Json = {"schema": self.schema, "run": self.run}
        form |= {
            key: self.header[key]
            for key in ("started", "edgekit", "device", "plan", "data", "host")
            if key in self.header
        }
        form |= {"noise": self.noise} if self.noise else {}
        return {**form, "warnings": self.warnings, "cells": self.cells}

    def to_dataframe(self) -> pandas.DataFrame:
        """A row per cell, with the columns of report/columns.py. Raises SetupError without pandas."""
        from edgekit.report import frame

        return frame.dataframe([self])

    @property
    def failed(self) -> list[Json]:
        """The cells that failed; unsupported ones are an answer, not a failure."""
        return [cell for cell in self.cells if cell["status"] == "failed"]


@dataclass(frozen=True)
class Reports:
    """The same profile on several devices: a report for each, and by the name of a device the error that ended its run early."""

    reports: list[Report]
    errors: dict[str, EdgekitError]

    def to_json(self) -> Json:
        """The machine form: schema, and the reports with their device's "error" where there was one."""
        forms = [report.to_json() for report in self.reports]
        for form in forms:
            error = self.errors.get(form["device"]["name"])
            form |= {"error": {"message": error.message, "hint": error.hint}} if error else {}
        return {"schema": store.SCHEMA, "reports": forms}

    def to_dataframe(self) -> pandas.DataFrame:
        """The cells of all devices as one table: see Report.to_dataframe."""
        from edgekit.report import frame

        return frame.dataframe(self.reports)

    @property
    def path(self) -> Path:
        """The folder in which the runs lie."""
        return self.reports[0].path.parent

    @property
    def cells(self) -> list[Json]:
        """The cells of all devices, one device after another."""
        return [cell for report in self.reports for cell in report.cells]

    @functools.cached_property
    def threads_differ(self) -> bool:
        """Whether the cells were not all measured with as many threads."""
        return len({cell["threads"] for cell in self.cells}) > 1

    @functools.cached_property
    def batches_differ(self) -> bool:
        """Whether the cells were not all measured with as many inputs per call."""
        return len({cell.get("batch", 1) for cell in self.cells}) > 1

    @property
    def failed(self) -> list[Json]:
        """The cells that failed, on all devices."""
        return [cell for report in self.reports for cell in report.failed]


def noise_of(run: store.Run | store.Stored) -> Json | None:
    """The A/A noise of the run's device, as it was known when the run was made; None where nobody had calibrated it."""
    known = (line.get("environment", {}).get("noise") for line in run.lines)
    return next((found for found in known if found), None)


def summary(line: Json, emulated: bool, target: float = 0.0) -> Json:
    """One measurement's machine form; `target` is the width its interval was to have. What was not measured is absent."""
    cell = line["cell"]
    result: Json = {
        "id": line["id"],
        **{key: cell[key] for key in ("model", "format", "precision", "runtime", "device", "threads")},
        "status": line["status"],
        "error": line.get("error"),
        "warnings": list(line.get("warnings", ())),
    }
    if "batch" in (options := dict(cell.get("options", ()))):
        result["batch"] = int(options["batch"])
    launches = line.get("launches", ())
    drift = line.get("environment", {}).get("noise", {}).get("drift", 0.0)
    if line["status"] == "ok":
        result["latency"] = stats.latency(launches, emulated, target, drift)
        result["instructions"] = stats.instructions(launches)
        result["memory"] = line.get("memory")
    for key in ("accuracy", "fidelity", "artifact", "operators", "sustained", "energy"):
        result[key] = line.get(key)
    result["warnings"] += [to_json(found) for found in artifact_caveats(cell["precision"], line.get("artifact"))]
    greeting = line.get("environment", {}).get("greeting", {})
    if launches:
        result["runtime_version"] = launches[0].get("version")
    result["system"] = greeting.get("system")
    return {key: value for key, value in result.items() if value is not None or key == "error"}


def shared(cell: Json, known: Json) -> Json:
    """A cell whose descriptions that are as in the cell before are the same objects: thousands of cells then need little memory."""
    for place in (cell, cell.get("artifact", {})):
        for key in ("system", "inputs", "outputs", "made_with", "details"):
            if key in place:
                place[key] = known[key] if known.get(key) == place[key] else place[key]
                known[key] = place[key]
    return cell


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
    else:
        share = details.get("weights_half_share" if precision in ("fp16", "bf16") else "weights_quantized_share", 1.0)
        if precision != "fp32" and share < 0.99:
            yield caveat("weights-kept", share=share, precision=precision)
    if details.get("slow_kernels"):
        yield caveat("slow-kernels", what=details["slow_kernels"])


def apart(slow: Json, fast: Json) -> bool:
    """Whether the intervals of two cells' latencies leave no doubt which is slower; cells of one launch have none."""
    if "low_ns" not in slow["latency"] or "high_ns" not in fast["latency"]:
        return True
    return bool(slow["latency"]["low_ns"] > fast["latency"]["high_ns"])


def call_of(cell: Json) -> tuple[str, int, int]:
    """What cells have in common that differ in their precision alone: the runtime, the threads, the inputs per call."""
    return str(cell["runtime"]), int(cell["threads"]), int(cell.get("batch", 1))


def compare_precisions(cells: list[Json]) -> None:
    """Add to each cell of a smaller precision that was timed on a real device whether it is slower than its fp32 sibling.

    Only by time: an int8 instruction and an fp32 one cost differently, so their counts decide nothing here.
    """
    floats = {call_of(c): c for c in cells if c["precision"] == "fp32" and "latency" in c}
    for cell in cells:
        sibling = floats.get(call_of(cell))
        if sibling is None or cell is sibling or "latency" not in cell:
            continue
        ratio = cell["latency"]["p50_ns"] / sibling["latency"]["p50_ns"]
        if ratio > SLOWER and not cell["latency"]["emulated"] and apart(cell, sibling):
            cell["warnings"].append(to_json(caveat("slower-than-fp32", precision=cell["precision"], ratio=ratio)))


def compare_runtimes(cells: list[Json]) -> None:
    """Add to each cell that ran the very file of an earlier cell in another runtime whether it needs more for it.

    By time on a real device, by instructions on an emulated one: the same file in the same precision can be compared so.
    """
    earlier: dict[tuple[str, int], Json] = {}
    for cell in cells:
        if "latency" not in cell or "artifact" not in cell:
            continue
        first = earlier.setdefault((cell["artifact"]["sha256"], cell["threads"]), cell)
        if first["runtime"] == cell["runtime"] or first["precision"] != cell["precision"]:
            continue
        if not cell["latency"]["emulated"]:
            if not apart(cell, first):
                continue
            what, ratio = "time", cell["latency"]["p50_ns"] / first["latency"]["p50_ns"]
        elif "instructions" in cell and "instructions" in first:
            what, ratio = "instructions", cell["instructions"]["total"] / first["instructions"]["total"]
        else:
            continue
        if ratio > SLOWER_RUNTIME:
            found = caveat("slower-runtime", ratio=ratio, what=what, runtime=cell["runtime"], other=first["runtime"])
            cell["warnings"].append(to_json(found))
