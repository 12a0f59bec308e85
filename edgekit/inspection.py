"""In a worker: what a model file holds, found out without running the model.

kind        pt2, torchscript, checkpoint, keras, savedmodel or artifact     format      of an artifact
frameworks  the forms sources.build can give                                precision   of an artifact, "as_is" if unknown
inputs, outputs      TensorSpecs; the batch is fixed to 1 where it is open  notes       what was decided
first_output         the place among `outputs` of the one that is the model's first, where that is not 0
operators            {name: count}                                          total_ops
weights_bytes        {dtype: bytes}                                         opset, version ... where there is one
macs, parameters     of the whole model for one call                    uncounted   types of operators whose MACs are not known
custom_operators     names that no stock runtime knows
delegate             {"name", "expected_ops", "total_ops", "rest": {operator: count}}, an expectation, for formats with one
"""

from __future__ import annotations

import collections
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from edgekit import files, macs, opening
from edgekit.converters import _tflite_graph
from edgekit.errors import UserError
from edgekit.types import Json, TensorSpec, to_json

# What the user says of inputs; None when nothing is going to run, so that sizes may stay unknown (-1).
Shapes = Sequence[TensorSpec] | None

# Operators that XNNPACK takes over in TensorFlow Lite (its README, "Floating-point operators" and "Quantized operators").
XNNPACK_FLOAT = set(
    "ABS ADD AVERAGE_POOL_2D BATCH_MATMUL CEIL CONCATENATION CONV_2D DEPTH_TO_SPACE DEPTHWISE_CONV_2D DEQUANTIZE DIV ELU"
    " EXP EXPAND_DIMS FULLY_CONNECTED FLOOR GELU HARD_SWISH LEAKY_RELU LOG LOGISTIC MAX_POOL_2D MAXIMUM MEAN MINIMUM MUL NEG"
    " PAD PRELU QUANTIZE RELU RELU6 RELU_N1_TO_1 RESHAPE RESIZE_BILINEAR ROUND RSQRT SLICE SOFTMAX SPACE_TO_DEPTH SPLIT SQRT"
    " SQUARE SQUARED_DIFFERENCE STRIDED_SLICE SUB SUM TANH TRANSPOSE TRANSPOSE_CONV".split()
)
XNNPACK_INT8 = set(
    "ADD BATCH_MATMUL CONCATENATION CONV_2D DEPTH_TO_SPACE DEPTHWISE_CONV_2D DEQUANTIZE ELU EXPAND_DIMS FULLY_CONNECTED"
    " LEAKY_RELU LOGISTIC MAX_POOL_2D MEAN MUL PAD QUANTIZE RESHAPE RESIZE_BILINEAR SLICE SPLIT STRIDED_SLICE SUB SUM TANH"
    " TRANSPOSE TRANSPOSE_CONV RELU RELU6 RELU_N1_TO_1".split()
)
XNNPACK_DYNAMIC = {"FULLY_CONNECTED", "CONV_2D", "TRANSPOSE_CONV", "BATCH_MATMUL"}
FLOATS, BYTES = {"float64": "fp64", "float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}, ("int8", "uint8")
TENSORS = "export it with tensors only"


def describe(request: Json) -> Json:
    """What stands in the table above. Raises UserError when the file cannot be opened or does not say enough."""
    path, kind = Path(request["path"]), request["kind"]
    shapes = None
    if request["shapes"] is not None:
        shapes = tuple(TensorSpec.from_json(spec) for spec in request["shapes"])
    name = request["format"] if kind == "artifact" else kind
    found: Json = READERS[name](path, shapes, request["trust"])
    if name in macs.READERS:
        found |= _work(path, name, found)
    if not found.get("first_output"):
        found.pop("first_output", None)
    specs = {side: [to_json(spec) for spec in found[side]] for side in ("inputs", "outputs")}
    base: Json = {"kind": kind, "notes": [], "frameworks": []}
    if request["format"]:
        base |= {"format": request["format"], "precision": "as_is"}
    return {**base, **found, **specs}


def _work(path: Path, name: str, found: Json) -> Json:
    """The sums of a file's operators; a note more where they cannot be told."""
    known = all(-1 not in spec.shape for spec in found["inputs"])
    try:
        whole = macs.summed(macs.READERS[name](path, found["inputs"] if known else ()))
    except UserError as error:
        return {"notes": [*found.get("notes", ()), error.message]}
    return {key: whole[key] for key in ("macs", "parameters", "uncounted") if key in whole}


def _counted(names: Iterable[str]) -> Json:
    counts = collections.Counter(names)
    return {"operators": dict(sorted(counts.items())), "total_ops": sum(counts.values())}


def _pt2(path: Path, shapes: Shapes, trust: bool) -> Json:
    program = opening.exported(path, trust)
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}

    def spec(name: str) -> TensorSpec:
        value = values.get(name)
        if value is None or not hasattr(value, "shape"):
            raise UserError(f"{path.name}: its input or output '{name}' is no tensor", TENSORS)
        shape = tuple(size if isinstance(size, int) else -1 for size in value.shape)
        return TensorSpec(name, shape, str(value.dtype).removeprefix("torch."))

    inputs, notes = opening.fixed([spec(name) for name in program.graph_signature.user_inputs], shapes, "NCHW")
    outputs = [_closed(spec(name)) for name in program.graph_signature.user_outputs]
    names = [_bare(node.target) for node in program.graph.nodes if node.op == "call_function"]
    weights = _sizes(
        (str(t.dtype).removeprefix("torch."), t.numel() * t.element_size()) for t in program.state_dict.values()
    )
    return {
        "frameworks": ["torch"],
        "inputs": inputs,
        "outputs": outputs,
        "notes": notes,
        "weights_bytes": weights,
    } | _counted(name for name in names if name != "getitem")


