"""Model to artifact: choose the converter, look in the cache, run it in a worker, check the file, remember its hash.
Also the float reference outputs that every artifact is compared with."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from edgekit import cache, data, errors, plugins, sources, worker
from edgekit.errors import ConvertError, UserError
from edgekit.types import Artifact, Json, Model, TensorSpec, to_json

if TYPE_CHECKING:
    import numpy as np

DEADLINE_S = 1800.0
# What the outputs of a source depend on besides the recipe: framework -> (distributions, the extra that brings them).
FRAMEWORK_PACKAGES: dict[str, tuple[tuple[str, ...], str]] = {
    "torch": (("torch",), "torch"),
    "keras": (("tensorflow-cpu", "keras"), "tensorflow"),
    "fake": ((), ""),
}
PACKAGE = Path(__file__).parent
Say = Callable[[str], None]


def artifact(
    model: Model, format_: str, precision: str, options: Mapping[str, str] | None = None, say: Say | None = None
) -> Artifact:
    """The artifact of a model in one format and precision, from the cache or converted now.

    Raises UserError for an unknown format or option, Unsupported for a precision or model that the format does not
    have, SetupError when a package is missing, ConvertError and WorkerCrashed when the conversion fails.
    """
    converter = plugins.load("converter", format_)
    if precision not in converter.PRECISIONS:
        raise errors.Unsupported(
            f"{format_} has no precision '{precision}'", f"known: {', '.join(converter.PRECISIONS)}"
        )
    if converter.SOURCE not in model.frameworks:
        hint = f"its recipe has {', '.join(model.frameworks)}"
        raise errors.Unsupported(f"{format_} is made from {converter.SOURCE}, which '{model.name}' does not have", hint)
    chosen = _options(format_, converter, options or {})
    made_with = sources.versions(converter.PACKAGES, converter.EXTRA)
    weights = sources.weights(model, say)
    key = cache.digest(
        {
            "recipe": sources.source_sha256(model),
            "weights": sources.weights_sha256(weights),
            "calibration": None if precision == "fp32" else data.describe(model, say)["sha256"]["calibration"],
            "code": cache.source_sha256(Path(str(converter.__file__)), PACKAGE / "sources.py", PACKAGE / "twins.py"),
            "versions": made_with,
            "precision": precision,
            "options": chosen,
        }
    )
    what = f"{format_} {precision} of {model.name}"
    request = {
        "recipe": str(model.source),
        "weights": str(weights) if weights else None,
        "format": format_,
        "precision": precision,
        "options": chosen,
        "file": f"{model.name}_{precision}{converter.SUFFIX}",
    }

    def make(folder: Path) -> None:
        doing = f"converting {model.name} to {format_} {precision}"
        if say:
            say(doing)
        job = {**request, "folder": str(folder)}
        found = worker.run("edgekit.convert:convert_in_worker", job, DEADLINE_S, say, doing)
        _record(folder, model, request, found, key, made_with)

    return cache.fetch(cache.cache_dir() / "artifacts" / key, make, _read, what, say)


def reference(model: Model, framework: str, say: Say | None = None) -> np.ndarray:
    """The float outputs [N, ...] of the source model on the recipe's test inputs, float32; computed once in a worker."""
    weights = sources.weights(model, say)
    key = cache.digest(
        {
            "recipe": sources.source_sha256(model),
            "weights": sources.weights_sha256(weights),
            "inputs": data.describe(model, say)["sha256"]["x"],
            "framework": framework,
            "code": cache.source_sha256(PACKAGE / "sources.py", PACKAGE / "twins.py"),
            "versions": sources.versions(*FRAMEWORK_PACKAGES[framework]),
        }
    )
    request = {"recipe": str(model.source), "weights": str(weights) if weights else None, "framework": framework}

    def make(folder: Path) -> None:
        doing = f"computing the float outputs of {model.name} in {framework}"
        if say:
            say(doing)
        worker.run("edgekit.convert:reference_in_worker", {**request, "folder": str(folder)}, DEADLINE_S, say, doing)

    what = f"float outputs of {model.name}"
    return cache.fetch(cache.cache_dir() / "references" / key, make, _read_reference, what, say)


def convert_in_worker(request: Json) -> Json:
    """In a worker: build the source, convert it, check the file."""
    model = sources.load(request["recipe"])
    converter = plugins.load("converter", request["format"])
    spec = sources.input_of(model, converter.SOURCE)
    calibration = None
    if request["precision"] != "fp32":
        calibration = data.to_layout(data.load(model).calibration, model.input.layout, spec.layout)
    built = sources.build(model, converter.SOURCE, Path(request["weights"]) if request["weights"] else None)
    output = Path(request["folder"]) / request["file"]
    found: Json = converter.convert(built, request["precision"], calibration, spec, request["options"], output)
    converter.check(output)
    return found


