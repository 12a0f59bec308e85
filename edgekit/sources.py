"""Model recipes: finds them, loads them, trains their weights once, builds the torch or Keras model. Converts nothing."""

from __future__ import annotations

import ast
import contextlib
import difflib
import errno
import functools
import importlib.metadata
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from edgekit import cache, config, errors, worker
from edgekit.errors import ConvertError, SetupError, UserError
from edgekit.types import Json, Model, TensorSpec

if TYPE_CHECKING:
    import numpy as np

# framework -> (the recipe's function, the layout of its image inputs)
FRAMEWORKS = {"torch": ("torch_model", "NCHW"), "keras": ("keras_model", "NHWC"), "fake": ("fake_model", None)}
CONSTANTS = ("TASK", "DESCRIPTION", "LICENCE", "INPUT")
FUNCTIONS = (*(function for function, _ in FRAMEWORKS.values()), "weights", "data")
LAYOUTS = ("NHWC", "NCHW")
DEADLINE_S = 1800.0
HELP = "docs/adding-a-model.md shows the form of a recipe"


def folder() -> Path:
    """The folder of recipes: models/ beside the package in a checkout, else the copy inside the package."""
    return config.folder("models")


def names() -> list[str]:
    """The recipes by name, sorted; none is loaded."""
    return sorted(path.stem for path in folder().glob("*.py") if not path.stem.startswith("_"))


def load(name_or_path: str) -> Model:
    """A recipe by its name, or by the path of its file (anything with a slash or ending in .py).

    Raises UserError with file and line when the file does not run, lacks a name or has one of the wrong type.
    """
    if "/" in name_or_path or name_or_path.endswith(".py"):
        path = Path(name_or_path)
        with contextlib.suppress(RuntimeError):  # "~" of a user without a home folder is a name like any other
            path = path.expanduser()
        if not cache.is_file(path):
            raise UserError(f"there is no model recipe at {name_or_path}", f"known by name: {', '.join(names())}")
    else:
        path = folder() / f"{name_or_path}.py"
        if name_or_path not in names():
            raise errors.unknown("model", name_or_path, names())
    path = path.absolute()
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", path.stem):
        raise UserError(f"{path.name}: a model's name is made of letters, digits, '_', '-' and '.'", "rename the file")
    recipe = execute(path)
    found = vars(recipe)
    lines = _definitions(path)
    _check_spelling(path, found, lines)
    for constant in ("TASK", "DESCRIPTION", "LICENCE"):
        if not isinstance(found[constant], str) or not found[constant].strip():
            raise _wrong(path, lines, constant, "must be a text that is not empty")
    frameworks = tuple(name for name, (function, _) in FRAMEWORKS.items() if function in found)
    if not frameworks:
        raise UserError(f"{path}: has neither torch_model() nor keras_model()", HELP)
    for function in FUNCTIONS:
        if function in found and not callable(found[function]):
            raise _wrong(path, lines, function, "must be a function")
    if "weights" in found and "torch" not in frameworks:
        raise _wrong(path, lines, "weights", "gives a torch state dict, so the recipe needs torch_model() too")
    _extra_files(path, found.get("FILES", ()), lines)
    return Model(
        name=path.stem,
        source=path,
        task=found["TASK"],
        description=found["DESCRIPTION"],
        licence=found["LICENCE"],
        input=_input_spec(path, found["INPUT"], lines),
        frameworks=frameworks,
    )


def execute(path: Path) -> ModuleType:
    """A recipe's file as a module, run once for each content. Raises UserError with file and line when it does not run."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    return _run(path, text)


@functools.lru_cache(maxsize=32)
def _run(path: Path, text: str) -> ModuleType:
    module = ModuleType(f"edgekit_recipe_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses and pickles look their module up
    try:
        # Compiled here and not imported: no __pycache__ beside the user's file, and never a stale one.
        exec(compile(text, str(path), "exec"), module.__dict__)
    except SyntaxError as error:
        raise UserError(f"{path} line {error.lineno}: {error.msg}", HELP) from error
    except (Exception, SystemExit) as error:
        raise UserError(f"{path}{_line(path, error)}: {type(error).__name__}: {error}", HELP) from error
    return module


def _line(path: Path, error: BaseException) -> str:
    """The line of a file in which an error came up, as " line 7"; empty when none of its lines took part."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f" line {frames[-1].lineno}" if frames else ""


