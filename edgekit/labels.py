"""Which output of a model a label means: class order, numbers, and files whose classes are counted from another start."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgekit.errors import UserError
from edgekit.types import Json

if TYPE_CHECKING:
    import numpy as np

# How labels came about. In an order of names the number of classes is known, and is to be the model's.
ORDERED = ("sorted folder names", "sorted label names")
BACKGROUND_CLASSES = 1001  # ImageNet files of TensorFlow's zoo: output 0 is "background", class n is output n + 1
SAID = "--preprocess"
OFFSET = f"{SAID} label_offset="
MOST_DIGITS = 18  # what an int64 holds, whatever the digits
# As users write a value to predict; Python's float() also takes 1_0, which is rather a name.
VALUE = re.compile(r"[-+]?(?:(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|inf(?:inity)?|nan)", re.IGNORECASE)


def is_number(text: str) -> bool:
    """Whether a folder name or CSV field is a class index."""
    return bool(re.fullmatch(r"\d+", text.strip()))


def is_value(text: str) -> bool:
    """Whether a CSV field is a number of any kind; one may still not be finite."""
    return bool(VALUE.fullmatch(text.strip()))


def index(names: Sequence[str], what: str) -> tuple[dict[str, int], bool]:
    """({name: class index}, whether the names are the indices) of folder names or label words; `what` is for errors.

    Names that are all integers are the indices, others are numbered in sorted order. Raises UserError for a mixture,
    and for two names of one number.
    """
    distinct = sorted(set(names))
    numbers = [name for name in distinct if is_number(name)]
    if not numbers:
        return {name: position for position, name in enumerate(distinct)}, False
    if len(numbers) < len(distinct):
        word = next(name for name in distinct if not is_number(name))
        message = f"{what} mix numbers and words, such as '{numbers[0]}' and '{word}'"
        raise UserError(message, "name all classes by their index, or none")
    found: dict[int, str] = {}
    for name in distinct:
        if len(name.strip().lstrip("0")) > MOST_DIGITS:
            message = f"{what} have '{name[:40]}', which is too large for a class index"
            raise UserError(message, "name the classes by their output index (0, 1, 2 ...), or by words")
        other = found.setdefault(int(name), name)
        if other != name:
            raise UserError(f"{what} have '{other}' and '{name}' for one class index", "keep one of them")
    return {name: number for number, name in found.items()}, True


def align(y: np.ndarray, about: Json, outputs: int) -> tuple[np.ndarray, Json]:
    """(labels as output indices of a model with that many outputs, `about` with the offset and where it comes from).

    `about` is {"from": how labels came about, "classes": how many names, "offset": what the user said or absent}.
    Raises UserError when the labels do not belong to that many outputs.
    """
    low, high = int(y.min()), int(y.max())
    offset, why = about.get("offset"), about.get("offset_from", SAID)
    if offset is None:
        ordered = about.get("from") in ORDERED
        offset, why = _of_names(about["classes"], outputs) if ordered else _of_numbers(low, high, outputs)
    if low + offset < 0 or high + offset >= outputs:
        moved = f" with the offset {offset}" if offset else ""
        message = f"the labels reach from {low} to {high}{moved}, the model has {outputs} outputs, 0 to {outputs - 1}"
        raise UserError(message, f"use the labels this model was trained with, or {OFFSET}N, which is added to each")
    return y + offset, {**about, "outputs": outputs, "offset": offset, "offset_from": why}


def check_values(y: np.ndarray, outputs: int, origin: str = "") -> None:
    """Raise UserError when there is not one value to predict for each of a model's outputs; y [N, ...].

    `origin` says where the values come from.
    """
    values = y.size // len(y)
    if values == outputs:
        return
    many = "1 value" if values == 1 else f"{values} values"
    message = f"the targets{origin and f', {origin},'} have {many} per example, the model's output {outputs}"
    if y.dtype.kind == "i":
        raise UserError(message, "class labels are judged by top1; for mae save y in the shape of the output")
    raise UserError(
        message, "save y in the shape of the output, or class labels as whole numbers from 0 up: 0, not 0.0"
    )


def _of_names(classes: int, outputs: int) -> tuple[int, str]:
    """The offset of labels that number `classes` names in order."""
    if classes == outputs:
        return 0, "as many classes as outputs"
    if classes == outputs - 1 and outputs == BACKGROUND_CLASSES:
        return 1, "output 0 of a 1,001-class model is the background"
    message = (
        f"the data has {classes} classes by name, the model {outputs} outputs, so the order of names tells nothing"
    )
    raise UserError(message, f"name the class folders by their output index (0, 1, 2 ...), or {OFFSET}N")


def _of_numbers(low: int, high: int, outputs: int) -> tuple[int, str]:
    """The offset of labels that are numbers from `low` to `high`."""
    if outputs == BACKGROUND_CLASSES and high < outputs - 1:
        if low == 0:
            return (
                1,
                "label 0 occurs, and output 0 of a 1,001-class model is the background, of which there are no images",
            )
        message = (
            f"the labels reach from {low} to {high} and the model has 1,001 outputs: 0 may be the background or not"
        )
        raise UserError(message, f"say which: {OFFSET}1 when labels count from 0 without it, {OFFSET}0 when with it")
    if low >= 1 and high == outputs:
        return -1, f"label {outputs} occurs and label 0 does not, so the labels count from 1"
    return 0, "the labels are output indices"
