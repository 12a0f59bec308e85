"""A float ONNX file in fewer bits, by ONNX Runtime's tools: fp16, static int8 (QDQ), dynamic int8."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.types import TensorSpec

if TYPE_CHECKING:
    import numpy as np
    import onnx

# Dynamic int8 of convolutions runs on ConvInteger, whose kernel is some ten times slower than float on x86-64.
DYNAMIC_OPERATORS = ("MatMul", "Gemm")


def half(path: Path, target: Path) -> None:
    """Weights and arithmetic in float16, float32 at both ends."""
    import onnx
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers import float16

    model = ONNXModel(float16.convert_float_to_float16(onnx.load(path), keep_io_types=True))
    model.topological_sort()  # the casts at the ends come in any order
    onnx.save(model.model, target)


def static(
    path: Path, target: Path, specs: Sequence[TensorSpec], rows: Sequence[tuple[np.ndarray, ...]], activation: str
) -> None:
    """Fold and fuse, then static QDQ with min-max ranges and a scale per channel of the weights."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Rows(CalibrationDataReader):  # type: ignore[misc]
        """The calibration inputs one after the other."""

        def __init__(self) -> None:
            self.rows = iter(rows)

        def get_next(self) -> Mapping[str, np.ndarray] | None:
            row = next(self.rows, None)
            return None if row is None else {spec.name: value for spec, value in zip(specs, row, strict=True)}

    logging.getLogger().setLevel(logging.ERROR)
    quantize_static(
        str(_folded(path)),
        str(target),
        Rows(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        weight_type=QuantType.QInt8,
        activation_type=QuantType.QInt8 if activation == "int8" else QuantType.QUInt8,
    )


def dynamic(path: Path, target: Path, every: bool) -> None:
    """int8 weights, activations quantized at run time; convolutions too when `every` is set."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    operators = (*DYNAMIC_OPERATORS, "Conv") if every else DYNAMIC_OPERATORS
    # QUInt8 for ConvInteger: with int8 weights ONNX Runtime has no kernel for it on x86-64 but a very slow one.
    kind = QuantType.QUInt8 if every else QuantType.QInt8
    quantize_dynamic(str(_folded(path)), str(target), op_types_to_quantize=list(operators), weight_type=kind)


def _folded(path: Path) -> Path:
    """Constants folded and batch-norm fused, which the exporters leave to others."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    target = path.with_name("folded.onnx")
    quant_pre_process(str(path), str(target), skip_symbolic_shape=True)
    return target


def is_float(model: onnx.ModelProto) -> bool:
    """Whether no operator of the model works on quantized tensors."""
    marks = ("QuantizeLinear", "DequantizeLinear", "MatMulInteger", "ConvInteger", "QLinearConv", "QLinearMatMul")
    return not any(node.op_type in marks for node in model.graph.node)