def _torchscript(path: Path, shapes: Shapes, trust: bool) -> Json:
    import torch

    module = opening.script(path)
    graph = module.graph.copy()
    torch._C._jit_pass_inline(graph)
    names = [node.kind() for node in graph.nodes() if not node.kind().startswith("prim::")]
    taken, _ = opening.forward_names(module)
    weights = _sizes(
        (str(t.dtype).removeprefix("torch."), t.numel() * t.element_size()) for t in module.state_dict().values()
    )
    integer = [name for name in names if name.startswith("quantized::")]
    dynamic = integer and all("dynamic" in name for name in integer)
    precision = "int8_dynamic" if dynamic else "int8" if integer else "fp32"
    found: Json = {"frameworks": ["torch"], "weights_bytes": weights, "precision": precision, **_counted(names)}
    if shapes is None:
        note = "a TorchScript file does not say the shapes of its inputs: --input tells them"
        return {**found, "inputs": [TensorSpec(name, (), "") for name in taken], "outputs": [], "notes": [note]}
    if not shapes:
        hint = f"give --input for each of {len(taken)}: {', '.join(taken)}; for instance --input 1x3x224x224"
        raise UserError(f"a TorchScript file does not say the shapes of its inputs: {path.name}", hint)
    inputs = opening.torch_inputs(module, shapes, None, path.name)
    return {**found, "inputs": inputs, "outputs": _ask(module, "torch", inputs)}


def _checkpoint(path: Path, shapes: Shapes, trust: bool) -> Json:
    module = opening.checkpoint(path, trust).eval()
    if shapes is None:
        shapes = ()
    inputs = opening.torch_inputs(module, shapes, None, path.name)
    names = [type(part).__name__ for part in module.modules() if not list(part.children())]
    return {"frameworks": ["torch"], "inputs": inputs, "outputs": _ask(module, "torch", inputs)} | _counted(names)


def _keras(path: Path, shapes: Shapes, trust: bool) -> Json:
    model = opening.keras_model(path, trust)
    inputs, notes = opening.keras_inputs(model, shapes)
    weights = _sizes((str(w.dtype), w.numpy().nbytes) for w in model.weights)
    layers = [
        type(layer).__name__ for layer in model._flatten_layers(include_self=False) if not hasattr(layer, "layers")
    ]
    outputs = [
        _closed(TensorSpec(t.name.split(":")[0], tuple(t.shape), str(t.dtype))) for t in getattr(model, "outputs", [])
    ]
    found = {"frameworks": ["keras"], "inputs": inputs, "outputs": outputs, "notes": notes, "weights_bytes": weights}
    return found | _counted(layers)


