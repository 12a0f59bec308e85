"""A run as something to read: the machine form of each cell, what is weak about it, and the table. Pure functions of a run."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit import estimate, stats, store
from edgekit.caveats import caveat
from edgekit.errors import EdgekitError
from edgekit.report import damage, siblings
from edgekit.report.cells import ALIKE, Cells, append, tell
from edgekit.report.siblings import Timed
from edgekit.types import Caveat, Json, to_json

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Report:
    """A finished (or interrupted) run. `cells` are the cells in their machine form, `warnings` those of the whole run.

    `noise` is the A/A noise of a device that was calibrated here (noise.py). Of a run with thousands of cells, they are packed
    (cells.py).
    """

    run: str
    path: Path
    schema: int
    header: Json
    cells: Sequence[Json]
    warnings: list[Json]
    noise: Json | None = None

    @classmethod
    def load(cls, path: Path) -> Report:
        """The report of a run on the disk, read line by line. Raises UserError."""
        return cls.of(store.Stored.open(path))

    @classmethod
    def of(cls, run: store.Run | store.Stored) -> Report:
        """The report of a run. Raises UserError for one that is damaged."""
        damage.check_header(run.path, run.header)
        target = run.header["plan"].get("effort", {}).get("target", 0.0)
        device = run.header["device"]
        checked = damage.Checked(run.path)
        known: Json = {}
        cells: list[Json] | Cells = []
        timed: list[Timed] = []
        noise = None
        for place, line in enumerate(run.lines):
            cell = shared(checked.cell(line["id"], functools.partial(described, line, device, target)), known)
            timed += [fact] if (fact := Timed.of(place, cell)) else []
            cells = append(cells, cell)
            noise = noise or line.get("environment", {}).get("noise")
        for compared in (siblings.of_precisions, siblings.of_runtimes):
            for place, warning in compared(timed):
                tell(cells, place, warning)
        warnings = []
        if device["emulated"] and timed:
            counted = device.get("transport", "emulator") == "emulator"
            warnings.append(to_json(caveat("emulated-latency") if counted else caveat("uncounted-latency")))
        if run.torn:
            warnings.append(to_json(caveat("torn-line")))
        elif (planned := len(run.header["plan"].get("cells", ()))) > len(cells):
            warnings.append(to_json(caveat("unfinished", done=len(cells), total=planned)))
        return cls(run.path.name, run.path, int(run.header["schema"]), run.header, cells, warnings, noise)

    def to_json(self) -> Json:
        """The machine form: schema, run, warnings, cells, and the plan and device they belong to."""
        form: Json = {"schema": self.schema, "run": self.run}
        form |= {
            key: self.header[key]
            for key in ("started", "edgekit", "device", "plan", "data", "host")
            if key in self.header
        }
        form |= {"noise": self.noise} if self.noise else {}
        return {**form, "warnings": self.warnings, "cells": list(self.cells)}

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

    @functools.cached_property
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


def described(line: Json, device: Json, target: float) -> Json:
    """One measurement's machine form, with the estimate of a real board's latency where there is one."""
    cell = summary(line, device["emulated"], target)
    return cell | {"estimate": found} if (found := estimate.of(cell, device)) else cell


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
    """A cell whose parts that are as in the cell before are the same objects: thousands of cells then need little memory."""
    for key, value in cell.items():
        if isinstance(value, str):
            cell[key] = sys.intern(value)
        elif key in ALIKE and known.setdefault(key, value) == value:
            cell[key] = known[key]
        else:
            known[key] = value
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
    return siblings.apart(slow["latency"].get("low_ns"), fast["latency"].get("high_ns"))
