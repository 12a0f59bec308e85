"""Inputs and labels of a recipe (made once, cached) or of the user, their form as an artifact's tensors, and fidelity against the
float model; accuracy against labels is in metrics.py. Runs no model."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import cache, holdout, preprocess, recipes, sources, userdata, worker
from edgekit.errors import ProtocolError, UserError
from edgekit.types import Json, Model, TensorSpec, to_json

if TYPE_CHECKING:
    import numpy as np

Arrays = tuple["np.ndarray", ...]
DEADLINE_S = 900.0
RANDOM_CALIBRATION, RANDOM_INPUTS = 32, 8
# A calibration set may hold a duplicate of a test input by chance; more than this share is a mistake.
OVERLAP_LIMIT = 0.1
SQNR_CAP_DB = 200.0


@dataclass(frozen=True)
class Data:
    """Inputs as the model's source takes them: `calibration` and `x` hold one array [N, ...] per input, `y` [N] or None.

    `origin` is "recipe", "user", or "random" where edgekit drew the inputs.
    `provenance` is what a report says of them: source, preprocessing, label offset.
    """

    calibration: tuple[np.ndarray, ...]
    x: tuple[np.ndarray, ...]
    y: np.ndarray | None
    origin: str
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many held-out inputs there are."""
        return len(self.x[0])

    @functools.cached_property
    def calibration_sha256(self) -> str:
        """What an artifact's key takes for the calibration inputs."""
        return arrays_sha256(self.calibration)

    @property
    def sha256(self) -> dict[str, str | None]:
        """What a run remembers of its data: a hash of the inputs, of the labels and of the calibration inputs."""
        y = arrays_sha256((self.y,)) if self.y is not None else None
        return {"x": self.x_sha256, "y": y, "calibration": self.calibration_sha256}

    @functools.cached_property
    def x_sha256(self) -> str:
        """What a reference's key takes for the held-out inputs."""
        return arrays_sha256(self.x)


def arrays_sha256(arrays: Iterable[np.ndarray]) -> str:
    """sha256 (hex) of the types, shapes and bytes of some arrays."""
    import numpy as np

    total = hashlib.sha256()
    for array in arrays:
        total.update(f"{array.dtype.str} {array.shape}\n".encode())
        total.update(np.ascontiguousarray(array).view(np.uint8).data)
    return total.hexdigest()


