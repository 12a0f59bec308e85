"""Inputs and labels of a recipe (made once, cached), their form as an artifact's tensors, and the two kinds of quality figure:
accuracy against labels and fidelity against the float model. Runs no model."""

from __future__ import annotations

import importlib.metadata
import io
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from edgekit import cache, sources, worker
from edgekit.errors import ProtocolError, UserError
from edgekit.types import Json, Model, TensorSpec

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")
DEADLINE_S = 900.0
RANDOM_CALIBRATION, RANDOM_INPUTS = 32, 8
# A calibration set may hold a duplicate of a test input by chance; more than this share is a mistake.
OVERLAP_LIMIT = 0.1
SQNR_CAP_DB = 200.0


@dataclass(frozen=True)
class Data:
    """Inputs in the recipe's layout: `calibration` and `x` float32 [N, ...], `y` int64 [N] or None.

    `origin` is "recipe", or "random" when the recipe has no data() and edgekit drew the inputs.
    """

    calibration: np.ndarray
    x: np.ndarray
    y: np.ndarray | None
    origin: str


def load(model: Model, say: Callable[[str], None] | None = None) -> Data:
    """The data of a recipe, from the cache; made in a worker the first time. Raises UserError when data() is wrong."""
    return _entry(model, _read, say)


def _read(place: Path) -> Data | None:
    """The arrays of a cache entry; None when they are not what was written."""
    import numpy as np

    try:
        about = json.loads((place / "data.json").read_text("utf-8"))
        arrays = {}
        for name, sha256 in about["sha256"].items():
            if cache.file_sha256(place / f"{name}.npy") != sha256:
                return None
            arrays[name] = np.load(place / f"{name}.npy", allow_pickle=False)
        return Data(arrays["calibration"], arrays["x"], arrays.get("y"), about["origin"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def describe(model: Model, say: Callable[[str], None] | None = None) -> Json:
    """{"origin", "sha256": {array: hash}, "shapes"} of a recipe's data, without loading the arrays."""
    return _entry(model, _read_about, say)


def _read_about(place: Path) -> Json | None:
    try:
        about: Json = json.loads((place / "data.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return about


def _entry(model: Model, read: Callable[[Path], T | None], say: Callable[[str], None] | None) -> T:
    """What `read` finds in the cache folder with the arrays of a recipe; they are made the first time."""
    versions = {}
    for package in ("numpy", "scikit-learn"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    code = cache.file_sha256(Path(__file__))
    key = cache.digest({"recipe": sources.source_sha256(model), "versions": versions, "code": code})

    def make(folder: Path) -> None:
        request = {"recipe": str(model.source), "folder": str(folder)}
        result = worker.run("edgekit.data:make_data", request, DEADLINE_S, say, f"preparing the data of {model.name}")
        if say and result["origin"] == "random":
            say(f"{model.name}: the recipe has no data(), so calibration and inputs are random numbers")

    return cache.fetch(cache.cache_dir() / "data" / key, make, read, f"data of {model.name}", say)


def make_data(request: Json) -> Json:
    """In a worker: call data(), check what it returned, keep it as .npy files."""
    import numpy as np

    model = sources.load(request["recipe"])
    place = Path(request["folder"])
    where = f"{model.source.name}: data()"
    origin = "recipe" if hasattr(sources.execute(model.source), "data") else "random"
    given = sources.call(model, "data") if origin == "recipe" else _random(model.input)
    if not isinstance(given, dict) or not {"calibration", "x"} <= set(given) <= {"calibration", "x", "y"}:
        raise UserError(f"{where} must return a dict with calibration, x and, where there are labels, y", sources.HELP)
    arrays = {}
    for name in ("calibration", "x"):
        array = np.ascontiguousarray(_array(given[name], f"{where}: {name}"))
        if array.dtype.kind != "f" or array.shape[1:] != model.input.shape[1:] or len(array) == 0:
            expected = f"float32 (N, {', '.join(map(str, model.input.shape[1:]))})"
            raise UserError(f"{where}: {name} is {array.dtype} {array.shape}, INPUT asks for {expected}", sources.HELP)
        if not np.isfinite(array).all():
            raise UserError(f"{where}: {name} has values that are not finite")
        arrays[name] = array.astype(np.float32)
    if given.get("y") is not None:
        y = _array(given["y"], f"{where}: y")
        if y.dtype.kind not in "iu" or y.shape != (len(arrays["x"]),):
            raise UserError(
                f"{where}: y is {y.dtype} {y.shape}, it must be one whole number for each of the {len(arrays['x'])} inputs"
            )
        arrays["y"] = y.astype(np.int64)
    tests = {row.tobytes() for row in arrays["x"]}
    shared = sum(row.tobytes() in tests for row in arrays["calibration"])
    if shared > OVERLAP_LIMIT * len(arrays["calibration"]):
        message = f"{where}: {shared} of {len(arrays['calibration'])} calibration inputs are test inputs"
        raise UserError(message, "calibrate with training data; otherwise the accuracy after quantization is flattered")
    for name, array in arrays.items():
        save(place / f"{name}.npy", array)
    about = {
        "origin": origin,
        "sha256": {name: cache.file_sha256(place / f"{name}.npy") for name in arrays},
        "shapes": {name: list(array.shape) for name, array in arrays.items()},
    }
    (place / "data.json").write_text(json.dumps(about), "utf-8")
    return about


def _array(value: object, what: str) -> np.ndarray:
    """What data() gave as an array. Raises UserError when it is none, for instance rows of different lengths."""
    import numpy as np

    try:
        return np.asarray(value)
    except (ValueError, TypeError) as error:
        raise UserError(f"{what} is no array: {error}", sources.HELP) from error


def save(path: Path, array: np.ndarray) -> None:
    """Write an array as .npy. np.save to a path tells a full disk by an OSError that has no errno."""
    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    path.write_bytes(buffer.getbuffer())


def _random(spec: TensorSpec) -> dict[str, np.ndarray]:
    import numpy as np

    rng = np.random.default_rng(0)
    sizes = {"calibration": RANDOM_CALIBRATION, "x": RANDOM_INPUTS}
    return {name: rng.normal(0.0, 1.0, (size, *spec.shape[1:])).astype(np.float32) for name, size in sizes.items()}


def to_layout(x: np.ndarray, source: str | None, target: str | None) -> np.ndarray:
    """Images [N, ...] from one layout to another, contiguous; unchanged where either layout is not given."""
    import numpy as np

    if source is None or target is None or source == target:
        return np.ascontiguousarray(x)
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2) if target == "NCHW" else x.transpose(0, 2, 3, 1))


def encode(x: np.ndarray, spec: TensorSpec, layout: str | None) -> np.ndarray:
    """Inputs float32 [N, ...] in `layout` as an artifact's input tensor: little-endian, contiguous [N, ...], ready for a file.

    Integer inputs: stored = clip(rint(real / scale) + zero_point), halves to even (Jacob et al., arXiv:1712.05877, eq. 1).
    Raises UserError when the shapes do not fit.
    """
    import numpy as np

    moved = to_layout(x, layout, spec.layout)
    if moved.shape[1:] != spec.shape[1:]:
        raise UserError(f"the artifact's input '{spec.name}' has shape {spec.shape}, the data {moved.shape}")
    dtype = np.dtype(spec.dtype).newbyteorder("<")
    if dtype.kind in "iu" and spec.quantization:
        scale, zero_point = spec.quantization.scale[0], spec.quantization.zero_point[0]
        limits = np.iinfo(dtype)
        moved = np.clip(np.rint(moved.astype(np.float64) / scale) + zero_point, limits.min, limits.max)
    return np.ascontiguousarray(moved.astype(dtype))


def decode(raw: bytes | memoryview, spec: TensorSpec) -> np.ndarray:
    """An output tensor's bytes, any number of inferences one after the other, as float32 [N, ...].

    Integer outputs: real = (stored - zero_point) * scale. Raises ProtocolError when the bytes are no whole number of tensors.
    """
    import numpy as np

    dtype = np.dtype(spec.dtype).newbyteorder("<")
    size = dtype.itemsize * math.prod(spec.shape[1:])
    if len(raw) % size:
        raise ProtocolError(f"the output '{spec.name}' came as {len(raw)} bytes, which is no multiple of {size}")
    values = np.frombuffer(raw, dtype).reshape(-1, *spec.shape[1:])
    if dtype.kind in "iu" and spec.quantization:
        scale, zero_point = spec.quantization.scale[0], spec.quantization.zero_point[0]
        return ((values.astype(np.float64) - zero_point) * scale).astype(np.float32)
    return values.astype(np.float32)


def accuracy(outputs: np.ndarray, y: np.ndarray) -> Json:
    """Top-1 accuracy of outputs [N, classes] against labels [N], with its Wilson 95 % interval.

    A row with a value that is not finite counts as wrong. Raises UserError for a label that no output stands for.
    """
    import numpy as np

    rows = outputs.reshape(len(outputs), -1)
    classes, least, largest = rows.shape[1], int(y.min()), int(y.max())
    if least < 0 or largest >= classes:
        label = f"the largest label is {largest}" if largest >= classes else f"the smallest label is {least}"
        hint = f"y of data() must hold whole numbers from 0 to {classes - 1}"
        raise UserError(f"{label}, but the model has {classes} outputs", hint)
    finite = np.isfinite(rows).all(axis=1)
    correct = int(np.sum((rows.argmax(axis=1) == y) & finite))
    low, high = wilson(correct, len(y))
    return {"metric": "top1", "correct": correct, "total": len(y), "value": correct / len(y), "interval": [low, high]}


def wilson(correct: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """The score interval of a proportion (Wilson 1927, JASA 22:209), 95 % by default; within 0..1 also at the ends."""
    share = correct / total
    centre = share + z * z / (2 * total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    low, high = max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)
    # Exactly 0 and 1 where rounding would leave 1e-17.
    return (0.0 if correct == 0 else low, 1.0 if correct == total else high)


def fidelity(outputs: np.ndarray, reference: np.ndarray) -> Json:
    """How closely outputs [N, ...] follow the float reference [N, ...] on the same inputs.

    sqnr_db       10 log10(sum(reference^2) / sum((outputs - reference)^2)) over everything, capped at +-200 dB, so that
                  identical outputs stay a number in JSON; left out when the reference is all zero
    max_abs_diff  the largest absolute difference
    agreement     the share of rows whose largest value is at the same index
    cosine        the mean over rows of the cosine between the two; 1 for two zero rows, 0 for one
    non_finite    only when some outputs are NaN or infinite: how many. Then all but agreement is left out, and rows with
                  such a value agree with nothing.
    """
    import numpy as np

    a = outputs.reshape(len(outputs), -1).astype(np.float64)
    b = reference.reshape(len(reference), -1).astype(np.float64)
    if a.shape != b.shape:
        raise UserError(f"outputs {outputs.shape} and reference {reference.shape} cannot be compared")
    finite = np.isfinite(a)
    agreement = float(np.mean((np.where(finite, a, -np.inf).argmax(1) == b.argmax(1)) & finite.all(1)))
    if not finite.all():
        return {"agreement": agreement, "non_finite": int(np.sum(~finite))}
    signal, noise = float(np.sum(b * b)), float(np.sum((a - b) ** 2))
    figures: Json = {"max_abs_diff": float(np.max(np.abs(a - b))), "agreement": agreement}
    if signal > 0:
        ratio = 10 * math.log10(signal / noise) if noise > 0 else SQNR_CAP_DB
        figures["sqnr_db"] = max(-SQNR_CAP_DB, min(SQNR_CAP_DB, ratio))
    norms_a, norms_b = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    both_zero = (norms_a == 0) & (norms_b == 0)
    product = np.where(norms_a * norms_b == 0, 1.0, norms_a * norms_b)
    figures["cosine"] = float(np.mean(np.where(both_zero, 1.0, np.sum(a * b, axis=1) / product)))
    return figures
