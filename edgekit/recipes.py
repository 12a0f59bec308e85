"""Recipes: Python files that say what a model is. Runs them, checks everything in them, calls their functions."""

from __future__ import annotations

import ast
import difflib
import errno
import functools
import os
import re
import sys
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from edgekit import config, errors
from edgekit.errors import SetupError, UserError
from edgekit.types import Model, TensorSpec

# framework -> (the recipe's function, the layout of its image inputs)
FRAMEWORKS = {"torch": ("torch_model", "NCHW"), "keras": ("keras_model", "NHWC"), "fake": ("fake_model", None)}
CONSTANTS = ("TASK", "DESCRIPTION", "LICENCE")
INPUT_CONSTANTS = ("INPUT", "INPUTS")
OPTIONAL = ("FILES", "METRIC_OUTPUT", "PREPROCESS")
FUNCTIONS = (*(function for function, _ in FRAMEWORKS.values()), "weights", "data")
LAYOUTS = ("NHWC", "NCHW")
INPUT_DTYPES = ("float32", "int32", "int64")
PARSING = threading.Lock()  # CPython 3.11 counts the depth of all threads' trees together (its issue 106905)
HELP = "docs/adding-a-model.md shows the form of a recipe"


def folder() -> Path:
    """The folder of recipes: models/ beside the package in a checkout, else the copy inside the package."""
    return config.folder("models")


def read(path: Path) -> Model:
    """The recipe in a file, everything in it checked."""
    check_name(path)
    recipe = execute(path)
    found = vars(recipe)
    lines = definitions(path)
    _check_spelling(path, found, lines)
    for constant in CONSTANTS:
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
    metric_output = found.get("METRIC_OUTPUT", 0)
    if type(metric_output) is not int or metric_output < 0:
        raise _wrong(path, lines, "METRIC_OUTPUT", "must be the index of an output, 0 for the first")
    return Model(
        name=path.stem,
        source=path,
        task=found["TASK"],
        description=found["DESCRIPTION"],
        licence=found["LICENCE"],
        inputs=input_specs(path, found, lines),
        frameworks=frameworks,
        metric_output=metric_output,
    )


def check_name(path: Path) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", path.stem):
        raise UserError(f"{path.name}: a model's name is made of letters, digits, '_', '-' and '.'", "rename the file")


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
    sys.path.append(str(path.parent))
    try:
        # Compiled here and not imported: no __pycache__ beside the user's file, and never a stale one.
        exec(compile(text, str(path), "exec"), module.__dict__)
    except SyntaxError as error:
        raise UserError(f"{path} line {error.lineno}: {error.msg}", HELP) from error
    except (Exception, SystemExit) as error:
        raise UserError(f"{path}{_line(path, error)}: {type(error).__name__}: {error}", HELP) from error
    finally:
        sys.path.remove(str(path.parent))
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
        reason = errors.first_line(error, otherwise="no message")
        where = f"{model.source.name}{_line(model.source, error)}"
        raise UserError(f"{where}: {function}() failed: {type(error).__name__}: {reason}", HELP) from error
    finally:
        sys.path.remove(place)


def definitions(path: Path) -> dict[str, int]:
    """{name: line} of everything the file defines at its top level."""
    lines: dict[str, int] = {}
    with PARSING:
        tree = ast.parse(path.read_text("utf-8"))
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            lines[node.name] = node.lineno
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name):
                    lines[target.id] = node.lineno
    return lines


def _check_spelling(path: Path, found: Mapping[str, Any], lines: Mapping[str, int]) -> None:
    """Refuse a missing constant, and a name that is nearly one of ours: it would silently be ignored."""
    ours = (*CONSTANTS, *INPUT_CONSTANTS, *OPTIONAL, *FUNCTIONS)
    for name, line in lines.items():
        close = difflib.get_close_matches(name, ours, n=1, cutoff=0.8)
        if name not in ours and not name.startswith("_") and close and close[0] not in found:
            raise UserError(f"{path} line {line}: '{name}' means nothing to edgekit", f"did you mean '{close[0]}'?")
    missing = [name for name in CONSTANTS if name not in found]
    if not any(name in found for name in INPUT_CONSTANTS):
        missing.append("INPUT")
    if missing:
        raise UserError(f"{path}: lacks {', '.join(missing)}", HELP)
    if all(name in found for name in INPUT_CONSTANTS):
        raise _wrong(path, lines, "INPUTS", "and INPUT say the same thing: keep one of them")


def input_specs(path: Path, found: Mapping[str, Any], lines: Mapping[str, int]) -> tuple[TensorSpec, ...]:
    """INPUT, or each entry of INPUTS, as TensorSpecs with names of their own."""
    if "INPUTS" not in found:
        return (_input_spec(path, "INPUT", found["INPUT"], lines),)
    values = found["INPUTS"]
    if not isinstance(values, (list, tuple)) or not values:
        raise _wrong(path, lines, "INPUTS", "must be a list of dicts with name, shape, dtype and layout")
    specs = tuple(_input_spec(path, "INPUTS", value, lines) for value in values)
    if len({spec.name for spec in specs}) < len(specs):
        raise _wrong(path, lines, "INPUTS", "needs a name for each input, and no two the same")
    return specs


def _input_spec(path: Path, constant: str, value: Any, lines: Mapping[str, int]) -> TensorSpec:
    """One input of a recipe as a TensorSpec."""
    if not isinstance(value, dict):
        raise _wrong(path, lines, constant, "must be a dict with shape, dtype and layout")
    known = ("name", "shape", "dtype", "layout")
    for key in value:
        if key not in known:
            error = errors.unknown(f"key of {constant}", str(key), known)
            raise UserError(f"{path} line {lines.get(constant, '?')}: {error.message}", error.hint)
    shape, layout, name = value.get("shape"), value.get("layout"), value.get("name", "input")
    if (
        not isinstance(shape, (tuple, list))
        or not all(type(size) is int and size > 0 for size in shape)
        or len(shape) < 2
        or shape[0] != 1
    ):
        raise _wrong(
            path, lines, constant, f"needs a shape of positive whole numbers with batch 1 first, not {shape!r}"
        )
    if value.get("dtype") not in INPUT_DTYPES:
        raise _wrong(path, lines, constant, f"needs dtype 'float32', 'int32' or 'int64', not {value.get('dtype')!r}")
    if layout not in (None, *LAYOUTS) or (layout is not None and len(shape) != 4):
        raise _wrong(path, lines, constant, "may have layout 'NHWC' or 'NCHW', and then four dimensions")
    if not isinstance(name, str) or not name.isidentifier():
        raise _wrong(path, lines, constant, f"needs a name that is an identifier, not {name!r}")
    return TensorSpec(name, tuple(shape), value["dtype"], layout)


def _extra_files(path: Path, value: Any, lines: Mapping[str, int]) -> None:
    if not isinstance(value, (tuple, list)) or not all(isinstance(name, str) for name in value):
        raise _wrong(path, lines, "FILES", "must be a tuple of paths")
    for name in value:
        if not os.path.exists(path.parent / name):  # noqa: PTH110 - Path.exists raises where this user may not look
            raise _wrong(path, lines, "FILES", f"names '{name}', which does not exist in {path.parent}")


def _wrong(path: Path, lines: Mapping[str, int], name: str, what: str) -> UserError:
    return UserError(f"{path} line {lines.get(name, '?')}: {name} {what}", HELP)
