"""torch to ExecuTorch for the XNNPACK backend: float, and int8 by PT2E (static, weights per channel)."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import ConvertError, UserError
from edgekit.types import Json, TensorSpec, to_json

if TYPE_CHECKING:
    import numpy as np
    import torch

SOURCE = "torch"
SUFFIX = ".pte"
EXTRA = "executorch"
PRECISIONS = ("fp32", "int8")
OPTIONS: Mapping[str, tuple[str, ...]] = {}
PACKAGES = ("torch", "executorch", "torchao")

LAYERS = ("conv1d", "conv2d", "conv_transpose2d", "linear", "addmm", "matmul", "mm", "bmm")


def convert(
    source: torch.nn.Module,
    precision: str,
    calibration: np.ndarray | None,
    input_spec: TensorSpec,
    options: Mapping[str, str],
    output: Path,
) -> Json:
    """Export, quantize when asked, lower to XNNPACK.

    Raises ConvertError when int8 was asked for and no layer became int8 (the quantizer leaves what it does not know in
    float without a word), or when XNNPACK takes no operator at all.
    """
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from torch.export import export

    # A fresh contiguous tensor: exporting with the odd strides that a permuted one-channel image keeps gives a program
    # that computes something else, without an error.
    example = (torch.zeros(input_spec.shape),)
    program = export(source, example)
    details: dict[str, Any] = {}
    if precision == "int8":
        if calibration is None:
            raise ConvertError("int8 needs calibration inputs")
        quantized = _quantize(program.module(), calibration)
        details.update(_quantized_layers(quantized))
        if not details["quantized_layers"]:
            raise ConvertError(
                "int8 was asked for, but no layer was quantized", "the XNNPACK quantizer knows conv2d and linear"
            )
        program = export(quantized, example)
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    details.update(_delegation(lowered.exported_program().graph_module))
    if not details["delegated_ops"]:
        raise ConvertError(
            "XNNPACK takes no operator of this model; on the portable kernels it would be some 100 times slower"
        )
    output.write_bytes(lowered.to_executorch().buffer)
    results = [node.meta["val"] for node in lowered.exported_program().graph.output_node().args[0]]
    outputs = [
        TensorSpec(f"output{index or ''}", tuple(value.shape), str(value.dtype).removeprefix("torch."))
        for index, value in enumerate(results)
    ]
    return {"inputs": [to_json(input_spec)], "outputs": [to_json(spec) for spec in outputs], "details": details}


def _quantize(module: Any, calibration: np.ndarray) -> Any:
    """PT2E: observers in, calibration rows through, observers out."""
    import torch
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True, is_dynamic=False))
    prepared = prepare_pt2e(module, quantizer)
    for row in calibration:
        prepared(torch.empty((1, *row.shape)).copy_(torch.from_numpy(row)))
    return convert_pt2e(prepared)


def _quantized_layers(module: Any) -> dict[str, int]:
    """How many layers there are, and how many of them read dequantized integers on both sides."""
    layers = quantized = 0
    for node in module.graph.nodes:
        if node.op == "call_function" and _operator(node) in LAYERS:
            layers += 1
            sides = [arg for arg in node.args[:2] if hasattr(arg, "target")]
            quantized += len(sides) == 2 and all(_operator(side).startswith("dequantize") for side in sides)
    return {"layers": layers, "quantized_layers": quantized}


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
