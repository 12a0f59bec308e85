"""How much work the operators of a model file are: multiply-accumulates, parameters and bytes, by the shapes in the file.

A multiply-accumulate (MAC) is one multiplication and one addition. Only layers that multiply by a matrix or a filter have any:
convolutions, dense layers, products of matrices. Those at a padded border count in full, as the field counts them.
Parameters are the constants of a file that a layer is made of, each counted once; batch norms that a converter folded into
their neighbours are gone from it. Bytes are those of an operator's inputs, constants and output, each touched once.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit import pte, worker
from edgekit.converters import _onnx_graph, _tflite_graph
from edgekit.errors import EdgekitError, UserError, first_line
from edgekit.pte import Value
from edgekit.types import Json, TensorSpec, to_json

DEADLINE_S = 300.0
# Graphs of their own, and layers whose multiply-accumulates the shapes of their ends alone do not tell.
BODIES = (
    "WHILE", "IF", "CALL", "CALL_ONCE", "CUSTOM", "DELEGATE", "While", "Loop", "If", "Scan", "SequenceMap",
    "STABLEHLO_WHILE", "STABLEHLO_CASE", "STABLEHLO_COMPOSITE", "STABLEHLO_CUSTOM_CALL",
)  # fmt: skip
UNKNOWN = ("LSTM", "GRU", "RNN", "SVDF", "Attention", "Einsum", "ScaledDotProduct", "scaled_dot_product")
# What multiplies by a matrix or a filter, by its name, and is none of the layers that are known here.
PRODUCT = re.compile(
    r"Conv(?!ert)|MatMul|Gemm|MoE|CONVOLUTION|DOT_GENERAL|(^|[_:])(add)?(conv(?!ert)|linear|b?mm|matmul|mv|dot|sdpa)"
)


@dataclass(frozen=True)
class Operator:
    """One operator of a file. `place` is its index in a .tflite or .onnx file, its instruction in a .pte file; `macs` is None
    where it is not known."""

    place: int
    type: str
    name: str
    delegate: str | None
    inputs: tuple[Value, ...]
    output: Value | None
    macs: int | None


def of(path: Path, form: str, inputs: Sequence[TensorSpec] = ()) -> Json | None:
    """What is in a file of that format, None for one whose operators cannot be read; `inputs` close open dimensions.

    operators    [{"place", "type", "name", "delegate", "inputs": [shape ...], "output": shape, "macs", "parameters", "bytes"}]
    macs, parameters    of the whole model for one call             uncounted    the types of operators whose MACs are not known

    Raises UserError for a damaged file.
    """
    if form not in READERS:
        return None
    request = {"path": str(path), "format": form, "inputs": [to_json(spec) for spec in inputs]}
    return worker.run("edgekit.macs:read", request, DEADLINE_S, None, f"reading the operators of {path.name}")


def read(request: Json) -> Json:
    """In a worker: the same."""
    specs = [TensorSpec.from_json(spec) for spec in request["inputs"]]
    return summed(READERS[request["format"]](Path(request["path"]), specs))


def summed(operators: Sequence[Operator]) -> Json:
    """The machine form of a file's operators, and their sums."""
    whole = {value.key: math.prod(value.shape) for one in operators for value in parameters(one)}
    unknown = sorted({one.type for one in operators if one.macs is None})
    found: Json = {
        "operators": [described(one) for one in operators],
        "macs": sum(one.macs or 0 for one in operators),
        "parameters": sum(whole.values()),
    }
    return {**found, "uncounted": unknown} if unknown else found


def described(one: Operator) -> Json:
    """The machine form of an operator; what is not known is absent."""
    ends = [*one.inputs, *([one.output] if one.output else [])]
    found: Json = to_json(
        {
            "place": one.place,
            "type": one.type,
            "name": one.name or None,
            "delegate": one.delegate,
            "inputs": [list(value.shape) for value in one.inputs if not value.constant],
            "output": list(one.output.shape) if one.output else None,
            "macs": one.macs,
            "parameters": sum(math.prod(value.shape) for value in parameters(one)),
            "bytes": round(sum(math.prod(value.shape) * value.width for value in ends)),
        }
    )
    return found


