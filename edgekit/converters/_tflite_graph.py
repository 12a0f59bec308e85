"""A .tflite file as objects of its schema: names and order of inputs and outputs, float ends for integer models, figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgekit.converters._tensors import output_names, weights
from edgekit.errors import ConvertError
from edgekit.types import Quantization, TensorSpec

SIGNATURE = "serving_default"
# Custom operators that LiteRT brings along; all others must be registered by the application.
BROUGHT_ALONG = ("TFLite_Detection_PostProcess", "Mfcc", "AudioSpectrogram", "NumericVerify")
# Operators that only move between float and integer: no sign that a layer was left in float.
BOUNDARY = ("QUANTIZE", "DEQUANTIZE", "DELEGATE")


def read(content: bytes) -> Any:
    """The model's objects (ModelT). Raises ConvertError when it needs operators that no runtime here has."""
    model = parsed(content)
    custom = [text(code.customCode) for code in model.operatorCodes if code.customCode]
    unknown = sorted(set(custom) - set(BROUGHT_ALONG))
    if unknown:
        message = f"the .tflite file has custom operators: {', '.join(unknown)}"
        raise ConvertError(message, "the runtimes have builtin operators only; convert the model without them")
    return model


def parsed(content: bytes) -> Any:
    """The model's objects (ModelT), whatever operators it needs."""
    from ai_edge_litert import schema_py_generated as schema

    return schema.ModelT.InitFromPackedBuf(bytearray(content), 0)


def write(model: Any) -> bytes:
    """The file."""
    import flatbuffers

    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def graph(model: Any) -> Any:
    """The graph that runtimes run: that of the first signature, or the only one."""
    return model.subgraphs[(model.signatureDefs[0].subgraphIndex or 0) if model.signatureDefs else 0]


def ends(model: Any, side: str) -> list[tuple[str, int]]:
    """(name, tensor index) of each of the "inputs" or "outputs", in the order in which every runtime numbers them.

    That is the order of the graph. A signature gives the names, but lists them in an order of its own: TensorFlow's own
    converter in that of the alphabet. Whoever takes that order for the runtime's swaps inputs without an error.
    """
    found = graph(model)
    signature = model.signatureDefs[0] if model.signatureDefs else None
    names = {int(entry.tensorIndex): text(entry.name) for entry in getattr(signature, side, None) or ()}
    return [(names.get(int(i)) or text(found.tensors[i].name), int(i)) for i in getattr(found, side)]


def first_output(model: Any) -> int:
    """The place, among the outputs in the graph's order, of the one that the signature lists first: that is the model's first.

    TensorFlow's converter numbers them output_0, output_1 ... and leaves them in any order in the graph.
    """
    listed = model.signatureDefs[0].outputs if model.signatureDefs else None
    places = [index for _, index in ends(model, "outputs")]
    first = int(listed[0].tensorIndex) if listed else -1
    return places.index(first) if first in places else 0


def name(model: Any, inputs: Sequence[TensorSpec]) -> None:
    """Give inputs and outputs the names that edgekit uses, and the model one signature that lists them in this order.

    Converters leave no signature, or names like serving_default_args_0. Inputs are told apart by their place.
    """
    from ai_edge_litert import schema_py_generated as schema

    if len(model.subgraphs) != 1 and not model.signatureDefs:
        raise ConvertError("the .tflite model has several graphs and no signature that says which one to run")
    signature = model.signatureDefs[0] if model.signatureDefs else schema.SignatureDefT()
    found = graph(model)
    if len(found.inputs) != len(inputs):
        message = f"the converted model has {len(found.inputs)} inputs instead of {len(inputs)}"
        raise ConvertError(message, "an input that the model does not use was left out: drop it from the inputs")
    pairs = [*zip(found.inputs, (spec.name for spec in inputs), strict=True)]
    pairs += [*zip(found.outputs, output_names(len(found.outputs)), strict=True)]
    taken = {index for index, _ in pairs}
    for index, tensor in enumerate(found.tensors):
        if index not in taken and text(tensor.name) in {label for _, label in pairs}:
            tensor.name = text(tensor.name) + "_inner"
    for index, label in pairs:
        found.tensors[index].name = label

    def listed(pairs: Sequence[tuple[int, str]]) -> list[Any]:
        maps = []
        for index, label in pairs:
            entry = schema.TensorMapT()
            entry.name, entry.tensorIndex = label, index
            maps.append(entry)
        return maps

    signature.inputs, signature.outputs = listed(pairs[: len(inputs)]), listed(pairs[len(inputs) :])
    signature.signatureKey = SIGNATURE
    signature.subgraphIndex = signature.subgraphIndex or 0
    model.signatureDefs = [signature]


def fix(model: Any, specs: Sequence[TensorSpec]) -> None:
    """Close open dimensions. `specs` are in the order of the graph; that of the signature stays, it tells the first output.

    Raises ConvertError when the sizes in the file are not those of `specs`: nothing can work them out again.
    """
    found = graph(model)
    for tensor in found.tensors:
        tensor.shapeSignature = None
    shapes = [tuple(int(size) for size in found.tensors[index].shape) for index in found.inputs]
    wanted = [spec.shape for spec in specs]
    if shapes != wanted:
        message = f"the .tflite file was made for inputs of shape {shapes}, not {wanted}"
        raise ConvertError(message.replace("[", "").replace("]", ""), "convert the model it was made from again")