def _savedmodel(path: Path, shapes: Shapes, trust: bool) -> Json:
    import tensorflow as tf

    try:
        loaded = tf.saved_model.load(str(path))
    except Exception as error:
        raise UserError(f"{path.name} cannot be opened as a SavedModel: {opening.first_line(error)}") from error
    if "serving_default" not in loaded.signatures:
        have = ", ".join(loaded.signatures) or "none"
        raise UserError(
            f"{path.name} has no signature 'serving_default'", f"it has: {have}; save it with model.export()"
        )
    function = loaded.signatures["serving_default"]

    def spec(name: str, tensor: Any) -> TensorSpec:
        shape = tuple(size if size is not None else -1 for size in tensor.shape)
        return TensorSpec(name, shape, tensor.dtype.name)

    taken = [spec(name, tensor) for name, tensor in sorted(function.structured_input_signature[1].items())]
    inputs, notes = opening.fixed(taken, shapes, "NHWC")
    outputs = [_closed(spec(name, tensor)) for name, tensor in sorted(function.structured_outputs.items())]
    weights = _sizes((v.dtype.name, v.numpy().nbytes) for v in getattr(loaded, "variables", []))
    definition = function.graph.as_graph_def()
    names = [node.op for node in definition.node]
    names += [node.op for inner in definition.library.function for node in inner.node_def]
    found = {"frameworks": ["savedmodel"], "inputs": inputs, "outputs": outputs, "notes": notes, "precision": "fp32"}
    return {**found, "weights_bytes": weights, **_counted(names)}


def _tflite(path: Path, shapes: Shapes, trust: bool) -> Json:
    from ai_edge_litert import schema_py_generated as schema

    model = _tflite_graph.parsed(path.read_bytes())
    graph, text = _tflite_graph.graph(model), _tflite_graph.text
    types = {value: name.lower() for name, value in vars(schema.TensorType).items() if not name.startswith("_")}
    words = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}

    def spec(label: str, index: int) -> TensorSpec:
        tensor = graph.tensors[index]
        stated = tensor.shapeSignature is not None and len(tensor.shapeSignature)
        sizes = tensor.shapeSignature if stated else tensor.shape
        shape = tuple(int(size) for size in (sizes if sizes is not None else ()))
        layout = files.image_layout(shape)
        return TensorSpec(label, shape, types[tensor.type], layout, _tflite_graph.quantization(tensor))

    ends = {side: [spec(*end) for end in _tflite_graph.ends(model, side)] for side in ("inputs", "outputs")}
    inputs, notes = opening.fixed(ends["inputs"], shapes, None)
    outputs = [_closed(end) for end in ends["outputs"]]
    names, custom, dtypes = [], [], []
    hybrid = False
    for operator in graph.operators or []:
        code = model.operatorCodes[operator.opcodeIndex]
        builtin = max(code.builtinCode, code.deprecatedBuiltinCode)
        name = words.get(builtin, str(builtin))
        if name == "CUSTOM":
            name = text(code.customCode)
            custom.append(name)
        made = types[graph.tensors[operator.outputs[0]].type] if len(operator.outputs) else ""
        reads = {types[graph.tensors[index].type] for index in operator.inputs if index >= 0}
        mixed = made == "float32" and bool(reads & {"int8", "int4"}) and name not in ("DEQUANTIZE", "QUANTIZE")
        hybrid |= mixed
        names.append(name)
        dtypes.append("hybrid" if mixed else made)
    sizes = _sizes((types[t.type], len(model.buffers[t.buffer].data)) for t in graph.tensors if _filled(model, t))
    rest = [n for n, dtype in zip(names, dtypes, strict=True) if not _xnnpack(n, dtype)]
    computed = {d for n, d in zip(names, dtypes, strict=True) if n not in ("QUANTIZE", "DEQUANTIZE", "RESHAPE")}
    found = {
        "frameworks": ["tflite"],
        "inputs": inputs,
        "outputs": outputs,
        "first_output": _tflite_graph.first_output(model),
        "notes": notes,
        "precision": _precision(sizes, computed, (*inputs, *outputs), hybrid),
        "weights_bytes": sizes,
        "version": model.version,
        "subgraphs": len(model.subgraphs),
        "delegate": {"name": "XNNPACK", "expected_ops": len(names) - len(rest), "total_ops": len(names)},
    }
    found["delegate"]["rest"] = dict(sorted(collections.Counter(rest).items()))
    if custom:
        found["custom_operators"] = sorted(set(custom))
    return found | _counted(names)


def _filled(model: Any, tensor: Any) -> bool:
    data = model.buffers[tensor.buffer].data
    return data is not None and len(data) > 0


def _xnnpack(name: str, dtype: str) -> bool:
    if dtype == "hybrid":
        return name in XNNPACK_DYNAMIC
    return name in (XNNPACK_FLOAT if dtype == "float32" else XNNPACK_INT8 if dtype in BYTES else ())


