"""What labels mean: orders of names, numbers, background classes, counting from one, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit import labels
from edgekit.errors import UserError

FOLDERS, NUMBERS = labels.ORDERED[0], "folder names are indices"


def test_words_are_numbered_in_sorted_order_and_numbers_are_themselves() -> None:
    assert labels.index(["dog", "cat", "dog"], "folders") == ({"cat": 0, "dog": 1}, False)
    assert labels.index(["10", "2"], "folders") == ({"2": 2, "10": 10}, True)
    assert labels.index(["0" * 30 + "7"], "folders") == ({"0" * 30 + "7": 7}, True)


@pytest.mark.parametrize("text", ["0.5", "-1", "+3", ".5", "5.", "1e-3", "1E999", "nan", "-inf", "Infinity"])
def test_what_is_a_value(text: str) -> None:
    assert labels.is_value(text) and isinstance(float(text), float)
    assert not labels.is_value(f"{text}_0") and not labels.is_value(f"a{text}")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["1", "cat"], "mix numbers and words, such as '1' and 'cat'"),
        (["1", "01"], "for one class index"),
        (["1", "9" * 20], "have '9{20}', which is too large for a class index"),
        (["1", "9" * 5000], "which is too large for a class index"),
    ],
)
def test_names_that_contradict_one_another(names: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        labels.index(names, "the class folders of d")


@pytest.mark.parametrize(
    ("y", "about", "outputs", "offset"),
    [
        ([0, 9], {"from": FOLDERS, "classes": 10}, 10, 0),
        ([0, 999], {"from": FOLDERS, "classes": 1000}, 1001, 1),
        ([0, 8], {"from": FOLDERS, "classes": 9, "offset": 1}, 10, 1),
        ([0, 3], {"from": NUMBERS}, 10, 0),
        ([0, 3], {"from": NUMBERS}, 1001, 1),
        ([1, 1000], {"from": NUMBERS}, 1001, 0),
        ([5, 900], {"from": NUMBERS, "offset": 1}, 1001, 1),
        ([1, 10], {"from": NUMBERS}, 10, -1),
    ],
)
def test_labels_become_output_indices(y: list[int], about: dict[str, object], outputs: int, offset: int) -> None:
    found, told = labels.align(np.array(y), about, outputs)
    assert found.tolist() == [label + offset for label in y]
    assert told["offset"] == offset and told["offset_from"] and told["outputs"] == outputs


@pytest.mark.parametrize(
    ("y", "about", "outputs", "words"),
    [
        ([0, 8], {"from": FOLDERS, "classes": 9}, 10, "9 classes by name, the model 10 outputs"),
        ([0, 10], {"from": NUMBERS}, 10, "from 0 to 10, the model has 10 outputs"),
        ([5, 900], {"from": NUMBERS}, 1001, "label_offset=1 when labels count from 0"),
        ([0, 9], {"from": FOLDERS, "classes": 10, "offset": 1}, 10, "with the offset 1"),
        ([0, 9], {"from": FOLDERS, "classes": 10, "offset": -1}, 10, "with the offset -1"),
    ],
)
def test_labels_of_another_model_are_refused(y: list[int], about: dict[str, object], outputs: int, words: str) -> None:
    with pytest.raises(UserError) as error:
        labels.align(np.array(y), about, outputs)
    assert words in str(error.value) and "label_offset" in error.value.hint
