"""A report as TensorBoard reads it: a folder per run and cell, every figure a scalar, the samples of each launch a histogram."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from edgekit import stats, store
from edgekit.cache import disk_errors
from edgekit.errors import SetupError
from edgekit.report import Report
from edgekit.report.columns import COLUMNS
from edgekit.types import Json

HISTOGRAM = "samples_ns_per_call"
OURS = ".edgekit-"  # stands in the names of the files, before the hash of the measurement
LONGEST = 200  # characters of a folder name; file systems have room for 255 bytes


def write(report: Report, folder: Path) -> list[Path]:
    """Write FOLDER/RUN/CELL/events...; returns these folders. Raises SetupError without tensorboardX or room on the disk.

    Scalars have the columns' names and units (step 0; TensorBoard keeps seven digits of them). `samples_ns_per_call` is a
    histogram with the launch as its step, `sustained/p50_ns` a curve with the milliseconds since its start as its step. What was
    not measured is absent. A cell that was written before is left as it is, and written anew where it was measured anew since.
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise SetupError("tensorboardX is not installed", "pip install 'edgekit[tensorboard]'") from error
    made = []
    cells = {cell["id"]: cell for cell in report.cells}
    with disk_errors("the events of TensorBoard"):
        for line in store.Stored.open(report.path).lines:
            cell = cells.get(line["id"])
            place = folder / report.run / named(line["id"])
            made.append(place)
            suffix = f"{OURS}{hashlib.sha256(json.dumps(line, sort_keys=True).encode()).hexdigest()[:16]}"
            if cell is None or any(place.glob(f"events.out.tfevents.*{suffix}")):
                continue
            for earlier in place.glob(f"events.out.tfevents.*{OURS}*"):
                earlier.unlink()
            with SummaryWriter(str(place), filename_suffix=suffix) as writer:
                add(writer, cell, line)
    return made


def add(writer: object, cell: Json, line: Json) -> None:
    """All that is known of one cell."""
    for column in COLUMNS:
        value = column.of(cell)
        if column.number and value is not None:
            writer.add_scalar(column.name, value, 0)  # type: ignore[attr-defined]
    if cell["status"] == "ok":
        import numpy as np

        for number, samples in enumerate(stats.per_call(line.get("launches", ()))):
            writer.add_histogram(HISTOGRAM, np.array(samples), number)  # type: ignore[attr-defined]
    for window in cell.get("sustained", {}).get("windows", ()):
        writer.add_scalar("sustained/p50_ns", window["p50_ns"], round(1000 * window["end_s"]))  # type: ignore[attr-defined]
    text = "\n\n".join(f"{warning['code']}: {warning['message']}" for warning in cell["warnings"])
    if text:
        writer.add_text("warnings", text)  # type: ignore[attr-defined]


def named(cell_id: str) -> str:
    """A cell's id as one folder name: digits_cnn,int8,tflite@pi4+threads=1. One that cannot be told so has its hash behind it."""
    plain = cell_id.replace("/", ",")
    name = re.sub(r"[^\w.,@+=-]", "_", plain, flags=re.ASCII).lstrip(".")[:LONGEST]
    if name and name == plain:
        return name
    return f"{name or 'cell'}-{hashlib.sha256(cell_id.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
