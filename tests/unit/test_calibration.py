"""What every converter checks of its calibration inputs, and the figures of weights."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.converters import _tensors
from edgekit.errors import ConvertError
from edgekit.types import TensorSpec

SPECS = (TensorSpec("a", (1, 2, 3), "float32"), TensorSpec("ids", (1, 4), "int64"))
GOOD = (np.arange(30, dtype="f8").reshape(5, 2, 3), np.zeros((5, 4), "i4"))


def test_samples_are_rows_of_every_input_in_the_types_of_the_model() -> None:
    rows = _tensors.samples(GOOD, SPECS, "int8")
    assert len(rows) == 5
    assert [(array.shape, array.dtype.name) for array in rows[0]] == [((1, 2, 3), "float32"), ((1, 4), "int64")]
    assert rows[4][0][0, 0, 0] == 24


def test_a_larger_batch_takes_several_samples_at_a_time_and_fills_the_last_call_up() -> None:
    calls = _tensors.samples(GOOD, [TensorSpec(s.name, (2, *s.shape[1:]), s.dtype) for s in SPECS], "int8")
    assert [call[0].shape for call in calls] == [(2, 2, 3)] * 3
    assert [call[0][:, 0, 0].tolist() for call in calls] == [[0, 6], [12, 18], [24, 0]]


@pytest.mark.parametrize(
    ("calibration", "words"),
    [
        (None, "needs calibration inputs"),
        ((GOOD[0][:0], GOOD[1][:0]), "needs calibration inputs"),
        (GOOD[:1], "has 2 inputs, the calibration data 1"),
        ((GOOD[0], GOOD[1][:4]), "different numbers of samples per input (a: 5, ids: 4)"),
        ((GOOD[0].reshape(5, 3, 2), GOOD[1]), "for the input 'a' has shape (3, 2), the model (2, 3)"),
        ((np.where(GOOD[0] > 7, np.nan, GOOD[0]), GOOD[1]), "'a' holds values that are not finite"),
        ((np.full((5, 2, 3), 0.5), GOOD[1]), "'a' is the number 0.5 throughout"),
    ],
)
def test_calibration_that_would_give_wrong_ranges_is_refused(calibration: object, words: str) -> None:
    with pytest.raises(ConvertError) as caught:
        _tensors.samples(calibration, SPECS, "int8")  # type: ignore[arg-type]
    assert words in caught.value.message


def test_a_result_is_flattened_in_its_own_order() -> None:
    assert _tensors.flat({"z": 1, "a": (2, [3])}) == [1, 2, 3]
    assert _tensors.flat(7) == [7]
    assert _tensors.output_names(3) == ["output", "output1", "output2"]


def test_figures_of_weights_count_elements_and_no_vectors() -> None:
    found = _tensors.weights([("int8", (10, 10)), ("float32", (5, 20)), ("float32", (1000,)), ("float16", (2, 100))])
    assert found["weights"] == {"float16": 200, "float32": 100, "int8": 100}
    assert (found["weights_quantized_share"], found["weights_half_share"]) == (0.25, 0.5)
    assert _tensors.weights([("float32", (3,))]) == {"weights": {}}


@pytest.mark.parametrize(("precision", "share"), [("int8", 0.0), ("int4_weight", 0.0), ("fp16", 0.0)])
def test_nothing_made_smaller_is_an_error(precision: str, share: float) -> None:
    details = {"weights": {"float32": 9}, "weights_quantized_share": share, "weights_half_share": share}
    with pytest.raises(ConvertError, match=precision):
        _tensors.quantized_or_refused(precision, details, "")
    _tensors.quantized_or_refused("fp32", details, "")
    _tensors.quantized_or_refused(precision, {**details, "weights_quantized_share": 0.1, "weights_half_share": 0.1}, "")
