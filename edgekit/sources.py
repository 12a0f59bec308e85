"""Models by name or path: recipes, factories, model files. Makes the weights of recipes once, builds every form of a model in a
worker. Converts nothing; what lies in a model file is the business of files.py and opening.py."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import cache, errors, files, opening, recipes, worker
from edgekit.errors import ConvertError, SetupError, UserError
from edgekit.types import Json, Model, TensorSpec, to_json

if TYPE_CHECKING:
    pass

DEADLINE_S = 1800.0


def names() -> list[str]:
    """The recipes by name, sorted; none is loaded."""
    return sorted(path.stem for path in recipes.folder().glob("*.py") if not path.stem.startswith("_"))


def load(text: str, shapes: Sequence[str] = (), trust: bool = False, say: Callable[[str], None] | None = None) -> Model:
    """A model by the name of a recipe, the path of one, `path.py:factory`, or the path of a model file or folder.

    `shapes` ("1x3x224x224", "name=1x10:int32") are for sources that do not tell what they take; `trust` allows files that
    run code when they are opened. A recipe is run here, a factory and a file are opened in a worker.
    Raises UserError with file and line when a recipe does not run, lacks a name or has one of the wrong type, and UserError
    when a file is damaged, unknown, or needs `shapes` or `trust`.
    """
    factory = re.fullmatch(r"(.+\.py):([A-Za-z_]\w*)", text)
    if factory:
        return _factory(Path(factory.group(1)), factory.group(2), shapes, say)
    path = Path(text)
    with contextlib.suppress(RuntimeError):  # "~" of a user without a home folder is a name like any other
        path = path.expanduser()
    if text not in names() and path.suffix != ".py" and ("/" in text or path.suffix or path.exists()):
        return files.load(path, files.parse_shapes(shapes), trust, say)
    if shapes:
        raise UserError(f"a recipe says itself what its inputs are, so --input is not for {text}", recipes.HELP)
    if path.suffix == ".py":
        if not cache.is_file(path):
            raise UserError(f"there is no model recipe at {text}", f"known by name: {', '.join(names())}")
    else:
        path = recipes.folder() / f"{text}.py"
        if text not in names():
            raise errors.unknown("model", text, names())
    return recipes.read(path.absolute())


def _factory(path: Path, entry: str, shapes: Sequence[str], say: Callable[[str], None] | None) -> Model:
    """The model that a function of a Python file makes. Always opened anew: nothing tells what the function reads."""
    if not path.is_file():
        raise UserError(f"there is no Python file at {path}")
    path = path.absolute()
    recipes.check_name(path)
    specs = files.parse_shapes(shapes)
    request = {"path": str(path), "entry": entry, "shapes": [to_json(spec) for spec in specs]}
    found = worker.run("edgekit.sources:describe_factory", request, DEADLINE_S, say, f"opening {path.name}:{entry}")
    return Model(
        name=f"{path.stem}-{entry}",
        source=path,
        task=found["task"],
        description=f"made by {entry}() of {path.name}",
        licence="",
        inputs=tuple(TensorSpec.from_json(spec) for spec in found["inputs"]),
        frameworks=(found["framework"],),
        kind="factory",
        entry=entry,
        digest=found["digest"],
        notes=tuple(found["notes"]),
    )


def describe_factory(request: Json) -> Json:
    """In a worker: call the factory, and find out what it makes, what that takes, and a digest of architecture and weights."""
    path, entry = Path(request["path"]), request["entry"]
    module = recipes.execute(path)
    if not callable(getattr(module, entry, None)):
        functions = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise errors.unknown(f"function of {path.name}", entry, functions)
    bare = Model(path.stem, path, "", "", "", (), (), "factory", entry)
    built, example = _made(bare)
    framework = opening.framework_of(built)
    if framework is None:
        kind = type(built).__name__
        raise UserError(
            f"{path.name}: {entry}() returned {kind}, neither a torch.nn.Module nor a keras.Model", recipes.HELP
        )
    specs = tuple(TensorSpec.from_json(spec) for spec in request["shapes"])
    constants = {name for name in recipes.INPUT_CONSTANTS if hasattr(module, name)}
    said = bool(specs)
    if not specs and constants:
        specs = recipes.input_specs(path, vars(module), recipes.definitions(path))
    if framework == "torch":
        specs = opening.torch_inputs(built, specs, example, f"{path.name}:{entry}", said)
        notes: list[str] = []
    else:
        specs, notes = opening.keras_inputs(built, specs, said)
    return {
        "framework": framework,
        "task": getattr(module, "TASK", ""),
        "inputs": [to_json(spec) for spec in specs],
        "notes": notes,
        "digest": opening.digest(built, framework, path.parent),
    }


def _made(model: Model) -> tuple[Any, Any]:
    """(the model that a factory makes, the example inputs it returns beside it or None)."""
    made = recipes.call(model, model.entry)
    if isinstance(made, tuple) and len(made) == 2:
        return made
    return made, None


def source_sha256(model: Model) -> str:
    """The hash of what a model is made from: a recipe and its FILES, a factory's file and what it made, a model file."""
    if model.kind == "factory":
        return cache.digest([cache.source_sha256(model.source), model.digest])
    if model.kind != "recipe":
        return cache.digest([cache.content_sha256(model.source), [to_json(spec) for spec in model.inputs]])
    extra = vars(recipes.execute(model.source)).get("FILES", ())
    return cache.source_sha256(model.source, *(model.source.parent / name for name in extra))


