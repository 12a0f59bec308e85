"""How much work the operators of a file are: the arithmetic, every format's tiny file, and files that are damaged."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models

from edgekit import macs, pte
from edgekit.converters import _tflite_graph
from edgekit.errors import EdgekitError, UserError
from edgekit.pte import Value
from edgekit.types import Json, TensorSpec

# The layer of tiny_models, delegated to XNNPACK, and a cumsum that is not; written by tiny_models.make_fallback_executorch.
PROGRAM = Path(__file__).parent.parent / "golden" / "fallback.pte"
LAYER_MACS, LAYER_PARAMETERS = 8 * 4, 8 * 4 + 4


def tensor(*shape: int, constant: bool = False) -> Value:
    return Value(shape, 4, constant, (0, 0))


@pytest.mark.parametrize(
    ("kind", "taken", "made", "weights", "expected"),
    [
        # 32 filters of 3x3x3 at each of 112x112 places: the first layer of MobileNet v2, 10.8 M
        ("conv", (1, 224, 224, 3), (1, 112, 112, 32), (32, 3, 3, 3), 10_838_016),
        # two groups: each filter sees 8 of the 16 channels
        ("conv", (1, 16, 10, 10), (1, 32, 10, 10), (32, 8, 3, 3), 32 * 100 * 8 * 9),
        ("depthwise", (1, 112, 112, 32), (1, 112, 112, 32), (1, 3, 3, 32), 3_612_672),
        # a multiplier of 2: 2 filters of 3x3 for each channel
        ("depthwise", (1, 8, 8, 4), (1, 8, 8, 8), (1, 3, 3, 8), 8 * 64 * 9),
        ("dense", (1, 1280), (1, 1000), (1000, 1280), 1_280_000),
        # the same whichever way round the weights lie, and for each of 7 rows
        ("dense", (7, 1280), (7, 1000), (1280, 1000), 7 * 1_280_000),
        # each of the 4x4x6 numbers goes to 2x2 places of 5 channels
        ("transposed", (1, 6, 4, 4), (1, 5, 8, 8), (6, 5, 2, 2), 96 * 20),
        ("spread", (1, 4, 4, 6), (1, 8, 8, 5), (5, 2, 2, 6), 96 * 20),
    ],
)
def test_a_layer_by_its_shapes(
    kind: str, taken: tuple[int, ...], made: tuple[int, ...], weights: tuple[int, ...], expected: int
) -> None:
    assert macs.layer(kind, [tensor(*taken)], tensor(*made), tensor(*weights)) == expected


def test_what_is_not_known_is_not_guessed() -> None:
    assert macs.layer("conv", [tensor(1, 8)], None, tensor(4, 8)) is None
    assert macs.layer("conv", [tensor(1, 8)], tensor(1, 4), None) is None
    assert macs.layer("dense", [tensor(1, 8)], tensor(), tensor(4, 8)) is None
    assert macs.countable("ADD") and macs.countable("BITWISE_SHIFT_IF")
    for kind in ("WHILE", "Loop", "LSTM", "UNIDIRECTIONAL_SEQUENCE_LSTM", "Attention", "ScaledDotProductAttention"):
        assert not macs.countable(kind)


@pytest.mark.parametrize(
    "kind",
    [
        "CUSTOM", "CALL", "STABLEHLO_CONVOLUTION", "STABLEHLO_DOT_GENERAL", "STABLEHLO_COMPOSITE", "DELEGATE",  # .tflite
        "FusedMatMul", "DeformConv", "GemmFastGelu", "QMoE", "SparseToDenseMatMul",  # .onnx
        "conv1d.out", "linear.out", "custom_sdpa.out", "mv.out", "addmv.out", "llama::linear_w4.out",  # .pte
    ],
)  # fmt: skip
def test_a_layer_that_is_not_known_here_is_not_said_to_have_none(kind: str) -> None:
    assert not macs.countable(kind)


@pytest.mark.parametrize(
    "kind",
    ["Convert", "Convert (NC, F32, QS8)", "upsample_bilinear2d.vec", "convert_element_type", "RESIZE_BILINEAR", "ConvertX",
     "native_layer_norm.out", "STABLEHLO_CONVERT", "Transpose (ND, X32)", "amin.out"],
)  # fmt: skip
def test_a_name_that_only_looks_like_a_layer_has_none(kind: str) -> None:
    assert macs.countable(kind)


class Options:
    """Of an operator of a .tflite file."""

    def __init__(self, **options: bool) -> None:
        self.builtinOptions = type("Builtin", (), options)


@pytest.mark.parametrize(
    ("kind", "inputs", "output", "expected"),
    [
        # after the shape of the output, which stands first in the file: [O, H, W, I] and [D, H, W, O, I], then x
        ("TRANSPOSE_CONV", [(5, 2, 2, 6), (1, 4, 4, 6)], (1, 8, 8, 5), 96 * 20),
        ("CONV_3D_TRANSPOSE", [(3, 2, 2, 5, 6), (1, 3, 4, 4, 6)], (1, 9, 8, 8, 5), 288 * 60),
        ("CONV_3D_TRANSPOSE", [(3, 2, 2, 5, 6)], (1, 9, 8, 8, 5), None),
        ("CONV_3D", [(1, 9, 8, 8, 5), (3, 2, 2, 5, 6)], (1, 7, 7, 7, 6), 7**3 * 6 * 60),
        ("CUSTOM", [(1, 8)], (1, 8), None),
        ("ADD", [(1, 8)], (1, 8), 0),
    ],
)
def test_an_operator_of_litert(kind: str, inputs: list[Any], output: tuple[int, ...], expected: int | None) -> None:
    ends = [tensor(*shape) for shape in inputs]
    assert macs._tflite_macs(kind, Options(), ends, tensor(*output)) == expected


def call_of(kind: str, *inputs: Value) -> pte.Call:
    """A kernel's call in a .pte file."""
    return pte.Call(kind, None, 0, inputs, tensor(1, 4))