def reference_in_worker(request: Json) -> Json:
    """In a worker: run the source model on each test input by itself, as an artifact of batch 1 does.

    Raises ConvertError when the outputs are such that nothing can be compared with them.
    """
    import numpy as np

    model = sources.load(request["recipe"])
    framework = request["framework"]
    built = sources.build(model, framework, Path(request["weights"]) if request["weights"] else None)
    spec = sources.input_of(model, framework)
    x = data.to_layout(data.load(model).x, model.input.layout, spec.layout)
    run = _runner(model, built, framework, spec)
    outputs = np.concatenate([run(row[None]) for row in x]).astype(np.float32)
    wild = int(np.sum(~np.isfinite(outputs)))
    if wild or not outputs.any():
        what = f"are not finite: {wild} of {outputs.size} values" if wild else f"are all zero, on {len(x)} inputs"
        hint = "no conversion is at fault: look at the weights, and at the range of the inputs that data() gives"
        raise ConvertError(f"{model.source.name}: the float outputs of the source itself {what}", hint)
    place = Path(request["folder"])
    data.save(place / "outputs.npy", outputs)
    (place / "sha256").write_text(cache.file_sha256(place / "outputs.npy"), "ascii")
    return {"shape": list(outputs.shape)}


def _runner(model: Model, built: Any, framework: str, spec: TensorSpec) -> Callable[[np.ndarray], np.ndarray]:
    """A function from one float input [1, ...] to the model's float output [1, ...]."""
    import numpy as np

    if framework == "torch":
        import torch

        def run_torch(x: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                return sources.one_output(model, built(torch.from_numpy(np.ascontiguousarray(x))))

        return run_torch
    if framework == "keras":
        import tensorflow as tf

        signature = tf.TensorSpec(spec.shape, tf.float32)
        function = tf.function(lambda x: built(x, training=False)).get_concrete_function(signature)
        return lambda x: sources.one_output(model, function(tf.constant(x)))
    return lambda x: x.reshape(1, -1)


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
    """Write artifact.json beside a fresh file. Raises ConvertError when the converter left none."""
    path = folder / request["file"]
    if not path.is_file() or path.stat().st_size == 0:
        raise ConvertError(f"the {request['format']} converter left no file behind")
    made = Artifact(
        model=model.name,
        format=request["format"],
        precision=request["precision"],
        path=Path(path.name),
        sha256=cache.file_sha256(path),
        size_bytes=path.stat().st_size,
        inputs=tuple(TensorSpec.from_json(spec) for spec in found["inputs"]),
        outputs=tuple(TensorSpec.from_json(spec) for spec in found["outputs"]),
        key=key,
        made_with=dict(made_with),
        details=found["details"],
    )
    cache.write_text(folder / "artifact.json", json.dumps(to_json(made), indent=1))


def _read(place: Path) -> Artifact | None:
    """The artifact of a cache entry; None when it is damaged: unreadable, or not the bytes that were written."""
    try:
        record = json.loads((place / "artifact.json").read_text("utf-8"))
        path = place / record["path"]
        if cache.file_sha256(path) != record["sha256"]:
            return None
        record["inputs"] = tuple(TensorSpec.from_json(spec) for spec in record["inputs"])
        record["outputs"] = tuple(TensorSpec.from_json(spec) for spec in record["outputs"])
        return Artifact(**{**record, "path": path})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _read_reference(place: Path) -> np.ndarray | None:
    """The outputs of a cache entry; None when they are not what was written."""
    import numpy as np

    try:
        if cache.file_sha256(place / "outputs.npy") != (place / "sha256").read_text("ascii"):
            return None
        outputs: np.ndarray = np.load(place / "outputs.npy", allow_pickle=False)
        return outputs
    except (OSError, ValueError):
        return None


def check_file(path: Path) -> str:
    """The format of a model file by its suffix and header, for files that edgekit did not make.

    Raises UserError when no format has this suffix, or the file is cut short or something else.
    """
    for format_ in plugins.names("converter"):
        converter = plugins.load("converter", format_)
        if path.suffix == converter.SUFFIX:
            if not cache.is_file(path):
                raise UserError(f"there is no model file at {path}")
            converter.check(path)
            return format_
    known = ", ".join(sorted(plugins.load("converter", name).SUFFIX for name in plugins.names("converter")))
    raise UserError(f"{path.name} is no model file that edgekit knows", f"known: {known}")
