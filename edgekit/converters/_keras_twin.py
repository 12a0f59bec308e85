"""A Keras model as a torch module that computes the same: the way from Keras to ExecuTorch.

Keras' own torch backend is no way there: its channels-last convolutions stay outside XNNPACK, or the program does not run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgekit.errors import ConvertError, Unsupported
from edgekit.types import TensorSpec

if TYPE_CHECKING:
    import keras
    import numpy as np
    import torch

# Largest difference, relative to the largest output, that float rounding explains.
TOLERANCE = 1e-4


def twin(model: keras.Model, specs: Sequence[TensorSpec]) -> tuple[torch.nn.Module, tuple[TensorSpec, ...]]:
    """(module, its inputs): images that are said to be NHWC come as NCHW, everything else as in Keras; outputs as in Keras.

    Raises Unsupported naming the first layer that has no torch form, ConvertError when the two compute different things.
    """
    import numpy as np
    import torch

    from edgekit.converters import _tensorflow

    module = _graph(model, [spec.layout == "NHWC" for spec in specs], whole=True)
    rng = np.random.default_rng(0)
    call = _tensorflow.caller(model)
    for _ in range(2):
        x = [_random(rng, spec) for spec in specs]
        expected = [np.asarray(value) for value in call(*x)]
        with torch.no_grad():
            found = module(*(torch.from_numpy(array) for array in moved(x, specs)))
        for ours, theirs in zip(found, expected, strict=True):
            largest = max(float(np.abs(theirs).max()), 1e-12)
            difference = float(np.abs(ours.numpy() - theirs).max()) / largest
            if not difference <= TOLERANCE:
                message = f"the torch form of the Keras model differs from it by {difference:.1%} of the largest output"
                raise ConvertError(
                    message, "convert it to TensorFlow Lite or ONNX instead, and report the layers it has"
                )
    return module, tuple(_as_nchw(spec) for spec in specs)


def moved(row: Sequence[np.ndarray], specs: Sequence[TensorSpec]) -> tuple[np.ndarray, ...]:
    """One sample of inputs as Keras takes them, as the twin takes them."""
    import numpy as np

    pairs = zip(row, specs, strict=True)
    return tuple(np.ascontiguousarray(np.moveaxis(a, -1, 1) if spec.layout == "NHWC" else a) for a, spec in pairs)


def _as_nchw(spec: TensorSpec) -> TensorSpec:
    if spec.layout != "NHWC":
        return spec
    n, h, w, c = spec.shape
    return TensorSpec(spec.name, (n, c, h, w), spec.dtype, "NCHW")


def _random(rng: Any, spec: TensorSpec) -> Any:
    if spec.dtype.startswith("float"):
        return rng.normal(0.0, 1.0, spec.shape).astype(spec.dtype)
    return rng.integers(0, 2, spec.shape).astype(spec.dtype)


def _graph(model: Any, moved: Sequence[bool], whole: bool) -> torch.nn.Module:
    """The graph of a functional or sequential model.

    Inside, tensors of rank 4 are NCHW. At the ends of the `whole` model they are as in Keras, except for the inputs that
    are `moved` already.
    """
    import torch

    steps, modules = _steps(model)
    functional = getattr(model, "_functional", None) or model
    inputs = [id(tensor) for tensor in functional.inputs]
    outputs = [id(tensor) for tensor in functional.outputs]

    class Graph(torch.nn.Module):  # type: ignore[misc]
        """The layers in the order in which they depend on one another."""

        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList(modules)

        def forward(self, *tensors: torch.Tensor) -> Any:
            values = {}
            for key, tensor, ready in zip(inputs, tensors, moved, strict=True):
                values[key] = tensor.permute(0, 3, 1, 2) if whole and tensor.ndim == 4 and not ready else tensor
            for layer, (taken, made) in zip(self.layers, steps, strict=True):
                found = layer(*(values[key] for key in taken))
                values.update(zip(made, found if isinstance(found, tuple) else (found,), strict=True))
            results = [values[key] for key in outputs]
            return tuple(value.permute(0, 2, 3, 1) if whole and value.ndim == 4 else value for value in results)

    return Graph().eval().requires_grad_(False)


def _steps(model: Any) -> tuple[list[tuple[list[int], list[int]]], list[Any]]:
    """([(ids of the tensors taken, ids of those made)], [torch module]) of every layer, in order."""
    from edgekit.converters import _keras_layers

    functional = getattr(model, "_functional", None) or model
    if not hasattr(functional, "_nodes_by_depth"):
        message = f"the Keras model '{model.name}' is a {type(model).__name__} without a graph of layers"
        raise Unsupported(message, "ExecuTorch needs a functional or sequential Keras model, or a torch form of it")
    steps, modules = [], []
    for depth in sorted(functional._nodes_by_depth, reverse=True):
        for node in functional._nodes_by_depth[depth]:
            if node.is_input:
                continue
            layer = node.operation
            taken = list(node.input_tensors)
            if hasattr(layer, "layers"):
                made = _graph(layer, [True] * len(taken), whole=False)
            else:
                made = _keras_layers.module(layer, [len(tensor.shape) for tensor in taken])
            steps.append(([id(tensor) for tensor in taken], [id(tensor) for tensor in node.outputs]))
            modules.append(made)
    return steps, modules
