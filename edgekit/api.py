"""The Python API: the same work as the command line, returning the same report as an object."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from edgekit import bench, plan, store
from edgekit.report import Report


def profile(
    model: str | Path = "digits_cnn",
    device: str | Path = "pi4",
    runtimes: Sequence[str] | None = None,
    precisions: Sequence[str] = ("fp32", "int8"),
    threads: Sequence[int] = (1,),
    samples: int | None = None,
    output: str | Path = "results",
    resume: str | None = None,
    effort: dict[str, float] | None = None,
    say: Callable[[str], None] | None = None,
) -> Report:
    """Measure a model on a device and return the report; the run is also written below `output`.

    `model` is a recipe's name or the path of a recipe file, `device` a profile's name or the path of a .toml file.
    `runtimes` defaults to all of the device's; `samples` limits the held-out inputs; `resume` finishes an earlier run
    of that name; `effort` overrides fields of `plan.Effort`; `say` receives a line for each step.
    Raises UserError, SetupError or DeviceError; a cell that fails is a row of the report with its error, not an exception.
    """
    request = plan.Request(
        model=str(model),
        device=str(device),
        runtimes=tuple(runtimes) if runtimes is not None else None,
        precisions=tuple(precisions),
        threads=tuple(threads),
        samples=samples,
        output=Path(output),
        resume=resume,
        effort=dict(effort or {}),
    )
    return Report.of(bench.run(request, say or (lambda _: None)))


def load_report(run: str | Path, output: str | Path = "results") -> Report:
    """The report of a run on disk, by path, by name, by the beginning of its name, or "last". Raises UserError."""
    return Report.of(store.Run.load(store.find(Path(output), str(run))))