def call(model: Model, function: str) -> Any:
    """Call one function of a recipe; its folder is importable meanwhile.

    Raises UserError naming the recipe and the line when it fails, SetupError when it lacks a package.
    """
    place = str(model.source.parent)
    sys.path.append(place)
    try:
        return getattr(execute(model.source), function)()
    except (errors.EdgekitError, MemoryError):
        raise
    except ModuleNotFoundError as error:
        message = f"{model.source.name}: {function}() needs the Python package '{error.name}', which is not installed"
        raise SetupError(message, "pip install 'edgekit[all]' brings what the models of edgekit need") from error
    except (Exception, SystemExit) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else "no message"
        where = f"{model.source.name}{_line(model.source, error)}"
        raise UserError(f"{where}: {function}() failed: {type(error).__name__}: {reason}", HELP) from error
    finally:
        sys.path.remove(place)


def source_sha256(model: Model) -> str:
    """The hash of a recipe and of the FILES that it names."""
    extra = vars(execute(model.source)).get("FILES", ())
    return cache.source_sha256(model.source, *(model.source.parent / name for name in extra))


def input_of(model: Model, framework: str) -> TensorSpec:
    """The model's input as `framework` takes it: images NCHW in torch and NHWC in Keras, all else as in the recipe."""
    spec, layout = model.input, FRAMEWORKS[framework][1]
    if spec.layout is None or layout is None or spec.layout == layout:
        return spec
    n, a, b, c = spec.shape
    shape = (n, c, a, b) if layout == "NCHW" else (n, b, c, a)
    return TensorSpec(spec.name, shape, spec.dtype, layout)


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
    if not hasattr(execute(model.source), "weights"):
        return None
    code = cache.file_sha256(Path(__file__))
    key = cache.digest({"recipe": source_sha256(model), "versions": versions(("torch",), "torch"), "code": code})

    def make(folder: Path) -> None:
        if say:
            say(f"{model.name}: making its weights once (kept in the cache)")
        request = {"recipe": str(model.source), "folder": str(folder)}
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
    model = load(request["recipe"])
    place = Path(request["folder"])
    state = call(model, "weights")
    if not isinstance(state, Mapping) or not all(isinstance(array, np.ndarray) for array in state.values()):
        raise UserError(f"{model.source.name}: weights() must return a dict of numpy arrays", HELP)
    path = place / "weights.npz"
    np.savez(path, **dict(state))
    built = build(model, "torch", path)
    x = np.random.default_rng(0).normal(0.0, 1.0, (4, *input_of(model, "torch").shape[1:])).astype(np.float32)
    with torch.no_grad():
        y = np.concatenate([one_output(model, built(torch.from_numpy(row[None]))) for row in x])
    np.savez(place / "check.npz", x=x, y=y)
    (place / "weights.json").write_text(json.dumps({"sha256": cache.file_sha256(path)}), "utf-8")
    return {"arrays": len(state)}


def build(model: Model, framework: str, weights_path: Path | None) -> Any:
    """The model in one framework ("torch": nn.Module in eval mode, "keras": keras.Model, "fake": dict) with its weights.

    Meant for a worker. Raises ConvertError when weights and architecture do not fit, or when the Keras form computes
    something else than the torch form.
    """
    if framework not in model.frameworks:
        have = ", ".join(model.frameworks)
        hint = f"it has: {have}; add {FRAMEWORKS[framework][0]}() to the recipe"
        raise errors.Unsupported(f"the model '{model.name}' has no {framework} form", hint)
    built = call(model, FRAMEWORKS[framework][0])
    if framework == "torch":
        return _load_torch(model, built, weights_path)
    if framework == "keras":
        _load_keras(model, built, weights_path)
    return built


