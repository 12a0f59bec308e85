"""Keras to TensorFlow Lite: float, full int8, and int8 with int8 input and output; the batch is fixed at 1."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.agent import flatbuffer
from edgekit.errors import ConvertError, UserError
from edgekit.types import Json, Quantization, TensorSpec, to_json

if TYPE_CHECKING:
    import keras
    import numpy as np

SOURCE = "keras"
SUFFIX = ".tflite"
EXTRA = "tflite"
PRECISIONS = ("fp32", "int8", "int8_io")
OPTIONS: Mapping[str, tuple[str, ...]] = {}
PACKAGES = ("tensorflow-cpu", "keras")

# Operators that only move between float and integer: no sign that a layer was left in float.
BOUNDARY = ("QUANTIZE", "DEQUANTIZE", "DELEGATE")


def convert(
    source: keras.Model,
    precision: str,
    calibration: np.ndarray | None,
    input_spec: TensorSpec,
    options: Mapping[str, str],
    output: Path,
) -> Json:
    """Freeze the model into one concrete function of batch 1 and convert that.

    from_keras_model would leave the batch open and takes five times as long; from_concrete_functions without freezing
    loses the variables of a Keras 3 model without an error (outputs are zero).
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    signature = tf.TensorSpec(input_spec.shape, tf.float32, name=input_spec.name)
    function = tf.function(lambda x: source(x, training=False)).get_concrete_function(signature)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([convert_variables_to_constants_v2(function)])
    if precision != "fp32":
        if calibration is None:
            raise ConvertError(f"{precision} needs calibration inputs")
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([row[None]] for row in calibration)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    if precision == "int8_io":
        converter.inference_input_type = converter.inference_output_type = tf.int8
    model: bytes = converter.convert()
    output.write_bytes(model)
    interpreter = tf.lite.Interpreter(
        model_content=model,
        experimental_op_resolver_type=tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    inputs = [_spec(tensor, input_spec.layout) for tensor in interpreter.get_input_details()]
    outputs = [_spec(tensor, None) for tensor in interpreter.get_output_details()]
    details = _operators(interpreter)
    if precision != "fp32" and details["float_ops"]:
        details["not_quantized"] = details["float_ops"]
    return {
        "inputs": [to_json(spec) for spec in inputs],
        "outputs": [to_json(spec) for spec in outputs],
        "details": details,
    }


def _spec(tensor: Mapping[str, Any], layout: str | None) -> TensorSpec:
    """A TensorSpec of what the interpreter says about a tensor."""
    scales, zero_points = tensor["quantization_parameters"]["scales"], tensor["quantization_parameters"]["zero_points"]
    quantization = None
    if len(scales):
        quantization = Quantization(tuple(float(s) for s in scales), tuple(int(z) for z in zero_points))
    shape = tuple(int(size) for size in tensor["shape"])
    return TensorSpec(tensor["name"], shape, tensor["dtype"].__name__, layout, quantization)


def _operators(interpreter: Any) -> dict[str, Any]:
    """{"operators": {name: count}, "total_ops", "float_ops"}; which ones a delegate takes is known only on the device."""
    types = {tensor["index"]: tensor["dtype"].__name__ for tensor in interpreter.get_tensor_details()}
    counts: dict[str, int] = {}
    in_float = 0
    for operator in interpreter._get_ops_details():
        name = operator["op_name"]
        counts[name] = counts.get(name, 0) + 1
        if name not in BOUNDARY and any(types.get(index) == "float32" for index in operator["outputs"]):
            in_float += 1
    return {"operators": dict(sorted(counts.items())), "total_ops": sum(counts.values()), "float_ops": in_float}


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
