"""torch to a float .tflite file by litert-torch, and any float .tflite file to smaller ones by ai-edge-quantizer."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.converters import _tflite_graph, _torch
from edgekit.errors import ConvertError, first_line
from edgekit.types import TensorSpec

if TYPE_CHECKING:
    import numpy as np
    import torch

PRECISIONS = ("fp16", "int8", "int8_io", "int8_dynamic", "int8_weight", "int16x8", "int4_weight")


def from_torch(source: torch.nn.Module, specs: Sequence[TensorSpec]) -> bytes:
    """The float .tflite file of a torch model; images stay NCHW."""
    example = _torch.example(specs)
    _torch.outputs(source, example)
    if type(source).__name__ == "RecursiveScriptModule":
        source = _torch.program(source, example).module()
    os.environ["LITERT_TORCH_SHOW_PROGRESS"] = "n"  # some thirty lines on stdout otherwise
    import litert_torch

    try:
        edge_model = litert_torch.convert(source, example)
    except Exception as error:  # torch.export's and the lowering's errors have no common class
        reason = first_line(error)
        raise ConvertError(f"litert-torch refused the model: {type(error).__name__}: {reason}") from error
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "float.tflite"
        edge_model.export(str(path))
        return path.read_bytes()


def quantize(content: bytes, precision: str, rows: Sequence[tuple[np.ndarray, ...]]) -> bytes:
    """A float .tflite file, with a signature, in a smaller precision. `rows` are calibration inputs.

    Raises ConvertError when the file is quantized already.
    """
    from ai_edge_quantizer import quantizer

    model = _tflite_graph.read(content)
    figures = _tflite_graph.describe(model)
    if figures.get("weights_quantized_share") or figures.get("weights_half_share"):
        raise ConvertError(
            "the .tflite file is quantized already, and only a float one can be quantized",
            "start from the float model",
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "float.tflite"
        path.write_bytes(content)
        made = quantizer.Quantizer(str(path))
        made.load_quantization_recipe(_recipe(precision))
        ranges = _ranges(path, model, rows) if rows else None
        quantized: bytes = made.quantize(ranges, enable_progress_report=False).quantized_model
    if precision not in ("int8", "int16x8"):
        return bytes(quantized)
    changed = _tflite_graph.read(quantized)
    _tflite_graph.float_ends(changed)
    return _tflite_graph.write(changed)


def _recipe(precision: str) -> Any:
    from ai_edge_quantizer import algorithm_manager, qtyping, recipe, recipe_manager

    ready = {
        "int8": recipe.static_wi8_ai8,
        "int8_io": recipe.static_wi8_ai8,
        "int8_dynamic": recipe.dynamic_wi8_afp32,
        "int8_weight": recipe.weight_only_wi8_afp32,
        "int16x8": recipe.static_wi8_ai16,
        "int4_weight": recipe.weight_only_wi4_afp32,
    }
    if precision in ready:
        return ready[precision]()
    manager = recipe_manager.RecipeManager()
    casting = algorithm_manager.AlgorithmName.FLOAT_CASTING
    manager.add_weight_only_config(".*", qtyping.TFLOperationName.ALL_SUPPORTED, num_bits=16, algorithm_key=casting)
    return manager.get_quantization_recipe()


def _ranges(path: Path, model: Any, rows: Sequence[tuple[np.ndarray, ...]]) -> Any:
    """Every tensor's smallest and largest value over the calibration inputs.

    Not Quantizer.calibrate(): it averages the ranges of single samples, so that large values are clipped (18 dB SQNR
    instead of 35 dB on the digits).
    """
    from ai_edge_quantizer import calibrator
    from ai_edge_quantizer.utils import qsv_utils

    interpreter = calibrator.CalibrationInterpreter(
        str(path),
        mode=calibrator.CalibrationMode.CALIBRATION_PRESERVE_ALL_TENSORS,
        qsv_update_func=qsv_utils.min_max_update,
    )
    run = interpreter.get_signature_runner(_tflite_graph.text(model.signatureDefs[0].signatureKey))
    names = [name for name, _ in _tflite_graph.ends(model, "inputs")]
    for row in rows:
        run(**dict(zip(names, row, strict=True)))
    return interpreter.get_calibration_results()
