"""Pixels to what a model's input takes: the settings as text, TOML or recipe give them, the defaults, and the arithmetic.
Which images there are, and what they are for, is datasets.py's business."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import UserError, unknown
from edgekit.types import Json, TensorSpec

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

# The share of the resized image's limiting side that the centre crop keeps: 224 of 256, as torchvision, Keras and the
# ImageNet literature do it.
CROP_SHARE = 0.875
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
EXAMPLE = "for instance --preprocess 'range=0..1,resize=256,crop=224,mean=0.485,0.456,0.406,std=0.229,0.224,0.225'"
# The longer side and the area beyond which a resized image is a mistake, and would take gigabytes.
LARGEST_SIDE, MOST_PIXELS = 16384, 1 << 28
FLOAT32_MAX = 3.4028234e38
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"


@dataclass(frozen=True)
class Settings:
    """What a user said; None is "not said". `sources` tells where each was said: {"range": "--preprocess"}.

    range          the values that pixel 0 and pixel 255 become, before mean and std
    mean, std      x -> (x - mean) / std, in units of `range`; one number, or one per channel
    resize         the shorter side, or (height, width), or 0 for none
    crop           the centre crop's (height, width)
    layout         of the model's input, where the file does not tell
    channels       "rgb" or "bgr", the order in which the model takes the colours
    label_offset   what is added to each label to get the model's output index
    overlap        "allow": the same images may calibrate and test
    """

    range: tuple[float, float] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    resize: int | tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    layout: str | None = None
    interpolation: str | None = None
    channels: str | None = None
    label_offset: int | None = None
    overlap: str | None = None
    sources: tuple[tuple[str, str], ...] = ()

    def source(self, key: str) -> str:
        """Where a key was said; "default" where it was not."""
        return dict(self.sources).get(key, "default")


KEYS = tuple(name for name in Settings.__dataclass_fields__ if name != "sources")


def gather(*given: tuple[str, str | Mapping[str, Any] | None]) -> Settings:
    """Settings from (where, text or table) pairs, a later one overriding an earlier one key by key.

    Raises UserError with the key and what it may be.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for where, raw in given:
        if raw is None:
            continue
        table = split(raw, where) if isinstance(raw, str) else raw
        if not isinstance(table, Mapping):
            raise UserError(f"{where}: preprocessing must be a text or a table, not {type(raw).__name__}", EXAMPLE)
        for key, value in table.items():
            if key not in KEYS:
                error = unknown("preprocessing key", str(key), KEYS)
                raise UserError(f"{where}: {error.message}", error.hint)
            values[key] = _value(key, value, where)
            sources[key] = where
    for number in values.get("std", ()):
        if number == 0:
            raise UserError(f"{sources['std']}: std must not be 0", EXAMPLE)
    return Settings(**values, sources=tuple(sources.items()))


def split(text: str, where: str) -> dict[str, str]:
    """'range=0..1,mean=1,2,3' as a table; a part without '=' continues the list before it."""
    table: dict[str, str] = {}
    last = ""
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = part.partition("=")
        if equals:
            last = key.strip()
            if last in table:
                raise UserError(f"{where}: '{last}' is given twice", "leave one out")
            table[last] = value.strip()
        elif last:
            table[last] += f",{part}"
        else:
            raise UserError(f"{where}: '{part}' is not KEY=VALUE", EXAMPLE)
    return table


def sidecar(model_file: Path) -> tuple[str, Mapping[str, Any] | None]:
    """(name, table) of the TOML file beside a model: model.toml beside model.tflite, its [preprocess] table.

    Raises UserError when the file is no TOML or has something else in it.
    """
    path = model_file.with_suffix(".toml")
    if not path.is_file():
        return path.name, None
    try:
        found = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(
            f"cannot read {path.name}, which stands beside the model: {error}", "mend or rename it"
        ) from error
    stray = sorted(set(found) - {"preprocess"})
    if stray or not isinstance(found.get("preprocess", {}), dict):
        message = (
            f"{path.name}, beside the model, may have the table [preprocess] only, not '{(stray or ['preprocess'])[0]}'"
        )
        raise UserError(message, "move the keys below a line [preprocess], or rename the file")
    return path.name, found.get("preprocess")


