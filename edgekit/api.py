"""The Python API: the same work as the command line, returning the same report as an object."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar, overload

from edgekit import abtest, bench, cache, files, fleet, plan, plugins, sources, store
from edgekit import convert as conversion
from edgekit.errors import UserError, unknown
from edgekit.report import Report, Reports
from edgekit.types import Artifact, Json

T = TypeVar("T")


@overload
def profile(
    model: str | Path | None = ...,
    device: str | Path | None = ...,
    runtimes: str | Sequence[str] | None = ...,
    precisions: str | Sequence[str] | None = ...,
    threads: int | Sequence[int] = ...,
    samples: int | None = ...,
    output: str | Path = ...,
    resume: str | None = ...,
    effort: dict[str, float] | None = ...,
    say: Callable[[str], None] | None = ...,
    inputs: Sequence[str] = ...,
    data: str | Path | None = ...,
    calibration: str | Path | None = ...,
    preprocess: str | None = ...,
    metric: str | None = ...,
    reference: str | Path | None = ...,
    trust: bool = ...,
    connection: Mapping[str, object] | None = ...,
    wait: bool = ...,
    level: str | None = ...,
    batches: int | Sequence[int] = ...,
    operators: bool = ...,
    require_full_delegation: bool = ...,
    sustained_s: float | None = ...,
    energy: bool = ...,
    power_meter: str | None = ...,
) -> Report: ...


@overload
def profile(
    model: str | Path | None = ...,
    device: list[str] | list[Path] | tuple[str | Path, ...] = ...,
    runtimes: str | Sequence[str] | None = ...,
    precisions: str | Sequence[str] | None = ...,
    threads: int | Sequence[int] = ...,
    samples: int | None = ...,
    output: str | Path = ...,
    resume: str | None = ...,
    effort: dict[str, float] | None = ...,
    say: Callable[[str], None] | None = ...,
    inputs: Sequence[str] = ...,
    data: str | Path | None = ...,
    calibration: str | Path | None = ...,
    preprocess: str | None = ...,
    metric: str | None = ...,
    reference: str | Path | None = ...,
    trust: bool = ...,
    connection: Mapping[str, object] | None = ...,
    wait: bool = ...,
    level: str | None = ...,
    batches: int | Sequence[int] = ...,
    operators: bool = ...,
    require_full_delegation: bool = ...,
    sustained_s: float | None = ...,
    energy: bool = ...,
    power_meter: str | None = ...,
) -> Reports: ...


def profile(
    model: str | Path | None = None,
    device: str | Path | list[str] | list[Path] | tuple[str | Path, ...] | None = None,
    runtimes: str | Sequence[str] | None = None,
    precisions: str | Sequence[str] | None = None,
    threads: int | Sequence[int] = plan.THREADS,
    samples: int | None = None,
    output: str | Path = "results",
    resume: str | None = None,
    effort: dict[str, float] | None = None,
    say: Callable[[str], None] | None = None,
    inputs: Sequence[str] = (),
    data: str | Path | None = None,
    calibration: str | Path | None = None,
    preprocess: str | None = None,
    metric: str | None = None,
    reference: str | Path | None = None,
    trust: bool = False,
    connection: Mapping[str, object] | None = None,
    wait: bool = False,
    level: str | None = None,
    batches: int | Sequence[int] = plan.BATCHES,
    operators: bool = False,
    require_full_delegation: bool = False,
    sustained_s: float | None = None,
    energy: bool = False,
    power_meter: str | None = None,
) -> Report | Reports:
    """Measure a model on a device and return the report; the run is also written below `output`.

    `model` is a recipe's name or file, `path.py:factory`, or a model file (digits_cnn when left out); `device` a profile's
    name or a .toml file (pi4 when left out). `runtimes` defaults to all of the device's, `precisions` to fp32 and int8, and
    both to what fits for a finished file. `samples` limits the held-out inputs; `resume` finishes an earlier run of that
    name; `effort` overrides fields of `plan.Effort`; `say` receives a line for each step. `inputs` are shapes
    ("1x3x224x224") of a model that does not tell them; `data`, `calibration` and `preprocess` are as in docs/data.md;
    `metric` is a name or "path.py:function"; `reference` is a model to compare outputs with; `trust` allows files that run
    code when they are opened. `connection` says where the device is ({"host": "pi@192.0.2.7"}: the keys of [connection] in
    a profile); `wait` waits while somebody else uses it. `level` is "quick" or "gate" (docs/measurement.md); `batches` are the
    inputs per call; `operators`, `sustained_s`, `energy` and `power_meter` measure more; `require_full_delegation` fails a cell
    of which an operator does not run on the fast backend. Raises UserError, SetupError, DeviceError, or ConvertError when the
    recipe's data cannot be made; a cell that fails is a row of the report with its error, not an exception.

    A list of devices is measured side by side, each in a run of its own, and gives Reports: a device that cannot be reached
    or is lost does not stop the others, and its error is in `errors`.
    """
    request = plan.Request(
        model=str(model) if model is not None else None,
        device=str(device) if isinstance(device, (str, Path)) else None,
        runtimes=several(runtimes, str) if runtimes is not None else None,
        precisions=several(precisions, str) if precisions is not None else None,
        threads=several(threads, int),
        samples=samples,
        output=Path(output),
        resume=resume,
        effort=dict(effort or {}),
        inputs=tuple(inputs),
        data=_text(data),
        calibration=_text(calibration),
        preprocess=preprocess,
        metric=metric,
        reference=_text(reference),
        trust=trust,
        connection=dict(connection or {}),
        wait=wait,
        level=level,
        batches=several(batches, int),
        operators=operators,
        require_full_delegation=require_full_delegation,
        sustained_s=sustained_s,
        energy=energy or power_meter is not None,
        power_meter=power_meter,
    )
    tell = say or (lambda _: None)
    if isinstance(device, (list, tuple)):
        return fleet.report(fleet.run(request, list(dict.fromkeys(map(str, device))), tell))
    return Report.of(bench.run(request, tell))


def several(value: T | Sequence[T], kind: type[T]) -> tuple[T, ...]:
    """One value or several, as a tuple."""
    return (value,) if isinstance(value, kind) else tuple(value)  # type: ignore[arg-type]


def ab(
    old: str | Path,
    new: str | Path | None = None,
    device: str | Path | None = None,
    runtimes: str | tuple[str, str] | None = None,
    precisions: str | tuple[str, str] | None = None,
    threads: int | tuple[int, int] = 1,
    samples: int | None = None,
    output: str | Path = "results",
    max_seconds: float | None = None,
    say: Callable[[str], None] | None = None,
    inputs: Sequence[str] = (),
    data: str | Path | None = None,
    calibration: str | Path | None = None,
    preprocess: str | None = None,
    metric: str | None = None,
    reference: str | Path | None = None,
    trust: bool = False,
    connection: Mapping[str, object] | None = None,
    wait: bool = False,
) -> abtest.Comparison:
    """Measure two models by turns on one device until it is clear which is faster; see docs/comparing.md for the verdicts.

    `old` and `new` are what `profile` takes as a model; `new` defaults to the same. `runtimes`, `precisions` and `threads` are
    one value for both or (old's, new's); the rest is as in `profile` and meant for both. `max_seconds` caps each of the at most
    two sessions. Raises UserError, SetupError and DeviceError, and ConvertError, AgentError or WrongOutput of either side.
    """

    def request(model: str | Path, index: int) -> plan.Request:
        return plan.Request(
            model=str(model),
            device=_text(device),
            runtimes=None if runtimes is None else (_of(runtimes, index),),
            precisions=None if precisions is None else (_of(precisions, index),),
            threads=(_of(threads, index),),
            samples=samples,
            output=Path(output),
            inputs=tuple(inputs),
            data=_text(data),
            calibration=_text(calibration),
            preprocess=preprocess,
            metric=metric,
            reference=_text(reference),
            trust=trust,
            connection=dict(connection or {}),
            wait=wait,
        )

    sides = request(old, 0), request(old if new is None else new, 1)
    return abtest.run(*sides, say or (lambda _: None), max_seconds)


def _of(value: T | tuple[T, T], index: int) -> T:
    """OLD's or NEW's, where they differ."""
    return value[index] if isinstance(value, tuple) else value


def load_report(run: str | Path, output: str | Path = "results") -> Report:
    """The report of a run on disk, by path, by name, by the beginning of its name, or "last". Raises UserError."""
    return Report.load(store.find(Path(output), str(run)))


def convert(
    model: str | Path,
    to: str,
    precision: str = "fp32",
    output: str | Path | None = None,
    options: Mapping[str, str] | None = None,
    inputs: Sequence[str] = (),
    data: str | Path | None = None,
    calibration: str | Path | None = None,
    preprocess: str | None = None,
    trust: bool = False,
    force: bool = False,
    say: Callable[[str], None] | None = None,
    batch: int | None = None,
) -> tuple[Path, Artifact]:
    """Convert a model to a format (a runtime's name will do) and write the file; its path and what is known of it.

    The file takes `batch` inputs per call, by default as many as the model.

    `output` defaults to MODEL_PRECISION with the format's suffix, here. `options` are the converter's, and "source", the
    framework to convert from. The rest is as in `profile`. Raises UserError when `output` is there already and not `force`;
    Unsupported, ConvertError and SetupError as `convert.artifact` does.
    """
    tell = say or (lambda _: None)
    if precision not in plan.ALL_PRECISIONS:
        raise unknown("precision", precision, plan.ALL_PRECISIONS)
    name = plan.ALIASES.get(to, to)
    if name not in plugins.names("converter") and name in plugins.names("runtime"):
        name = plugins.load("runtime", name).FORMATS[0]
    suffix = plugins.load("converter", name).SUFFIX
    source = sources.load(str(model), inputs, trust, tell)
    place = Path(output) if output is not None else Path(f"{source.name}_{precision}{suffix}")
    if place.suffix != suffix and not (suffix == "" and place.suffix == ""):
        raise UserError(f"{name} files end in '{suffix}', not '{place.suffix}'", "choose another name, or another --to")
    if place.exists() and place.is_dir() != (suffix == ""):
        raise UserError(
            f"{place} is there already, and is {'a folder' if suffix else 'a file'}",
            "choose another name with --output",
        )
    if place.exists() and not force:
        raise UserError(f"{place} is there already", "choose another name with --output, or overwrite it with --force")
    request = plan.Request(
        model=str(model),
        device="",
        precisions=(precision,),
        data=_text(data),
        calibration=_text(calibration),
        preprocess=preprocess,
    )
    told = data is not None or calibration is not None or preprocess is not None
    given = bench.inputs_of(source, request, tell) if told else None
    made = conversion.artifact(source, name, precision, options, tell, given, batch)
    with cache.disk_errors(place.name):
        _copy(made.path, place)
    return place, made


def _copy(source: Path, place: Path) -> None:
    """A file or folder to its place, whole or not at all."""
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_name(f".{place.name}-{secrets.token_hex(4)}")
    try:
        if source.is_dir():
            shutil.copytree(source, partial)
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(place)
        else:
            shutil.copyfile(source, partial)
        os.replace(partial, place)  # noqa: PTH105
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        partial.unlink(missing_ok=True)
        raise


def inspect(
    path: str | Path, inputs: Sequence[str] = (), trust: bool = False, say: Callable[[str], None] | None = None
) -> Json:
    """What is in a model file, without running it: the keys are in `inspection.py`, and "file" and "size_bytes" beside them."""
    place = Path(path)
    found = files.describe(place, files.parse_shapes(inputs) or None, trust, say)
    return {"file": place.name or place.resolve().name, "size_bytes": conversion.size_of(place), **found}


def _text(path: str | Path | None) -> str | None:
    return None if path is None else str(path)
