"""What a path given by the user holds: class folders, images with a CSV, plain images, or the arrays of an .npz.
Finds and names; decodes no image and scales nothing."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import cache, labels
from edgekit.errors import SetupError, UserError
from edgekit.preprocess import FLOAT32_MAX
from edgekit.types import TensorSpec

if TYPE_CHECKING:
    import numpy as np

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
FILE_COLUMNS = ("file", "filename", "image", "path", "filepath", "image_path")
LABEL_COLUMNS = ("label", "class", "category", "y", "target")
# A folder of these holds whole data sets, not classes.
SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing", "calibration"}
FORMS = "data is a folder of class folders, a folder of images, a .csv of images and labels, or an .npz with x and y"


@dataclass(frozen=True)
class Listing:
    """The examples at a path. `files` for images, else `archive` for an .npz; `y` are class indices, values, or None.

    `labelled` says how labels came about, in the words of labels.py; `names` are the classes in the order of indices.
    """

    form: str
    path: Path
    files: tuple[Path, ...] = ()
    archive: Path | None = None
    y: tuple[int | float, ...] | None = None
    labelled: str = "none"
    names: tuple[str, ...] = ()

    def sha256(self) -> str:
        """The hash of everything that decides the examples: contents, order and labels, but not where they lie."""
        contents = [cache.file_sha256(path) for path in (*self.files, *([self.archive] if self.archive else []))]
        return cache.digest([contents, self.y, self.labelled, self.names])

    def name_of(self, file: Path) -> str:
        """A file as messages name it: from the given folder downwards."""
        return str(file.relative_to(self.path)) if file.is_relative_to(self.path) else file.name


def find(given: str | Path, flag: str) -> Listing:
    """The examples at a path; `flag` (--data, --calibration) is for messages. Raises UserError when there are none."""
    path = Path(given).expanduser()
    if not path.exists():
        raise UserError(f"{flag}: there is nothing at {given}", FORMS)
    if path.is_dir():
        return _folder(path, flag)
    if path.suffix == ".npz":
        return Listing("npz", path, archive=path, labelled="y in the archive")
    if path.suffix == ".csv":
        return _csv(path, path.parent, flag)
    raise UserError(f"{flag}: {path.name} is neither a folder nor an .npz or .csv file", FORMS)


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    """The images below a folder, in sorted order of their paths."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def _folder(folder: Path, flag: str) -> Listing:
    """Class folders, or images with or without one CSV."""
    entries = _visible(folder)
    tables = [path for path in entries if path.suffix == ".csv" and path.is_file()]
    if len(tables) > 1:
        message = f"{flag}: {folder.name} has several tables: {', '.join(path.name for path in tables)}"
        raise UserError(message, "give the path of the one that is meant")
    if tables:
        return _csv(tables[0], folder, flag)
    loose = [path for path in entries if path.suffix.lower() in SUFFIXES and path.is_file()]
    classes = {path.name: _images(path) for path in entries if path.is_dir()}
    if loose and any(classes.values()):
        message = f"{flag}: {folder.name} has images ('{loose[0].name}' ...) beside folders with images"
        raise UserError(message, "move every image into the folder of its class")
    if loose:
        return Listing("images", folder, tuple(loose))
    if not any(classes.values()):
        others = f", only files such as '{entries[0].name}'" if entries and not classes else ""
        raise UserError(
            f"{flag}: {folder.name} has no images in it{others}", f"{FORMS}; known images: {' '.join(SUFFIXES)}"
        )
    if {name.lower() for name in classes} <= SPLITS:
        message = f"{flag}: {folder.name} holds data sets, not classes: {', '.join(classes)}"
        raise UserError(message, f"give one of them, such as {flag} {folder.name}/{list(classes)[-1]}")
    for name, images in classes.items():
        if not images:
            raise UserError(f"{flag}: the class folder '{name}' of {folder.name} has no images", "fill it or remove it")
    indices, numbered = labels.index(list(classes), f"{flag}: the class folders of {folder.name}")
    ordered = sorted(classes, key=indices.__getitem__)
    files = tuple(image for name in ordered for image in classes[name])
    y = tuple(indices[name] for name in ordered for _ in classes[name])
    how = "folder names are indices" if numbered else labels.ORDERED[0]
    return Listing("class folders", folder, files, y=y, labelled=how, names=() if numbered else tuple(ordered))


