"""Settings from text, TOML and tables; sizes, crops and values of images against worked examples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edgekit import preprocess
from edgekit.errors import UserError
from edgekit.preprocess import Settings, gather, steps
from edgekit.types import Quantization, TensorSpec

RGB = TensorSpec("image", (1, 6, 6, 3), "float32", "NHWC")


def settings(text: str) -> Settings:
    """What --preprocess says."""
    return gather(("--preprocess", text))


def quantized(scale: float, zero_point: int, dtype: str = "int8") -> TensorSpec:
    """An image input that stores integers."""
    return TensorSpec("image", (1, 6, 6, 3), dtype, None, Quantization((scale,), (zero_point,)))


def flat(value: int, size: tuple[int, int] = (6, 6), mode: str = "RGB") -> Image.Image:
    """An image, width x height, of one value."""
    return Image.new(mode, size, value if mode == "L" else (value,) * 3)


def test_the_text_of_the_issue_is_understood() -> None:
    text = "range=0..255, resize=256,crop=224,mean=123.7,116.3,103.5,std=58.4,57.1,57.4,layout=nchw,label_offset=+1"
    found = settings(text)
    assert (found.range, found.resize, found.crop) == ((0.0, 255.0), 256, (224, 224))
    assert (found.mean, found.std) == ((123.7, 116.3, 103.5), (58.4, 57.1, 57.4))
    assert (found.layout, found.label_offset, found.source("crop"), found.source("overlap")) == (
        "NCHW",
        1,
        "--preprocess",
        "default",
    )
    assert settings("resize=none").resize == 0 and settings("resize=96x128").resize == (96, 128)


def test_what_is_said_later_overrides_key_by_key() -> None:
    table = {"range": [-1, 1], "resize": 64, "mean": [0.5, 0.5, 0.5], "label_offset": 1}
    found = gather(
        ("recipe", "range=0..1,layout=nhwc"), ("model.toml", table), ("--preprocess", "resize=48"), ("x", None)
    )
    assert (found.range, found.resize, found.layout, found.label_offset) == ((-1.0, 1.0), 48, "NHWC", 1)
    said = {key: found.source(key) for key in ("range", "resize", "layout")}
    assert said == {"range": "model.toml", "resize": "--preprocess", "layout": "recipe"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rnage=0..1", "did you mean 'range'"),
        ("255", "'255' is not KEY=VALUE"),
        ("range=1..0", "range=1..0 is not understood"),
        ("range=0-255", "LOW..HIGH"),
        ("range=0..1,range=0..2", "'range' is given twice"),
        ("std=0", "std must not be 0"),
        ("mean=1,2", "mean=1,2 is not understood"),
        ("range=0..1e999", "range=0..1e999 is not understood"),
        ("range=-1e39..0", "LOW..HIGH"),
        ("mean=1e999", "mean=1e999 is not understood"),
        ("resize=1000000000", "up to 16384"),
        ("resize=224x16385", "up to 16384"),
        (f"crop={'9' * 5000}", "up to 16384"),
        ("label_offset=99999999999999999999", "a whole number"),
        ("resize=-3", "a number of pixels"),
        ("crop=none", "a number of pixels, HEIGHTxWIDTH"),
        ("layout=chw", "nchw or nhwc"),
        ("label_offset=one", "a whole number"),
        ("interpolation=best", "nearest or box"),
    ],
)
def test_what_is_not_understood_says_what_would_be(text: str, words: str) -> None:
    with pytest.raises(UserError) as error:
        settings(text)
    assert words in str(error.value) and "--preprocess" in str(error.value)


def test_the_toml_beside_the_model(tmp_path: Path) -> None:
    model = tmp_path / "net.tflite"
    assert preprocess.sidecar(model) == ("net.toml", None)
    (tmp_path / "net.toml").write_text('[preprocess]\nrange = "0..255"\nmean = [1, 2.5, 3]\n', "utf-8")
    assert gather(preprocess.sidecar(model)).mean == (1.0, 2.5, 3.0)
    (tmp_path / "net.toml").write_text("range = [0, 255]\n", "utf-8")
    with pytest.raises(UserError, match=r"net.toml.*\[preprocess\] only, not 'range'"):
        preprocess.sidecar(model)
    (tmp_path / "net.toml").write_text("[preprocess\n", "utf-8")
    with pytest.raises(UserError, match=r"cannot read net.toml"):
        preprocess.sidecar(model)


@pytest.mark.parametrize(
    ("tensor", "text", "low", "high", "source"),
    [
        (RGB, "", 0.0, 1.0, "default of a float input"),
        (RGB, "range=0..255", 0.0, 255.0, "--preprocess"),
        (RGB, "mean=0.5,std=0.5", -1.0, 1.0, "default of a float input"),
        (quantized(1.0, -128), "", 0.0, 255.0, "the input's scale and zero point"),
        (quantized(1 / 255, -128), "", 0.0, 1.0, "the input's scale and zero point"),
        (quantized(2 / 255, 128, "uint8"), "", -256 / 255, 254 / 255, "the input's scale and zero point"),
        (quantized(0.02, 0), "mean=0.5,std=0.25", -2.0, 2.0, "default with mean and std"),
        (TensorSpec("image", (1, 6, 6, 3), "uint8"), "", 0.0, 255.0, "the input's scale and zero point"),
        (TensorSpec("image", (1, 6, 6, 3), "int32"), "", 0.0, 255.0, "the input's scale and zero point"),
    ],
)
def test_the_range_that_pixels_are_given(tensor: TensorSpec, text: str, low: float, high: float, source: str) -> None:
    plan = steps(settings(text), tensor)
    assert plan.about["range_from"] == source
    assert plan.table.dtype == np.float32 and plan.table.shape == (3, 256)
    assert plan.table[0, [0, 255]] == pytest.approx([low, high], abs=1e-6)


@given(st.floats(1e-4, 10), st.integers(-128, 127))
def test_the_implied_range_stores_each_pixel_as_its_own_integer(scale: float, zero_point: int) -> None:
    table = steps(settings(""), quantized(scale, zero_point)).table[0]
    stored = np.rint(table.astype(np.float64) / scale) + zero_point
    assert np.array_equal(stored, np.arange(-128, 128))


def test_an_int16_input_does_not_tell_its_sign() -> None:
    with pytest.raises(UserError, match=r"only how large.*range=0..1 or range=-1") as error:
        steps(settings(""), quantized(1 / 32767, 0, "int16"))
    assert "--preprocess" in error.value.hint


def test_values_of_a_float_input_are_rounded_once() -> None:
    table = steps(settings("mean=0.485,0.456,0.406,std=0.229,0.224,0.225"), RGB).table
    exact = [[(p / 255 - m) / s for p in range(256)] for m, s in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))]
    assert np.array_equal(table, np.array(exact).astype(np.float32))


@pytest.mark.parametrize(
    ("shape", "tensor_layout", "text", "found"),
    [
        ((1, 3, 8, 6), None, "", ("NCHW", 8, 6, 3)),
        ((1, 8, 6, 1), None, "", ("NHWC", 8, 6, 1)),
        ((1, 3, 8, 3), None, "layout=nchw", ("NCHW", 8, 3, 3)),
        ((1, 3, 8, 3), "NHWC", "", ("NHWC", 3, 8, 3)),
    ],
)
def test_the_layout_is_the_inputs_own_or_said_or_clear(
    shape: tuple[int, ...], tensor_layout: str | None, text: str, found: tuple[object, ...]
) -> None:
    assert preprocess.image_form(settings(text), TensorSpec("i", shape, "float32", tensor_layout)) == found


@pytest.mark.parametrize(
    ("shape", "tensor_layout", "text", "words"),
    [
        ((1, 64), None, "", "which is no image"),
        ((1, 3, 8, 3), None, "", "layout=nchw"),
        ((1, 7, 8, 9), None, "", "no axis of 1, 3 or 4"),
        ((1, 8, 8, 3), "NHWC", "layout=nchw", "is NHWC"),
        ((1, 8, 8, 3), None, "crop=6", "crop=6x6 does not lead"),
        ((1, 8, 8, 3), None, "resize=7", "smaller than the model's input"),
        ((1, 8, 8, 1), None, "mean=1,2,3", "3 numbers, the input 'i' 1 channels"),
    ],
)
def test_settings_that_do_not_fit_the_input(
    shape: tuple[int, ...], tensor_layout: str | None, text: str, words: str
) -> None:
    with pytest.raises(UserError) as error:
        steps(settings(text), TensorSpec("i", shape, "float32", tensor_layout))
    assert words in str(error.value) and error.value.hint


@pytest.mark.parametrize(
    ("size", "shape", "text", "resized_to"),
    # (width, height) of the file. torchvision: the longer side becomes int(256 * 500 / 375) = 341.
    [
        ((500, 375), (224, 224), "", (341, 256)),
        ((375, 500), (224, 224), "", (256, 341)),
        ((500, 375), (224, 224), "resize=256,crop=224", (341, 256)),
        ((500, 375), (224, 224), "resize=224", (298, 224)),
        ((500, 375), (224, 224), "resize=224x224", (224, 224)),
        ((224, 224), (224, 224), "", None),
        ((224, 224), (224, 224), "crop=224", (256, 256)),
        ((300, 300), (224, 224), "resize=none", None),
        ((100, 100), (64, 128), "", (146, 146)),
        ((96, 96), (32, 32), "", (37, 37)),
    ],
)
def test_sizes_before_the_centre_crop(
    size: tuple[int, int],
    shape: tuple[int, int],
    text: str,
    resized_to: tuple[int, int] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[int, int]] = []
    resize = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda self, to, *rest: (seen.append(to), resize(self, to, *rest))[1])
    plan = steps(settings(text), TensorSpec("i", (1, *shape, 3), "float32"))
    fitted, changed = preprocess.fit(flat(9, size), plan, "a.png")
    assert fitted.size == shape[::-1]
    assert (seen, changed) == ([resized_to] if resized_to else [], size != fitted.size or bool(resized_to))


def test_values_beyond_float32_are_refused() -> None:
    with pytest.raises(UserError, match=r"lead to 1e\+48, which no float32 input 'image' holds"):
        steps(settings("range=0..1e38,std=1e-10"), RGB)


def test_an_image_that_would_become_huge_is_named() -> None:
    plan = steps(settings(""), TensorSpec("i", (1, 224, 224, 3), "float32"))
    with pytest.raises(UserError, match=r"strip.png is 1x5000 and would be resized to 256x1280000"):
        preprocess.fit(flat(0, (5000, 1)), plan, "strip.png")


def test_the_crop_is_in_the_middle() -> None:
    image = Image.fromarray(np.arange(36, dtype=np.uint8).reshape(6, 6))
    plan = steps(settings("resize=none"), TensorSpec("i", (1, 2, 4, 1), "float32"))
    assert np.asarray(preprocess.fit(image, plan, "a")[0]).tolist() == [[13, 14, 15, 16], [19, 20, 21, 22]]
    with pytest.raises(UserError, match=r"b.png is 1x9, smaller than the model's input 2x4"):
        preprocess.fit(flat(0, (9, 1)), plan, "b.png")


def test_images_of_the_models_size_keep_every_pixel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)
    found, changed = preprocess.apply(Image.fromarray(pixels), steps(settings("range=0..255"), RGB), "a")
    assert np.array_equal(found, pixels) and found.dtype == np.float32 and not changed
    planar, _ = preprocess.apply(
        Image.fromarray(pixels), steps(settings("range=0..255"), TensorSpec("i", (1, 3, 6, 6), "float32")), "a"
    )
    assert np.array_equal(planar, pixels.transpose(2, 0, 1)) and planar.flags.c_contiguous
    swapped, _ = preprocess.apply(Image.fromarray(pixels), steps(settings("range=0..255,channels=bgr"), RGB), "a")
    assert np.array_equal(swapped, pixels[..., ::-1])


def test_modes_become_the_inputs_channels() -> None:
    grey = TensorSpec("i", (1, 6, 6, 1), "float32")
    assert preprocess.apply(flat(51), steps(settings(""), grey), "a")[0].ravel()[0] == np.float32(0.2)
    assert preprocess.apply(flat(51, mode="L"), steps(settings(""), RGB), "a")[0].shape == (6, 6, 3)
    with pytest.raises(UserError, match=r"deep.png has pixels of more than 8 bits"):
        preprocess.apply(Image.new("I;16", (6, 6)), steps(settings(""), RGB), "deep.png")