def load(model: Model, say: Callable[[str], None] | None = None) -> Data:
    """The data of a recipe, from the cache; made in a worker the first time. Other models get random numbers.

    Raises UserError when data() is wrong.
    """
    if model.kind not in ("recipe", "factory"):
        if say:
            say(f"{model.name}: no data was given, so calibration and inputs are random numbers")
        drawn = _random(model.inputs)
        return Data(drawn["calibration"], drawn["x"], None, "random", {"source": "random numbers"})
    versions = {}
    for package in ("numpy", "scikit-learn"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    code = cache.file_sha256(Path(__file__))
    key = cache.digest({"recipe": sources.source_sha256(model), "versions": versions, "code": code})

    def make(folder: Path) -> None:
        request = {"model": to_json(model), "folder": str(folder)}
        result = worker.run("edgekit.data:make_data", request, DEADLINE_S, say, f"preparing the data of {model.name}")
        if say and result["origin"] == "random":
            say(f"{model.name}: the recipe has no data(), so calibration and inputs are random numbers")

    return cache.fetch(cache.cache_dir() / "data" / key, make, _read, f"data of {model.name}", say)


def _read(place: Path) -> Data | None:
    """The arrays of a cache entry; None when they are not what was written."""
    import numpy as np

    try:
        about = json.loads((place / "data.json").read_text("utf-8"))
        arrays: dict[str, list[np.ndarray]] = {"calibration": [], "x": [], "y": []}
        for name, sha256 in about["sha256"].items():
            if cache.file_sha256(place / f"{name}.npy") != sha256:
                return None
            arrays[name.rstrip("0123456789")].append(np.load(place / f"{name}.npy", allow_pickle=False))
        y = arrays["y"][0] if arrays["y"] else None
        source = {"source": "the recipe's data()" if about["origin"] == "recipe" else "random numbers"}
        return Data(tuple(arrays["calibration"]), tuple(arrays["x"]), y, about["origin"], source)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def make_data(request: Json) -> Json:
    """In a worker: call data(), check what it returned, keep it as .npy files: calibration, calibration1 ..., x, y."""
    import numpy as np

    model = Model.from_json(request["model"])
    place = Path(request["folder"])
    where = f"{model.source.name}: data()"
    origin = "recipe" if hasattr(recipes.execute(model.source), "data") else "random"
    given = recipes.call(model, "data") if origin == "recipe" else _random(model.inputs)
    if not isinstance(given, dict) or not {"calibration", "x"} <= set(given) <= {"calibration", "x", "y"}:
        raise UserError(f"{where} must return a dict with calibration, x and, where there are labels, y", recipes.HELP)
    arrays = {}
    for name in ("calibration", "x"):
        for index, array in enumerate(_checked(given[name], model.inputs, name, where)):
            arrays[f"{name}{index or ''}"] = array
    count = len(arrays["x"])
    if given.get("y") is not None:
        y = _array(given["y"], f"{where}: y")
        if y.dtype.kind not in "iu" or y.shape != (count,):
            raise UserError(
                f"{where}: y is {y.dtype} {y.shape}, it must be one whole number for each of the {count} inputs"
            )
        arrays["y"] = y.astype(np.int64)
    inputs = range(len(model.inputs))
    rows, tests = (_rows([arrays[f"{name}{i or ''}"] for i in inputs]) for name in ("calibration", "x"))
    held_out = set(tests)
    shared = sum(row in held_out for row in rows)
    if shared > OVERLAP_LIMIT * len(rows):
        message = f"{where}: {shared} of {len(rows)} calibration inputs are test inputs"
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


def _checked(given: Any, specs: Sequence[TensorSpec], name: str, where: str) -> list[np.ndarray]:
    """What data() gives for `name`, one array per input, in the inputs' types. Raises UserError when it does not fit."""
    import numpy as np

    if isinstance(given, Mapping):
        missing = [spec.name for spec in specs if spec.name not in given]
        if missing:
            raise UserError(f"{where}: {name} lacks the input '{missing[0]}'", recipes.HELP)
        given = [given[spec.name] for spec in specs]
    elif len(specs) == 1 and not isinstance(given, tuple):
        given = [given]
    if len(given) != len(specs):
        raise UserError(f"{where}: {name} has {len(given)} arrays, the model {len(specs)} inputs", recipes.HELP)
    arrays = []
    for spec, value in zip(specs, given, strict=True):
        array = np.ascontiguousarray(_array(value, f"{where}: {name}"))
        right = array.dtype.kind == "f" if spec.dtype == "float32" else array.dtype.kind in "iu"
        if not right or array.shape[1:] != spec.shape[1:] or len(array) == 0:
            expected = f"{spec.dtype} (N, {', '.join(map(str, spec.shape[1:]))})"
            said = "INPUT" if len(specs) == 1 else f"'{spec.name}' of INPUTS"
            raise UserError(f"{where}: {name} is {array.dtype} {array.shape}, {said} asks for {expected}", recipes.HELP)
        if not np.isfinite(array).all():
            raise UserError(f"{where}: {name} has values that are not finite")
        arrays.append(array.astype(spec.dtype))
    if len({len(array) for array in arrays}) > 1:
        rows = ", ".join(str(len(array)) for array in arrays)
        raise UserError(f"{where}: {name} has {rows} rows for its inputs", recipes.HELP)
    return arrays


def _array(value: object, what: str) -> np.ndarray:
    """What data() gave as an array. Raises UserError when it is none, for instance rows of different lengths."""
    import numpy as np

    try:
        return np.asarray(value)
    except (ValueError, TypeError) as error:
        raise UserError(f"{what} is no array: {error}", recipes.HELP) from error


def _rows(arrays: Sequence[np.ndarray]) -> list[bytes]:
    """Each sample as bytes, all inputs one after the other."""
    return [b"".join(row.tobytes() for row in rows) for rows in zip(*arrays, strict=True)]


def save(path: Path, array: np.ndarray) -> None:
    """Write an array as .npy. np.save to a path tells a full disk by an OSError that has no errno."""
    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    path.write_bytes(buffer.getbuffer())


def _random(specs: Sequence[TensorSpec]) -> dict[str, tuple[np.ndarray, ...]]:
    """Normal numbers for floats, the whole range for quantized inputs and bytes, zeros and ones for all others."""
    import numpy as np

    rng = np.random.default_rng(0)

    def draw(spec: TensorSpec, size: int) -> np.ndarray:
        shape = (size, *spec.shape[1:])
        dtype = np.dtype(spec.dtype)
        if dtype.kind == "f":
            return rng.normal(0.0, 1.0, shape).astype(np.float32)
        if dtype.kind == "b" or (dtype.itemsize > 1 and not spec.quantization):
            return rng.integers(0, 2, shape).astype(dtype)
        limits = np.iinfo(dtype)
        stored = rng.integers(limits.min, limits.max, shape, endpoint=True)
        if not spec.quantization:
            return stored.astype(dtype)
        return ((stored - spec.quantization.zero_point[0]) * spec.quantization.scale[0]).astype(np.float32)

    sizes = {"calibration": RANDOM_CALIBRATION, "x": RANDOM_INPUTS}
    return {name: tuple(draw(spec, size) for spec in specs) for name, size in sizes.items()}


def to_layout(x: np.ndarray, source: str | None, target: str | None) -> np.ndarray:
    """Images [N, ...] from one layout to another, contiguous; unchanged where either layout is not given."""
    import numpy as np

    if source is None or target is None or source == target:
        return np.ascontiguousarray(x)
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2) if target == "NCHW" else x.transpose(0, 2, 3, 1))


