"""What all converters share: calibration inputs that are checked before any tool sees them, and the form of an answer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgekit.errors import ConvertError
from edgekit.types import Json, TensorSpec, to_json

if TYPE_CHECKING:
    import numpy as np

INTEGERS, HALVES = ("int4", "uint4", "int8", "uint8"), ("float16", "bfloat16")


def samples(
    calibration: tuple[np.ndarray, ...] | None, specs: Sequence[TensorSpec], precision: str
) -> list[tuple[np.ndarray, ...]]:
    """The calibration inputs call by call, each a tuple of arrays [batch, ...], one per input; the last call is filled up
    with inputs from the beginning.

    Raises ConvertError when there are none, when they have another shape than the model's inputs, hold a value that is not
    finite, or are one and the same number throughout: ranges taken from such inputs would be wrong without an error.
    """
    import numpy as np

    if not calibration or not len(calibration[0]):
        raise ConvertError(f"{precision} needs calibration inputs, and there are none", "give some typical inputs")
    if len(calibration) != len(specs):
        raise ConvertError(f"the model has {len(specs)} inputs, the calibration data {len(calibration)}")
    if len({len(array) for array in calibration}) > 1:
        counts = ", ".join(f"{spec.name}: {len(array)}" for spec, array in zip(specs, calibration, strict=True))
        raise ConvertError(f"the calibration data has different numbers of samples per input ({counts})")
    for spec, array in zip(specs, calibration, strict=True):
        if array.shape[1:] != spec.shape[1:]:
            message = f"calibration for the input '{spec.name}' has shape {array.shape[1:]}, the model {spec.shape[1:]}"
            raise ConvertError(message, "each sample must have the input's shape and layout")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ConvertError(f"calibration for the input '{spec.name}' holds values that are not finite")
        if array.dtype.kind == "f" and array[0].size > 1 and float(np.ptp(array)) == 0.0:
            message = f"calibration for the input '{spec.name}' is the number {array.flat[0]:g} throughout"
            raise ConvertError(message, "quantization takes its ranges from these inputs; give typical ones")
    arrays = [array.astype(spec.dtype, copy=False) for spec, array in zip(specs, calibration, strict=True)]
    count, batch = len(arrays[0]), specs[0].shape[0]
    calls = [np.arange(start, start + batch) % count for start in range(0, count, batch)]
    return [tuple(array[rows] for array in arrays) for rows in calls]


def answer(inputs: Iterable[TensorSpec], outputs: Iterable[TensorSpec], details: Mapping[str, Any]) -> Json:
    """What `convert` returns."""
    return {
        "inputs": [to_json(spec) for spec in inputs],
        "outputs": [to_json(spec) for spec in outputs],
        "details": to_json(details),
    }


def flat(result: Any) -> list[Any]:
    """A model's result (a tensor, a list, a dict, nested as they like) as a list; dicts in their own order."""
    if isinstance(result, Mapping):
        result = list(result.values())
    if isinstance(result, (tuple, list)):
        return [tensor for part in result for tensor in flat(part)]
    return [result]


def output_names(count: int) -> list[str]:
    """The names of a model's outputs, which most frameworks do not have: output, output1, output2 ..."""
    return [f"output{index or ''}" for index in range(count)]


def weights(found: Iterable[tuple[str, Sequence[int]]]) -> dict[str, Any]:
    """Figures of a file's weights, given (dtype, shape) of its constants; vectors (biases, scales) do not count.

    weights                   {dtype: number of elements}
    weights_quantized_share   the share of elements stored in eight bits or less
    weights_half_share        the share stored as 16-bit floats
    """
    counts: dict[str, int] = {}
    for dtype, shape in found:
        if len(shape) > 1:
            counts[dtype] = counts.get(dtype, 0) + math.prod(shape)
    total = sum(counts.values())
    if not total:
        return {"weights": {}}
    return {
        "weights": dict(sorted(counts.items())),
        "weights_quantized_share": sum(counts.get(name, 0) for name in INTEGERS) / total,
        "weights_half_share": sum(counts.get(name, 0) for name in HALVES) / total,
    }


def quantized_or_refused(precision: str, details: Mapping[str, Any], hint: str) -> None:
    """Raise ConvertError when a tool was asked for smaller weights and left every one of them as it was."""
    if precision.startswith("int") and not details.get("weights_quantized_share"):
        raise ConvertError(f"{precision} was asked for, but no layer was quantized", hint)
    if precision == "fp16" and details.get("weights") and not details.get("weights_half_share"):
        raise ConvertError("fp16 was asked for, but no weight was made smaller", hint)
