"""torch, Keras, SavedModel or a float ONNX file to ONNX: float, fp16, int8 (static QDQ) and dynamic int8; batch 1."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.converters import _onnx_graph, _onnx_quantize, _tensorflow, _tensors, _torch
from edgekit.errors import ConvertError, UserError, first_line
from edgekit.types import Json, TensorSpec

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import torch

SOURCES = ("torch", "keras", "savedmodel", "onnx")
SUFFIX = ".onnx"
EXTRA = {"torch": "onnx", "keras": "tf2onnx", "savedmodel": "tf2onnx", "onnx": "onnx-quantizer"}
PRECISIONS = ("fp32", "fp16", "int8", "int8_dynamic")
# activation: the integer type of activations in int8 models; weights are always int8. See docs/decisions/004.
# ops: what int8_dynamic quantizes. Convolutions too (all) makes a CNN several times slower than float.
OPTIONS: Mapping[str, tuple[str, ...]] = {"activation": ("uint8", "int8"), "ops": ("matmul", "all")}
_QUANTIZER = ("onnx", "onnxruntime")
_TENSORFLOW = ("tensorflow-cpu", "keras", "tf2onnx", *_QUANTIZER)
PACKAGES = {
    "torch": ("torch", "onnxscript", *_QUANTIZER),
    "keras": _TENSORFLOW,
    "savedmodel": _TENSORFLOW,
    "onnx": _QUANTIZER,
}

OPSET = 17  # of models from TensorFlow; every ONNX Runtime since 1.12 has it
HINT = "the model has no Conv, Gemm or MatMul to quantize"


def convert(
    source: Any,
    precision: str,
    calibration: tuple[np.ndarray, ...] | None,
    input_specs: tuple[TensorSpec, ...],
    options: Mapping[str, str],
    output: Path,
    framework: str,
) -> Json:
    """Export with a fixed batch of 1 and all weights inside the file; quantize when asked.

    Raises ConvertError when int8 was asked for and no layer was quantized, or when the file to quantize is so already.
    """
    import onnx

    rows = _tensors.samples(calibration, input_specs, precision) if precision == "int8" else []
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "float.onnx"
        onnx.save(_exported(source, framework, input_specs, result), result)
        target = Path(folder) / "smaller.onnx"
        if precision == "fp16":
            _onnx_quantize.half(result, target)
        elif precision == "int8":
            _onnx_quantize.static(result, target, input_specs, rows, options["activation"])
        elif precision == "int8_dynamic":
            _onnx_quantize.dynamic(result, target, options["ops"] == "all")
        model = onnx.load(result if precision == "fp32" else target)
    _onnx_graph.strip(model)
    onnx.checker.check_model(model)
    inputs, outputs = _onnx_graph.ends(model, input_specs)
    output.write_bytes(model.SerializeToString())
    details = _onnx_graph.describe(model)
    if precision.startswith("int8") and not details["quantized_layers"]:
        advice = HINT if options["ops"] == "all" or precision == "int8" else _advice(details)
        raise ConvertError(f"{precision} was asked for, but no layer was quantized", advice)
    _tensors.quantized_or_refused(precision, details, HINT)
    if not precision.startswith("int8"):
        del details["layers"], details["quantized_layers"]
    elif options["ops"] == "matmul" and precision == "int8_dynamic" and details["quantized_layers"] < details["layers"]:
        details["slow_kernels"] = (
            "convolutions stay float: ONNX Runtime's dynamic int8 convolution is slower than float"
        )
    if details["operators"].get("ConvInteger"):
        details["slow_kernels"] = "ONNX Runtime's dynamic int8 convolution takes several times as long as its float one"
    return _tensors.answer(inputs, outputs, details)


def _advice(details: Mapping[str, Any]) -> str:
    if details["layers"]:
        return "its layers are convolutions, whose dynamic int8 is slower than float; the option ops=all does it all the same"
    return HINT


def _exported(source: Any, framework: str, specs: Sequence[TensorSpec], place: Path) -> onnx.ModelProto:
    """The float model with the inputs' names of `specs`."""
    import onnx

    if framework == "onnx":
        model = onnx.load(source)
        _onnx_graph.refuse_newer(model)
        if not _onnx_quantize.is_float(model):
            raise ConvertError(
                "the ONNX file is quantized already, and only a float one can be converted",
                "start from the float model",
            )
        return _onnx_graph.modern(_onnx_graph.fix_shapes(model, specs))
    model = _from_torch(source, specs, place) if framework == "torch" else _from_tensorflow(source, framework, specs)
    _onnx_graph.name_ends(model, specs)
    return model


def _from_torch(source: torch.nn.Module, specs: Sequence[TensorSpec], place: Path) -> onnx.ModelProto:
    """By torch's exporter. external_data=False: otherwise the weights lie in a second file."""
    import onnx
    import torch

    example = _torch.example(specs)
    found = _torch.outputs(source, example)
    if isinstance(source, torch.jit.ScriptModule):
        source = _torch.program(source, example).module()
    torch.onnx.export(
        source,
        example,
        str(place),
        dynamo=True,
        verbose=False,
        external_data=False,
        input_names=[spec.name for spec in specs],
        output_names=[spec.name for spec in found],
    )
    return onnx.load(place)


def _from_tensorflow(source: Any, framework: str, specs: Sequence[TensorSpec]) -> onnx.ModelProto:
    """By tf2onnx, from the frozen graph."""
    import tf2onnx

    function = _tensorflow.frozen(source, framework, specs)
    try:
        model, _ = tf2onnx.convert.from_graph_def(
            function.graph.as_graph_def(),
            input_names=[tensor.name for tensor in function.inputs],
            output_names=[tensor.name for tensor in function.outputs],
            opset=OPSET,
        )
    except Exception as error:  # its own errors have no common class
        reason = first_line(error)
        raise ConvertError(f"tf2onnx refused the model: {type(error).__name__}: {reason}") from error
    return model


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
