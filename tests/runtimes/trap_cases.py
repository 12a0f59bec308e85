"""Direct calls of converters with models made to trip them: trap_cases.py FOLDER GROUP prints {case: what came of it} as JSON.

In a process of its own, because torch and TensorFlow warn on import, and warnings are errors in the tests.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import plugins
from edgekit.errors import EdgekitError
from edgekit.types import TensorSpec

VECTOR = (TensorSpec("x", (1, 8), "float32"),)
IMAGE = (TensorSpec("x", (1, 3, 8, 8), "float32", "NCHW"),)
Case = Callable[[Path], Any]


def convert(format_: str, source: Any, precision: str, specs: Any, framework: str, path: Path, **options: str) -> Any:
    """The details of a conversion, or "Class: sentence" of the error that it ended in."""
    converter = plugins.load("converter", format_)
    chosen = {name: values[0] for name, values in converter.OPTIONS.items()} | options
    rows = tuple(np.random.default_rng(0).uniform(-1, 1, (16, *spec.shape[1:])).astype("f4") for spec in specs)
    try:
        found = converter.convert(source, precision, rows, specs, chosen, path, framework)
        converter.check(path)
    except EdgekitError as error:
        return f"{type(error).__name__}: {error}"
    return found["details"]


def torch_cases(place: Path) -> dict[str, Any]:
    import torch
    from torch import nn

    from edgekit.converters import _torch

    found: dict[str, Any] = {}
    one_channel = (TensorSpec("x", (1, 1, 8, 8), "float32", "NCHW"),)
    found["strides"] = list(_torch.example(one_channel)[0].stride())
    dense = nn.Sequential(nn.Linear(8, 4), nn.ReLU()).eval()
    relu6 = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU6(), nn.Flatten(), nn.Linear(288, 4)).eval()
    found["training"] = convert(
        "onnx", nn.Sequential(nn.Linear(8, 4), nn.Dropout()), "fp32", VECTOR, "torch", place / "a.onnx"
    )
    found["qnnpack"] = convert("ptl", relu6, "int8", IMAGE, "torch", place / "b.ptl", engine="qnnpack")
    found["onednn"] = convert("torchscript", relu6, "int8", IMAGE, "torch", place / "b.pt", engine="onednn")
    found["sequential"] = convert("executorch", relu6, "int8", IMAGE, "torch", place / "c.pte")
    found["fp16 convolution"] = convert(
        "executorch", nn.Conv2d(3, 8, 3).eval(), "fp16", IMAGE, "torch", place / "d.pte"
    )
    found["wrong shape"] = convert("torchscript", relu6, "fp32", VECTOR, "torch", place / "e.pt")
    conv = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval()
    found["dynamic convolution"] = convert("onnx", conv, "int8_dynamic", IMAGE, "torch", place / "f.onnx")
    found["dynamic everything"] = convert("onnx", conv, "int8_dynamic", IMAGE, "torch", place / "g.onnx", ops="all")
    found["dynamic mixed"] = convert("onnx", relu6, "int8_dynamic", IMAGE, "torch", place / "h.onnx")

    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1 if bool(x.sum() > 0) else x

    found["branching"] = convert("executorch", Branching().eval(), "fp32", VECTOR, "torch", place / "i.pte")

    class Nothing(nn.Module):
        def forward(self, x: torch.Tensor) -> None:
            return None

    found["no tensor"] = convert("executorch", Nothing().eval(), "fp32", VECTOR, "torch", place / "j.pte")

    class Dropping(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.dropout(x)  # training=True is its default, whatever .eval() says

    for format_ in ("onnx", "torchscript", "executorch", "tflite"):
        path = place / f"drop.{format_}"
        found[f"dropping {format_}"] = convert(format_, Dropping().eval(), "fp32", VECTOR, "torch", path)
    diverged = nn.Linear(8, 4).eval()
    diverged.weight.data[1, 2] = float("nan")
    found["diverged"] = convert("onnx", diverged, "fp32", VECTOR, "torch", place / "nan.onnx")

    class Half(nn.Module):
        """A layer, and a product that XNNPACK's quantizer leaves in float."""

        def __init__(self) -> None:
            super().__init__()
            self.layer, self.matrix = nn.Linear(8, 8), nn.Parameter(torch.ones(8, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x) @ self.matrix + 1

    found["half"] = convert("executorch", Half().eval(), "int8", VECTOR, "torch", place / "half.pte")
    found["no weights"] = convert("tflite", nn.ReLU().eval(), "int8_weight", VECTOR, "torch", place / "k.tflite")
    found["int4"] = convert("tflite", relu6, "int4_weight", IMAGE, "torch", place / "l.tflite")
    found["float"] = convert("tflite", dense, "fp32", VECTOR, "torch", place / "m.tflite")
    return found


def tflite_cases(place: Path) -> dict[str, Any]:
    """On the float file that the torch cases left."""
    from edgekit.converters import _tflite_graph

    content = (place / "m.tflite").read_bytes()
    found = {"int8": convert("tflite", place / "m.tflite", "int8", VECTOR, "tflite", place / "n.tflite")}
    found["twice"] = convert("tflite", place / "n.tflite", "int8_weight", VECTOR, "tflite", place / "o.tflite")
    found["other shape"] = convert(
        "tflite", place / "m.tflite", "fp32", (TensorSpec("x", (1, 9), "float32"),), "tflite", place / "p.tflite"
    )
    model = _tflite_graph.read(content)
    model.signatureDefs = None
    (place / "q.tflite").write_bytes(_tflite_graph.write(model))
    found["no signature"] = convert("tflite", place / "q.tflite", "int8", VECTOR, "tflite", place / "r.tflite")
    model.operatorCodes[0].customCode, model.operatorCodes[0].builtinCode = "FlexErf", 32
    (place / "s.tflite").write_bytes(_tflite_graph.write(model))
    found["custom"] = convert("tflite", place / "s.tflite", "fp32", VECTOR, "tflite", place / "t.tflite")
    return found


def onnx_cases(place: Path) -> dict[str, Any]:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def model(opset: int, batch: int | str, ir_version: int = 7) -> Path:
        weights = numpy_helper.from_array(np.random.default_rng(0).normal(size=(8, 4)).astype("f4"), "w")
        nodes = [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("Relu", ["z"], ["y"])]
        ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [batch, s]) for n, s in (("x", 8), ("y", 4))]
        graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [weights])
        path = place / f"{opset}_{batch}_{ir_version}.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version), path)
        return path

    found = {"open batch": convert("onnx", model(17, "n"), "int8", VECTOR, "onnx", place / "a.onnx")}
    shape = onnx.load(place / "a.onnx").graph.output[0].type.tensor_type.shape.dim
    found["its output"] = [size.dim_value for size in shape]
    found["old opset"] = convert("onnx", model(9, 1), "int8", VECTOR, "onnx", place / "b.onnx")
    found["twice"] = convert("onnx", place / "b.onnx", "int8", VECTOR, "onnx", place / "c.onnx")
    found["newer opset"] = convert("onnx", model(125, 1), "int8", VECTOR, "onnx", place / "e.onnx")
    found["newer form"] = convert("onnx", model(17, 1, 125), "int8", VECTOR, "onnx", place / "f.onnx")
    found["other input"] = convert(
        "onnx", model(17, 1), "fp32", (TensorSpec("other", (1, 8), "float32"),), "onnx", place / "d.onnx"
    )
    return found


