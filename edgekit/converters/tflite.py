"""Keras, SavedModel, torch or a float .tflite file to TensorFlow Lite, in every precision it has; the batch is fixed at 1."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.agent import flatbuffer
from edgekit.converters import CALIBRATED, _ai_edge, _tensorflow, _tensors, _tflite_graph
from edgekit.errors import UserError
from edgekit.types import Json, TensorSpec

if TYPE_CHECKING:
    import numpy as np

SOURCES = ("keras", "torch", "savedmodel", "tflite")
SUFFIX = ".tflite"
EXTRA = {"keras": "tflite", "torch": "litert-torch", "savedmodel": "tflite", "tflite": "quantizer"}
PRECISIONS = ("fp32", *_ai_edge.PRECISIONS)
OPTIONS: Mapping[str, tuple[str, ...]] = {}
_QUANTIZER = ("ai-edge-litert", "ai-edge-quantizer")
_TENSORFLOW = ("tensorflow-cpu", "keras", *_QUANTIZER)
PACKAGES = {
    "keras": _TENSORFLOW,
    "torch": ("torch", "litert-torch", *_QUANTIZER),
    "savedmodel": _TENSORFLOW,
    "tflite": _QUANTIZER,
}
HINT = "the model has no convolution or dense layer to quantize"
# What TensorFlow's own converter makes of a Keras model; ai-edge-quantizer makes the rest from the float file.
BY_TENSORFLOW = ("fp32", "fp16", "int8", "int8_io", "int8_dynamic", "int16x8")


def convert(
    source: Any,
    precision: str,
    calibration: tuple[np.ndarray, ...] | None,
    input_specs: tuple[TensorSpec, ...],
    options: Mapping[str, str],
    output: Path,
    framework: str,
) -> Json:
    """Make the float file or let TensorFlow quantize on the way, quantize what is left, name the ends.

    Raises ConvertError when a smaller precision was asked for and no weight became smaller.
    """
    rows = _tensors.samples(calibration, input_specs, precision) if precision in CALIBRATED else []
    on_the_way = framework in ("keras", "savedmodel") and precision in BY_TENSORFLOW
    if framework == "torch":
        content = _ai_edge.from_torch(source, input_specs)
    elif framework == "tflite":
        content = Path(source).read_bytes()
    else:
        function = _tensorflow.frozen(source, framework, input_specs)
        content = _tensorflow.to_tflite(function, precision if on_the_way else "fp32", rows if on_the_way else [])
    model = _tflite_graph.read(content)
    if framework == "tflite":
        _tflite_graph.fix(model, input_specs)
    if framework != "tflite" or not model.signatureDefs:
        _tflite_graph.name(model, input_specs)
    content = _tflite_graph.write(model)
    if precision != "fp32" and not on_the_way:
        content = _ai_edge.quantize(content, precision, rows)
        model = _tflite_graph.read(content)
    output.write_bytes(content)
    details = _tflite_graph.describe(model)
    few = on_the_way and precision == "int8_dynamic"
    hint = "TensorFlow leaves weights of fewer than 1024 numbers in float; int8_weight does not" if few else HINT
    _tensors.quantized_or_refused(precision, details, hint)
    if precision in CALIBRATED and details["float_ops"]:
        details["not_quantized"] = details["float_ops"]
    slow = _slow_kernels(precision, model)
    if slow:
        details["slow_kernels"] = slow
    inputs = _tflite_graph.inputs(model, [spec.layout for spec in input_specs])
    return _tensors.answer(inputs, _tflite_graph.outputs(model), details)


def _slow_kernels(precision: str, model: Any) -> str:
    """What is known to be slow about a precision, whatever the device; empty when nothing is."""
    if precision == "int16x8":
        return "int16x8 has reference kernels only: expect tens of times the time of fp32"
    if precision == "int8_dynamic" and (count := _tflite_graph.hybrid_depthwise(model)):
        layers = f"{count} depthwise convolution{'s' if count > 1 else ''}"
        return (
            f"no fast kernel takes the {layers} in int8_dynamic: expect more than the time of fp32; int8_weight has it"
        )
    return ""


def check(path: Path) -> None:
    """The flatbuffer's identifier is TFL3, and everything its tables refer to lies inside the file."""
    with path.open("rb") as stream:
        head = stream.read(8)
    if head[4:8] != b"TFL3":
        raise UserError(f"{path.name} is no TensorFlow Lite model (its identifier is not TFL3)")
    try:
        flatbuffer.verify(str(path))
    except flatbuffer.Damaged as error:
        raise UserError(f"{path.name} is cut short or damaged: {error}") from error