def test_a_kernel_of_nobody_knows_whom_is_not_known() -> None:
    assert macs._executorch_macs(call_of("quantized_decomposed::quantize_per_tensor.out", tensor(1, 4))) == 0
    assert macs._executorch_macs(call_of("dim_order_ops::_to_dim_order_copy.out", tensor(1, 4))) == 0
    assert macs._executorch_macs(call_of("quantized_decomposed::mixed_mm.out", tensor(1, 4))) is None
    assert macs._executorch_macs(call_of("mine::anything.out", tensor(1, 4))) is None
    assert macs._executorch_macs(call_of("mm.out", tensor(1, 8), tensor(8, 4))) == 32


def read(path: Path, form: str, *inputs: TensorSpec) -> Json:
    """What is in a file, without the worker."""
    return macs.summed(macs.READERS[form](path, inputs))


@pytest.mark.parametrize(
    ("name", "form", "make"),
    [
        ("tiny.tflite", "tflite", tiny_models.make_tflite),
        ("tiny.onnx", "onnx", tiny_models.make_onnxruntime),
        ("fallback.tflite", "tflite", tiny_models.make_fallback_tflite),
    ],
)
def test_the_same_layer_in_every_format(tmp_path: Path, name: str, form: str, make: Callable[[Path], None]) -> None:
    make(tmp_path / name)
    found = read(tmp_path / name, form)
    assert (found["macs"], found["parameters"]) == (LAYER_MACS, LAYER_PARAMETERS)
    assert "uncounted" not in found
    layer = next(one for one in found["operators"] if one["macs"])
    assert (layer["inputs"], layer["output"]) == ([[1, 8]], [1, 4])
    assert layer["bytes"] == 4 * (8 + LAYER_PARAMETERS + 4)


def test_a_program_tells_what_is_delegated_and_what_is_not() -> None:
    found = read(PROGRAM, "executorch")
    assert (found["macs"], found["parameters"]) == (LAYER_MACS, LAYER_PARAMETERS)
    told = [(one["type"], one.get("delegate"), one["place"]) for one in found["operators"]]
    assert told == [("FullyConnected", pte.XNNPACK, 0), ("cumsum.out", None, 1)]