def inputs_of(model: Model, framework: str) -> tuple[TensorSpec, ...]:
    """The model's inputs as `framework` takes them: images NCHW in torch and NHWC in Keras, all else as in the source."""
    layout = recipes.FRAMEWORKS[framework][1] if framework in recipes.FRAMEWORKS else None
    return tuple(in_layout(spec, layout) for spec in model.inputs)


def in_layout(spec: TensorSpec, layout: str | None) -> TensorSpec:
    """An image input in another layout; any other input, or None for a layout, as it is."""
    if spec.layout is None or layout is None or spec.layout == layout:
        return spec
    n, a, b, c = spec.shape
    shape = (n, c, a, b) if layout == "NCHW" else (n, b, c, a)
    return TensorSpec(spec.name, shape, spec.dtype, layout, spec.quantization)


def versions(packages: Iterable[str], extra: str) -> dict[str, str]:
    """{distribution: version}. Raises SetupError naming the pip extra that brings them when one is not installed."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            hint = f"needs the extra: pip install 'edgekit[{extra}]'"
            raise SetupError(f"{package} is not installed", hint) from None
    return found


def weights(model: Model, say: Callable[[str], None] | None = None) -> Path | None:
    """The .npz with the state dict of weights(), computed once in a worker; None when the recipe has no weights().

    Beside it stand weights.json (its sha256) and check.npz: a few inputs with torch's outputs, which `build` compares.
    """
    if model.kind != "recipe" or not hasattr(recipes.execute(model.source), "weights"):
        return None
    code = cache.file_sha256(Path(__file__))
    key = cache.digest({"recipe": source_sha256(model), "versions": versions(("torch",), "torch"), "code": code})

    def make(folder: Path) -> None:
        if say:
            say(f"{model.name}: making its weights once (kept in the cache)")
        request = {"model": to_json(model), "folder": str(folder)}
        worker.run("edgekit.sources:make_weights", request, DEADLINE_S, say, f"making the weights of {model.name}")

    return cache.fetch(cache.cache_dir() / "weights" / key, make, _whole, f"weights of {model.name}", say)


def _whole(place: Path) -> Path | None:
    """The file in a cache entry of weights; None when it does not hold the bytes that were written."""
    path = place / "weights.npz"
    try:
        return path if weights_sha256(path) == cache.file_sha256(path) else None
    except (OSError, ValueError, KeyError):
        return None


def weights_sha256(path: Path | None) -> str | None:
    """The sha256 of a file that `weights` returned, read from its side file."""
    if path is None:
        return None
    sha256: str = json.loads(path.with_name("weights.json").read_text("utf-8"))["sha256"]
    return sha256


def make_weights(request: Json) -> Json:
    """In a worker: call weights() and keep the arrays, and torch's outputs on four random inputs to check twins with."""
    import numpy as np
    import torch

    torch.set_num_threads(1)  # the order of float sums, and so every weight, would depend on the number of cores
    model = Model.from_json(request["model"])
    place = Path(request["folder"])
    state = recipes.call(model, "weights")
    if not isinstance(state, Mapping) or not all(isinstance(array, np.ndarray) for array in state.values()):
        raise UserError(f"{model.source.name}: weights() must return a dict of numpy arrays", recipes.HELP)
    path = place / "weights.npz"
    np.savez(path, **dict(state))
    built = build(model, "torch", path)
    rng = np.random.default_rng(0)
    xs = [rng.normal(0.0, 1.0, (4, *spec.shape[1:])).astype(np.float32) for spec in inputs_of(model, "torch")]
    run = opening.runner(built, "torch", inputs_of(model, "torch"))
    ys = [np.concatenate(rows) for rows in zip(*(run([x[i : i + 1] for x in xs])[0] for i in range(4)), strict=True)]
    arrays = {f"x{i}": x for i, x in enumerate(xs)} | {f"y{i}": y for i, y in enumerate(ys)}
    np.savez(place / "check.npz", **arrays)
    (place / "weights.json").write_text(json.dumps({"sha256": cache.file_sha256(path)}), "utf-8")
    return {"arrays": len(state)}


