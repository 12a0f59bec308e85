"""One small layer, y = relu(x W + b), as a file of each format, and what it answers; made in a process of its own by make()."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

INPUTS, OUTPUTS = 8, 4
# Small multiples of powers of two: every product and sum is exact, so all runtimes must agree to the last bit.
WEIGHTS = [[((5 * i + 3 * j) % 9 - 4) / 4 for j in range(OUTPUTS)] for i in range(INPUTS)]
BIAS = [0.5, -0.25, 1.0, 0.0]
SAMPLE = [(k % 5 - 2) / 8 for k in range(INPUTS)]
FILES = {"tflite": "tiny.tflite", "onnxruntime": "tiny.onnx", "executorch": "tiny.pte"}
# The same and a running sum of its answer, which XNNPACK does not do.
FALLBACK_FILES = {"fallback_tflite": "fallback.tflite", "fallback_executorch": "fallback.pte"}
# Of the runtimes that are used from Python.
PYTHON_FILES = {
    "tflite_runtime": "tiny.tflite",
    "torchscript": "tiny.pt",
    "ptl": "tiny.ptl",
    "aoti": "tiny.pt2",
    "tensorflow": "tiny.savedmodel",
}


def answer(x: list[float]) -> list[float]:
    """What the layer answers."""
    return [max(0.0, sum(x[i] * WEIGHTS[i][j] for i in range(INPUTS)) + BIAS[j]) for j in range(OUTPUTS)]


def pack(values: list[float]) -> bytes:
    """float32, little-endian."""
    return struct.pack(f"<{len(values)}f", *values)


def make(folder: Path, *formats: str) -> dict[str, Path]:
    """Write the files of these runtimes (all when none is named); runtime -> path."""
    chosen = formats or tuple(FILES)
    argv = [sys.executable, __file__, str(folder), *chosen]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return {name: folder / {**FILES, **FALLBACK_FILES, **PYTHON_FILES}[name] for name in chosen}


def make_tflite(path: Path, summed: bool = False) -> None:
    """By LiteRT's own schema: one FULLY_CONNECTED, and a CUMSUM where that is wanted."""
    import flatbuffers
    import numpy as np
    from ai_edge_litert import schema_py_generated as schema

    def tensor(name: str, shape: list[int], buffer: int) -> schema.TensorT:
        made = schema.TensorT()
        made.name, made.shape, made.buffer, made.type = name, shape, buffer, schema.TensorType.FLOAT32
        return made

    def buffer(values: list[float]) -> schema.BufferT:
        made = schema.BufferT()
        made.data = np.frombuffer(pack(values), np.uint8) if values else None
        return made

    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
    code.version = 1
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, [0, 1, 2], [3]
    operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    operator.builtinOptions = schema.FullyConnectedOptionsT()
    operator.builtinOptions.fusedActivationFunction = schema.ActivationFunctionType.RELU
    graph = schema.SubGraphT()
    graph.name, graph.inputs, graph.outputs, graph.operators = "main", [0], [3], [operator]
    graph.tensors = [
        tensor("x", [1, INPUTS], 0),
        tensor("w", [OUTPUTS, INPUTS], 1),
        tensor("b", [OUTPUTS], 2),
        tensor("y", [1, OUTPUTS], 0),
    ]
    model = schema.ModelT()
    model.version, model.description, model.operatorCodes, model.subgraphs = 3, "tiny", [code], [graph]
    transposed = [WEIGHTS[i][j] for j in range(OUTPUTS) for i in range(INPUTS)]
    model.buffers = [buffer([]), buffer(transposed), buffer(BIAS)]
    if summed:
        second = schema.OperatorCodeT()
        second.builtinCode, second.version = schema.BuiltinOperator.CUMSUM, 1
        second.deprecatedBuiltinCode = 127  # the field of eight bits says that the number is in the other one
        last = schema.OperatorT()
        last.opcodeIndex, last.inputs, last.outputs = 1, [3, 4], [5]
        last.builtinOptionsType, last.builtinOptions = schema.BuiltinOptions.CumsumOptions, schema.CumsumOptionsT()
        axis = tensor("axis", [], 3)
        axis.type = schema.TensorType.INT32
        one = buffer([])
        one.data = np.frombuffer(struct.pack("<i", 1), np.uint8)
        graph.tensors += [axis, tensor("z", [1, OUTPUTS], 0)]
        graph.operators, graph.outputs = [operator, last], [5]
        model.operatorCodes, model.buffers = [code, second], [*model.buffers, one]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(builder.Output())


def make_onnxruntime(path: Path, batch: int | str = 1) -> None:
    """Gemm and Relu; `batch` may be a name, which leaves that dimension free."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.array(WEIGHTS, "f4"), "w")
    bias = numpy_helper.from_array(np.array(BIAS, "f4"), "b")
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["z"]), helper.make_node("Relu", ["z"], ["y"])]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, INPUTS])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, OUTPUTS])
    graph = helper.make_graph(nodes, "tiny", [x], [y], [weights, bias])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def make_executorch(path: Path) -> None:
    """A Linear and a ReLU, delegated to XNNPACK."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    exported = torch.export.export(torch_layer(), (torch.zeros(1, INPUTS),))
    program = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch()
    path.write_bytes(program.buffer)


make_tflite_runtime = make_tflite


def make_fallback_tflite(path: Path) -> None:
    """The layer, and CUMSUM."""
    make_tflite(path, summed=True)


def make_fallback_executorch(path: Path) -> None:
    """The layer delegated to XNNPACK, and a portable cumsum."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    class Summed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch_layer()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cumsum(self.layer(x), 1)

    exported = torch.export.export(Summed().eval(), (torch.zeros(1, INPUTS),))
    program = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch()
    path.write_bytes(program.buffer)


def torch_layer() -> Any:
    """The layer as a torch.nn.Module."""
    import torch

    layer = torch.nn.Linear(INPUTS, OUTPUTS)
    layer.weight.data = torch.tensor(WEIGHTS).T.contiguous()
    layer.bias.data = torch.tensor(BIAS)
    return torch.nn.Sequential(layer, torch.nn.ReLU()).eval()


def make_torchscript(path: Path) -> None:
    """Traced and frozen."""
    import torch

    torch.jit.freeze(torch.jit.trace(torch_layer(), torch.zeros(1, INPUTS))).save(str(path))


def make_ptl(path: Path) -> None:
    """The same for the lite interpreter."""
    import torch

    torch.jit.freeze(torch.jit.trace(torch_layer(), torch.zeros(1, INPUTS)))._save_for_lite_interpreter(str(path))


def make_aoti(path: Path) -> None:
    """Compiled by Inductor."""
    import torch

    exported = torch.export.export(torch_layer(), (torch.zeros(1, INPUTS),))
    with torch.no_grad():
        torch._inductor.aoti_compile_and_package(exported, package_path=str(path))


def make_tensorflow(path: Path) -> None:
    """A SavedModel with a serving signature whose batch is free."""
    import tensorflow as tf

    weights, bias = tf.constant(WEIGHTS), tf.constant(BIAS)
    module = tf.Module()
    module.layer = tf.function(
        lambda x: {"y": tf.nn.relu(x @ weights + bias)}, [tf.TensorSpec((None, INPUTS), tf.float32, "x")]
    )
    tf.saved_model.save(module, str(path), {"serving_default": module.layer})


if __name__ == "__main__":
    for runtime in sys.argv[2:]:
        globals()[f"make_{runtime}"](Path(sys.argv[1]) / {**FILES, **FALLBACK_FILES, **PYTHON_FILES}[runtime])
