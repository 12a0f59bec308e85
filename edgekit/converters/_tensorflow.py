"""Keras models and SavedModel folders as one frozen function of batch 1, and TensorFlow Lite's own converter on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.converters import _tensors
from edgekit.errors import ConvertError, first_line
from edgekit.types import TensorSpec

if TYPE_CHECKING:
    import keras
    import numpy as np


def caller(model: keras.Model) -> Callable[..., list[Any]]:
    """A function of the model's inputs, one after the other, that gives its outputs as a flat list, in inference mode.

    Raises ConvertError when a weight of the model is no number.
    """
    import keras
    import numpy as np

    for weight in model.weights:
        if np.isnan(np.asarray(weight)).any():
            message = f"the weight '{weight.path}' of the model holds NaN"
            raise ConvertError(message, "its training diverged: take an earlier state")
    form = getattr(model, "_inputs_struct", None)  # of a functional model: a tensor, a list or a dict

    def call(*tensors: Any) -> list[Any]:
        if form is not None:
            packed = keras.tree.pack_sequence_as(form, list(tensors))
        else:
            packed = tensors[0] if len(tensors) == 1 else list(tensors)
        return _tensors.flat(model(packed, training=False))

    return call


def frozen(source: Any, framework: str, specs: Sequence[TensorSpec]) -> Any:
    """The model as a concrete function with fixed shapes and its weights as constants.

    Frozen here, and from_concrete_functions is given no model: it loses the variables of a Keras 3 model without an error
    (outputs are NaN or zero). from_keras_model would leave the batch open and takes five times as long.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    call = _signature(source, specs) if framework == "savedmodel" else caller(source)
    signature = [tf.TensorSpec(spec.shape, spec.dtype, name=spec.name) for spec in specs]
    function = tf.function(lambda *tensors: call(*tensors), autograph=False)
    try:
        concrete = function.get_concrete_function(*signature)
    except (ValueError, TypeError) as error:
        shapes = ", ".join(str(spec.shape) for spec in specs)
        reason = first_line(error, 200)
        raise ConvertError(f"the model does not take inputs of shape {shapes}: {reason}") from error
    return convert_variables_to_constants_v2(concrete)


def _signature(path: str | Path, specs: Sequence[TensorSpec]) -> Callable[..., list[Any]]:
    """The serving signature of a SavedModel as a function of its inputs in the order of `specs`.

    Its outputs come in the order of the alphabet: that of the file is another one at every loading.
    """
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    name = "serving_default" if "serving_default" in loaded.signatures else next(iter(loaded.signatures), "")
    if not name:
        raise ConvertError(f"the SavedModel {Path(path).name} has no signature", "export it with signatures=...")
    function = loaded.signatures[name]
    wanted = sorted(function.structured_input_signature[1])
    if wanted != sorted(spec.name for spec in specs):
        raise ConvertError(f"the signature '{name}' takes {', '.join(wanted)}, not {', '.join(s.name for s in specs)}")

    def call(*tensors: Any) -> list[Any]:
        # `loaded` owns the variables: it must live as long as this function.
        outputs = function(**{spec.name: tensor for spec, tensor in zip(specs, tensors, strict=True)})
        return [outputs[key] for key in sorted(outputs)] if loaded else []

    return call


def to_tflite(function: Any, precision: str, rows: Sequence[tuple[np.ndarray, ...]]) -> bytes:
    """Convert a frozen function. Raises ConvertError in TensorFlow's words when an operator has no such form."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
    if precision != "fp32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "fp16":
        converter.target_spec.supported_types = [tf.float16]
    if precision == "int8_dynamic":
        # Per-channel scales of dense layers make FULLY_CONNECTED version 12, which tflite-runtime 2.14 cannot load.
        converter._experimental_disable_per_channel_quantization_for_dense_layers = True
    if rows:
        converter.representative_dataset = lambda: (list(row) for row in rows)
        sets = tf.lite.OpsSet
        eight, sixteen = sets.TFLITE_BUILTINS_INT8, sets.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        converter.target_spec.supported_ops = [sixteen if precision == "int16x8" else eight]
    if precision == "int8_io":
        converter.inference_input_type = converter.inference_output_type = tf.int8
    try:
        model: bytes = converter.convert()
    except Exception as error:  # ConverterError and whatever the representative inputs trip over
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = next((line for line in lines if "error" in line.lower()), lines[0] if lines else type(error).__name__)
        raise ConvertError(f"TensorFlow Lite's converter refused the model: {reason[:300]}") from error
    return model
