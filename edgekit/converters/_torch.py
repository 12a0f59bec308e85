"""What the converters from torch share: example inputs, the exported program, the outputs' specs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgekit.converters._tensors import output_names
from edgekit.errors import ConvertError, Unsupported, first_line
from edgekit.types import TensorSpec

if TYPE_CHECKING:
    import torch


def example(specs: Sequence[TensorSpec]) -> tuple[torch.Tensor, ...]:
    """Zeros for every input, each fresh and contiguous.

    Exporting with the odd strides that a permuted one-channel image keeps (also after .contiguous() and .clone()) gives an
    ExecuTorch program that computes something else, without an error.
    """
    import torch

    return tuple(torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype)) for spec in specs)


def outputs(source: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> list[TensorSpec]:
    """Run the model twice on random numbers and describe its outputs.

    Raises ConvertError when it is in training mode (its batch-norm and dropout would be random) or draws random numbers all
    the same, has a weight that is no number, does not take these inputs, or returns something else than tensors.
    """
    import torch

    training = [name or "the model" for name, module in source.named_modules() if module.training]
    if training:
        raise ConvertError(
            f"the model is in training mode ({training[0]})", "call .eval() on it: dropout and batch-norm change"
        )
    for name, weight in source.named_parameters():
        if weight.is_floating_point() and bool(weight.isnan().any()):
            raise ConvertError(
                f"the weight '{name}' of the model holds NaN", "its training diverged: take an earlier state"
            )
    noise = [torch.rand_like(tensor) if tensor.is_floating_point() else tensor for tensor in inputs]
    try:
        with torch.no_grad():
            # Clones: some models change their inputs.
            found, again = (
                torch.utils._pytree.tree_leaves(source(*(tensor.clone() for tensor in noise))) for _ in range(2)
            )
    except (RuntimeError, TypeError, ValueError) as error:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs)
        reason = first_line(error, 200)
        raise ConvertError(f"the torch model does not take inputs of shape {shapes}: {reason}") from error
    if not found or not all(isinstance(value, torch.Tensor) for value in found):
        kinds = ", ".join(type(value).__name__ for value in found) or "nothing"
        raise ConvertError(f"the torch model returns {kinds}, not tensors", "return tensors, or a tuple of them")
    if not all(_alike(*pair) for pair in zip(found, again, strict=True)):
        message = "the torch model gives another output for the same input every time, so it draws random numbers"
        raise ConvertError(message, "functional dropout needs training=self.training")
    return [spec(name, value) for name, value in zip(output_names(len(found)), found, strict=True)]


def _alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    import torch

    same = one.shape == other.shape and torch.allclose(one.double(), other.double(), 1e-3, 1e-4, equal_nan=True)
    return bool(same)


def spec(name: str, tensor: Any, layout: str | None = None) -> TensorSpec:
    """A TensorSpec of a torch tensor."""
    return TensorSpec(name, tuple(int(n) for n in tensor.shape), str(tensor.dtype).removeprefix("torch."), layout)


def program(source: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> torch.export.ExportedProgram:
    """The model as torch.export sees it. Raises ConvertError with torch's first sentence when it cannot."""
    import torch

    if isinstance(source, torch.jit.ScriptModule):
        from torch._export.converter import TS2EPConverter

        try:
            return TS2EPConverter(source, inputs).convert()
        except Exception as error:  # whatever an operator that it does not know makes of it
            reason = first_line(error, 200)
            message = f"torch cannot turn this TorchScript model into an exported program: {reason}"
            raise Unsupported(message, "give the model's Python source (path.py:factory), or its .pt2") from error
    try:
        return torch.export.export(source, inputs)
    except Exception as error:  # its own errors, and whatever the model raises on symbolic values
        reason = first_line(error)
        raise ConvertError(f"torch.export cannot trace this model: {reason}", _advice(reason)) from error


def _advice(reason: str) -> str:
    if "data-dependent" in reason.lower() or "GuardOnDataDependent" in reason:
        return "its control flow depends on values: write the branch with torch.where or torch.cond"
    return "torch's documentation of torch.export says what it takes"
