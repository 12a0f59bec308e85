"""torch to TorchScript, for libtorch on this machine: traced and frozen, fp32 or int8 (FX)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.converters import _jit, _tensors
from edgekit.types import Json, TensorSpec

if TYPE_CHECKING:
    import numpy as np
    import torch

SOURCES = ("torch",)
SUFFIX = ".pt"
EXTRA = {"torch": "torch"}
PRECISIONS = _jit.PRECISIONS
OPTIONS = _jit.OPTIONS
PACKAGES = {"torch": ("torch",)}


def convert(
    source: torch.nn.Module,
    precision: str,
    calibration: tuple[np.ndarray, ...] | None,
    input_specs: tuple[TensorSpec, ...],
    options: Mapping[str, str],
    output: Path,
    framework: str,
) -> Json:
    """Trace, freeze (constants folded, batch-norm fused), save. Unsupported for the engine qnnpack: it computes wrongly."""
    import torch

    rows = _tensors.samples(calibration, input_specs, precision) if precision == "int8" else []
    script, outputs, details = _jit.traced(source, precision, rows, input_specs, options["engine"])
    torch.jit.save(script, str(output))
    _jit.strip(output)
    return _tensors.answer(input_specs, outputs, details)


def check(path: Path) -> None:
    """A whole zip archive with TorchScript code."""
    _jit.check(path, "TorchScript model", ("/constants.pkl", "/code/"))