def order(wanted: Sequence[TensorSpec], have: Sequence[TensorSpec]) -> list[int]:
    """For each tensor of `wanted` the index of the one of `have` that is meant: by name where all names agree, else by place.

    Raises UserError when the numbers differ.
    """
    if len(wanted) != len(have):
        raise UserError(f"{len(wanted)} tensors are wanted, and there are {len(have)}")
    names = [spec.name for spec in have]
    if len(set(names)) == len(names) and {spec.name for spec in wanted} == set(names):
        return [names.index(spec.name) for spec in wanted]
    return list(range(len(have)))


def encode(xs: Sequence[np.ndarray], specs: Sequence[TensorSpec], layouts: Sequence[str | None]) -> bytes:
    """Inputs [N, ...] as an artifact's input tensors: call after call, in each input after input, little-endian.

    A call takes as many samples as the first dimension of the tensors says; N is a multiple of that.

    Integer inputs that are quantized: stored = clip(rint(real / scale) + zero_point), halves to even (Jacob et al.,
    arXiv:1712.05877, eq. 1). Raises UserError when the numbers or shapes do not fit.
    """
    import numpy as np

    if not len(xs) == len(specs) == len(layouts):
        raise UserError(f"the artifact has {len(specs)} inputs, the data {len(xs)}")
    stored = [_stored(x, spec, layout) for x, spec, layout in zip(xs, specs, layouts, strict=True)]
    if len({len(array) for array in stored}) > 1:
        raise UserError(f"the inputs have different numbers of samples: {', '.join(str(len(a)) for a in stored)}")
    if len(stored) == 1:
        return stored[0].tobytes()
    calls = len(stored[0]) // specs[0].shape[0]
    rows = [np.ascontiguousarray(array).reshape(calls, -1).view(np.uint8) for array in stored]
    return np.concatenate(rows, axis=1).tobytes()


def _stored(x: np.ndarray, spec: TensorSpec, layout: str | None) -> np.ndarray:
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