def parameters(one: Operator) -> list[Value]:
    """The constants that are weights: of a layer all of them, else those that are no single numbers, sizes or axes."""
    return [value for value in one.inputs if value.constant and (one.macs or (value.weight and value.shape))]


def layer(kind: str, inputs: Sequence[Value], output: Value | None, weights: Value | None) -> int | None:
    """The MACs of a layer of this kind, None where a shape is not known.

    conv         every number of the output takes what one filter holds; the weights begin with the channels of the output
    depthwise    the same where they end with them
    dense        the same where the output ends with them
    transposed   every number of the input takes what the weights hold for its channel, and they begin with these channels
    spread       the same where the input ends with them
    """
    if output is None or weights is None or not weights.shape or not inputs:
        return None
    made, taken, held = math.prod(output.shape), math.prod(inputs[0].shape), math.prod(weights.shape)
    per = {
        "conv": (made, weights.shape),
        "depthwise": (made, weights.shape[::-1]),
        "dense": (made, output.shape[::-1]),
        "transposed": (taken, weights.shape),
        "spread": (taken, inputs[0].shape[::-1]),
    }
    numbers, channels = per[kind]
    return numbers * held // channels[0] if channels and channels[0] else None


# .tflite: the weights of a convolution are [O, H, W, I], of a depthwise one [1, H, W, O], of a dense layer [O, I]


def _tflite(path: Path, specs: Sequence[TensorSpec]) -> list[Operator]:
    from ai_edge_litert import schema_py_generated as schema

    model = _tflite_graph.parsed(path.read_bytes())
    graph, text = _tflite_graph.graph(model), _tflite_graph.text
    words = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}

    def value(index: int) -> Value:
        tensor = graph.tensors[index]
        shape = tuple(max(1, int(size)) for size in (tensor.shape if tensor.shape is not None else ()))
        dtype = _tflite_graph.dtype(tensor)
        data = model.buffers[tensor.buffer].data
        constant = (data is not None and len(data) > 0) or bool(model.buffers[tensor.buffer].size)
        return Value(shape, _width(dtype), constant, (0, int(tensor.buffer)), dtype not in ("int32", "int64"))

    def is_open(index: int) -> bool:
        """Whether a dimension beside the batch is known only when the model runs; the file has a 1 in its place."""
        stated = graph.tensors[index].shapeSignature
        return stated is not None and any(int(size) < 0 for size in stated[1:])

    found = []
    for place, operator in enumerate(graph.operators or []):
        code = model.operatorCodes[operator.opcodeIndex]
        kind = words.get(max(int(code.builtinCode), int(code.deprecatedBuiltinCode)), "CUSTOM")
        inputs = tuple(value(int(index)) for index in operator.inputs if index >= 0)
        inputs = inputs[1:] if kind in ("TRANSPOSE_CONV", "CONV_3D_TRANSPOSE") else inputs
        output = value(int(operator.outputs[0])) if len(operator.outputs) else None
        name = text(graph.tensors[int(operator.outputs[0])].name) if output else ""
        amount = _tflite_macs(kind, operator, inputs, output)
        if amount and any(is_open(int(index)) for index in (*operator.inputs, *operator.outputs) if index >= 0):
            amount = None
        kind = text(code.customCode) if kind == "CUSTOM" else kind
        found.append(Operator(place, kind, name, None, inputs, output, amount))
    return found


def _tflite_macs(kind: str, operator: Any, inputs: Sequence[Value], output: Value | None) -> int | None:
    second = inputs[1] if len(inputs) > 1 else None
    if kind == "CONV_2D":
        return layer("conv", inputs, output, second)
    if kind in ("DEPTHWISE_CONV_2D", "CONV_3D"):  # the latter's are [D, H, W, I, O]
        return layer("depthwise", inputs, output, second)
    # The shape of the output was taken from their inputs: [O, H, W, I] or [D, H, W, O, I], then x.
    if kind in ("TRANSPOSE_CONV", "CONV_3D_TRANSPOSE"):
        return layer("spread", inputs[1:], output, inputs[0] if inputs else None)
    if kind == "FULLY_CONNECTED":
        return layer("dense", inputs, output, second)
    if kind == "BATCH_MATMUL":
        turned = bool(getattr(operator.builtinOptions, "adjX", False))
        return _rows(inputs[0], output, -2 if turned else -1)
    return _none(kind)