def build(model: Model, framework: str, weights_path: Path | None) -> Any:
    """The model in one framework ("torch": nn.Module in eval mode, "keras": keras.Model, "fake": dict, else a path).

    Meant for a worker. Raises ConvertError when weights and architecture do not fit, or when the Keras form computes
    something else than the torch form.
    """
    if framework not in model.frameworks:
        have = ", ".join(model.frameworks)
        hint = f"it has: {have}"
        if framework in recipes.FRAMEWORKS:
            hint += f"; add {recipes.FRAMEWORKS[framework][0]}() to the recipe"
        raise errors.Unsupported(f"the model '{model.name}' has no {framework} form", hint)
    if model.kind == "factory":
        made = _made(model)[0]
        return _load_torch(model, made, None) if framework == "torch" else made
    if model.kind != "recipe":
        return opening.build(model, framework)
    built = recipes.call(model, recipes.FRAMEWORKS[framework][0])
    if framework == "torch":
        return _load_torch(model, built, weights_path)
    if framework == "keras":
        _load_keras(model, built, weights_path)
    return built


def _load_torch(model: Model, built: Any, weights_path: Path | None) -> Any:
    import torch

    if not isinstance(built, torch.nn.Module):
        raise UserError(
            f"{model.source.name}: torch_model() returned {type(built).__name__}, not a torch.nn.Module", recipes.HELP
        )
    if weights_path is not None:
        state = {name: torch.from_numpy(array) for name, array in _arrays(weights_path).items()}
        try:
            built.load_state_dict(state)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise ConvertError(f"{model.source.name}: weights() do not fit torch_model(): {reason}") from error
    return built.eval().requires_grad_(False)


def _load_keras(model: Model, built: Any, weights_path: Path | None) -> None:
    import keras
    import numpy as np

    from edgekit import twins

    if not isinstance(built, keras.Model):
        raise UserError(
            f"{model.source.name}: keras_model() returned {type(built).__name__}, not a keras.Model", recipes.HELP
        )
    if weights_path is None:
        return
    twins.copy_weights(_arrays(weights_path), built)
    check = _arrays(weights_path.with_name("check.npz"))
    specs = inputs_of(model, "keras")
    xs = [check[f"x{index}"] for index in range(len(specs))]
    xs = [np.moveaxis(x, 1, -1) if spec.layout else x for x, spec in zip(xs, specs, strict=True)]
    found = opening.flat(built(xs if len(xs) > 1 else xs[0], training=False))[0]
    expected = [
        check[name] for name in sorted((name for name in check if name[0] == "y"), key=lambda name: int(name[1:]))
    ]
    if [tuple(y.shape) for y in found] != [y.shape for y in expected]:
        shapes = ", ".join(str(tuple(y.shape)) for y in found)
        raise ConvertError(
            f"'{model.name}': the outputs of its Keras form have other shapes than those of torch: {shapes}"
        )
    difference = max(twins.difference(np.asarray(y), e) for y, e in zip(found, expected, strict=True))
    if not difference <= twins.TOLERANCE:
        message = (
            f"'{model.name}': the outputs of its Keras form differ from those of its torch form by {difference:.1%}"
        )
        hint = "usual causes: padding='same' with stride 2, another batch-norm epsilon, Flatten before a dense layer"
        raise ConvertError(message, hint)


def _arrays(path: Path) -> dict[str, Any]:
    import numpy as np

    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}