def _csv(path: Path, root: Path, flag: str) -> Listing:
    """A table with a column of image files and, where there are labels, a column of labels."""
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{flag}: cannot read {path.name}: {error}", "save it as UTF-8 text") from error
    first = text.partition("\n")[0]
    delimiter = max((",", ";", "\t"), key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        lines = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        message = f"{flag}: {path.name} line {reader.line_num} is no table row: {error}"
        raise UserError(message, "look for a quotation mark that is not closed") from error
    rows = [(number, row) for number, row in lines if any(row)]
    if not rows:
        raise UserError(f"{flag}: {path.name} is empty", "it needs a header, such as file,label, and a line per image")
    header = [cell.lower() for cell in rows[0][1]]
    file_column = next((header.index(name) for name in FILE_COLUMNS if name in header), None)
    label_columns = [position for position, name in enumerate(header) if name in LABEL_COLUMNS]
    if file_column is not None and len(label_columns) > 1:
        message = f"{flag}: {path.name} has several columns of labels: {', '.join(header[i] for i in label_columns)}"
        raise UserError(message, "rename or remove those that are not meant")
    label_column = label_columns[0] if label_columns else None
    if file_column is None and _is_file(root / rows[0][1][0]) and len(header) <= 2:
        file_column, label_column = 0, 1 if len(header) == 2 else None  # no header: the first line names a file
    elif file_column is None:
        message = f"{flag}: {path.name} has no column of image files, only {', '.join(header)}"
        raise UserError(message, f"name it file, and the labels' column label (known: {', '.join(FILE_COLUMNS)})")
    else:
        rows = rows[1:]
    if not rows:
        raise UserError(f"{flag}: {path.name} has a header and no line below it", "add a line per image")
    files: list[Path] = []
    words: list[tuple[int, str]] = []
    for number, row in rows:
        if len(row) <= max(file_column, label_column or 0):
            raise UserError(f"{flag}: {path.name} line {number} has too few fields", f"it needs {len(header)}")
        if not _is_file(root / row[file_column]):
            message = f"{flag}: {path.name} line {number} names '{row[file_column][:200]}', which does not exist"
            raise UserError(message, f"paths are relative to {root.name or 'the folder of the table'}")
        files.append(root / row[file_column])
        if label_column is not None:
            words.append((number, row[label_column]))
    y, how, names = _csv_labels(words, f"{flag}: the labels of {path.name}", f"{flag}: {path.name}")
    return Listing("images and a CSV", root, tuple(files), y=y, labelled=how, names=names)


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113 - Path.is_file raises for a name that is too long


def _csv_labels(
    fields: list[tuple[int, str]], what: str, table: str
) -> tuple[tuple[int | float, ...] | None, str, tuple[str, ...]]:
    """(values, how they came about, class names) of a label column, (line, text) each: integers, words, or real numbers to
    predict, which a single number that is no class index makes of all."""
    if not fields:
        return None, "none", ()
    words = [word for _, word in fields]
    for number, word in fields:
        if not word:
            raise UserError(f"{table} line {number} has an empty field", "fill it, or leave the whole column out")
    real = next(((number, word) for number, word in fields if not labels.is_number(word)), None)
    if real is not None and all(labels.is_value(word) for word in words):
        for number, word in fields:
            if not abs(float(word)) <= FLOAT32_MAX:
                message = f"{table} line {number}: the label '{word[:40]}' is no finite number"
                raise UserError(message, "leave that line out, or give words for classes")
        return tuple(float(word) for word in words), f"values in the table ('{real[1][:40]}' on line {real[0]})", ()
    indices, numbered = labels.index(words, what)
    y = tuple(indices[word] for word in words)
    return y, "numbers in the table" if numbered else labels.ORDERED[1], () if numbered else tuple(sorted(indices))


def arrays(path: Path, inputs: tuple[TensorSpec, ...], flag: str) -> tuple[list[np.ndarray], np.ndarray | None]:
    """(one array per input as it stands in the archive, y or None) of an .npz.

    One input is called x or has its own name; several have their own names, or are x0, x1 ... Raises UserError.
    """
    import zipfile
    import zlib

    import numpy as np

    try:
        with path.open("rb") as stream:
            magic = stream.read(6)
        if magic == b"\x93NUMPY":
            message = f"{flag}: {path.name} is a single array, as np.save writes it, and no .npz"
            raise UserError(message, "np.savez(path, x=..., y=...)")
        if not magic.startswith(b"PK"):
            raise UserError(f"{flag}: {path.name} is damaged or no .npz file", "write it with np.savez")
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            have = list(archive.files)
            wanted = [_key(spec.name, position, len(inputs), have) for position, spec in enumerate(inputs)]
            if None in wanted:
                needs = "x" if len(inputs) == 1 else ", ".join(spec.name for spec in inputs)
                message = f"{flag}: {path.name} holds {', '.join(have) or 'nothing'}, the model needs {needs}"
                raise UserError(
                    message, "np.savez(path, x=..., y=...), for several inputs one array by each input's name"
                )
            found = [np.asarray(archive[name]) for name in wanted if name is not None]
            y = np.asarray(archive["y"]) if "y" in have and "y" not in wanted else None
    except ValueError as error:
        if "pickle" in str(error).lower():
            hint = "save plain arrays of numbers, not lists of arrays"
            raise UserError(f"{flag}: {path.name} holds Python objects, which edgekit does not load", hint) from error
        raise UserError(f"{flag}: {path.name} is damaged or no .npz file", "write it with np.savez") from error
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, AttributeError, RuntimeError) as error:
        raise UserError(f"{flag}: {path.name} is damaged or no .npz file", "write it with np.savez") from error
    counts = {len(array) if array.ndim else 0 for array in (*found, *([] if y is None else [y]))}
    if len(counts) != 1 or counts == {0}:
        shapes = ", ".join(str(array.shape) for array in (*found, *([] if y is None else [y])))
        raise UserError(
            f"{flag}: the arrays of {path.name} differ in length or are empty: {shapes}", "one row per example"
        )
    return found, _targets(y, path, flag)


