"""Model files by suffix and header, and as Models: what lies in one is found out in a worker (inspection.py) and remembered."""

from __future__ import annotations

import json
import re
import unicodedata
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgekit import cache, plugins, worker
from edgekit.errors import UserError
from edgekit.types import Json, Model, TensorSpec, to_json

DEADLINE_S = 600.0
# Sources by suffix; every other suffix is that of a format, and the file an artifact.
SOURCES = {
    ".pt2": "pt2",
    ".pt": "torchscript",
    ".pth": "torchscript",
    ".keras": "keras",
    ".h5": "keras",
    ".hdf5": "keras",
}
# What a report and a conversion want to know of a file.
ABOUT = ("outputs", "operators", "total_ops", "custom_operators", "opset", "version", "weights_bytes")
DTYPES = ("float32", "float16", "float64", "int8", "uint8", "int16", "int32", "int64", "bool")
# What a file may take and give beside these, which no --input needs to say.
UNSIGNED = ("uint16", "uint32", "uint64")
Say = Callable[[str], None]


def load(path: Path, shapes: Sequence[TensorSpec], trust: bool, say: Say | None) -> Model:
    """A model file or SavedModel folder as a Model. Raises UserError when it is damaged, unknown, or needs shapes or trust."""
    found = describe(path, shapes, trust, say)
    path = path.absolute()
    inputs, outputs = (tuple(TensorSpec.from_json(spec) for spec in found[side]) for side in ("inputs", "outputs"))
    if not inputs:
        raise UserError(f"{path.name} takes no inputs, so there is nothing to measure it with", "give it an input")
    for side, specs in (("input", inputs), ("output", outputs)):
        for spec in specs:
            if spec.dtype not in (*DTYPES, *UNSIGNED):
                message = f"{path.name}: the {side} '{spec.name}' is of the type {spec.dtype}, which is not measured"
                raise UserError(message, f"export the model with ends of one of: {', '.join(DTYPES)}")
    for spec in inputs:
        if len(spec.shape) < 2 or spec.shape[0] != inputs[0].shape[0]:
            message = (
                f"{path.name}: the input '{spec.name}' has the shape {spec.shape}, which does not begin with the batch"
            )
            raise UserError(message, "export the model with the batch as the first dimension of every input")
    return Model(
        name=model_name(path),
        source=path,
        task="",
        description=f"the file {path.name}",
        licence="",
        inputs=inputs,
        frameworks=tuple(found["frameworks"]),
        kind=found["kind"],
        entry=found.get("format", ""),
        precision=found.get("precision", ""),
        trusted=trust,
        metric_output=found.get("first_output", 0),
        notes=tuple(found["notes"]),
        about={key: found[key] for key in ABOUT if found.get(key)},
    )


def model_name(path: Path) -> str:
    """A model's name after its file: letters of any script, digits, '_', '-' and '.'."""
    return re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFC", path.stem)).lstrip("_.-") or "model"


def describe(path: Path, shapes: Sequence[TensorSpec] | None, trust: bool = False, say: Say | None = None) -> Json:
    """What is in a model file: see inspection.py for the keys. Opened in a worker, the first time only.

    `shapes` are what the user says of its inputs; with None it is only looked at, and sizes may stay open.

    Raises UserError when the file is damaged or unknown, SetupError when the package that opens it is missing.
    """
    kind, format_ = recognise(path)
    request = {
        "path": str(path.absolute()),
        "kind": kind,
        "format": format_,
        "shapes": None if shapes is None else [to_json(spec) for spec in shapes],
        "trust": trust,
    }
    here = Path(__file__).parent
    parts = ("inspection.py", "opening.py", "macs.py", "pte.py", "converters/_tflite_graph.py")
    code = cache.source_sha256(Path(__file__), *(here / part for part in parts))
    place = {name: value for name, value in request.items() if name != "path"}
    key = cache.digest({"content": cache.content_sha256(path), "suffix": path.suffix, "code": code, **place})

    def make(folder: Path) -> None:
        found = worker.run("edgekit.inspection:describe", request, DEADLINE_S, say, f"opening {path.name}")
        (folder / "found.json").write_text(json.dumps(found), "utf-8")

    return cache.fetch(cache.cache_dir() / "inspections" / key, make, _read, f"description of {path.name}", say)