def float_ends(model: Any) -> None:
    """Put QUANTIZE behind integer inputs and DEQUANTIZE before integer outputs, so that floats go in and come out.

    ai-edge-quantizer can leave the ends in float itself, but then writes a file that does not load when an output is also
    used inside the model.
    """
    from ai_edge_litert import schema_py_generated as schema

    signature, found = model.signatureDefs[0], graph(model)
    for side in ("inputs", "outputs"):
        indices = getattr(found, side)
        for place, index in enumerate(list(indices)):
            stored = found.tensors[index]
            if not dtype(stored).startswith("int") or not _has_scale(stored):
                continue
            outer = schema.TensorT()
            outer.name, stored.name = stored.name, text(stored.name) + "_quantized"
            outer.shape, outer.type, outer.buffer = stored.shape, schema.TensorType.FLOAT32, 0
            outer.shapeSignature = stored.shapeSignature
            found.tensors.append(outer)
            fresh = len(found.tensors) - 1
            operator = schema.OperatorT()
            wide = stored.type == schema.TensorType.INT16
            if side == "inputs":
                operator.opcodeIndex = _code(model, schema.BuiltinOperator.QUANTIZE, 2 if wide else 1)
                operator.inputs, operator.outputs = [fresh], [index]
                found.operators.insert(0, operator)
            else:
                operator.opcodeIndex = _code(model, schema.BuiltinOperator.DEQUANTIZE, 3 if wide else 2)
                operator.inputs, operator.outputs = [index], [fresh]
                found.operators.append(operator)
            indices[place] = fresh
            for entry in getattr(signature, side):
                if entry.tensorIndex == index:
                    entry.tensorIndex = fresh


def _code(model: Any, builtin: int, version: int) -> int:
    """The index of a builtin operator in the model's table, added where it is missing."""
    from ai_edge_litert import schema_py_generated as schema

    for index, code in enumerate(model.operatorCodes):
        if _builtin(code) == builtin:
            code.version = max(code.version, version)
            return index
    code = schema.OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode, code.version = builtin, min(builtin, 127), version
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def inputs(model: Any, layouts: Sequence[str | None]) -> list[TensorSpec]:
    """The model's inputs, in the order of its graph."""
    tensors = graph(model).tensors
    pairs = zip(ends(model, "inputs"), layouts, strict=True)
    return [_spec(label, tensors[index], layout) for (label, index), layout in pairs]


def outputs(model: Any) -> list[TensorSpec]:
    """The model's outputs, in the order of its graph."""
    tensors = graph(model).tensors
    return [_spec(label, tensors[index], None) for label, index in ends(model, "outputs")]


def describe(model: Any) -> dict[str, Any]:
    """Operators by name, how many of them compute in float, the types of the weights.

    Which operators a delegate takes is known only on the device.
    """
    from ai_edge_litert import schema_py_generated as schema

    names = {value: key for key, value in vars(schema.BuiltinOperator).items() if not key.startswith("_")}
    counts: dict[str, int] = {}
    in_float = 0
    constants = []
    for part in model.subgraphs:
        for operator in part.operators:
            label = names.get(_builtin(model.operatorCodes[operator.opcodeIndex]), "CUSTOM")
            counts[label] = counts.get(label, 0) + 1
            made = [dtype(part.tensors[index]) for index in operator.outputs]
            in_float += label not in BOUNDARY and "float32" in made
        for tensor in part.tensors:
            data = model.buffers[tensor.buffer].data if tensor.buffer else None
            if data is not None and len(data) and tensor.shape is not None and dtype(tensor) != "int32":
                constants.append((dtype(tensor), [int(size) for size in tensor.shape]))
    figures = {"operators": dict(sorted(counts.items())), "total_ops": sum(counts.values()), "float_ops": in_float}
    return {**figures, **weights(constants)}


def hybrid_depthwise(model: Any) -> int:
    """How many depthwise convolutions have int8 weights and float inputs: XNNPACK leaves them to a slow kernel."""
    from ai_edge_litert import schema_py_generated as schema

    count = 0
    for part in model.subgraphs:
        for operator in part.operators:
            if _builtin(model.operatorCodes[operator.opcodeIndex]) == schema.BuiltinOperator.DEPTHWISE_CONV_2D:
                read, weights = (dtype(part.tensors[index]) for index in operator.inputs[:2])
                count += (read, weights) == ("float32", "int8")
    return count


def _builtin(code: Any) -> int:
    """An operator's number; old files keep it in an eight-bit field."""
    return max(int(code.builtinCode or 0), int(code.deprecatedBuiltinCode or 0))


def _spec(label: str, tensor: Any, layout: str | None) -> TensorSpec:
    shape = tuple(int(size) for size in (tensor.shape if tensor.shape is not None else ()))
    return TensorSpec(label, shape, dtype(tensor), layout, quantization(tensor))


def quantization(tensor: Any) -> Quantization | None:
    """The scales and zero points of a tensor; None where it has none."""
    if not _has_scale(tensor):
        return None
    found = tensor.quantization
    stated = found.zeroPoint is not None and len(found.zeroPoint)
    zeros = found.zeroPoint if stated else [0] * len(found.scale)
    return Quantization(tuple(float(s) for s in found.scale), tuple(int(z) for z in zeros))


def _has_scale(tensor: Any) -> bool:
    found = tensor.quantization
    return found is not None and found.scale is not None and len(found.scale) > 0


def dtype(tensor: Any) -> str:
    """The numpy name of a tensor's type."""
    from ai_edge_litert import schema_py_generated as schema

    names: dict[int, str] = {v: k.lower() for k, v in vars(schema.TensorType).items() if not k.startswith("_")}
    return names[tensor.type]


def text(value: Any) -> str:
    """A string of the schema, which gives bytes, or None where there is none."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")