def one_output(model: Model, result: Any) -> np.ndarray:
    """What a torch or Keras model returned, as an array. Raises UserError for anything but one tensor."""
    if not hasattr(result, "numpy"):
        message = f"{model.source.name}: the model returns a {type(result).__name__}; one output tensor is needed"
        raise UserError(message, "return the tensor itself, for instance the class scores")
    array: np.ndarray = result.numpy()
    return array


def _load_torch(model: Model, built: Any, weights_path: Path | None) -> Any:
    import torch

    if not isinstance(built, torch.nn.Module):
        raise UserError(
            f"{model.source.name}: torch_model() returned {type(built).__name__}, not a torch.nn.Module", HELP
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
        raise UserError(f"{model.source.name}: keras_model() returned {type(built).__name__}, not a keras.Model", HELP)
    if weights_path is None:
        return
    twins.copy_weights(_arrays(weights_path), built)
    check = _arrays(weights_path.with_name("check.npz"))
    x = np.moveaxis(check["x"], 1, -1) if model.input.layout else check["x"]
    difference = twins.difference(one_output(model, built(x, training=False)), check["y"])
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


def _definitions(path: Path) -> dict[str, int]:
    """{name: line} of everything the file defines at its top level."""
    lines: dict[str, int] = {}
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            lines[node.name] = node.lineno
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name):
                    lines[target.id] = node.lineno
    return lines


def _check_spelling(path: Path, found: Mapping[str, Any], lines: Mapping[str, int]) -> None:
    """Refuse a missing constant, and a name that is nearly one of ours: it would silently be ignored."""
    ours = (*CONSTANTS, "FILES", *FUNCTIONS)
    for name, line in lines.items():
        close = difflib.get_close_matches(name, ours, n=1, cutoff=0.8)
        if name not in ours and not name.startswith("_") and close and close[0] not in found:
            raise UserError(f"{path} line {line}: '{name}' means nothing to edgekit", f"did you mean '{close[0]}'?")
    missing = [name for name in CONSTANTS if name not in found]
    if missing:
        raise UserError(f"{path}: lacks {', '.join(missing)}", HELP)


def _input_spec(path: Path, value: Any, lines: Mapping[str, int]) -> TensorSpec:
    """The recipe's INPUT as a TensorSpec."""
    if not isinstance(value, dict):
        raise _wrong(path, lines, "INPUT", "must be a dict with shape, dtype and layout")
    known = ("name", "shape", "dtype", "layout")
    for key in value:
        if key not in known:
            error = errors.unknown("key of INPUT", str(key), known)
            raise UserError(f"{path} line {lines.get('INPUT', '?')}: {error.message}", error.hint)
    shape, layout, name = value.get("shape"), value.get("layout"), value.get("name", "input")
    if (
        not isinstance(shape, (tuple, list))
        or not all(type(size) is int and size > 0 for size in shape)
        or len(shape) < 2
        or shape[0] != 1
    ):
        raise _wrong(path, lines, "INPUT", f"needs a shape of positive whole numbers with batch 1 first, not {shape!r}")
    if value.get("dtype") != "float32":
        raise _wrong(path, lines, "INPUT", f"needs dtype 'float32', not {value.get('dtype')!r}")
    if layout not in (None, *LAYOUTS) or (layout is not None and len(shape) != 4):
        raise _wrong(path, lines, "INPUT", "may have layout 'NHWC' or 'NCHW', and then four dimensions")
    if not isinstance(name, str) or not name.isidentifier():
        raise _wrong(path, lines, "INPUT", f"needs a name that is an identifier, not {name!r}")
    return TensorSpec(name, tuple(shape), "float32", layout)


def _extra_files(path: Path, value: Any, lines: Mapping[str, int]) -> None:
    if not isinstance(value, (tuple, list)) or not all(isinstance(name, str) for name in value):
        raise _wrong(path, lines, "FILES", "must be a tuple of paths")
    for name in value:
        if not os.path.exists(path.parent / name):  # noqa: PTH110 - Path.exists raises where this user may not look
            raise _wrong(path, lines, "FILES", f"names '{name}', which does not exist in {path.parent}")


def _wrong(path: Path, lines: Mapping[str, int], name: str, what: str) -> UserError:
    return UserError(f"{path} line {lines.get(name, '?')}: {name} {what}", HELP)