def _key(name: str, position: int, inputs: int, have: list[str]) -> str | None:
    """The archive's array for an input."""
    choices = [name, "x" if inputs == 1 else f"x{position}"]
    if name == "y" and inputs == 1:
        choices.reverse()  # in an archive of x and y, y are labels
    return next((choice for choice in choices if choice in have), None)


def _targets(y: np.ndarray | None, path: Path, flag: str) -> np.ndarray | None:
    """Labels int64 [N], or values to predict float32 [N, ...]."""
    import numpy as np

    if y is None:
        return None
    if y.dtype.kind == "b":
        message = f"{flag}: y in {path.name} is bool, labels are whole numbers"
        raise UserError(message, "save y.astype(int) if False is class 0 and True is class 1")
    if y.dtype.kind in "iu":
        if y.dtype == np.uint64 and y.max() > np.iinfo(np.int64).max:
            message = f"{flag}: y in {path.name} reaches up to {y.max()}, which is too large for a class index"
            raise UserError(message, "save the class indices")
        flat = y.reshape(len(y)) if y.size == len(y) else y
        if flat.ndim == 1:
            return flat.astype(np.int64)
        message = f"{flag}: y in {path.name} has shape {y.shape}, labels are one whole number per example"
        raise UserError(message, "for one-hot rows save y.argmax(1)")
    if y.dtype.kind != "f":
        raise UserError(f"{flag}: y in {path.name} is {y.dtype}, labels are whole numbers", "save the class indices")
    if not (np.abs(y) <= FLOAT32_MAX).all():
        message = f"{flag}: y in {path.name} has values that are not finite, or too large for float32"
        raise UserError(message, "leave those examples out")
    return y.astype(np.float32)


def open_image(file: Path, name: str) -> Any:
    """An image of 8 bits per channel or less, decoded. Raises UserError naming the file, SetupError without Pillow."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ModuleNotFoundError as error:
        raise SetupError(
            "images need the Python package pillow, which is not installed", "pip install pillow"
        ) from error
    try:
        with file.open("rb") as stream:
            header = stream.read(25)
            stream.seek(0)
            image = Image.open(stream)
            bits = _bits(image, header)
            if bits > 8:
                message = f"{name} has pixels of more than 8 bits ({bits} per channel)"
                raise UserError(message, "convert it to 8 bits per channel")
            image.load()
    except UnidentifiedImageError as error:
        raise UserError(f"{name} is no image that Pillow knows", "remove it, or save it as PNG") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = re.sub(r"\s+", " ", str(error)).replace(str(file), name)[:200]
        raise UserError(f"{name} cannot be read: {reason}", "remove it, or save it anew") from error
    return image


def _bits(image: Any, header: bytes) -> int:
    """The bits per channel of an image file that is open but not decoded: of colours Pillow keeps 8 without a word."""
    if image.format == "PNG":
        return header[24]  # after the signature, the chunk's length and name, width and height
    if image.format == "TIFF":
        return int(max(image.tag_v2.get(258, (1,))))  # BitsPerSample
    if image.format == "PPM" and isinstance(image.tile[0].args, tuple):
        return int(image.tile[0].args[-1]).bit_length()  # the largest value; -1 stands for none
    return 8


def summary(listing: Listing) -> Mapping[str, Any]:
    """What a report says of a listing: never a path of this machine."""
    about: dict[str, Any] = {"form": listing.form, "name": (listing.archive or listing.path).resolve().name}
    if listing.names:
        about["classes"] = len(listing.names)
    return about