def _rows(left: Value, output: Value | None, axis: int) -> int | None:
    """The MACs of a product of matrices that sums over an axis of the left one."""
    if output is None or len(left.shape) < -axis:
        return None
    return math.prod(output.shape) * left.shape[axis]


def _none(kind: str) -> int | None:
    """0 for an operator that has no MACs, None for one of which we cannot say how many it has."""
    return 0 if countable(kind) else None


def countable(kind: str) -> bool:
    """Whether an operator of this type has no MACs: it is none of the layers, and none of those whose MACs cannot be told."""
    return kind not in BODIES and not any(word in kind for word in UNKNOWN) and not PRODUCT.search(kind)


def _width(dtype: str) -> float:
    """Bytes per element of a type by numpy's name."""
    import numpy as np

    packed = {"int4": 0.5, "uint4": 0.5, "int2": 0.25, "uint2": 0.25, "bfloat16": 2, "string": 1}
    try:
        return packed[dtype] if dtype in packed else np.dtype(dtype).itemsize
    except TypeError:  # a type that numpy does not know: as wide as a byte
        return 1


# .pte

# Whose kernels are known, beside ATen's.
PTE_NAMESPACES = ("quantized_decomposed", "dim_order_ops")


def _executorch(path: Path, specs: Sequence[TensorSpec]) -> list[Operator]:
    return [
        Operator(call.place, call.type, "", call.delegate, call.inputs, call.output, _executorch_macs(call))
        for call in pte.calls(path)
    ]


def _executorch_macs(call: pte.Call) -> int | None:
    kind, inputs, output = call.type.partition(".")[0], call.inputs, call.output
    second = inputs[1] if len(inputs) > 1 else None
    if kind in ("Conv2d", "convolution"):
        turned = kind == "convolution" and call.flags[:1] == (True,)  # [I, O / groups, H, W]
        return layer("transposed" if turned else "conv", inputs, output, second)
    if kind == "DepthwiseConv2d":
        return layer("depthwise", inputs, output, second)
    if kind == "ConvTranspose2d":
        return layer("spread", inputs, output, second)
    if kind in ("FullyConnected", "linear"):
        return layer("dense", inputs, output, second)
    if kind in ("mm", "bmm", "BatchMatrixMultiply") and inputs:
        return _rows(inputs[0], output, -1)
    if kind in ("addmm", "baddbmm") and len(inputs) > 1:
        return _rows(inputs[1], output, -1)
    if kind == "DELEGATE_CALL" or ("::" in kind and kind.partition("::")[0] not in PTE_NAMESPACES):
        return None
    return _none(kind)


# .onnx: conv weights are [O, I / groups, ...], transposed ones [I, O / groups, ...]

# type -> (what it is, and where among its inputs stand x, the weights and the bias); between them stand scales
ONNX_LAYERS = {
    **dict.fromkeys(("Conv", "FusedConv"), ("conv", 0, 1, 2)),
    "ConvInteger": ("conv", 0, 1),
    "QLinearConv": ("conv", 0, 3, 8),
    "ConvTranspose": ("transposed", 0, 1, 2),
    **dict.fromkeys(("MatMul", "MatMulInteger", "MatMulNBits"), ("rows", 0, 1)),
    "DynamicQuantizeMatMul": ("rows", 0, 1, 4),
    "MatMulIntegerToFloat": ("rows", 0, 1, 6),
    "QLinearMatMul": ("rows", 0, 3),
    "Gemm": ("gemm", 0, 1, 2),
    "QGemm": ("gemm", 0, 3, 6),
}
# Whose operators are known by their names; those of another domain, and functions of the file, may do anything.
ONNX_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
# What takes scales and zero points beside the tensor it is about.
SCALED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
# What a constant may pass through and stay one.
PASSING = ("DequantizeLinear", "QuantizeLinear", "Cast", "Identity", "Transpose")