def test_through_the_worker_and_a_format_that_tells_nothing(tmp_path: Path) -> None:
    assert macs.of(PROGRAM, "executorch") == read(PROGRAM, "executorch")
    assert macs.of(tmp_path / "any.pt", "torchscript") is None


def test_an_open_batch_is_one_input(tmp_path: Path) -> None:
    path = tmp_path / "free.onnx"
    tiny_models.make_onnxruntime(path, "n")
    assert read(path, "onnx")["macs"] == LAYER_MACS
    assert read(path, "onnx", TensorSpec("x", (3, 8), "float32"))["macs"] == 3 * LAYER_MACS


@pytest.mark.parametrize(
    ("tensor", "signature", "expected"),
    [(0, [-1, 8], LAYER_MACS), (3, [-1, 4], LAYER_MACS), (0, [1, -1], None), (3, [1, -1], None), (3, [], LAYER_MACS)],
)
def test_a_dimension_that_is_open_beside_the_batch_is_not_taken_for_one(
    tensor: int, signature: list[int], expected: int | None, tmp_path: Path
) -> None:
    path = tmp_path / "open.tflite"
    tiny_models.make_tflite(path)
    model = _tflite_graph.parsed(path.read_bytes())
    model.subgraphs[0].tensors[tensor].shapeSignature = signature
    path.write_bytes(_tflite_graph.write(model))
    found = read(path, "tflite")
    assert found["operators"][0].get("macs") == expected
    assert found.get("uncounted", []) == ([] if expected else ["FULLY_CONNECTED"])


def graph_of(path: Path, nodes: list[Any], inputs: dict[str, Any], constants: dict[str, Any], output: Any) -> Json:
    """What is read of an ONNX graph; `inputs` are shapes, `constants` arrays, the one output is "y"."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    held = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, output)
    graph = helper.make_graph(nodes, "g", values, [y], held)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return read(path, "onnx")


def test_resnet_8_has_the_macs_it_is_known_for(tmp_path: Path) -> None:
    """MLPerf Tiny's image classifier, 12.5 M MACs: Banbury et al. 2021, "MLPerf Tiny Benchmark"; batch norms are folded."""
    import numpy as np
    from onnx import helper

    nodes: list[Any] = []
    weights: dict[str, Any] = {}

    def convolve(x: str, y: str, channels: tuple[int, int], size: int, stride: int) -> None:
        weights[f"w{y}"], weights[f"b{y}"] = np.zeros((*channels[::-1], size, size), "f4"), np.zeros(channels[1], "f4")
        form = {"kernel_shape": [size, size], "strides": [stride, stride], "auto_pad": "SAME_UPPER"}
        nodes.append(helper.make_node("Conv", [x, f"w{y}", f"b{y}"], [y], **form))

    convolve("x", "s0", (3, 16), 3, 1)
    for stack, (taken, made, stride) in enumerate([(16, 16, 1), (16, 32, 2), (32, 64, 2)]):
        convolve(f"s{stack}", f"a{stack}", (taken, made), 3, stride)
        convolve(f"a{stack}", f"c{stack}", (made, made), 3, 1)
        if stride == 2:
            convolve(f"s{stack}", f"d{stack}", (taken, made), 1, 2)
        nodes.append(helper.make_node("Add", [f"c{stack}", f"d{stack}" if stride == 2 else "s0"], [f"s{stack + 1}"]))
    nodes.append(helper.make_node("GlobalAveragePool", ["s3"], ["p"]))
    nodes.append(helper.make_node("Flatten", ["p"], ["f"]))
    nodes.append(helper.make_node("Gemm", ["f", "w", "b"], ["y"], transB=1))
    weights |= {"w": np.zeros((10, 64), "f4"), "b": np.zeros(10, "f4")}
    found = graph_of(tmp_path / "resnet8.onnx", nodes, {"x": [1, 3, 32, 32]}, weights, [1, 10])
    assert found["macs"] == 12_501_632
    assert found["parameters"] == sum(array.size for array in weights.values())


