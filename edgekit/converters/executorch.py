"""torch to ExecuTorch for the XNNPACK backend: float, half precision, and int8 by PT2E (static, or dynamic activations).
A Keras model becomes a torch module first."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.converters import _tensors, _torch
from edgekit.errors import ConvertError, UserError
from edgekit.types import Json, TensorSpec

if TYPE_CHECKING:
    import keras
    import numpy as np
    import torch

SOURCES = ("torch", "keras")
SUFFIX = ".pte"
EXTRA = {"torch": "executorch", "keras": "executorch-keras"}
PRECISIONS = ("fp32", "fp16", "int8", "int8_dynamic")
OPTIONS: Mapping[str, tuple[str, ...]] = {}
_PACKAGES = ("torch", "executorch", "torchao")
PACKAGES = {"torch": _PACKAGES, "keras": (*_PACKAGES, "tensorflow-cpu", "keras")}

LAYERS = ("conv1d", "conv2d", "conv_transpose2d", "linear", "addmm", "matmul", "mm", "bmm")
HINT = "the XNNPACK quantizer knows conv2d and linear"


def convert(
    source: torch.nn.Module | keras.Model,
    precision: str,
    calibration: tuple[np.ndarray, ...] | None,
    input_specs: tuple[TensorSpec, ...],
    options: Mapping[str, str],
    output: Path,
    framework: str,
) -> Json:
    """Export, quantize when asked, lower to XNNPACK.

    Raises ConvertError when int8 was asked for and no layer became int8 (the quantizer leaves what it does not know in
    float without a word), or when XNNPACK takes no operator at all.
    """
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from torch.export import export

    rows = _tensors.samples(calibration, input_specs, precision) if precision == "int8" else []
    if framework == "keras":
        from edgekit.converters import _keras_twin

        given = input_specs
        source, input_specs = _keras_twin.twin(source, given)
        rows = [_keras_twin.moved(row, given) for row in rows]
    example = _torch.example(input_specs)
    _torch.outputs(source, example)
    details: dict[str, Any] = {}
    if precision == "fp16":
        source = source.half()
        example = tuple(tensor.half() if tensor.is_floating_point() else tensor for tensor in example)
        # XNNPACK's op_conv2d serializes its weights with force_fp32=True: only linear layers become smaller.
        details.update(_half_weights(source))
    program = _torch.program(source, example)
    if precision.startswith("int8"):
        quantized = _quantize(program.module(), rows or [example], precision == "int8_dynamic")
        details.update(_quantized_layers(quantized))
        if not details["quantized_layers"]:
            raise ConvertError(f"{precision} was asked for, but no layer was quantized", HINT)
        program = export(quantized, example)
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    details.update(_delegation(lowered.exported_program().graph_module))
    if not details["delegated_ops"]:
        raise ConvertError(
            "XNNPACK takes no operator of this model; on the portable kernels it would be some 100 times slower"
        )
    output.write_bytes(lowered.to_executorch().buffer)
    results = [node.meta["val"] for node in lowered.exported_program().graph.output_node().args[0]]
    names = _tensors.output_names(len(results))
    outputs = [_torch.spec(name, value) for name, value in zip(names, results, strict=True)]
    inputs = [
        dataclasses.replace(spec, dtype=str(tensor.dtype).removeprefix("torch."))
        for spec, tensor in zip(input_specs, example, strict=True)
    ]
    return _tensors.answer(inputs, outputs, details)


def _quantize(module: Any, rows: Sequence[tuple[Any, ...]], dynamic: bool) -> Any:
    """PT2E: observers in, calibration rows through, observers out."""
    import numpy as np
    import torch
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    config = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=dynamic)
    prepared = prepare_pt2e(module, XNNPACKQuantizer().set_global(config))
    for row in rows:
        prepared(*(torch.from_numpy(np.ascontiguousarray(value)) for value in row))
    return convert_pt2e(prepared)


def _quantized_layers(module: Any) -> dict[str, Any]:
    """How many layers there are, how many of them read dequantized integers on both sides, and the weights' types."""
    layers = quantized = 0
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    constants: list[tuple[str, tuple[int, ...]]] = []
    for node in module.graph.nodes:
        if node.op == "get_attr" and node.target in tensors:
            constants.append(
                (str(tensors[node.target].dtype).removeprefix("torch."), tuple(tensors[node.target].shape))
            )
        if node.op == "call_function" and _operator(node) in LAYERS:
            layers += 1
            sides = [arg for arg in node.args[:2] if hasattr(arg, "target")]
            quantized += len(sides) == 2 and all(_operator(side).startswith("dequantize") for side in sides)
    return {"layers": layers, "quantized_layers": quantized, **_tensors.weights(constants)}


def _half_weights(source: Any) -> dict[str, Any]:
    """The types in which the weights of a model in half precision end up in the file: convolutions stay float32."""
    shapes = [tuple(tensor.shape) for tensor in source.parameters()]
    return _tensors.weights(("float32" if len(shape) > 2 else "float16", shape) for shape in shapes)


def _delegation(module: Any) -> dict[str, Any]:
    """Operators inside XNNPACK delegates against all; `not_delegated` counts the rest by name."""
    delegated = delegates = 0
    rest: dict[str, int] = {}
    for node in module.graph.nodes:
        if node.op != "call_function" or _operator(node) == "getitem":
            continue
        if _operator(node) == "executorch_call_delegate":
            delegates += 1
            inside = getattr(module, node.args[0].target).original_module.graph_module
            delegated += sum(n.op == "call_function" and _operator(n) != "getitem" for n in inside.graph.nodes)
        else:
            rest[_operator(node)] = rest.get(_operator(node), 0) + 1
    total = delegated + sum(rest.values())
    details = {
        "delegates": delegates,
        "delegated_ops": delegated,
        "total_ops": total,
        "delegated_share": delegated / max(total, 1),
    }
    return {**details, "not_delegated": dict(sorted(rest.items()))} if rest else details


def _operator(node: Any) -> str:
    """The bare name of what a node calls: conv2d for aten.conv2d.default."""
    name = getattr(node.target, "_name", None) or getattr(node.target, "__name__", str(node.target))
    return str(name).rpartition("::")[2].partition(".")[0]


def check(path: Path) -> None:
    """The flatbuffer's identifier is ET.., and the sizes of its extended header lie inside the file.

    Layout of the header: executorch docs, "PTE file format": magic, length u32, program size u64, segment base u64,
    and from length 32 on the segments' size u64.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(64)
    if head[4:6] != b"ET":
        raise UserError(f"{path.name} is no ExecuTorch program (its identifier is not ET..)")
    if head[8:12] != b"eh00" or len(head) < 40:
        raise UserError(f"{path.name} is no ExecuTorch program, or it is cut short (it lacks the extended header)")
    length, program_size, segment_base = struct.unpack_from("<IQQ", head, 12)
    end = max(program_size, segment_base)
    if length >= 32:
        end = max(end, segment_base + struct.unpack_from("<Q", head, 32)[0])
    if size < end:
        raise UserError(f"{path.name} is cut short: it has {size} bytes, its header speaks of {end}")
