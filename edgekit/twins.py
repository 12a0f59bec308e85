"""Copies the weights of a torch state dict into the Keras form of the same architecture. Needs numpy, not torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from edgekit.errors import ConvertError

if TYPE_CHECKING:
    import keras
    import numpy as np

# Largest difference, relative to the largest output, that float rounding explains between two correct twins.
TOLERANCE = 1e-4


def copy_weights(state: Mapping[str, np.ndarray], model: keras.Model) -> None:
    """Fill the layers of `model`, in its order, from `state`, in its order.

    Convolution OIHW -> HWIO, depthwise (C*M)1HW -> HWCM, dense [out, in] -> [in, out], batch-norm as it is.
    Raises ConvertError naming the layer that does not map.
    """
    groups = _groups(state)
    layers = [layer for layer in _leaves(model) if layer.weights]
    if len(layers) != len(groups):
        message = f"the Keras form has {len(layers)} layers with weights, the torch form has {len(groups)}"
        names = f"Keras: {', '.join(layer.name for layer in layers)}; torch: {', '.join(groups)}"
        raise ConvertError(message, names[:400])
    for layer, (prefix, arrays) in zip(layers, groups.items(), strict=True):
        values = _values(layer, prefix, arrays)
        expected = [tuple(weight.shape) for weight in layer.weights]
        found = [value.shape for value in values]
        if expected != found:
            raise _mismatch(layer, prefix, f"its weights have shapes {expected}, torch gives {found}")
        layer.set_weights(values)


def difference(outputs: np.ndarray, expected: np.ndarray) -> float:
    """Largest absolute difference divided by the largest absolute expected value (at least 1e-12)."""
    import numpy as np

    return float(np.max(np.abs(outputs - expected)) / max(float(np.max(np.abs(expected))), 1e-12))


def _groups(state: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """{"features.0": {"weight": ..., "bias": ...}} in the order of the state dict, without step counters."""
    groups: dict[str, dict[str, np.ndarray]] = {}
    for name, array in state.items():
        prefix, _, leaf = name.rpartition(".")
        if leaf != "num_batches_tracked":
            groups.setdefault(prefix, {})[leaf] = array
    return groups


def _leaves(model: Any) -> Iterator[Any]:
    """The layers of a model in order, nested models opened."""
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from _leaves(layer)
        else:
            yield layer


def _values(layer: Any, prefix: str, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The weights of one Keras layer, in the order in which Keras keeps them."""
    import keras

    def take(name: str, rank: int) -> np.ndarray:
        if name not in arrays or arrays[name].ndim != rank:
            raise _mismatch(layer, prefix, f"torch has {_shapes(arrays)} there")
        return arrays[name]

    if isinstance(layer, keras.layers.BatchNormalization):
        statistics = [take("running_mean", 1), take("running_var", 1)]
        return [
            *([take("weight", 1)] if layer.scale else []),
            *([take("bias", 1)] if layer.center else []),
            *statistics,
        ]
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        kernel = take("weight", 4).transpose(2, 3, 0, 1)
        kernel = kernel.reshape(*kernel.shape[:2], -1, layer.depth_multiplier)
    elif type(layer) is keras.layers.Conv2D:
        kernel = take("weight", 4).transpose(2, 3, 1, 0)
    elif isinstance(layer, keras.layers.Dense):
        kernel = take("weight", 2).T
    else:
        known = "Conv2D, DepthwiseConv2D, Dense, BatchNormalization"
        message = (
            f"the Keras layer '{layer.name}' is a {type(layer).__name__}, whose weights cannot be copied from torch"
        )
        raise ConvertError(message, f"known: {known}; or let keras_model() return a trained model and drop weights()")
    if layer.use_bias != ("bias" in arrays):
        raise _mismatch(layer, prefix, f"use_bias is {layer.use_bias}, torch has {_shapes(arrays)}")
    return [kernel, take("bias", 1)] if layer.use_bias else [kernel]


def _shapes(arrays: Mapping[str, np.ndarray]) -> str:
    return ", ".join(f"{name} {tuple(array.shape)}" for name, array in arrays.items())


def _mismatch(layer: Any, prefix: str, why: str) -> ConvertError:
    message = (
        f"the Keras layer '{layer.name}' ({type(layer).__name__}) does not fit torch's '{prefix or 'top level'}': {why}"
    )
    return ConvertError(message, "both functions of the recipe must list the same layers in the same order")
