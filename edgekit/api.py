"""The Python API: the same work as the command line, returning the same report as an object."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from edgekit import bench, plan, store
from edgekit.report import Report

T = TypeVar("T")


def profile(
    model: str | Path | None = None,
    device: str | Path | None = None,
    runtimes: str | Sequence[str] | None = None,
    precisions: str | Sequence[str] = plan.PRECISIONS,
    threads: int | Sequence[int] = plan.THREADS,
    samples: int | None = None,
    output: str | Path = "results",
    resume: str | None = None,
    effort: dict[str, float] | None = None,
    say: Callable[[str], None] | None = None,
) -> Report:
    """Measure a model on a device and return the report; the run is also written below `output`.

    `model` is a recipe's name or the path of a recipe file (digits_cnn when left out), `device` a profile's name or the
    path of a .toml file (pi4 when left out). `runtimes` defaults to all of the device's; `samples` limits the held-out
    inputs; `resume` finishes an earlier run of that name; `effort` overrides fields of `plan.Effort`; `say` receives a
    line for each step. Raises UserError, SetupError, DeviceError, or ConvertError when the recipe's data cannot be made;
    a cell that fails is a row of the report with its error, not an exception.
    """
    request = plan.Request(
        model=str(model) if model is not None else None,
        device=str(device) if device is not None else None,
        runtimes=several(runtimes, str) if runtimes is not None else None,
        precisions=several(precisions, str),
        threads=several(threads, int),
        samples=samples,
        output=Path(output),
        resume=resume,
        effort=dict(effort or {}),
    )
    return Report.of(bench.run(request, say or (lambda _: None)))


def several(value: T | Sequence[T], kind: type[T]) -> tuple[T, ...]:
    """One value or several, as a tuple."""
    return (value,) if isinstance(value, kind) else tuple(value)  # type: ignore[arg-type]


def load_report(run: str | Path, output: str | Path = "results") -> Report:
    """The report of a run on disk, by path, by name, by the beginning of its name, or "last". Raises UserError."""
    return Report.of(store.Run.load(store.find(Path(output), str(run))))