def _onnx(path: Path, specs: Sequence[TensorSpec]) -> list[Operator]:
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
        if specs:
            _onnx_graph.fix_shapes(model, specs)
        model = onnx.shape_inference.infer_shapes(model)
    except EdgekitError:
        raise
    except Exception as error:  # protobuf's own, and what shape inference says of a graph that fits nowhere
        raise UserError(f"the operators of {path.name} cannot be read: {first_line(error, 200)}") from error
    graph = model.graph
    values = _onnx_values(graph)
    own = {(function.domain, function.name) for function in model.functions}
    found = []
    for place, node in enumerate(graph.node):
        output = values.get(node.output[0]) if node.output else None
        known = node.domain in ONNX_DOMAINS and (node.domain, node.op_type) not in own
        every = ("", *range(len(node.input)))
        kind, *places = ONNX_LAYERS.get(node.op_type, ("", 0) if node.op_type in SCALED else every) if known else every
        ends = [values.get(node.input[index]) for index in places if index < len(node.input)]
        if node.op_type == "MatMulNBits" and known:
            ends[1:2] = [_unpacked(node, value) for value in ends[1:2]]
        inputs = tuple(value for value in ends if value is not None)
        macs = _onnx_macs(kind, node, ends, output) if kind else _none(node.op_type) if known else None
        if output is not None and output.constant:
            inputs = ()  # a constant that is only unpacked here belongs to the layer that takes it
        found.append(Operator(place, node.op_type, node.name, None, inputs, output, macs))
    return found


def _onnx_values(graph: Any) -> dict[str, Value]:
    """Every tensor of known shape by its name; what only quantizes or casts a tensor is as wide as what is stored."""
    from onnx import TensorProto, helper

    def dtype(number: int) -> str:
        return "string" if number == TensorProto.STRING else str(helper.tensor_dtype_to_np_dtype(number).name)

    values: dict[str, Value] = {}
    for value in (*graph.input, *graph.output, *graph.value_info):
        tensor = value.type.tensor_type
        shape = tuple(int(size.dim_value) or 1 for size in tensor.shape.dim)
        stated = all(size.HasField("dim_value") for size in tensor.shape.dim[1:])  # an open batch is one input
        if tensor.HasField("shape") and tensor.elem_type and stated:
            values[value.name] = Value(shape, _width(dtype(tensor.elem_type)), False, (0, len(values)))
    constants = [(tensor.name, tensor) for tensor in graph.initializer]
    constants += [
        (node.output[0], entry.t)
        for node in graph.node
        for entry in node.attribute
        if node.op_type == "Constant" and entry.name == "value"
    ]
    for index, (name, tensor) in enumerate(constants):
        word = dtype(tensor.data_type)
        values[name] = Value(tuple(tensor.dims), _width(word), True, (1, index), word not in ("int32", "int64"))
    takers = collections.Counter(name for node in graph.node for name in node.input)
    for node in graph.node:
        if node.op_type in PASSING and node.input and node.input[0] in values and node.output[0] in values:
            source, made = values[node.input[0]], values[node.output[0]]
            narrow = min(source.width, made.width)
            kept = (source.constant, source.key if source.constant else made.key, source.weight)
            values[node.output[0]] = Value(made.shape, narrow, *kept)
            if node.op_type == "QuantizeLinear" and takers[node.input[0]] == 1:  # a runtime writes it quantized at once
                values[node.input[0]] = dataclasses.replace(source, width=narrow)
    return values


def _unpacked(node: Any, packed: Value | None) -> Value | None:
    """The weights of a MatMulNBits, several of which lie in each byte of the tensor."""
    told = {entry.name: entry.i for entry in node.attribute}
    if packed is None or not {"K", "N"} <= told.keys():
        return packed
    return dataclasses.replace(packed, shape=(told["K"], told["N"]), width=told.get("bits", 4) / 8)


def _onnx_macs(kind: str, node: Any, ends: Sequence[Value | None], output: Value | None) -> int | None:
    left, right = (*ends, None, None)[:2]
    if left is None:
        return None
    if kind in ("rows", "gemm"):
        turned = kind == "gemm" and any(entry.name == "transA" and entry.i for entry in node.attribute)
        return _rows(left, output, -2 if turned else -1)
    return layer(kind, [left], output, right)


READERS: dict[str, Callable[[Path, Sequence[TensorSpec]], Sequence[Operator]]] = {
    "tflite": _tflite,
    "onnx": _onnx,
    "executorch": _executorch,
}
