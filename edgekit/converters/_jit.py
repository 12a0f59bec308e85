"""What TorchScript and PyTorch Mobile files share: tracing, int8 by FX, and archives without paths of this machine."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.converters import _tensors, _torch
from edgekit.errors import ConvertError, Unsupported, UserError, first_line
from edgekit.types import TensorSpec

if TYPE_CHECKING:
    import numpy as np
    import torch

PRECISIONS = ("fp32", "int8")
# The kernels that int8 weights are packed for. qnnpack, the one for ARM, is refused below.
OPTIONS: Mapping[str, tuple[str, ...]] = {"engine": ("x86", "onednn", "qnnpack")}
# Written into every archive by torch itself.
OWN_RECORDS = ("version", "byteorder", ".data/serialization_id")


def traced(
    source: torch.nn.Module,
    precision: str,
    rows: Sequence[tuple[np.ndarray, ...]],
    specs: Sequence[TensorSpec],
    engine: str,
) -> tuple[Any, list[TensorSpec], dict[str, Any]]:
    """(frozen ScriptModule, outputs, details) of a model in fp32 or int8."""
    import torch

    if precision == "int8" and engine == "qnnpack":
        raise Unsupported(
            "QNNPACK computes ReLU6 after a convolution wrongly in this torch (92 % off, measured)",
            "use ExecuTorch, TensorFlow Lite or ONNX Runtime for int8 on ARM; engine=x86 is for this machine",
        )
    example = _torch.example(specs)
    outputs = _torch.outputs(source, example)
    details: dict[str, Any] = {}
    if precision == "int8":
        source = _quantized(source, rows, example, engine)
        details = {"engine": engine, **_layers(source)}
        if not details["quantized_layers"]:
            raise ConvertError("int8 was asked for, but no layer was quantized", "FX quantizes Conv and Linear modules")
    with torch.no_grad():
        script = source if isinstance(source, torch.jit.ScriptModule) else torch.jit.trace(source, example)
        frozen = torch.jit.freeze(script.eval()) if hasattr(script, "training") else script
    operators: dict[str, int] = {}
    for node in frozen.inlined_graph.nodes():
        kind = node.kind()
        if not kind.startswith("prim::"):
            operators[kind] = operators.get(kind, 0) + 1
    return frozen, outputs, {**details, "operators": operators, "total_ops": sum(operators.values())}


def _quantized(source: Any, rows: Sequence[tuple[np.ndarray, ...]], example: tuple[Any, ...], engine: str) -> Any:
    """Post-training int8 by FX graph mode."""
    import torch
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    if isinstance(source, torch.jit.ScriptModule):
        raise Unsupported("a TorchScript model cannot be quantized by FX", "give the model's Python source")
    torch.backends.quantized.engine = engine
    try:
        prepared = prepare_fx(source, get_default_qconfig_mapping(engine), example)
    except Exception as error:  # torch.fx's TraceError, and whatever the model raises on a proxy
        reason = first_line(error, 200)
        hint = "its control flow depends on values; FX needs a model without"
        raise ConvertError(f"torch.fx cannot trace this model: {reason}", hint) from error
    with torch.no_grad():
        for row in rows:
            prepared(*(torch.from_numpy(value.copy()) for value in row))
    return convert_fx(prepared)


def _layers(module: Any) -> dict[str, Any]:
    """How many convolutions and dense layers there are, how many of them in int8, and the types of the weights."""
    layers = quantized = 0
    constants = []
    for part in module.modules():
        place = type(part).__module__
        if "quantized" in place and callable(getattr(part, "weight", None)):
            layers, quantized = layers + 1, quantized + 1
            constants.append(("int8", tuple(part.weight().shape)))
        elif type(part).__name__ in ("Conv1d", "Conv2d", "Conv3d", "ConvTranspose2d", "Linear", "ConvReLU2d"):
            layers += 1
            constants.append(("float32", tuple(part.weight.shape)))
    return {"layers": layers, "quantized_layers": quantized, **_tensors.weights(constants)}


def strip(path: Path) -> None:
    """Rewrite an archive without its *.debug_pkl records, which hold the source files' paths."""
    import torch

    reader = torch._C.PyTorchFileReader(str(path))
    records = [name for name in reader.get_all_records() if not name.endswith(".debug_pkl") and name not in OWN_RECORDS]
    partial = path.with_name(f"part-{path.name}")
    writer = torch._C.PyTorchFileWriter(str(partial))
    for name in records:
        content = reader.get_record(name)
        writer.write_record(name, content, len(content))
    writer.write_end_of_file()
    del reader
    partial.replace(path)


def check(path: Path, kind: str, marks: Sequence[str]) -> None:
    """The zip archive is whole and has records whose names contain each of `marks`."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise UserError(f"{path.name} is no {kind}, or it is cut short: {error}") from error
    for mark in marks:
        if not any(mark in f"/{name}" for name in names):
            hint = ""
            if any(name.endswith("/data.pkl") for name in names):
                hint = "a file of weights (state dict) says nothing about the architecture: give path.py:factory"
            raise UserError(f"{path.name} is no {kind}: it has no {mark.strip('/')}", hint)