def call_bytes(specs: Sequence[TensorSpec]) -> list[int]:
    """The bytes of one call in each tensor."""
    import numpy as np

    return [np.dtype(spec.dtype).itemsize * math.prod(spec.shape) for spec in specs]


def decode(raw: bytes | bytearray | memoryview, specs: Sequence[TensorSpec]) -> tuple[np.ndarray, ...]:
    """The bytes of output tensors, call after call and in each output after output, as float32 [N, ...] for each.

    Integer outputs: real = (stored - zero_point) * scale. Raises ProtocolError when the bytes are no whole number of calls.
    """
    import numpy as np

    dtypes, sizes = [np.dtype(spec.dtype).newbyteorder("<") for spec in specs], call_bytes(specs)
    if len(raw) % sum(sizes):
        names = ", ".join(spec.name for spec in specs)
        raise ProtocolError(f"the output '{names}' came as {len(raw)} bytes, which is no multiple of {sum(sizes)}")
    rows = np.frombuffer(raw, np.uint8).reshape(-1, sum(sizes))
    found, start = [], 0
    for spec, dtype, size in zip(specs, dtypes, sizes, strict=True):
        part = np.ascontiguousarray(rows[:, start : start + size]).view(dtype).reshape(-1, *spec.shape[1:])
        start += size
        if dtype.kind in "iu" and spec.quantization:
            scale, zero_point = spec.quantization.scale[0], spec.quantization.zero_point[0]
            part = (part.astype(np.float64) - zero_point) * scale
        found.append(part.astype(np.float32))
    return tuple(found)


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


def from_user(
    model: Model,
    artifact_inputs: tuple[TensorSpec, ...],
    data_path: str | Path | None,
    calibration_path: str | Path | None,
    preprocess_text: str | None,
    say: Callable[[str], None],
    *,
    calibrate: bool | None = None,
    classes: int | None = None,
) -> Data:
    """The user's examples as this model's inputs, in the shapes of `artifact_inputs` (empty: the model's own).

    What is not given comes from the recipe. `calibrate`: whether a calibration set is needed, by default unless the model
    is a finished artifact; without --calibration, a tenth of --data is set aside for it. `classes`, where the outputs are
    known already, checks the labels now. Preprocessing: --preprocess, else model.toml beside the model, else the
    recipe's PREPROCESS, key by key. Raises UserError when data and model do not fit.
    """
    inputs = artifact_inputs or model.inputs
    recipe = vars(recipes.execute(model.source)) if model.kind == "recipe" else {}
    settings = preprocess.gather(
        (f"PREPROCESS of {model.source.name}", recipe.get("PREPROCESS")),
        preprocess.sidecar(model.source),
        ("--preprocess", preprocess_text),
    )

    needed = model.kind != "artifact" if calibrate is None else calibrate
    own = None
    if model.kind in ("recipe", "factory") and (data_path is None or (needed and calibration_path is None)):
        given = load(model, say)
        if given.origin == "recipe":
            calibration = userdata.Examples(given.calibration, None, userdata.row_hashes(given.calibration), {})
            tests = userdata.Examples(given.x, given.y, userdata.row_hashes(given.x), {})
            own = holdout.Own(calibration, tests)
    found = holdout.prepare(inputs, settings, data_path, calibration_path, own, needed, classes, say)
    return Data(found.calibration, found.x, found.y, "user", found.provenance)


def fidelities(outputs: Sequence[np.ndarray], references: Sequence[np.ndarray], names: Sequence[str]) -> Json:
    """fidelity() of every output; at the top level that of the worst one, and all of them under "outputs" when several."""
    found = [fidelity(output, reference) for output, reference in zip(outputs, references, strict=True)]
    if len(found) == 1:
        return found[0]
    worst = min(found, key=lambda figures: (-figures.get("non_finite", 0), figures.get("sqnr_db", SQNR_CAP_DB)))
    return {**worst, "outputs": [{"name": name, **figures} for name, figures in zip(names, found, strict=True)]}