def keras_cases(place: Path) -> dict[str, Any]:
    import keras
    from keras import layers as k

    from edgekit.converters import _keras_twin

    def tried(*parts: Any, shape: tuple[int, ...] = (9, 11, 4)) -> str:
        model = keras.Sequential([keras.Input(shape), *parts])
        layout = "NHWC" if len(shape) == 3 else None
        try:
            _keras_twin.twin(model, (TensorSpec("x", (1, *shape), "float32", layout),))
        except EdgekitError as error:
            return f"{type(error).__name__}: {error}"
        return "same"

    def two_inputs() -> str:
        a, b = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
        merged = [k.Add()([a, b]), k.Multiply()([a, b]), k.Maximum()([a, b]), k.Average()([a, b])]
        inner = keras.Sequential([keras.Input((8, 8, 12)), k.Conv2D(4, 3), k.GlobalMaxPooling2D()], name="inner")
        model = keras.Model([a, b], inner(k.Concatenate()(merged)))
        specs = tuple(TensorSpec(n, (1, 8, 8, 3), "float32", layout) for n, layout in (("a", "NHWC"), ("b", None)))
        with contextlib.suppress(EdgekitError):
            _keras_twin.twin(model, specs)
            return "same"
        return "different"

    keras.utils.set_random_seed(1)
    found: dict[str, Any] = {
        "strided same": tried(k.Conv2D(8, 3, 2, padding="same"), k.DepthwiseConv2D(3, 2, padding="same")),
        "dilated": tried(k.Conv2D(8, 3, dilation_rate=2, padding="same", activation="relu")),
        "separable": tried(k.SeparableConv2D(8, 3, padding="same", activation="tanh")),
        "multiplier": tried(k.DepthwiseConv2D(3, depth_multiplier=2)),
        "max same": tried(k.MaxPooling2D(2, 2, padding="same")),
        "average": tried(k.AveragePooling2D(3, 2, padding="same")),
        "flatten": tried(k.BatchNormalization(), k.Flatten(), k.Dense(5, activation="softmax")),
        "reshape": tried(k.Reshape((11, 9, 4)), k.Conv2D(2, 3)),
        "dense on pixels": tried(k.Dense(3), k.Softmax()),
        "rest": tried(k.ZeroPadding2D(((1, 0), (2, 1))), k.UpSampling2D(2), k.LeakyReLU(), k.Rescaling(2.0, 1.0)),
        "activations": tried(
            *(k.Activation(name) for name in ("silu", "hard_silu", "hard_sigmoid", "elu", "gelu", "softplus"))
        ),
        "two inputs and a nested model": two_inputs(),
        "lstm": tried(k.LSTM(4, name="memory"), shape=(5, 4)),
    }
    dense = keras.Sequential([keras.Input((8,)), k.Dense(200), k.Dense(200)])
    found["dynamic"] = convert("tflite", dense, "int8_dynamic", VECTOR, "keras", place / "u.tflite")
    from edgekit.converters import _tflite_graph

    model = _tflite_graph.read((place / "u.tflite").read_bytes())
    found["versions"] = {_tflite_graph._builtin(code): code.version for code in model.operatorCodes}
    small_image = (TensorSpec("x", (1, 8, 8, 16), "float32", "NHWC"),)
    depthwise = keras.Sequential(
        [keras.Input((8, 8, 16)), k.DepthwiseConv2D(3, depth_multiplier=8), k.Flatten(), k.Dense(4)]
    )
    for precision in ("int8_dynamic", "int16x8", "int8_weight", "int8"):
        path = place / f"depthwise_{precision}.tflite"
        found[f"depthwise {precision}"] = convert("tflite", depthwise, precision, small_image, "keras", path)
    diverged = keras.Sequential([keras.Input((8,)), k.Dense(4, name="last")])
    kernel, bias = diverged.get_weights()
    diverged.set_weights([kernel * float("nan"), bias])
    found["diverged"] = convert("tflite", diverged, "fp32", VECTOR, "keras", place / "nan.tflite")
    small = keras.Sequential([keras.Input((8,)), k.Dense(4)])
    found["too small"] = convert("tflite", small, "int8_dynamic", VECTOR, "keras", place / "v.tflite")
    return found


GROUPS = {"torch": torch_cases, "tflite": tflite_cases, "onnx": onnx_cases, "keras": keras_cases}

if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        answers: dict[str, Any] = GROUPS[sys.argv[2]](Path(sys.argv[1]))
    sys.stdout.write(json.dumps(answers))
