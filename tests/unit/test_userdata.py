"""The user's examples from a path to arrays: shapes, values and ranges, who tests and who calibrates, what is kept."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import FAKE_MODEL
from PIL import Image

from edgekit import bench, data, datasets, holdout, preprocess, sources, userdata, worker
from edgekit.errors import UserError
from edgekit.types import Json, Quantization, TensorSpec

ROW = TensorSpec("row", (1, 4), "float32")
RGB = TensorSpec("image", (1, 6, 6, 3), "float32", "NHWC")
INT8 = TensorSpec("row", (1, 4), "int8", None, Quantization((0.5,), (-128,)))


@pytest.fixture(autouse=True)
def inline(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The worker's function in this process, which saves half a second a call; the calls that were made."""
    calls: list[str] = []

    def run(function: str, request: Json, *_: object) -> Json:
        calls.append(function)
        module, _, name = function.partition(":")
        answer: Json = getattr(importlib.import_module(module), name)(request)
        return answer

    monkeypatch.setattr(worker, "run", run)
    monkeypatch.setenv("EDGEKIT_CACHE_DIR", str(tmp_path / "cache"))
    return calls


def pictures(folder: Path, count: int = 20, classes: tuple[str, ...] = ("cat", "dog"), seed: int = 0) -> Path:
    """Class folders of random 6x6 images, no two alike."""
    rng = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(count // len(classes)):
            pixels = rng.integers(0, 256, (6, 6, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index:03}.png")
    return folder


def archive(path: Path, **arrays: object) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 1, (count, 4)).astype(np.float32)


def prepared(
    inputs: tuple[TensorSpec, ...],
    given: Path | None,
    calibration: Path | None = None,
    text: str = "",
    own: holdout.Own | None = None,
    calibrate: bool = True,
    classes: int | None = None,
) -> holdout.Prepared:
    settings = preprocess.gather(("--preprocess", text))
    return holdout.prepare(inputs, settings, given, calibration, own, calibrate, classes, lambda _: None)


def shared(found: holdout.Prepared) -> int:
    """How many examples both test and calibrate."""
    tests = {row.tobytes() for row in found.x[0]}
    return sum(row.tobytes() in tests for row in found.calibration[0])


def test_class_folders_become_arrays_in_order(tmp_path: Path) -> None:
    place = pictures(tmp_path / "animals", 6)
    found = prepared((RGB,), place, text="range=0..255", calibrate=False, classes=2)
    first = np.asarray(Image.open(place / "cat" / "000.png"))
    assert found.x[0].shape == (6, 6, 6, 3) and np.array_equal(found.x[0][0], first)
    assert found.y is not None and found.y.dtype == np.int64 and found.y.tolist() == [0, 0, 0, 1, 1, 1]
    assert len(found.calibration[0]) == 0
    assert found.provenance["stated"] == [
        "tested on 6 examples of animals (class folders)",
        "image: pixels 0..255 become 0..255 (--preprocess); 6 are 6x6 already and taken as they are, "
        "since enlarging and cropping would cost them their edges",
        "labels: sorted folder names, 2 classes",
    ]
    assert str(tmp_path) not in str(found.provenance)


def test_other_sizes_are_resized_and_that_is_said(tmp_path: Path) -> None:
    place = pictures(tmp_path / "d", 4)
    Image.new("RGB", (20, 10)).save(place / "cat" / "wide.png")
    found = prepared((RGB,), place, calibrate=False)
    sentence = found.provenance["stated"][1]
    assert "1 brought to size: shorter side to 7 (bilinear), centre crop of 6x6 (87.5% of it); 4" in sentence
    assert "4 are 6x6 already" in sentence and "0..1 (default of a float input)" in sentence


def test_a_tenth_is_set_aside_when_nothing_else_calibrates(tmp_path: Path) -> None:
    place = pictures(tmp_path / "d", 40)
    for calibration in (None, place):
        found = prepared((RGB,), place, calibration)
        assert (len(found.x[0]), len(found.calibration[0]), shared(found)) == (36, 4, 0)
        assert found.y is not None and np.bincount(found.y).tolist() == [18, 18]
        assert "calibrated with 4 examples of d, set aside from --data and not tested on" in found.provenance["stated"]


def test_a_calibration_set_loses_what_is_tested_on(tmp_path: Path) -> None:
    tests, pool = archive(tmp_path / "t.npz", x=rows(30), y=[0] * 30), rows(50, seed=1)
    pool[10:15] = rows(30)[:5]
    found = prepared((ROW,), tests, archive(tmp_path / "c.npz", x=pool))
    assert (len(found.x[0]), len(found.calibration[0]), shared(found)) == (30, 45, 0)
    assert found.provenance["stated"][-1].endswith("; 5 more are test examples and were left out")


def test_a_calibration_set_of_test_examples_only_is_not_used(tmp_path: Path) -> None:
    tests = archive(tmp_path / "t.npz", x=rows(30))
    found = prepared((ROW,), tests, archive(tmp_path / "c.npz", x=rows(30)[:8]))
    assert (len(found.x[0]), len(found.calibration[0]), shared(found)) == (27, 3, 0)


def test_the_same_examples_serve_both_only_when_forced_and_it_says_so(tmp_path: Path) -> None:
    tests = archive(tmp_path / "t.npz", x=rows(30))
    for calibration in (tests, None):
        found = prepared((ROW,), tests, calibration, "overlap=allow")
        assert (len(found.x[0]), len(found.calibration[0])) == (30, 30)
        assert "30 of them are test examples too (overlap=allow), which flatters" in found.provenance["stated"][-1]


def test_a_large_calibration_set_is_thinned_evenly(tmp_path: Path) -> None:
    pool = archive(tmp_path / "c.npz", x=rows(2000, seed=1))
    found = prepared((ROW,), archive(tmp_path / "t.npz", x=rows(30)), pool)
    assert len(found.calibration[0]) == userdata.CALIBRATION_LIMIT
    assert np.array_equal(found.calibration[0][:2], rows(2000, seed=1)[[2, 6]])


def test_one_example_cannot_do_both(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="1 example cannot serve for the test and for calibration"):
        prepared((ROW,), archive(tmp_path / "t.npz", x=rows(1)))
    with pytest.raises(UserError, match="all alike or too few"):
        prepared((ROW,), archive(tmp_path / "t.npz", x=np.ones((30, 4))))


def test_of_calibration_alone_a_tenth_is_tested_on(tmp_path: Path) -> None:
    found = prepared((ROW,), None, archive(tmp_path / "c.npz", x=rows(30)))
    assert (len(found.x[0]), len(found.calibration[0]), shared(found)) == (3, 27, 0)
    assert "3 examples of c.npz (npz), set aside from --calibration" in found.provenance["stated"][0]
    with pytest.raises(UserError, match="neither test inputs nor calibration"):
        prepared((ROW,), None, None)


@pytest.mark.parametrize(
    ("calibration", "words"),
    [
        (rows(20, 1) * 255, "calibration for 'row' reaches from .* the inputs from 0.0.* to 0.99"),
        (rows(20, 1) / 255, "calibration for 'row' reaches from"),
        (rows(20, 1) - 2, "int8 would be calibrated for other numbers"),
        (rows(20, 1)[:, :3], r"have shape \(3,\), the input takes \(4,\)"),
        (np.full((2, 4), np.nan, np.float32), "values that are not finite"),
    ],
)
def test_calibration_of_another_range_or_shape_is_refused(tmp_path: Path, calibration: np.ndarray, words: str) -> None:
    tests = archive(tmp_path / "t.npz", x=rows(30))
    with pytest.raises(UserError, match=words) as error:
        prepared((ROW,), tests, archive(tmp_path / "c.npz", x=calibration))
    assert error.value.hint and "\n" not in error.value.message


@pytest.mark.parametrize(
    ("scaled", "words"),
    [(1000.0, "are out of range: the input 'row' holds 0 to 127.5"), (1.0, "so most is rounded away")],
)
def test_values_that_a_quantized_input_cannot_tell_apart_are_refused(tmp_path: Path, scaled: float, words: str) -> None:
    with pytest.raises(UserError, match=words):
        prepared((INT8,), archive(tmp_path / "t.npz", x=rows(30) * np.float32(scaled)), calibrate=False)
    prepared((INT8,), archive(tmp_path / "t.npz", x=rows(30) * np.float32(127)), calibrate=False)


@pytest.mark.parametrize(
    ("array", "spec", "text", "expected"),
    [
        (np.float64([[0, 0.5, 1, 2]]), ROW, "", np.float32([[0, 0.5, 1, 2]])),
        (np.uint8([[0, 51, 255, 102]]), ROW, "", np.float32([[0, 0.2, 1, 0.4]])),
        (np.uint8([[0, 51, 255, 102]]), ROW, "range=-1..1", np.float32([[-1, -0.6, 1, -0.2]])),
        (np.int8([[-128, -127, 0, 127]]), INT8, "", np.float32([[0, 0.5, 64, 127.5]])),
        (np.int32([[3, 1, 2, 0]]), TensorSpec("ids", (1, 4), "int64"), "", np.int64([[3, 1, 2, 0]])),
        (np.float32([[3, 1, 2, 0]]), TensorSpec("ids", (1, 4), "int32"), "", np.int64([[3, 1, 2, 0]])),
    ],
)
def test_arrays_as_inputs(array: np.ndarray, spec: TensorSpec, text: str, expected: np.ndarray) -> None:
    found, _ = userdata.from_array(array, preprocess.gather(("--preprocess", text)), spec, "--data")
    assert found.dtype == expected.dtype and np.array_equal(found, expected)


def test_arrays_of_images_in_either_layout() -> None:
    none = preprocess.gather()
    floats = np.random.default_rng(0).random((2, 6, 6, 3), np.float32)
    planar = TensorSpec("i", (1, 3, 6, 6), "float32", "NCHW")
    turned, about = userdata.from_array(floats, none, planar, "--data")
    assert np.array_equal(turned, floats.transpose(0, 3, 1, 2)) and about["transposed"] == "NHWC to NCHW"
    back, _ = userdata.from_array(turned, none, RGB, "--data")
    assert np.array_equal(back, floats)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 6, 6, 3), np.uint8)
    for given in (pixels, pixels.transpose(0, 3, 1, 2)):
        found, about = userdata.from_array(given, preprocess.gather(("x", "range=0..255")), RGB, "--data")
        assert np.array_equal(found, pixels) and about["as_they_are"] == 2
    grey, about = userdata.from_array(pixels[..., 0].repeat(2, 1).repeat(2, 2), none, RGB, "--data")
    assert grey.shape == (2, 6, 6, 3) and about["fitted"] == 2


