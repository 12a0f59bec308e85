"""Model to artifact: choose the converter, look in the cache, run it in a worker, check the file, remember its hash.
Also the float reference outputs that every artifact is compared with."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import json
import os
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from edgekit import cache, converters, data, errors, opening, plugins, sources, worker
from edgekit.data import Data
from edgekit.errors import AgentError, ConvertError, EdgekitError, UserError
from edgekit.types import Artifact, Json, Model, TensorSpec, to_json

if TYPE_CHECKING:
    import numpy as np

DEADLINE_S = 1800.0
WORKER_BYTES = 3 << 30  # what a conversion of a small model may take: TensorFlow or torch with its exporter
# What the outputs of a source depend on besides the recipe: framework -> (distributions, the extra that brings them).
FRAMEWORK_PACKAGES: dict[str, tuple[tuple[str, ...], str]] = {
    "torch": (("torch",), "torch"),
    "keras": (("tensorflow-cpu", "keras"), "tensorflow"),
    "savedmodel": (("tensorflow-cpu",), "tensorflow"),
    "tflite": (("ai-edge-litert",), "tflite"),
    "onnx": (("onnxruntime",), "onnx"),
    "fake": ((), ""),
}
PACKAGE = Path(__file__).parent
Say = Callable[[str], None]
Wanted = tuple[str, str, int]  # format, precision, inputs per call


def artifact(
    model: Model,
    format_: str,
    precision: str,
    options: Mapping[str, str] | None = None,
    say: Say | None = None,
    inputs: Data | None = None,
    batch: int | None = None,
) -> Artifact:
    """The artifact of a model in one format and precision for `batch` inputs per call, from the cache or converted now.

    `options` are the converter's, and "source", the framework to convert from; `inputs` brings the calibration, by default
    the model's own. Raises UserError for an unknown format or option, Unsupported for a precision or model that the format
    does not have, SetupError when a package is missing, ConvertError and WorkerCrashed when the conversion fails.
    """
    converter = plugins.load("converter", format_)
    given = dict(options or {})
    batch = model.batch if batch is None else batch
    if model.entry == format_ and model.precision == precision and not given:
        if batch != model.batch:
            message = f"{model.source.name} is a finished file for a batch of {model.batch}"
            raise errors.Unsupported(message, "give the model that it was made from")
        return _as_it_is(model)
    if precision not in converter.PRECISIONS:
        raise errors.Unsupported(f"{format_} comes in {', '.join(converter.PRECISIONS)} only")
    framework = _framework(model, converter, format_, given.pop("source", None))
    chosen = _options(format_, converter, given)
    made_with = sources.versions(converter.PACKAGES[framework], converter.EXTRA[framework])
    weights = sources.weights(model, say)
    calibrated = precision in converters.CALIBRATED
    if calibrated and inputs is None:
        inputs = data.load(model, say)
    key = cache.digest(
        {
            "model": sources.source_sha256(model),
            "weights": sources.weights_sha256(weights),
            "calibration": inputs.calibration_sha256 if calibrated and inputs else None,
            "code": cache.source_sha256(Path(str(converter.__file__)), *_parts()),
            "versions": made_with,
            "framework": framework,
            "precision": precision,
            "options": chosen,
            **({"batch": batch} if batch != 1 else {}),
        }
    )
    name = model.name if batch == 1 else f"{model.name} for batches of {batch}"
    what = f"{format_} {precision} of {name}"
    request = {
        "model": to_json(model),
        "framework": framework,
        "weights": str(weights) if weights else None,
        "format": format_,
        "precision": precision,
        "options": chosen,
        "file": f"{model.name}_{precision}{f'_batch{batch}' if batch != 1 else ''}{converter.SUFFIX}",
        "batch": batch,
    }

    def make(folder: Path) -> None:
        doing = f"converting {name} to {format_} {precision}"
        if say:
            say(doing)
        with tempfile.TemporaryDirectory(prefix="edgekit-") as place:
            job = {**request, "folder": str(folder), "calibration": None}
            if calibrated and inputs:
                job["calibration"] = _keep(inputs.calibration, Path(place))
            found = worker.run("edgekit.convert:convert_in_worker", job, DEADLINE_S, say, doing)
        _record(folder, model, request, found, key, made_with)

    return cache.fetch(cache.cache_dir() / "artifacts" / key, make, _read, what, say)


class Artifacts:
    """The artifacts of a run. The first that is asked for has all of them made, side by side on idle cores: afterwards
    nothing is converted any more, so nothing disturbs what is timed."""

    def __init__(self, model: Model, wanted: Sequence[Wanted], inputs: Data, say: Say) -> None:
        self.model, self.inputs = model, inputs
        self.wanted = list(dict.fromkeys(wanted))
        self.say = say
        self.lock = threading.Lock()
        self.ended, self.active = False, 0
        self.idle = threading.Event()  # nothing is active
        self.idle.set()
        self.found: dict[Wanted, Artifact | EdgekitError] = {}

    def get(self, format_: str, precision: str, batch: int) -> Artifact:
        """One of the artifacts. Raises what its conversion raised."""
        if not self.found:
            self.make()
        found = self.found[(format_, precision, batch)]
        if isinstance(found, EdgekitError):
            raise found
        return found

    def make(self) -> None:
        """Convert everything, as many at a time as cores and memory allow."""
        with concurrent.futures.ThreadPoolExecutor(side_by_side()) as pool:
            try:
                waiting = {one: pool.submit(self.one, *one) for one in self.wanted}
                self.found = {one: future.result() for one, future in waiting.items()}
            except BaseException:
                with self.lock:
                    self.ended = True
                pool.shutdown(wait=False, cancel_futures=True)
                # Again and again: a thread may have been just about to start its child. Ctrl-C can come in the middle of
                # submit(), so the pool's threads are counted by themselves.
                while not self.idle.wait(0.1):
                    worker.end_all()
                raise

    def one(self, format_: str, precision: str, batch: int) -> Artifact | EdgekitError:
        """One artifact, or why there is none. An error that would end the run ends it."""
        with self.lock:
            if self.ended:
                raise concurrent.futures.CancelledError
            self.active += 1
            self.idle.clear()
        try:
            return artifact(self.model, format_, precision, {}, self.tell, self.inputs, batch)
        except (ConvertError, AgentError) as error:
            return error
        finally:
            with self.lock:
                self.active -= 1
                if not self.active:
                    self.idle.set()

    def tell(self, text: str) -> None:
        """`say` from any thread."""
        with self.lock:
            self.say(text)


def side_by_side() -> int:
    """How many conversions fit this machine at a time."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        memory = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 1
    return max(1, min(cores, memory // WORKER_BYTES))


def _parts() -> list[Path]:
    """The sources beside a converter's own that decide what it makes."""
    shared = sorted((PACKAGE / "converters").glob("_[!_]*.py"))
    return [*shared, PACKAGE / "sources.py", PACKAGE / "opening.py", PACKAGE / "twins.py"]


def _framework(model: Model, converter: ModuleType, format_: str, wish: str | None) -> str:
    """The form of the model to convert from: the wish, else the converter's first that the model has. Raises Unsupported."""
    known: tuple[str, ...] = converter.SOURCES
    if wish is not None and wish not in known:
        raise errors.unknown(f"source of {format_}", wish, known)
    for framework in (wish,) if wish else known:
        if framework in model.frameworks:
            if model.precision not in ("", "fp32"):
                message = f"{model.source.name} is {model.precision} already"
                raise errors.Unsupported(message, "only a float file can be converted; give the float model")
            return framework
    have = f"'{model.name}' has {', '.join(model.frameworks) or 'none of them'}"
    raise errors.Unsupported(
        f"{format_} is made from {' or '.join([wish] if wish else known)}, which '{model.name}' does not have", have
    )


def _as_it_is(model: Model) -> Artifact:
    """A file that is an artifact already. Raises Unsupported for operators that no stock runtime knows."""
    about = dict(model.about)
    outputs = tuple(TensorSpec.from_json(spec) for spec in about.pop("outputs", ()))
    if about.get("custom_operators"):
        names = ", ".join(about["custom_operators"])
        hint = "convert the model without custom operators (in TensorFlow without SELECT_TF_OPS)"
        raise errors.Unsupported(f"{model.source.name} has operators that the runtime does not know: {names}", hint)
    sha256 = cache.content_sha256(model.source)
    return Artifact(
        model=model.name,
        format=model.entry,
        precision=model.precision,
        path=model.source,
        sha256=sha256,
        size_bytes=size_of(model.source),
        inputs=model.inputs,
        outputs=outputs,
        key=sha256,
        made_with={},
        framework="" if model.kind == "artifact" else model.frameworks[0],
        details={"as_it_is": True, **about},
    )


def size_of(path: Path) -> int:
    """The bytes of a file, or of all files in a folder."""
    if path.is_dir():
        return sum(part.stat().st_size for part in path.rglob("*") if part.is_file())
    return path.stat().st_size


def _keep(arrays: Sequence[np.ndarray], folder: Path) -> list[str]:
    """Arrays as files for a worker; their paths."""
    import numpy as np

    paths = [str(folder / f"{index}.npy") for index in range(len(arrays))]
    for path, array in zip(paths, arrays, strict=True):
        np.save(path, array)
    return paths


@dataclass(frozen=True)
class Reference:
    """The float outputs of a source model: float32 [N, ...] for each output, and what the framework calls them."""

    outputs: tuple[np.ndarray, ...]
    names: tuple[str, ...]


@functools.cache
def _reference_code() -> str:
    """The hash of what computes references: it was read when this process began."""
    named = (PACKAGE / f"{name}.py" for name in ("sources", "opening", "twins", "convert"))
    return cache.source_sha256(*named, PACKAGE / "converters" / "_tflite_graph.py")


def reference(model: Model, framework: str, say: Say | None = None, inputs: Data | None = None) -> Reference:
    """What the source model answers on the held-out inputs (by default the model's own), computed once in a worker."""
    inputs = inputs or data.load(model, say)
    weights = sources.weights(model, say)
    key = cache.digest(
        {
            "model": sources.source_sha256(model),
            "weights": sources.weights_sha256(weights),
            "inputs": inputs.x_sha256,
            "framework": framework,
            "code": _reference_code(),
            "versions": sources.versions(*FRAMEWORK_PACKAGES[framework]),
        }
    )
    request = {"model": to_json(model), "weights": str(weights) if weights else None, "framework": framework}

    def make(folder: Path) -> None:
        doing = f"computing the float outputs of {model.name} in {framework}"
        if say:
            say(doing)
        with tempfile.TemporaryDirectory(prefix="edgekit-") as place:
            job = {**request, "folder": str(folder), "x": _keep(inputs.x, Path(place))}
            worker.run("edgekit.convert:reference_in_worker", job, DEADLINE_S, say, doing)

    what = f"float outputs of {model.name}"
    return cache.fetch(cache.cache_dir() / "references" / key, make, _read_reference, what, say)


def convert_in_worker(request: Json) -> Json:
    """In a worker: build the source, convert it, check the file."""
    model = Model.from_json(request["model"])
    converter, framework = plugins.load("converter", request["format"]), request["framework"]
    specs = tuple(
        dataclasses.replace(spec, shape=(request["batch"], *spec.shape[1:]))
        for spec in sources.inputs_of(model, framework)
    )
    calibration = _arrays(request["calibration"], model, specs) if request["calibration"] else None
    built = sources.build(model, framework, Path(request["weights"]) if request["weights"] else None)
    output = Path(request["folder"]) / request["file"]
    arguments = (built, request["precision"], calibration, specs, request["options"], output)
    found: Json = converter.convert(*arguments, framework=framework)
    converter.check(output)
    return found


def _arrays(paths: Sequence[str], model: Model, specs: Sequence[TensorSpec]) -> tuple[np.ndarray, ...]:
    """The arrays of a request in the layouts and types of a framework; those of quantized inputs stay real numbers.

    Raises UserError when their shapes are not the inputs'.
    """
    import numpy as np

    arrays = []
    for path, given, spec in zip(paths, model.inputs, specs, strict=True):
        array = data.to_layout(np.load(path, allow_pickle=False), given.layout, spec.layout)
        if array.shape[1:] != spec.shape[1:]:
            raise UserError(f"the data for '{spec.name}' has shape {array.shape}, the model takes {spec.shape}")
        arrays.append(array if spec.quantization else array.astype(spec.dtype, copy=False))
    return tuple(arrays)


def reference_in_worker(request: Json) -> Json:
    """In a worker: run the source model on each test input by itself, or on as many as it was made for.

    Raises ConvertError when the outputs are such that nothing can be compared with them.
    """
    import numpy as np

    model = Model.from_json(request["model"])
    framework = request["framework"]
    specs = sources.inputs_of(model, framework)
    xs = _arrays(request["x"], model, specs)
    built = sources.build(model, framework, Path(request["weights"]) if request["weights"] else None)
    run = opening.runner(built, framework, specs)
    rows: list[list[np.ndarray]] = []
    names: tuple[str, ...] = ()
    count = len(xs[0])
    for start in range(0, count, model.batch):
        places = np.minimum(np.arange(start, start + model.batch), count - 1)
        values, called = run([x[places] for x in xs])
        rows.append(values)
        names = tuple(called)
    outputs = [np.concatenate(column)[:count].astype(np.float32) for column in zip(*rows, strict=True)]
    wild, size = sum(int(np.sum(~np.isfinite(output))) for output in outputs), sum(output.size for output in outputs)
    if wild or not any(output.any() for output in outputs):
        what = f"are not finite: {wild} of {size} values" if wild else f"are all zero, on {len(xs[0])} inputs"
        hint = "no conversion is at fault: look at the weights, at a division or a logarithm, and at the range of the inputs"
        raise ConvertError(f"{model.source.name}: the float outputs of the source itself {what}", hint)
    place = Path(request["folder"])
    np.savez(place / "outputs.npz", *outputs)
    about = {"names": names, "sha256": cache.file_sha256(place / "outputs.npz")}
    (place / "outputs.json").write_text(json.dumps(about), "utf-8")
    return {"shapes": [list(output.shape) for output in outputs]}


def _options(format_: str, converter: ModuleType, given: Mapping[str, str]) -> dict[str, str]:
    """A value for every option of the converter: the given one or the default."""
    allowed: Mapping[str, tuple[str, ...]] = converter.OPTIONS
    for name, value in given.items():
        if name not in allowed:
            raise errors.unknown(f"option of {format_}", name, allowed)
        if value not in allowed[name]:
            raise errors.unknown(f"value of the {format_} option '{name}'", value, allowed[name])
    return {name: given.get(name, values[0]) for name, values in allowed.items()}


def _record(folder: Path, model: Model, request: Json, found: Json, key: str, made_with: Mapping[str, str]) -> None:
    """Write artifact.json beside a fresh file or folder. Raises ConvertError when the converter left none."""
    path = folder / request["file"]
    if not path.exists() or size_of(path) == 0:
        raise ConvertError(f"the {request['format']} converter left no file behind")
    made = Artifact(
        model=model.name,
        format=request["format"],
        precision=request["precision"],
        path=Path(path.name),
        sha256=cache.content_sha256(path),
        size_bytes=size_of(path),
        inputs=tuple(TensorSpec.from_json(spec) for spec in found["inputs"]),
        outputs=tuple(TensorSpec.from_json(spec) for spec in found["outputs"]),
        key=key,
        made_with=dict(made_with),
        framework=request["framework"],
        details=found["details"],
    )
    cache.write_text(folder / "artifact.json", json.dumps(to_json(made), indent=1))


def _read(place: Path) -> Artifact | None:
    """The artifact of a cache entry; None when it is damaged: unreadable, or not the bytes that were written."""
    try:
        record = json.loads((place / "artifact.json").read_text("utf-8"))
        path = place / record["path"]
        if cache.content_sha256(path) != record["sha256"]:
            return None
        record["inputs"] = tuple(TensorSpec.from_json(spec) for spec in record["inputs"])
        record["outputs"] = tuple(TensorSpec.from_json(spec) for spec in record["outputs"])
        return Artifact(**{**record, "path": path})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _read_reference(place: Path) -> Reference | None:
    """The outputs of a cache entry; None when they are not what was written."""
    import numpy as np

    try:
        about = json.loads((place / "outputs.json").read_text("utf-8"))
        if cache.file_sha256(place / "outputs.npz") != about["sha256"]:
            return None
        with np.load(place / "outputs.npz", allow_pickle=False) as archive:
            outputs = tuple(archive[f"arr_{index}"] for index in range(len(archive.files)))
        return Reference(outputs, tuple(about["names"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