def _value(key: str, value: Any, where: str) -> Any:
    """One setting from its text or TOML form."""
    text = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value).strip()
    if key == "range":
        pair = re.fullmatch(rf"({NUMBER})(?:\.\.|,)({NUMBER})", text.replace(" ", ""))
        if pair and -FLOAT32_MAX <= float(pair[1]) < float(pair[2]) <= FLOAT32_MAX:
            return (float(pair[1]), float(pair[2]))
        raise _wrong(where, key, value, "LOW..HIGH, the values of pixel 0 and pixel 255, such as 0..255 or -1..1")
    if key in ("mean", "std"):
        parts = text.replace(" ", "").split(",")
        numbers = all(re.fullmatch(NUMBER, part) and abs(float(part)) <= FLOAT32_MAX for part in parts)
        if len(parts) in MODES and numbers:
            return tuple(float(part) for part in parts)
        raise _wrong(where, key, value, "a number, or one for each channel with commas between")
    if key in ("resize", "crop"):
        size = re.fullmatch(r"(\d{1,5})(?:[x,](\d{1,5}))?", text.replace(" ", ""))
        if key == "resize" and text == "none":
            return 0
        if size and all(0 < int(side) <= LARGEST_SIDE for side in size.groups("1")):
            if key == "resize" and not size[2]:
                return int(size[1])
            return (int(size[1]), int(size[2] or size[1]))
        extra = ", or none" if key == "resize" else ""
        raise _wrong(where, key, value, f"a number of pixels, HEIGHTxWIDTH{extra}, up to {LARGEST_SIDE}")
    if key == "label_offset":
        if re.fullmatch(r"[-+]?\d{1,9}", text):
            return int(text)
        raise _wrong(where, key, value, "a whole number, such as 1 for a 1,001-class model and labels from 0")
    allowed = {
        "layout": ("nchw", "nhwc"),
        "interpolation": INTERPOLATIONS,
        "channels": ("rgb", "bgr"),
        "overlap": ("allow", "refuse"),
    }[key]
    if text.lower() not in allowed:
        raise _wrong(where, key, value, " or ".join(allowed))
    return text.upper() if key == "layout" else text.lower()


def _wrong(where: str, key: str, value: Any, what: str) -> UserError:
    return UserError(f"{where}: {key}={value} is not understood", f"{key} is {what}")


@dataclass(frozen=True)
class Steps:
    """Settings made definite for one image input. `table` float32 [C, 256] is what each pixel value becomes."""

    height: int
    width: int
    layout: str
    resize: int | tuple[int, int] | None
    crop: bool
    interpolation: str
    bgr: bool
    table: np.ndarray
    about: Json

    @property
    def channels(self) -> int:
        return len(self.table)


def steps(settings: Settings, tensor: TensorSpec) -> Steps:
    """What is done to each image for this input.

    Raises UserError when the input is no image, or when the settings do not lead to its size.
    """
    layout, height, width, channels = image_form(settings, tensor)
    size = f"{height}x{width}"
    if settings.crop is not None and settings.crop != (height, width):
        crop = "x".join(map(str, settings.crop))
        raise UserError(
            f"crop={crop} does not lead to the model's input, which is {size}", f"crop={size}, or leave it out"
        )
    if settings.resize:
        rows, columns = settings.resize if isinstance(settings.resize, tuple) else (settings.resize, settings.resize)
        if rows < height or columns < width:
            message = f"resize {_size(settings.resize)} is smaller than the model's input, which is {size}"
            raise UserError(message, f"resize to {size} or more")
    table, about = value_table(settings, tensor, channels)
    interpolation = settings.interpolation or "bilinear"
    about |= {"size": [height, width], "layout": layout, "geometry": _geometry(settings, height, width, interpolation)}
    about |= {"colours": {1: "grey", 3: settings.channels or "rgb", 4: "rgba"}[channels]}
    bgr = settings.channels == "bgr" and channels == 3
    return Steps(height, width, layout, settings.resize, settings.crop is not None, interpolation, bgr, table, about)