def _read(place: Path) -> Json | None:
    try:
        found: Json = json.loads((place / "found.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return found


def recognise(path: Path) -> tuple[str, str]:
    """(kind, format) of a model file by its suffix and header, without a heavy import; format is "" for a mere source.

    Raises UserError when there is no such file, no format has this suffix, or the file is cut short or something else.
    """
    if path.is_dir():
        if not (path / "saved_model.pb").is_file():
            raise UserError(f"the folder {path.resolve().name or path} is no SavedModel: it has no saved_model.pb")
        return "savedmodel", "savedmodel"
    suffix = path.suffix.lower()
    formats = {plugins.load("converter", name).SUFFIX: name for name in plugins.names("converter")}
    if suffix not in {*SOURCES, *formats} - {""}:
        # .fake is for edgekit's own tests, and a SavedModel is a folder
        known = ", ".join(sorted({*SOURCES, *formats} - {"", ".fake", ".savedmodel"}))
        hint = (
            f"files end in {known}, or are SavedModel folders; profile and convert take recipes and path.py:factory too"
        )
        if not suffix and not path.exists():
            raise UserError(f"there is no model file at {path}", hint)
        raise UserError(f"{path.name} is no model file that edgekit knows", hint)
    if not path.is_file():
        raise UserError(f"there is no model file at {path}")
    if suffix in SOURCES:
        return _source(path, SOURCES[suffix])
    plugins.load("converter", formats[suffix]).check(path)
    return "artifact", formats[suffix]


def _source(path: Path, kind: str) -> tuple[str, str]:
    """The kind of a file with the suffix of a source: its bytes decide what its suffix only suggests."""
    with path.open("rb") as stream:
        head = stream.read(8)
    if kind == "keras" and head == b"\x89HDF\r\n\x1a\n":
        if path.suffix.lower() == ".keras":
            raise UserError(f"{path.name} is an HDF5 file, which Keras opens only by its suffix", "rename it to .h5")
        return kind, ""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.partition("/")[2] for name in archive.namelist()]
            names += archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        if kind == "torchscript" and head[:1] == b"\x80":
            return "checkpoint", ""
        raise UserError(f"{path.name} is damaged, or no model file of its suffix") from error
    if kind == "keras" and "config.json" in names:
        if path.suffix.lower() != ".keras":
            raise UserError(
                f"{path.name} is a .keras file, which Keras opens only by its suffix", "rename it to .keras"
            )
        return kind, ""
    if kind == "torchscript" and "data.pkl" in names:
        whole = any(name.startswith("code/") for name in names)
        return ("torchscript", "torchscript") if whole else ("checkpoint", "")
    if kind == "pt2" and any(name.startswith("data/aotinductor/") for name in names):
        return "artifact", "aoti"
    if kind == "pt2" and ("serialized_exported_program.json" in names or "models/model.json" in names):
        return kind, ""
    if kind == "pt2" and any(name.startswith("models/") for name in names):
        return kind, ""
    raise UserError(f"{path.name} is a zip archive, but no model file of its suffix")


def parse_shapes(texts: Sequence[str]) -> tuple[TensorSpec, ...]:
    """--input 1x3x224x224, name=1x10, 1x128:int64: TensorSpecs, nameless where no name is given. Raises UserError."""
    specs = []
    for text in texts:
        match = re.fullmatch(r"(?:([^=]+)=)?(\d+(?:x\d+)*)(?::(\w+))?(?::(nhwc|nchw))?", text.strip())
        if not match:
            raise UserError(
                f"'{text}' is no input", "write it like 1x3x224x224, name=1x10, 1x128:int64 or 1x32x32x3:nhwc"
            )
        name, sizes, dtype, layout = match.groups()
        if dtype in ("nhwc", "nchw"):
            dtype, layout = None, dtype
        shape = tuple(int(size) for size in sizes.split("x"))
        if 0 in shape:
            raise UserError(f"'{text}' has a size of 0", "every size must be at least 1")
        if dtype not in (None, *DTYPES):
            raise UserError(f"'{text}' has an unknown type '{dtype}'", f"known: {', '.join(DTYPES)}")
        specs.append(TensorSpec(name or "", shape, dtype or "float32", layout.upper() if layout else None))
    return tuple(specs)


def image_layout(shape: Sequence[Any]) -> str | None:
    """NHWC or NCHW of a four-dimensional input by where its 1, 3 or 4 channels stand; None when nothing tells."""
    if len(shape) != 4:
        return None
    last, first = shape[3] in (1, 3, 4), shape[1] in (1, 3, 4)
    return "NHWC" if last else "NCHW" if first else None
