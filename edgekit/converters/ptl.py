"""torch to a PyTorch Mobile file (legacy: ExecuTorch replaced it), for apps that still have its lite interpreter.

Without optimize_for_mobile: torch's wheels come without the XNNPACK that it rewrites for.
"""

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
SUFFIX = ".ptl"
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
    """Trace, freeze, save with bytecode. Unsupported for the engine qnnpack: it computes wrongly."""
    rows = _tensors.samples(calibration, input_specs, precision) if precision == "int8" else []
    script, outputs, details = _jit.traced(source, precision, rows, input_specs, options["engine"])
    script._save_for_lite_interpreter(str(output))
    _jit.strip(output)
    return _tensors.answer(input_specs, outputs, {**details, "legacy": "PyTorch Mobile; its successor is ExecuTorch"})


def check(path: Path) -> None:
    """A whole zip archive with TorchScript code and its bytecode."""
    _jit.check(path, "PyTorch Mobile model", ("/bytecode.pkl",))