@pytest.mark.parametrize(
    ("array", "spec", "text", "words"),
    [
        (np.array([["a"]]), ROW, "", "not numbers"),
        (rows(2)[:, :3], ROW, "", r"shape \(3,\), the input takes \(4,\)"),
        (rows(2).astype(np.float64) * 1e300, ROW, "", "too large for float32"),
        (rows(2), ROW, "range=0..255", "range is for pixels, the array for 'row' is float32"),
        (rows(2), TensorSpec("ids", (1, 4), "int64"), "", "takes whole numbers"),
        (np.zeros((2, 6, 5, 7), np.uint8), RGB, "", "which is no image"),
    ],
)
def test_arrays_that_do_not_fit(array: np.ndarray, spec: TensorSpec, text: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        userdata.from_array(array, preprocess.gather(("--preprocess", text)), spec, "--data")
    assert error.value.hint


def test_several_inputs_come_from_an_archive(tmp_path: Path) -> None:
    inputs = (TensorSpec("ids", (1, 4), "int64"), ROW)
    path = archive(tmp_path / "t.npz", ids=np.arange(80).reshape(20, 4), row=rows(20), y=np.arange(20) % 2)
    found = prepared(inputs, path)
    assert [array.shape for array in found.x] == [(18, 4), (18, 4)] and found.x[0].dtype == np.int64
    assert found.y is not None and len(found.y) == 18 and len(found.calibration[1]) == 2
    with pytest.raises(UserError, match=r"images fill one input, the model has 2.*ids, row and y"):
        prepared(inputs, pictures(tmp_path / "d"))


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    place = pictures(tmp_path / "d")
    (place / "dog" / "004.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"dog/004.png is no image that Pillow knows"):
        prepared((RGB,), place, calibrate=False)


def test_labels_of_another_model_are_known_before_anything_is_converted(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="2 classes by name, the model 10 outputs"):
        prepared((RGB,), pictures(tmp_path / "d"), calibrate=False, classes=10)
    found = prepared((RGB,), tmp_path / "d", text="label_offset=1", calibrate=False, classes=3)
    assert found.provenance["labels"]["offset"] == 1
    assert "labels: sorted folder names, 2 classes, +1 (--preprocess)" in found.provenance["stated"]


@pytest.mark.parametrize("word", ["0.0", "-1"])
def test_values_for_a_classifier_are_known_before_anything_is_converted(tmp_path: Path, word: str) -> None:
    pictures(tmp_path / "d", 2)
    (tmp_path / "l.csv").write_text(f"file,label\nd/cat/000.png,1\nd/dog/000.png,{word}\n", "utf-8")
    with pytest.raises(
        UserError, match=rf"the targets, values in the table \('{word}' on line 3\), have 1 value"
    ) as error:
        prepared((RGB,), tmp_path / "l.csv", calibrate=False, classes=10)
    assert "0, not 0.0" in error.value.hint
    found = prepared((RGB,), tmp_path / "l.csv", calibrate=False, classes=1)
    said = f"labels: values in the table ('{word}' on line 3), to predict and no classes"
    assert said in found.provenance["stated"]


def test_a_part_of_the_test_set_is_said_to_be_one(tmp_path: Path) -> None:
    heard: list[str] = []
    settings = preprocess.gather()
    place = pictures(tmp_path / "d", 20)
    made = holdout.prepare((RGB,), settings, place, None, None, False, None, heard.append)
    everything = data.Data(made.calibration, made.x, made.y, "user", made.provenance)
    assert not any("tested on" in sentence for sentence in heard)
    part = bench.spread(everything, 4)
    assert part.y is not None and part.y.tolist() == [0, 0, 1, 1]
    assert all(np.array_equal(part.x[0][i], made.x[0][p]) for i, p in enumerate((2, 7, 12, 17)))
    assert part.provenance["stated"] == [
        "tested on 4 of the 20 examples of d (class folders), evenly spaced (--samples)",
        *made.provenance["stated"][1:],
    ]
    for count in (None, 20, 21):
        assert bench.spread(everything, count) is everything
    random = dataclasses.replace(everything, y=None, provenance={"source": "random numbers"})
    assert bench.spread(random, 4).provenance == {"source": "random numbers"}


def test_nothing_is_read_twice_and_nothing_stale_is_used(tmp_path: Path, inline: list[str]) -> None:
    place = pictures(tmp_path / "d", 4)
    first = prepared((RGB,), place, calibrate=False)
    prepared((RGB,), place, calibrate=False)
    assert len(inline) == 1
    prepared((RGB,), place, text="range=0..255", calibrate=False)
    Image.new("RGB", (6, 6)).save(place / "cat" / "000.png")
    assert not prepared((RGB,), place, calibrate=False).x[0][0].any() and first.x[0][0].any()
    assert len(inline) == 3
    (kept,) = {file for file in (tmp_path / "cache").rglob("x0.npy") if not np.load(file)[0].any()}
    kept.write_bytes(kept.read_bytes()[:-1])
    heard: list[str] = []
    settings = preprocess.gather(("--preprocess", ""))
    userdata.load(datasets.find(place, "--data"), (RGB,), settings, "--data", "all", heard.append)
    assert any("damaged" in sentence for sentence in heard)


def test_a_recipe_supplies_what_is_not_given(tmp_path: Path) -> None:
    model = sources.load(str(FAKE_MODEL))
    said: list[str] = []
    recipe = data.load(model)
    path = archive(tmp_path / "t.npz", x=recipe.x[0][:40] * 0.9, y=recipe.y[:40] if recipe.y is not None else 0)
    found = data.from_user(model, (), path, None, None, said.append)
    assert (found.origin, found.count, found.provenance["calibration"]["form"]) == ("user", 40, "recipe")
    assert np.array_equal(found.calibration[0], recipe.calibration[0])
    assert "calibrated with 50 examples of the recipe" in said
    other = data.from_user(
        model, (), None, archive(tmp_path / "c.npz", x=recipe.calibration[0] * 0.9), None, said.append
    )
    assert np.array_equal(other.x[0], recipe.x[0]) and len(other.calibration[0]) == 50
    assert other.provenance["data"] == {"form": "recipe", "count": 200}


def test_the_recipe_may_say_how_pixels_are_scaled(recipe: Callable[..., Path], tmp_path: Path) -> None:
    path = recipe("scaled")
    path.write_text(path.read_text("utf-8") + '\nPREPROCESS = "range=0..255"\n', "utf-8")
    model = sources.load(str(path))
    pixels = archive(tmp_path / "t.npz", x=np.arange(200, dtype=np.uint8).reshape(20, 10))
    nothing: Callable[[str], None] = lambda _: None  # noqa: E731
    found = data.from_user(model, (), pixels, None, None, nothing, calibrate=False)
    assert found.x[0][0].tolist() == list(range(10))
    path.with_suffix(".toml").write_text("[preprocess]\nrange = [0, 1]\n", "utf-8")
    assert data.from_user(model, (), pixels, None, None, nothing, calibrate=False).x[0].max() < 1
    found = data.from_user(model, (), pixels, None, "range=-1..1", nothing, calibrate=False)
    assert found.provenance["data"]["applied"][0]["range_from"] == "--preprocess"


def test_parts_are_disjoint_and_complete() -> None:
    for count in (2, 9, 10, 57, 300, 5000):
        aside, rest = userdata.positions(count, "set-aside"), userdata.positions(count, "rest")
        assert sorted(aside + rest) == list(range(count)) and rest
        assert len(aside) == min(100, max(1, count // 10))


def test_summary_of_mapping(tmp_path: Path) -> None:
    listing = datasets.find(archive(tmp_path / "t.npz", x=rows(3)), "--data")
    about: Mapping[str, Any] = datasets.summary(listing)
    assert about == {"form": "npz", "name": "t.npz"}