def _onnx(path: Path, shapes: Shapes, trust: bool) -> Json:
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:
        raise UserError(f"{path.name} is no ONNX model, or it is damaged: {opening.first_line(error)}") from error
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}

    def spec(value: Any) -> TensorSpec:
        kind, tensor = value.type.WhichOneof("value"), value.type.tensor_type
        if kind != "tensor_type":
            word = (kind or "nothing").removesuffix("_type").replace("_", " ")
            raise UserError(f"{path.name}: its input or output '{value.name}' is no tensor but a {word}", TENSORS)
        shape = tuple(int(size.dim_value) or -1 for size in tensor.shape.dim)
        dtype = _onnx_dtype(tensor.elem_type)
        return TensorSpec(value.name, shape, dtype, files.image_layout(shape))

    if any(tensor.external_data for tensor in graph.initializer):
        message = f"{path.name} keeps its weights in another file, which is not pushed to a device"
        raise UserError(message, "save it whole: onnx.save(onnx.load(path), path, save_as_external_data=False)")
    inputs, notes = opening.fixed([spec(v) for v in graph.input if v.name not in constants], shapes, None)
    outputs = [_closed(spec(value)) for value in graph.output]
    names = [node.op_type for node in graph.node]
    sizes = _sizes((_onnx_dtype(tensor.data_type), _onnx_bytes(path, tensor)) for tensor in graph.initializer)
    used = {node.domain or "ai.onnx" for node in graph.node}
    opset = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    opset = {domain: version for domain, version in opset.items() if domain in used}
    integer = any(name in ("MatMulInteger", "ConvInteger", "DynamicQuantizeLinear") for name in names)
    fixed = any(node.op_type == "QuantizeLinear" and node.input[0] not in constants for node in graph.node)
    computed = {"int8"} if fixed or any(name.startswith("QLinear") for name in names) else {"float32"}
    found = {
        "frameworks": ["onnx"],
        "inputs": inputs,
        "outputs": outputs,
        "notes": notes,
        "precision": _precision(sizes, computed, (*inputs, *outputs), integer),
        "weights_bytes": sizes,
        "opset": opset,
        "version": model.ir_version,
    }
    foreign = sorted(
        {node.op_type for node in graph.node if node.domain not in ("", "ai.onnx", "com.microsoft", "ai.onnx.ml")}
    )
    if foreign:
        found["custom_operators"] = foreign
    return found | _counted(names)


def _onnx_dtype(number: int) -> str:
    """The numpy name of an ONNX element type."""
    import onnx

    if number == onnx.TensorProto.STRING:
        return "string"
    try:
        return str(onnx.helper.tensor_dtype_to_np_dtype(number).name)
    except KeyError:
        return f"type {number}"