def test_a_quantized_layer_is_one_layer_with_narrow_weights(tmp_path: Path) -> None:
    import numpy as np
    from onnx import helper

    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wd"]),
        helper.make_node("MatMul", ["xd", "wd"], ["y"]),
    ]
    scale, zero = np.array(0.1, "f4"), np.array(0, "i1")
    found = graph_of(
        tmp_path / "q.onnx", nodes, {"x": [2, 8]}, {"w": np.ones((8, 4), "i1"), "s": scale, "z": zero}, [2, 4]
    )
    assert (found["macs"], found["parameters"]) == (2 * 8 * 4, 8 * 4)
    layer = found["operators"][-1]
    assert layer["bytes"] == 2 * 8 * 1 + 8 * 4 * 1 + 2 * 4 * 4  # int8 in, int8 weights, float out


def test_shared_weights_count_once_and_unknown_layers_are_named(tmp_path: Path) -> None:
    import numpy as np
    from onnx import helper

    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("MatMul", ["a", "w"], ["b"]),
        helper.make_node("Einsum", ["b", "w"], ["y"], equation="ij,jk->ik"),
    ]
    found = graph_of(tmp_path / "s.onnx", nodes, {"x": [1, 8]}, {"w": np.ones((8, 8), "f4")}, [1, 8])
    assert (found["macs"], found["parameters"]) == (2 * 64, 64)
    assert found["uncounted"] == ["Einsum"]


def test_operators_of_other_domains_and_functions_of_the_file_are_not_known(tmp_path: Path) -> None:
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], domain="mine"),
        helper.make_node("Twice", ["a"], ["b"], domain="local"),
        helper.make_node("MatMul", ["b", "w"], ["c"]),
        helper.make_node(
            "MatMulNBits", ["c", "p", "s"], ["d"], domain="com.microsoft", K=8, N=6, bits=4, block_size=16
        ),
        helper.make_node("Gelu", ["d"], ["y"], domain="com.microsoft"),
    ]
    shapes = {"a": [1, 8], "b": [1, 8], "c": [1, 8], "d": [1, 6]}
    told = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, size]) for n, size in (("x", 8), ("y", 6)))
    held = {"w": np.ones((8, 8), "f4"), "p": np.zeros((6, 1, 8), "u1"), "s": np.ones(6, "f4")}
    constants = [numpy_helper.from_array(array, name) for name, array in held.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], constants, value_info=told)
    opsets = [helper.make_opsetid(domain, version) for domain, version in
              (("", 17), ("mine", 1), ("local", 1), ("com.microsoft", 1))]  # fmt: skip
    body = [helper.make_node("Add", ["i", "i"], ["o"])]
    twice = helper.make_function("local", "Twice", ["i"], ["o"], body, opsets[:1])
    path = tmp_path / "domains.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=[twice]), path)
    found = read(path, "onnx")
    assert [one.get("macs") for one in found["operators"]] == [None, None, 64, 48, 0]
    assert found["uncounted"] == ["Conv", "Twice"]
    assert found["parameters"] == 64 + 48, "two four-bit weights lie in each byte"
    assert found["operators"][3]["bytes"] == 4 * 8 + 48 // 2 + 4 * 6


def test_a_damaged_program_is_refused_and_never_followed(tmp_path: Path) -> None:
    whole, chance = PROGRAM.read_bytes(), random.Random(5)
    path, refused = tmp_path / "damaged.pte", 0
    spoiled = [whole[:length] for length in range(0, len(whole), 97)]
    for _ in range(300):
        copy = bytearray(whole)
        for _ in range(chance.randrange(1, 8)):
            copy[chance.randrange(len(copy))] = chance.randrange(256)
        spoiled.append(bytes(copy))
    for content in spoiled:
        path.write_bytes(content)
        try:
            pte.calls(path)
        except UserError as error:
            refused += 1
            assert path.name in error.message
    assert refused > 20


def test_a_damaged_onnx_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "damaged.onnx"
    path.write_bytes(b"\x08\x09\x12\xff\xff")
    with pytest.raises(EdgekitError):
        read(path, "onnx")