def image_form(settings: Settings, tensor: TensorSpec) -> tuple[str, int, int, int]:
    """(layout, height, width, channels) of an image input. Raises UserError when it is none, or its layout is open."""
    shape = tensor.shape
    if len(shape) != 4:
        message = f"the input '{tensor.name}' has shape {shape}, which is no image"
        raise UserError(message, "images need four dimensions; give an .npz with x in the input's own shape")
    if tensor.layout and settings.layout and tensor.layout != settings.layout:
        message = f"{settings.source('layout')}: layout={settings.layout.lower()}, but the input '{tensor.name}' is {tensor.layout}"
        raise UserError(message, "leave layout out")
    possible = [name for name, axis in (("NHWC", 3), ("NCHW", 1)) if shape[axis] in MODES]
    layout = tensor.layout or settings.layout or (possible[0] if len(possible) == 1 else None)
    if layout is None and possible:
        raise UserError(f"the input '{tensor.name}' {shape} may be NHWC or NCHW", "say which: --preprocess layout=nchw")
    if layout is None or shape[3 if layout == "NHWC" else 1] not in MODES:
        message = f"the input '{tensor.name}' {shape} has no axis of 1, 3 or 4 channels"
        raise UserError(message, "give an .npz with x in the input's own shape")
    if layout == "NHWC":
        return layout, shape[1], shape[2], shape[3]
    return layout, shape[2], shape[3], shape[1]


def value_table(settings: Settings, tensor: TensorSpec, channels: int) -> tuple[np.ndarray, Json]:
    """(float32 [channels, 256], what to say of it): what each value of an 8-bit pixel becomes.

    real = low + pixel / 255 * (high - low), then (real - mean) / std; computed in double, rounded once.
    """
    import numpy as np

    (low, high), source = settings.range or (0.0, 1.0), settings.source("range")
    if settings.range is None:
        implied = stored_range(tensor)
        if implied is not None and settings.mean is None and settings.std is None:
            if tensor.dtype == "int16":  # symmetric by definition: it would imply -max..max for a 0..max model as well
                message = (
                    f"the int16 input '{tensor.name}' tells only how large its values may be, up to {implied[1]:.6g}"
                )
                raise UserError(
                    message,
                    f"say it: --preprocess range=0..{implied[1]:.6g} or range={implied[0]:.6g}..{implied[1]:.6g}",
                )
            (low, high), source = implied, "the input's scale and zero point"
        else:
            source = "default of a float input" if implied is None else "default with mean and std"
    table = np.tile(low + np.arange(256) / 255.0 * (high - low), (channels, 1))
    about: Json = {"range": [low, high], "range_from": source}
    for key, values in (("mean", settings.mean), ("std", settings.std)):
        if values is None:
            continue
        if len(values) not in (1, channels):
            message = f"{settings.source(key)}: {key} has {len(values)} numbers, the input '{tensor.name}' {channels} channels"
            raise UserError(message, f"give one number, or {channels}")
        about[key] = list(values)
        column = np.array(values).reshape(-1, 1)
        table = table - column if key == "mean" else table / column
    with np.errstate(over="ignore"):
        rounded = table.astype(np.float32)
    if not np.isfinite(rounded).all():
        message = f"range, mean and std lead to {np.abs(table).max():.3g}, which no float32 input '{tensor.name}' holds"
        raise UserError(message, EXAMPLE)
    return rounded, about


