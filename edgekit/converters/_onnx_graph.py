"""An ONNX model as protobuf: names and fixed shapes of its ends, nothing of the machine that made it, figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgekit.converters._tensors import output_names, weights
from edgekit.errors import ConvertError, first_line
from edgekit.types import TensorSpec

if TYPE_CHECKING:
    import onnx

FLOAT_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# What dynamic quantization turns layers into.
INTEGER_LAYERS = ("ConvInteger", "MatMulInteger", "DynamicQuantizeMatMul", "QLinearConv", "QLinearMatMul")


def strip(model: onnx.ModelProto) -> None:
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


def name_ends(model: onnx.ModelProto, specs: Sequence[TensorSpec]) -> None:
    """Rename inputs (by their place) to those of `specs`, and outputs to output, output1 ..."""
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != len(specs):
        message = f"the converted model has {len(inputs)} inputs instead of {len(specs)}"
        raise ConvertError(message, "an input that the model does not use was left out: drop it from the inputs")
    wanted = {value.name: spec.name for value, spec in zip(inputs, specs, strict=True)}
    wanted |= dict(zip([value.name for value in graph.output], output_names(len(graph.output)), strict=True))
    used = {name for node in graph.node for name in (*node.input, *node.output)} | constants
    inner = {name: f"{name}_inner" for name in set(wanted.values()) & used - set(wanted)}
    rename(model, {**inner, **wanted})


def rename(model: onnx.ModelProto, names: dict[str, str]) -> None:
    """Give tensors of the main graph other names, everywhere they stand."""
    graph = model.graph
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        for tensors in (node.input, node.output):
            for index, name in enumerate(tensors):
                tensors[index] = names.get(name, name)


def fix_shapes(model: onnx.ModelProto, specs: Sequence[TensorSpec]) -> onnx.ModelProto:
    """The model with the inputs' shapes of `specs` and what follows from them."""
    import onnx

    by_name = {spec.name: spec for spec in specs}
    constants = {tensor.name for tensor in model.graph.initializer}
    missing = [value.name for value in model.graph.input if value.name not in {*by_name, *constants}]
    if missing:
        raise ConvertError(f"the ONNX model has the input '{missing[0]}', for which there is no shape")
    open_ends = [value for value in (*model.graph.input, *model.graph.output) if _open(value)]
    if not open_ends:
        return model
    for value in model.graph.input:
        if value.name in by_name:
            sizes = value.type.tensor_type.shape.dim
            for size, wanted in zip(sizes, by_name[value.name].shape, strict=True):
                size.Clear()
                size.dim_value = wanted
    model.graph.ClearField("value_info")
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)


def _open(value: Any) -> bool:
    shape = value.type.tensor_type
    return not shape.HasField("shape") or any(size.dim_value < 1 for size in shape.shape.dim)


def refuse_newer(model: onnx.ModelProto) -> None:
    """Raise ConvertError when the model is written in a newer ONNX than the tools here know: they would guess."""
    import onnx

    known = onnx.defs.onnx_opset_version()
    if opset(model) > known:
        message = f"the ONNX model has opset {opset(model)}, and onnx {onnx.__version__} knows them up to {known}"
        raise ConvertError(message, f"export it again with opset {known}, or install a newer onnx")
    if model.ir_version > onnx.IR_VERSION:
        message = (
            f"the ONNX model has IR version {model.ir_version}, and onnx {onnx.__version__} knows {onnx.IR_VERSION}"
        )
        raise ConvertError(message, f"save it with ir_version = {onnx.IR_VERSION}, or install a newer onnx")


def modern(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in an opset that int8 with scales per channel needs (13). Raises ConvertError when that cannot be had."""
    import onnx

    found = opset(model)
    if found >= 13:
        return model
    try:
        return onnx.version_converter.convert_version(model, 17)
    except Exception as error:  # the version converter raises whatever its C++ side says
        reason = first_line(error, 200)
        message = f"the ONNX model has opset {found}, quantization needs 13, and it cannot be raised: {reason}"
        raise ConvertError(message, "export it again with opset 17") from error


def ends(model: onnx.ModelProto, specs: Sequence[TensorSpec]) -> tuple[list[TensorSpec], list[TensorSpec]]:
    """(inputs, outputs) as the file has them."""
    layouts = {spec.name: spec.layout for spec in specs}
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [_spec(value, layouts.get(value.name)) for value in model.graph.input if value.name not in constants]
    return inputs, [_spec(value, None) for value in model.graph.output]


def _spec(value: Any, layout: str | None) -> TensorSpec:
    """A TensorSpec of a graph input or output."""
    import onnx

    tensor = value.type.tensor_type
    shape = tuple(int(size.dim_value) for size in tensor.shape.dim)
    if _open(value):
        raise ConvertError(f"the ONNX tensor '{value.name}' has a size that is not fixed: {shape}")
    return TensorSpec(value.name, shape, onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name, layout)


def describe(model: onnx.ModelProto) -> dict[str, Any]:
    """Operators by name, how many layers compute on integers, the types of the weights, the opset.

    A layer computes on integers when dynamic quantization replaced it, or when it reads two dequantized tensors, which is
    what ONNX Runtime fuses into an integer kernel.
    """
    import onnx

    counts: dict[str, int] = {}
    made_by = {name: node.op_type for node in model.graph.node for name in node.output}
    layers = quantized = 0
    for node in model.graph.node:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
        if node.op_type in INTEGER_LAYERS:
            layers, quantized = layers + 1, quantized + 1
        elif node.op_type in FLOAT_LAYERS:
            layers += 1
            quantized += all(made_by.get(name) == "DequantizeLinear" for name in node.input[:2])
    constants = [
        (onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).name, list(tensor.dims))
        for tensor in model.graph.initializer
        if onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).name not in ("int32", "int64", "bool")
    ]
    figures = {"operators": dict(sorted(counts.items())), "total_ops": sum(counts.values())}
    return {
        **figures,
        "layers": layers,
        "quantized_layers": quantized,
        "opset": opset(model),
        **weights(constants),
    }


def opset(model: onnx.ModelProto) -> int:
    """The version of the standard operators that the model is written in."""
    return next((int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
