"""torch to ONNX: float by torch's exporter, int8 by ONNX Runtime's static quantization (QDQ, weights per channel)."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import ConvertError, UserError
from edgekit.types import Json, TensorSpec, to_json

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import torch

SOURCE = "torch"
SUFFIX = ".onnx"
EXTRA = "onnx"
PRECISIONS = ("fp32", "int8")
# activation: the integer type of activations in int8 models; weights are always int8. See docs/decisions/004.
OPTIONS: Mapping[str, tuple[str, ...]] = {"activation": ("uint8", "int8")}
PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime")

OUTPUT = "output"
LAYERS = ("Conv", "Gemm", "MatMul")


def convert(
    source: torch.nn.Module,
    precision: str,
    calibration: np.ndarray | None,
    input_spec: TensorSpec,
    options: Mapping[str, str],
    output: Path,
) -> Json:
    """Export with a fixed batch of 1 and all weights inside the file; quantize when asked."""
    import onnx
    import torch

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        torch.onnx.export(
            source,
            (torch.zeros(input_spec.shape),),
            str(place / "float.onnx"),
            dynamo=True,
            verbose=False,
            external_data=False,
            input_names=[input_spec.name],
            output_names=[OUTPUT],
        )
        result = place / "float.onnx"
        if precision == "int8":
            if calibration is None:
                raise ConvertError("int8 needs calibration inputs")
            result = _quantize(place, input_spec.name, calibration, options["activation"])
        model = onnx.load(result)
    _strip(model)
    onnx.checker.check_model(model)
    output.write_bytes(model.SerializeToString())
    inputs = [_spec(value, input_spec.layout) for value in model.graph.input]
    outputs = [_spec(value, None) for value in model.graph.output]
    details = _describe(model)
    if precision == "int8" and not details["quantized_layers"]:
        raise ConvertError(
            "int8 was asked for, but no layer was quantized", "the model has no Conv, Gemm or MatMul to quantize"
        )
    return {
        "inputs": [to_json(spec) for spec in inputs],
        "outputs": [to_json(spec) for spec in outputs],
        "details": details,
    }


def _quantize(place: Path, name: str, calibration: np.ndarray, activation: str) -> Path:
    """place/float.onnx -> place/int8.onnx: fold and fuse first, then static QDQ with min-max calibration."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Rows(CalibrationDataReader):  # type: ignore[misc]
        """The calibration inputs one after the other."""

        def __init__(self) -> None:
            self.rows = iter(calibration)

        def get_next(self) -> dict[str, np.ndarray] | None:
            row = next(self.rows, None)
            return None if row is None else {name: row[None]}

    quant_pre_process(str(place / "float.onnx"), str(place / "folded.onnx"), skip_symbolic_shape=True)
    quantize_static(
        str(place / "folded.onnx"),
        str(place / "int8.onnx"),
        Rows(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        weight_type=QuantType.QInt8,
        activation_type=QuantType.QInt8 if activation == "int8" else QuantType.QUInt8,
    )
    return place / "int8.onnx"


def _strip(model: onnx.ModelProto) -> None:
    """Drop what only tells how the file was made: stack traces with paths of this machine, doc strings, node metadata."""
    graph = model.graph
    for item in (
        model,
        graph,
        *graph.node,
        *graph.value_info,
        *graph.input,
        *graph.output,
        *graph.initializer,
        *model.functions,
    ):
        item.ClearField("doc_string")
        if "metadata_props" in item.DESCRIPTOR.fields_by_name:
            item.ClearField("metadata_props")
    graph.name = "graph"


def _spec(value: Any, layout: str | None) -> TensorSpec:
    """A TensorSpec of a graph input or output."""
    import onnx

    tensor = value.type.tensor_type
    shape = tuple(int(size.dim_value) for size in tensor.shape.dim)
    if 0 in shape:
        raise ConvertError(f"the ONNX tensor '{value.name}' has a size that is not fixed: {shape}")
    return TensorSpec(value.name, shape, onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name, layout)


def _describe(model: onnx.ModelProto) -> dict[str, Any]:
    """Operators by name, and how many layers compute on dequantized integers (these are what ONNX Runtime fuses)."""
    counts: dict[str, int] = {}
    made_by = {name: node.op_type for node in model.graph.node for name in node.output}
    layers = quantized = 0
    for node in model.graph.node:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
        if node.op_type in LAYERS:
            layers += 1
            quantized += all(made_by.get(name) == "DequantizeLinear" for name in node.input[:2])
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    total = sum(counts.values())
    operators = dict(sorted(counts.items()))
    return {"operators": operators, "total_ops": total, "layers": layers, "quantized_layers": quantized, "opset": opset}


def check(path: Path) -> None:
    """The protobuf's top-level fields end exactly at the end of the file, and a graph and an opset are among them."""
    data = path.read_bytes()
    found: set[int] = set()
    place = 0
    while place < len(data):
        tag, place = _varint(data, place, path)
        number, kind = tag >> 3, tag & 7
        found.add(number)
        if kind == 0:
            _, place = _varint(data, place, path)
        elif kind == 2:
            size, place = _varint(data, place, path)
            place += size
        elif kind in (1, 5):
            place += 8 if kind == 1 else 4
        else:
            raise UserError(f"{path.name} is no ONNX model (unknown wire type {kind})")
    if place != len(data):
        raise UserError(f"{path.name} is cut short: it has {len(data)} bytes, its fields end at {place}")
    ir_version, graph, opset_import = 1, 7, 8  # field numbers of ModelProto
    if not {ir_version, graph, opset_import} <= found:
        raise UserError(f"{path.name} is no ONNX model, or it is cut short: it lacks its version, graph or opset")


def _varint(data: bytes, place: int, path: Path) -> tuple[int, int]:
    """(value, next place) of a protobuf varint."""
    value = shift = 0
    while place < len(data) and shift < 64:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
    raise UserError(f"{path.name} is no ONNX model, or it is cut short")