def stored_range(tensor: TensorSpec) -> tuple[float, float] | None:
    """The real values of the lowest and highest integer that an input can store; None for a float input.

    real = (stored - zero_point) * scale; an input of 8 bits without a scale stores the values themselves, and a wider one has
    room for pixels as they are.
    """
    import numpy as np

    dtype = np.dtype(tensor.dtype)
    if dtype.kind not in "iu":
        return None
    limits = np.iinfo(dtype)
    if tensor.quantization is None:
        return (float(limits.min), float(limits.max)) if dtype.itemsize == 1 else (0.0, 255.0)
    scale, zero_point = tensor.quantization.scale[0], tensor.quantization.zero_point[0]
    return (int(limits.min) - zero_point) * scale, (int(limits.max) - zero_point) * scale


def _geometry(settings: Settings, height: int, width: int, interpolation: str) -> str:
    """The treatment of sizes in words, for the report."""
    size = f"{height}x{width}"
    if settings.resize == 0:
        return f"centre crop of {size}"
    if settings.resize is not None:
        return f"{_size(settings.resize)} ({interpolation}), centre crop of {size}"
    covered = _enlarged(height) if height == width else (_enlarged(height), _enlarged(width))
    rule = f"{_size(covered)} ({interpolation}), centre crop of {size} ({CROP_SHARE:.1%} of it)"
    if settings.crop is not None:
        return rule
    return f"{rule}; images that are {size} already are taken as they are, since enlarging and cropping would cost them their edges"


def _size(resize: int | tuple[int, int]) -> str:
    """A resize in words."""
    return f"shorter side to {resize}" if isinstance(resize, int) else f"to {resize[0]}x{resize[1]}"


def _enlarged(side: int) -> int:
    """The side of which `side` is 87.5 %."""
    return round(side / CROP_SHARE)


def fit(image: Image.Image, plan: Steps, name: str) -> tuple[Image.Image, bool]:
    """(the image in the input's size, whether its size was changed). `name` is for the error.

    Sizes and offsets are torchvision's: the longer side rounds down, half a pixel of crop rounds to even.
    """
    import PIL.Image

    before = image.size
    width, height = before
    if plan.resize is None and not plan.crop and before == (plan.width, plan.height):
        return image, False
    if isinstance(plan.resize, tuple):
        height, width = plan.resize
    elif plan.resize != 0:
        # What the limiting side becomes; the other keeps the proportions.
        rows, columns = (plan.resize,) * 2 if plan.resize else (_enlarged(plan.height), _enlarged(plan.width))
        if rows * width >= columns * height:
            height, width = rows, max(columns, math.floor(rows * width / height))
        else:
            height, width = max(rows, math.floor(columns * height / width)), columns
    if height < plan.height or width < plan.width:
        message = f"{name} is {before[1]}x{before[0]}, smaller than the model's input {plan.height}x{plan.width}"
        raise UserError(message, "leave resize=none out, so that it is enlarged")
    if width * height > MOST_PIXELS:
        message = f"{name} is {before[1]}x{before[0]} and would be resized to {height}x{width}, which is too large"
        raise UserError(message, "leave it out, or give resize=HEIGHTxWIDTH")
    if (width, height) != before:
        image = image.resize((width, height), PIL.Image.Resampling[plan.interpolation.upper()])
    top, left = round((height - plan.height) / 2), round((width - plan.width) / 2)
    if (width, height) != (plan.width, plan.height):
        image = image.crop((left, top, left + plan.width, top + plan.height))
    return image, (width, height) != before or image.size != before


def apply(image: Image.Image, plan: Steps, name: str) -> tuple[np.ndarray, bool]:
    """(float32 in the input's layout without the batch, whether its size was changed) of an 8-bit image."""
    import numpy as np

    if image.mode[:1] in "IF":
        raise UserError(
            f"{name} has pixels of more than 8 bits (mode {image.mode})", "convert it to 8 bits per channel"
        )
    fitted, changed = fit(image.convert(MODES[plan.channels]), plan, name)
    pixels = np.asarray(fitted).reshape(plan.height, plan.width, plan.channels)
    if plan.bgr:
        pixels = pixels[..., ::-1]
    planes = np.stack([plan.table[channel][pixels[..., channel]] for channel in range(plan.channels)])
    return (planes if plan.layout == "NCHW" else np.ascontiguousarray(planes.transpose(1, 2, 0))), changed