def _onnx_bytes(path: Path, tensor: Any) -> int:
    """The bytes of a constant. Raises UserError when it has not as many as its shape says."""
    import numpy as np
    import onnx

    size = math.prod(tensor.dims)
    name = _onnx_dtype(tensor.data_type)
    if name == "string" or name.startswith("type"):
        return sum(len(text) for text in tensor.string_data)
    packed = {"int4": 2, "uint4": 2, "float4e2m1fn": 2, "int2": 4, "uint2": 4}.get(name, 1)
    width: int = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
    whole: int = -(-size // packed) * width
    if tensor.HasField("raw_data") and len(tensor.raw_data) != whole:
        message = f"{path.name} is damaged: the weight '{tensor.name}' has {len(tensor.raw_data)} bytes, not {whole}"
        raise UserError(message, "export it again")
    return whole


def _executorch(path: Path, shapes: Shapes, trust: bool) -> Json:
    from executorch.exir._serialize._program import deserialize_pte_binary
    from executorch.exir.schema import KernelCall, Tensor

    loaded = deserialize_pte_binary(path.read_bytes())
    plan = getattr(loaded, "program", loaded).execution_plan[0]

    def spec(index: int, name: str) -> TensorSpec:
        value = plan.values[index].val
        if not isinstance(value, Tensor):
            raise UserError(f"{path.name}: its {name} is no tensor", TENSORS)
        dtype = {"BYTE": "uint8", "CHAR": "int8", "SHORT": "int16", "INT": "int32", "LONG": "int64", "HALF": "float16",
                 "FLOAT": "float32", "DOUBLE": "float64", "BOOL": "bool", "BFLOAT16": "bfloat16"}  # fmt: skip
        shape = tuple(value.sizes)
        return TensorSpec(name, shape, dtype[value.scalar_type.name], files.image_layout(shape))

    inputs = [spec(index, f"input{i or ''}") for i, index in enumerate(plan.inputs)]
    outputs = [spec(index, f"output{i or ''}") for i, index in enumerate(plan.outputs)]
    inputs = list(opening.fixed(inputs, shapes, None)[0])
    calls = [step.instr_args for chain in plan.chains for step in chain.instructions]
    names = [
        plan.operators[call.op_index].name.removeprefix("aten::") for call in calls if isinstance(call, KernelCall)
    ]
    delegates = _counted(delegate.id for delegate in plan.delegates)["operators"]
    found: Json = {"inputs": inputs, "outputs": outputs, "frameworks": [], "delegates": delegates}
    rest = dict(sorted(collections.Counter(names).items()))
    # One call of a delegate stands for all the operators it holds, which the file does not tell.
    found["delegate"] = {"name": ", ".join(delegates) or "none", "calls": sum(delegates.values()), "rest": rest}
    return found | _counted(names)


def _lite(path: Path, shapes: Shapes, trust: bool) -> Json:
    """A .ptl file is a TorchScript file with byte code beside it."""
    return {**_torchscript(path, shapes, trust), "frameworks": []}


def _fake(path: Path, shapes: Shapes, trust: bool) -> Json:
    import json

    whole = json.loads(path.read_text("utf-8"))
    specs = {side: [TensorSpec.from_json(spec) for spec in whole[side]] for side in ("inputs", "outputs")}
    return {**specs, "precision": whole["precision"], **_counted(["FAKE"])}


def _aoti(path: Path, shapes: Shapes, trust: bool) -> Json:
    if shapes is None:
        note = "an AOTInductor package is machine code and says nothing of its inputs: --input tells them"
        return {"inputs": [], "outputs": [], "notes": [note]}
    if not shapes:
        message = f"an AOTInductor package does not say what it takes: {path.name}"
        raise UserError(message, "give --input for each input, for instance --input 1x3x224x224")
    function = opening.package(path, trust)
    inputs = opening.torch_inputs(None, shapes, None, path.name)
    notes = []
    if len(inputs) > 1:
        notes.append(
            f"the file does not name its inputs: {', '.join(spec.name for spec in inputs)} were taken in order"
        )
    return {"inputs": inputs, "outputs": _ask(function, "torch", inputs), "notes": notes}


READERS = {
    "pt2": _pt2, "torchscript": _torchscript, "checkpoint": _checkpoint, "keras": _keras, "savedmodel": _savedmodel,
    "tflite": _tflite, "onnx": _onnx, "executorch": _executorch, "ptl": _lite, "aoti": _aoti, "fake": _fake,
}  # fmt: skip


def _ask(built: Any, framework: str, inputs: Sequence[TensorSpec]) -> list[TensorSpec]:
    """The outputs of a model whose file does not describe them: of one run on zeros."""
    import numpy as np

    try:
        values, names = opening.runner(built, framework, inputs)([np.zeros(s.shape, s.dtype) for s in inputs])
    except Exception as error:
        shown = ", ".join(f"{spec.name} {spec.shape} {spec.dtype}" for spec in inputs)
        hint = "look at --input; a type stands behind the sizes, as in 1x8:float64"
        raise UserError(f"the model does not take {shown}: {opening.first_line(error)}", hint) from error
    return [TensorSpec(name, value.shape, value.dtype.name) for name, value in zip(names, values, strict=True)]


def _closed(spec: TensorSpec) -> TensorSpec:
    """An output with an open batch, for a batch of 1."""
    shape = tuple(int(size) if isinstance(size, int) and size > 0 else 1 for size in spec.shape)
    return TensorSpec(spec.name, shape, spec.dtype, None, spec.quantization)


def _sizes(pairs: Iterable[tuple[str, int]]) -> Json:
    total: collections.Counter[str] = collections.Counter()
    for dtype, size in pairs:
        total[dtype] += size
    return dict(sorted(total.items()))


def _precision(sizes: Json, computed: set[str], io: Sequence[TensorSpec], hybrid: bool) -> str:
    """The word for a file by the type of most of its weights, of its activations and of its inputs and outputs."""
    weights = {dtype: size for dtype, size in sizes.items() if dtype in (*FLOATS, *BYTES, "int4")}
    bare = next((spec.dtype for spec in io if spec.dtype in FLOATS), "float32")
    main = max(weights, key=lambda dtype: weights[dtype], default=bare)
    if main in FLOATS:
        return FLOATS[main]
    if "int16" in computed:
        return "int16x8"
    if computed & set(BYTES):
        return "int8_io" if any(spec.dtype in BYTES for spec in io) else "int8"
    if main == "int4":
        return "int4_weight"
    return "int8_dynamic" if hybrid else "int8_weight"


def _bare(target: Any) -> str:
    """conv2d for aten.conv2d.default."""
    name = getattr(target, "_name", None) or getattr(target, "__name__", str(target))
    return str(name).rpartition("::")[2].partition(".")[0]
