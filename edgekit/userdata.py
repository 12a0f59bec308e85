"""The user's examples as a model's inputs: decoded and scaled once in a worker, kept in the cache, and checked.
Test and calibration sets never share an example unless the user insists."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import cache, datasets, preprocess, worker
from edgekit.errors import SetupError, UserError
from edgekit.types import Json, TensorSpec, to_json

if TYPE_CHECKING:
    import numpy as np

Say = Callable[[str], None]
DEADLINE_S = 3600.0
# Static quantization learns the range of each activation; some hundred examples settle it.
CALIBRATION_LIMIT = 500
SET_ASIDE_SHARE, SET_ASIDE_LIMIT = 0.1, 100
# What no two sets that belong together show: a quarter of the values far outside the other's range, or one 8 times as wide.
# A few rows may well miss the extremes, hence "far": a quarter of the range beyond its ends.
FAR_SHARE, FAR_SLACK, WIDER_LIMIT = 0.25, 0.25, 8.0
# A quantized input clips what it cannot hold.
CLIPPED_LIMIT = 0.1
# An 8-bit input of which the data use less than a sixteenth keeps under 4 bits of them.
UNUSED_LIMIT = 16.0
CHECKED_ROWS = 256


@dataclass(frozen=True)
class Examples:
    """One set: `x` one array [N, ...] per input, in the inputs' own shapes; `y` int64 [N], float32 [N, ...] or None;
    `rows` a hash per example; `about` what was applied."""

    x: tuple[np.ndarray, ...]
    y: np.ndarray | None
    rows: np.ndarray
    about: Json

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, wanted: np.ndarray) -> Examples:
        """The examples at some positions."""
        y = self.y[wanted] if self.y is not None else None
        about = {**self.about, "count": len(self.rows[wanted])}
        return Examples(tuple(array[wanted] for array in self.x), y, self.rows[wanted], about)


def load(
    listing: datasets.Listing,
    inputs: tuple[TensorSpec, ...],
    settings: preprocess.Settings,
    flag: str,
    part: str = "all",
    say: Say | None = None,
) -> Examples:
    """The examples of a listing, from the cache; made in a worker the first time. Raises UserError when they do not fit.

    `part`: "all"; "rest" without those that "set-aside" takes (a tenth, evenly spaced, at most 100); "spread", evenly
    spaced and at most 500.
    """
    if listing.files and len(inputs) > 1:
        names = ", ".join(spec.name for spec in inputs)
        raise UserError(
            f"{flag}: images fill one input, the model has {len(inputs)}", f"give an .npz with {names} and y"
        )
    if listing.files:
        preprocess.steps(settings, inputs[0])  # what cannot work is said at once
    key = cache.digest(
        {
            "listing": listing.sha256(),
            "inputs": to_json(inputs),
            "settings": to_json(settings),
            "part": part,
            "code": cache.source_sha256(
                *(Path(__file__).with_name(f"{n}.py") for n in ("userdata", "preprocess", "datasets"))
            ),
            "versions": {name: _version(name) for name in ("numpy", "pillow")},
        }
    )
    request = {
        "listing": to_json({**vars(listing), "y": None}),
        "inputs": to_json(inputs),
        "settings": to_json(settings),
        "part": part,
        "flag": flag,
    }

    def make(folder: Path) -> None:
        doing = f"reading {len(listing.files) or 'the'} examples of {flag}"
        if say:
            say(doing)
        worker.run("edgekit.userdata:make", {**request, "folder": str(folder)}, DEADLINE_S, say, doing)

    def read(place: Path) -> Examples | None:
        return _read(place, listing, part)

    return cache.fetch(cache.cache_dir() / "examples" / key, make, read, f"examples of {flag}", say)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _read(place: Path, listing: datasets.Listing, part: str) -> Examples | None:
    """The arrays of a cache entry, mapped and not loaded; None when they are not what was written."""
    import numpy as np

    try:
        about = json.loads((place / "about.json").read_text("utf-8"))
        if any(cache.file_sha256(place / name) != sha256 for name, sha256 in about.pop("files").items()):
            return None
        x = tuple(np.load(place / f"x{i}.npy", mmap_mode="r", allow_pickle=False) for i in range(about.pop("inputs")))
        y = np.load(place / "y.npy", allow_pickle=False) if (place / "y.npy").exists() else None
        if listing.y is not None:
            chosen = [listing.y[position] for position in positions(len(listing.files), part)]
            floats = any(isinstance(value, float) for value in chosen)
            y = np.array(chosen, np.float32 if floats else np.int64)
        return Examples(x, y, np.load(place / "rows.npy", allow_pickle=False), about)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def positions(count: int, part: str) -> list[int]:
    """The positions that a part takes of `count` examples."""
    aside = min(SET_ASIDE_LIMIT, max(1, int(count * SET_ASIDE_SHARE)))
    if part == "all":
        return list(range(count))
    if part == "spread":
        return spaced(count, min(count, CALIBRATION_LIMIT))
    taken = spaced(count, aside)
    return taken if part == "set-aside" else sorted(set(range(count)) - set(taken))


def spaced(count: int, wanted: int) -> list[int]:
    """`wanted` of `count` positions, evenly spaced: as many of each class as of the next, files being sorted by class."""
    return [(2 * index + 1) * count // (2 * wanted) for index in range(wanted)]


def make(request: Json) -> Json:
    """In a worker: the examples of a listing as .npy files beside about.json."""
    import numpy as np

    given = request["listing"]
    files, archive = tuple(map(Path, given["files"])), given.get("archive")
    listing = datasets.Listing(given["form"], Path(given["path"]), files, Path(archive) if archive else None)
    inputs = tuple(TensorSpec.from_json(spec) for spec in request["inputs"])
    settings = preprocess.Settings(**{key: _tuple(value) for key, value in request["settings"].items()})
    place, part, flag = Path(request["folder"]), request["part"], request["flag"]
    if listing.files:
        chosen = positions(len(listing.files), part)
        _enough(chosen, len(listing.files), flag)
        about = _from_files(listing, [listing.files[position] for position in chosen], settings, inputs[0], place)
    else:
        raw, y = datasets.arrays(listing.archive or listing.path, inputs, flag)
        chosen = positions(len(raw[0]), part)
        _enough(chosen, len(raw[0]), flag)
        about = {"applied": []}
        for index, (spec, array) in enumerate(zip(inputs, raw, strict=True)):
            x, told = from_array(array[chosen], settings, spec, flag)
            np.save(place / f"x{index}.npy", x)
            about["applied"].append({"input": spec.name, **told})
        if y is not None:
            np.save(place / "y.npy", y[chosen])
    x_arrays = [np.load(place / f"x{index}.npy", mmap_mode="r") for index in range(len(inputs))]
    for spec, array in zip(inputs, x_arrays, strict=True):
        check_stored_range(array, spec, flag)
    np.save(place / "rows.npy", row_hashes(x_arrays))
    sums = {path.name: cache.file_sha256(path) for path in sorted(place.glob("*.npy"))}
    about |= {"count": len(chosen), "inputs": len(inputs), "files": sums}
    (place / "about.json").write_text(json.dumps(about), "utf-8")
    return {"count": len(chosen)}


def _tuple(value: Any) -> Any:
    return tuple(map(_tuple, value)) if isinstance(value, list) else value


def _enough(chosen: list[int], count: int, flag: str) -> None:
    if not chosen:
        raise UserError(
            f"{flag}: {count} example cannot serve for the test and for calibration", "give more, or --calibration"
        )


def _from_files(
    listing: datasets.Listing, files: list[Path], settings: preprocess.Settings, spec: TensorSpec, place: Path
) -> Json:
    """Write x0.npy from image files; what was applied."""
    import numpy as np

    plan = preprocess.steps(settings, spec)
    out = np.lib.format.open_memmap(place / "x0.npy", "w+", np.float32, (len(files), *spec.shape[1:]))
    fitted = turned = 0
    for index, file in enumerate(files):
        name = listing.name_of(file)
        image = datasets.open_image(file, name)
        turned += image.getexif().get(0x0112, 1) != 1  # the Exif tag Orientation; 1 is upright
        out[index], changed = preprocess.apply(image, plan, name)
        fitted += changed
    out.flush()
    told = {"input": spec.name, **plan.about, "fitted": fitted, "as_they_are": len(files) - fitted}
    if turned:
        told["orientation_ignored"] = turned
    return {"applied": [told]}


def from_array(
    array: np.ndarray, settings: preprocess.Settings, spec: TensorSpec, flag: str
) -> tuple[np.ndarray, Json]:
    """(an archive's array as the model's input, what was applied).

    uint8 is pixels and is treated as image files are; floats are taken as they are; the integers of a quantized
    input's own dtype are its stored values. Raises UserError when the shape does not fit.
    """
    import numpy as np

    if array.dtype.kind not in "fiub":
        raise UserError(f"{flag}: the array for '{spec.name}' is {array.dtype}, not numbers", "save numbers")
    shape = tuple(spec.shape[1:])
    if array.dtype == np.uint8 and len(shape) == 3 and array.ndim in (3, 4):
        return _pixels(array, settings, spec)
    array, turned = _oriented(array, shape)
    if array.shape[1:] != shape:
        message = f"{flag}: the rows for '{spec.name}' have shape {array.shape[1:]}, the input takes {shape}"
        raise UserError(message, "save them in the input's own shape; only uint8 images are resized")
    told: Json = {"transposed": turned} if turned else {}
    if array.dtype == np.uint8:
        table, about = preprocess.value_table(settings, spec, 1)
        return table[0][array], {**told, **about}
    said = [key for key in ("range", "mean", "std", "resize", "crop") if settings.source(key) == "--preprocess"]
    if said:
        message = f"{flag}: {said[0]} is for pixels, the array for '{spec.name}' is {array.dtype}, taken as it is"
        raise UserError(message, "save uint8 pixels, or leave it out of --preprocess")
    if spec.quantization is not None and array.dtype == spec.dtype:
        scale, zero_point = spec.quantization.scale[0], spec.quantization.zero_point[0]
        real = ((array.astype(np.float64) - zero_point) * scale).astype(np.float32)
        return real, {**told, "values": "stored integers of the input"}
    if not np.isfinite(array).all():
        raise UserError(
            f"{flag}: the array for '{spec.name}' has values that are not finite", "leave those examples out"
        )
    if array.dtype.kind == "f" and array.dtype.itemsize > 4 and np.abs(array).max(initial=0) > preprocess.FLOAT32_MAX:
        message = (
            f"{flag}: the array for '{spec.name}' has values up to {np.abs(array).max():.3g}, too large for float32"
        )
        raise UserError(message, "leave those examples out, or scale them")
    kept = np.int64 if np.dtype(spec.dtype).kind in "iu" and spec.quantization is None else np.float32
    if kept is np.int64 and array.dtype.kind == "f" and not np.array_equal(array, np.rint(array)):
        raise UserError(f"{flag}: the input '{spec.name}' takes whole numbers, the array has others", "save integers")
    return np.ascontiguousarray(array.astype(kept)), {**told, "values": "as they are"}


def _oriented(array: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, str]:
    """(the array with its channels where the input has them, what was done to it or nothing)."""
    if array.ndim == 4 and len(shape) == 3 and array.shape[1:] != shape:
        if array.transpose(0, 3, 1, 2).shape[1:] == shape:
            return array.transpose(0, 3, 1, 2), "NHWC to NCHW"
        if array.transpose(0, 2, 3, 1).shape[1:] == shape:
            return array.transpose(0, 2, 3, 1), "NCHW to NHWC"
    return array, ""


def _pixels(array: np.ndarray, settings: preprocess.Settings, spec: TensorSpec) -> tuple[np.ndarray, Json]:
    """uint8 [N, H, W], [N, H, W, C] or [N, C, H, W] through the same steps as image files."""
    import numpy as np

    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise SetupError(
            "images need the Python package pillow, which is not installed", "pip install pillow"
        ) from error
    plan = preprocess.steps(settings, spec)
    if array.ndim == 4 and array.shape[3] not in preprocess.MODES and array.shape[1] in preprocess.MODES:
        array = array.transpose(0, 2, 3, 1)
    if array.ndim == 4 and array.shape[3] not in preprocess.MODES:
        message = f"the rows for '{spec.name}' have shape {array.shape[1:]}, which is no image"
        raise UserError(message, "images are [N, H, W], [N, H, W, C] or [N, C, H, W]")
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    out = np.empty((len(array), *spec.shape[1:]), np.float32)
    fitted = 0
    for index, row in enumerate(array):
        out[index], changed = preprocess.apply(Image.fromarray(np.ascontiguousarray(row)), plan, f"row {index}")
        fitted += changed
    return out, {**plan.about, "fitted": fitted, "as_they_are": len(out) - fitted}


def row_hashes(arrays: Iterator[np.ndarray] | list[np.ndarray] | tuple[np.ndarray, ...]) -> np.ndarray:
    """A 16-byte hash of each example over all its inputs: bytes [N]."""
    import numpy as np

    rows = zip(*arrays, strict=True)
    hashes = [hashlib.blake2b(b"".join(part.tobytes() for part in row), digest_size=16).digest() for row in rows]
    return np.array(hashes, dtype="V16")


def without(candidates: Examples, tests: Examples) -> Examples:
    """The candidates for calibration that are not among the tests."""
    import numpy as np

    known = {row.tobytes() for row in tests.rows}
    keep = np.array([position for position, row in enumerate(candidates.rows) if row.tobytes() not in known], np.int64)
    if len(keep) == len(candidates):
        return candidates
    left_out = len(candidates) - len(keep)
    kept = candidates.take(keep)
    return dataclasses.replace(kept, about={**kept.about, "left_out_as_tests": left_out})


def check_stored_range(array: np.ndarray, spec: TensorSpec, flag: str) -> None:
    """Refuse values that a quantized input cannot hold, or of which it would keep next to nothing."""
    import numpy as np

    limits = preprocess.stored_range(spec)
    if limits is None or spec.quantization is None:
        return
    rows = np.asarray(array[spaced(len(array), min(len(array), CHECKED_ROWS))])
    low, high = float(rows.min()), float(rows.max())
    holds = f"the input '{spec.name}' holds {limits[0]:.6g} to {limits[1]:.6g}"
    slack = (limits[1] - limits[0]) / 255
    outside = float(np.mean((rows < limits[0] - slack) | (rows > limits[1] + slack)))
    hint = "leave range, mean and std out: pixels then fill what the input holds"
    if outside > CLIPPED_LIMIT:
        message = f"{flag}: {outside:.0%} of the values, {low:.6g} to {high:.6g}, are out of range: {holds}"
        raise UserError(message, hint)
    if high > low and (limits[1] - limits[0]) / (high - low) > UNUSED_LIMIT:
        raise UserError(f"{flag}: the values are {low:.6g} to {high:.6g}, but {holds}, so most is rounded away", hint)


def check_calibration(
    calibration: tuple[np.ndarray, ...], tests: tuple[np.ndarray, ...], inputs: tuple[TensorSpec, ...]
) -> None:
    """Refuse a calibration set whose shape or range is not that of the inputs."""
    import numpy as np

    for spec, known, seen in zip(inputs, calibration, tests, strict=True):
        if known.shape[1:] != seen.shape[1:]:
            message = f"calibration rows for '{spec.name}' have shape {known.shape[1:]}, the inputs {seen.shape[1:]}"
            raise UserError(message, "prepare both in the same way")
        if known.dtype.kind in "iu":
            continue  # indices, of which a few rows show only some
        rows = [np.asarray(array[spaced(len(array), min(len(array), CHECKED_ROWS))]) for array in (known, seen)]
        (low, high), (least, most) = ((float(part.min()), float(part.max())) for part in rows)
        slack = FAR_SLACK * (high - low)
        far = float(np.mean((rows[1] < low - slack) | (rows[1] > high + slack)))
        if far > FAR_SHARE or (most > least and (high - low) > WIDER_LIMIT * (most - least)):
            seen_range = f"the inputs from {least:.4g} to {most:.4g}"
            message = f"calibration for '{spec.name}' reaches from {low:.4g} to {high:.4g}, {seen_range}"
            raise UserError(
                message, "scale both in the same way: int8 would be calibrated for other numbers than it gets"
            )
