"""What a path may hold: class folders, tables, plain images, archives; and each way in which it can be wrong."""

from __future__ import annotations

import contextlib
import itertools
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekit import datasets
from edgekit.errors import UserError
from edgekit.types import TensorSpec

ONE = (TensorSpec("image", (1, 4), "float32"),)
TWO = (TensorSpec("ids", (1, 4), "int64"), TensorSpec("mask", (1, 4), "float32"))


def image(path: Path, value: int = 0) -> Path:
    """A small PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 6), (value, value, value)).save(path)
    return path


def found(path: Path) -> datasets.Listing:
    return datasets.find(path, "--data")


def test_class_folders_in_sorted_order(tmp_path: Path) -> None:
    for name in ("dog/b.png", "cat/a.png", "dog/a.PNG", "dog/more/c.png", ".hidden/x.png", "dog/._a.png"):
        image(tmp_path / name)
    (tmp_path / "dog" / "notes.txt").write_text("not an image", "utf-8")
    listing = found(tmp_path)
    assert [listing.name_of(file) for file in listing.files] == [
        "cat/a.png",
        "dog/a.PNG",
        "dog/b.png",
        "dog/more/c.png",
    ]
    assert (listing.y, listing.names, listing.form) == ((0, 1, 1, 1), ("cat", "dog"), "class folders")
    assert datasets.summary(listing) == {"form": "class folders", "name": tmp_path.name, "classes": 2}


def test_folders_named_by_number_are_indices(tmp_path: Path) -> None:
    for name in ("10/a.png", "2/a.png"):
        image(tmp_path / name)
    listing = found(tmp_path)
    assert (listing.y, listing.names, listing.labelled) == ((2, 10), (), "folder names are indices")
    assert [file.parent.name for file in listing.files] == ["2", "10"]


def test_images_without_labels(tmp_path: Path) -> None:
    image(tmp_path / "b.png")
    image(tmp_path / "a.png")
    listing = found(tmp_path)
    assert (listing.form, listing.y, [file.name for file in listing.files]) == ("images", None, ["a.png", "b.png"])


@pytest.mark.parametrize(
    ("text", "y", "names"),
    [
        ("file,label\na.png,3\nsub/b.png,0\n", (3, 0), ()),
        ("label;filename\ndog;a.png\ncat;sub/b.png\n", (1, 0), ("cat", "dog")),
        ("\ufeffimage\tscore\ttarget\na.png\t1\t0.5\nsub/b.png\t2\t-1\n", (0.5, -1.0), ()),
        ("file,label\na.png,1_0\nsub/b.png,1_1\n", (0, 1), ("1_0", "1_1")),
        ('file,label\r\n"a.png","big\r\ncat"\r\nsub/b.png,dog\r\n', (0, 1), ("big\ncat", "dog")),
        ("a.png,1\nsub/b.png,0\n", (1, 0), ()),
        ("path\na.png\n\nsub/b.png\n", None, ()),
    ],
)
def test_tables(tmp_path: Path, text: str, y: tuple[float, ...] | None, names: tuple[str, ...]) -> None:
    image(tmp_path / "a.png")
    image(tmp_path / "sub" / "b.png")
    table = tmp_path / "labels.csv"
    table.write_text(text, "utf-8")
    for given in (table, tmp_path):
        listing = found(given)
        assert (listing.y, listing.names, [file.name for file in listing.files]) == (y, names, ["a.png", "b.png"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "labels.csv is empty"),
        ("file,label\n", "a header and no line"),
        ("name,label\nx,1\n", "no column of image files, only name, label"),
        ("file,label\na.png,1\nz.png,1\n", "line 3 names 'z.png', which does not exist"),
        ("file,label\na.png\n", "line 2 has too few fields"),
        ("file,label\na.png,\n", "line 2 has an empty field"),
        ("file,label\na.png,0.5\n\nb.png,nan\n", "line 4: the label 'nan' is no finite number"),
        ("file,label\na.png,1\nb.png,-inf\n", "line 3: the label '-inf' is no finite number"),
        ("file,label\na.png,1e39\n", "line 2: the label '1e39' is no finite number"),
        ("file,label\na.png,99999999999999999999\n", "too large for a class index"),
        ("file,label,class\na.png,1,cat\n", "several columns of labels: label, class"),
        ("file,label,label\na.png,1,9\n", "several columns of labels: label, label"),
        (f"file,label\na.png,{'x' * 200_000}\n", "line 2 is no table row: field larger"),
        (f"file,label\n{'x' * 5000},1\n", "line 2 names 'x{200}', which does not exist"),
        ("file,label\na.png,1\nb.png,cat\n", "mix numbers and words"),
    ],
)
def test_tables_that_are_wrong(tmp_path: Path, text: str, words: str) -> None:
    image(tmp_path / "a.png")
    image(tmp_path / "b.png")
    (tmp_path / "labels.csv").write_text(text, "utf-8")
    with pytest.raises(UserError, match=words) as error:
        found(tmp_path / "labels.csv")
    assert error.value.hint and str(tmp_path) not in str(error.value)


def test_numbers_that_are_no_class_indices_are_values_and_the_first_is_named(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    image(tmp_path / "b.png")
    (tmp_path / "labels.csv").write_text("file,label\na.png,1\nb.png,1.0\n", "utf-8")
    listing = found(tmp_path)
    assert (listing.y, listing.labelled) == ((1.0, 1.0), "values in the table ('1.0' on line 3)")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ((), "has no images in it"),
        (("readme.md",), "only files such as 'readme.md'"),
        (("a.png", "cat/b.png"), "beside folders with images"),
        (("cat/a.png", "dog/readme.md"), "the class folder 'dog' of .* has no images"),
        (("0/a.png", "cat/a.png"), "mix numbers and words"),
        (("1/a.png", "01/a.png"), "for one class index"),
        (("1/a.png", f"{10**20}/a.png"), "too large for a class index"),
        (("train/cat/a.png", "val/cat/a.png"), "holds data sets, not classes: train, val"),
        (("one.csv", "two.csv", "a.png"), "several tables: one.csv, two.csv"),
    ],
)
def test_folders_that_are_wrong(tmp_path: Path, files: tuple[str, ...], words: str) -> None:
    for name in files:
        if name.endswith(".png"):
            image(tmp_path / name)
        else:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text("file,label\n", "utf-8")
    with pytest.raises(UserError, match=words) as error:
        found(tmp_path)
    assert error.value.hint and "\n" not in error.value.message


def test_paths_that_hold_nothing_known(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--data: there is nothing at"):
        found(tmp_path / "none")
    with pytest.raises(UserError, match=r"a.png is neither a folder nor an .npz or .csv file"):
        found(image(tmp_path / "a.png"))


def test_the_hash_is_of_contents_order_and_labels(tmp_path: Path) -> None:
    for top in ("one", "two"):
        image(tmp_path / top / "cat" / "a.png", 1)
        image(tmp_path / top / "dog" / "a.png", 2)
    before = found(tmp_path / "one").sha256()
    assert found(tmp_path / "two").sha256() == before
    image(tmp_path / "two" / "dog" / "a.png", 3)
    assert found(tmp_path / "two").sha256() != before
    (tmp_path / "one" / "dog").rename(tmp_path / "one" / "ape")
    assert found(tmp_path / "one").sha256() != before


def archive(folder: Path, arrays: Mapping[str, object]) -> Path:
    path = folder / "rows.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def test_archives_of_one_and_of_several_inputs(tmp_path: Path) -> None:
    x, y = datasets.arrays(archive(tmp_path, {"x": np.zeros((3, 4)), "y": [[1], [0], [2]]}), ONE, "--data")
    assert x[0].shape == (3, 4) and y is not None and y.dtype == np.int64 and y.tolist() == [1, 0, 2]
    named = {"mask": np.ones((2, 4)), "ids": np.zeros((2, 4), np.int64), "y": np.array([[0.5, 1], [2, 3]])}
    x, y = datasets.arrays(archive(tmp_path, named), TWO, "--data")
    assert [array.dtype for array in x] == [np.int64, np.float64]
    assert y is not None and y.dtype == np.float32 and y.shape == (2, 2)
    x, y = datasets.arrays(archive(tmp_path, {"x0": np.zeros((2, 4)), "x1": np.ones((2, 4))}), TWO, "--data")
    assert y is None and x[1].all()


@pytest.mark.parametrize(
    ("inputs", "arrays", "words"),
    [
        (ONE, {"images": np.zeros((2, 4))}, "rows.npz holds images, the model needs x"),
        (TWO, {"ids": np.zeros((2, 4))}, "holds ids, the model needs ids, mask"),
        (ONE, {"x": np.zeros((2, 4)), "y": [1]}, r"differ in length or are empty: \(2, 4\), \(1,\)"),
        (ONE, {"x": np.zeros((0, 4))}, "differ in length or are empty"),
        (ONE, {"x": np.zeros((2, 4)), "y": np.eye(2, dtype=int)}, r"labels are one whole number.*argmax"),
        (ONE, {"x": np.zeros((2, 4)), "y": ["cat", "dog"]}, "labels are whole numbers"),
        (ONE, {"x": np.zeros((2, 4)), "y": [np.nan, 1.0]}, "not finite"),
        (ONE, {"x": np.zeros((2, 4)), "y": [1e39, 1.0]}, "too large for float32"),
        (ONE, {"x": np.zeros((2, 4)), "y": [True, False]}, "y in rows.npz is bool"),
        (ONE, {"x": np.zeros((2, 4)), "y": np.array([2**63, 1], np.uint64)}, "reaches up to 9223372036854775808"),
        (ONE, {"x": np.array([{}, {}])}, "holds Python objects"),
    ],
)
def test_archives_that_are_wrong(
    tmp_path: Path, inputs: tuple[TensorSpec, ...], arrays: Mapping[str, object], words: str
) -> None:
    with pytest.raises(UserError, match=words) as error:
        datasets.arrays(archive(tmp_path, arrays), inputs, "--data")
    assert error.value.hint


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut short"])
def test_a_damaged_archive(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "rows.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"rows.npz is damaged or no .npz"):
        datasets.arrays(tmp_path / "rows.npz", ONE, "--data")


def test_an_archive_of_which_any_byte_is_damaged(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "rows.npz", x=np.random.default_rng(0).random((3, 4)))
    whole = (tmp_path / "rows.npz").read_bytes()
    for position in range(len(whole)):
        (tmp_path / "rows.npz").write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        with contextlib.suppress(UserError):
            datasets.arrays(tmp_path / "rows.npz", ONE, "--data")


def test_a_single_array_is_called_that(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.zeros((2, 4)))
    (tmp_path / "rows.npy").rename(tmp_path / "rows.npz")
    with pytest.raises(UserError, match=r"rows.npz is a single array"):
        datasets.arrays(tmp_path / "rows.npz", ONE, "--data")


def test_an_input_called_y_is_not_taken_for_labels(tmp_path: Path) -> None:
    y = TensorSpec("y", (1, 4), "float32")
    x, labels = datasets.arrays(archive(tmp_path, {"x": np.ones((2, 4)), "y": [1, 0]}), (y,), "--data")
    assert x[0].all() and labels is not None and labels.tolist() == [1, 0]
    both = archive(tmp_path, {"x": np.ones((2, 4)), "y": np.zeros((2, 4))})
    x, labels = datasets.arrays(both, (TensorSpec("x", (1, 4), "float32"), y), "--data")
    assert labels is None and x[0].all() and not x[1].any()


def png16(path: Path, colour: int, channels: int) -> Path:
    """A 2x2 PNG of 16 bits per channel, which Pillow cannot write."""
    rows = (b"\0" + bytes(range(2 * 2 * channels))) * 2
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 2, 2, 16, colour, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    whole = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(whole))
    return path


def tiff16(path: Path) -> Path:
    """A 2x2 RGB TIFF of 16 bits per channel: the directory, BitsPerSample three times, the pixels."""
    tags = [(256, 1, 2), (257, 1, 2), (258, 3, 122), (259, 1, 1), (262, 1, 2), (273, 1, 128), (277, 1, 3), (278, 1, 2)]
    directory = b"".join(struct.pack("<HHII", tag, 3, count, value) for tag, count, value in [*tags, (279, 1, 24)])
    head = b"II*\0" + struct.pack("<IH", 8, 9) + directory + bytes(4)
    path.write_bytes(head + struct.pack("<HHH", 16, 16, 16) + bytes(range(24)))
    return path


def test_images_of_more_than_8_bits_are_refused_whatever_their_mode(tmp_path: Path) -> None:
    deep = [png16(tmp_path / f"{colour}.png", colour, n) for colour, n in ((0, 1), (2, 3), (4, 2), (6, 4))]
    deep.append(tiff16(tmp_path / "rgb.tif"))
    for maxval in (1023, 65535):
        deep.append(tmp_path / f"{maxval}.ppm")
        deep[-1].write_bytes(b"P6\n2 2\n%d\n" % maxval + bytes(24))
    for file in deep:
        with pytest.raises(UserError, match=r"has pixels of more than 8 bits \(1[06] per channel\)") as error:
            datasets.open_image(file, file.name)
        assert error.value.hint
    for suffix, mode in itertools.product(("png", "tif", "ppm"), ("1", "L", "RGB")):
        Image.new(mode, (3, 3)).save(tmp_path / f"flat.{suffix}")
        assert datasets.open_image(tmp_path / f"flat.{suffix}", "flat").size == (3, 3)


def test_images_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"hello")
    with pytest.raises(UserError, match=r"cat/a.png is no image that Pillow knows"):
        datasets.open_image(tmp_path / "a.png", "cat/a.png")
    Image.effect_noise((64, 64), 50).save(tmp_path / "b.jpg")
    (tmp_path / "b.jpg").write_bytes((tmp_path / "b.jpg").read_bytes()[:700])
    with pytest.raises(UserError, match=r"cat/b.jpg cannot be read: .*truncated") as error:
        datasets.open_image(tmp_path / "b.jpg", "cat/b.jpg")
    assert str(tmp_path) not in str(error.value)
