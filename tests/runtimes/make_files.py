"""Makes a model file of every kind in a folder: make_files.py FOLDER NAME..., the names of the functions below.

A script of its own: each framework is imported in a process of its own, as a user's export script would.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any


def net() -> Any:
    """A small torch network with a dropout: 3x8x8 in, 5 out."""
    import torch

    torch.manual_seed(0)
    layers = torch.nn
    return layers.Sequential(
        layers.Conv2d(3, 4, 3),
        layers.BatchNorm2d(4),
        layers.ReLU(),
        layers.Flatten(),
        layers.Dropout(),
        layers.Linear(144, 5),
    )


def pt2(folder: Path) -> None:
    """torch.export with an open batch."""
    import torch

    batch = torch.export.Dim("batch")
    program = torch.export.export(net().eval(), (torch.zeros(2, 3, 8, 8),), dynamic_shapes=({0: batch},))
    torch.export.save(program, folder / "model.pt2")


def training_pt2(folder: Path) -> None:
    """torch.export of a model in training mode."""
    import torch

    torch.export.save(torch.export.export(net().train(), (torch.zeros(2, 3, 8, 8),)), folder / "training.pt2")


def torchscript(folder: Path) -> None:
    """Traced in eval mode, and in training mode."""
    import torch

    torch.jit.save(torch.jit.trace(net().eval(), torch.zeros(1, 3, 8, 8)), folder / "model.pt")
    traced = torch.jit.trace(net().train(), torch.zeros(2, 3, 8, 8), check_trace=False)
    torch.jit.save(traced, folder / "training.pt")


def pickles(folder: Path) -> None:
    """A whole model, bare weights, and a .pt2 whose weights are a pickle that runs code."""
    import pickle
    import zipfile

    import torch

    torch.save(net(), folder / "whole.pt")
    torch.save(net().state_dict(), folder / "weights.pt")

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (folder / "it_ran",))

    pt2(folder)
    with zipfile.ZipFile(folder / "model.pt2") as good, zipfile.ZipFile(folder / "evil.pt2", "w") as bad:
        for name in good.namelist():
            content = good.read(name)
            if name.endswith("sample_inputs/model.pt"):
                content = pickle.dumps(Evil())
            bad.writestr(name, content)
    with (folder / "evil.pt").open("wb") as stream:
        pickle.dump(Evil(), stream)


def keras(folder: Path) -> None:
    """.keras, .h5, a SavedModel and a .tflite with an open batch; and a .keras with a Lambda layer."""
    import keras as k
    import tensorflow as tf

    k.utils.set_random_seed(0)
    image, extra = k.Input((8, 8, 3), name="image"), k.Input((4,), name="extra")
    x = k.layers.Flatten()(k.layers.Conv2D(4, 3, activation="relu")(image))
    x = k.layers.Add()([k.layers.Dense(6)(x), k.layers.Dense(6)(extra)])
    outputs = {"classes": k.layers.Dense(5, name="classes")(x), "angle": k.layers.Dense(1, name="angle")(x)}
    model = k.Model([image, extra], outputs)
    model.save(folder / "two.keras")
    single = k.Sequential([k.Input((8, 8, 3), name="image"), k.layers.Flatten(), k.layers.Dense(5)])
    single.save(folder / "single.keras")
    single.save(folder / "single.h5")
    single.export(folder / "saved", verbose=False)
    (folder / "open.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(single).convert())
    lambda_ = k.Sequential([k.Input((3,)), k.layers.Lambda(lambda x: x * 2)])
    lambda_.save(folder / "lambda.keras")


def stock_tflite(folder: Path) -> None:
    """Two inputs and two outputs of one shape, as TensorFlow's own converter writes them: the file numbers them in another
    order than its signature, and neither input stands in for the other. And two files with an output that is not alone."""
    import keras as k
    import numpy as np
    import tensorflow as tf

    k.utils.set_random_seed(0)
    zed, alpha = k.Input((8,), name="zed"), k.Input((8,), name="alpha")
    x = k.layers.Dense(32, activation="relu")(zed) - k.layers.Dense(32, activation="sigmoid")(alpha)
    model = k.Model([zed, alpha], [k.layers.Dense(4)(x), k.layers.Dense(4)(x)])
    model.save(folder / "stock.keras")
    model.export(folder / "stock", verbose=False)
    (folder / "stock.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    rng = np.random.default_rng(1)
    rows = {name: rng.normal(size=(60, 8)).astype("f4") for name in ("zed", "alpha")}
    first, _ = model.predict([rows["zed"], rows["alpha"]], verbose=0)
    np.savez(folder / "stock.npz", **rows, y=first.argmax(1))
    for name, outputs in (("twice", [model.outputs[0], model.outputs[0]]), ("through", [model.outputs[0], zed])):
        other = k.Model([zed, alpha], outputs)
        (folder / f"{name}.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(other).convert())


def torch_forms(folder: Path) -> None:
    """Operators with several outputs; bool, half and double inputs; two inputs that only their names tell apart."""
    import numpy as np
    import torch

    class Chunk(torch.nn.Module):  # type: ignore[misc]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            left, right = x.chunk(2, dim=1)
            return left * torch.sigmoid(right) + torch.max(right, dim=1, keepdim=True)[0]

    class Mask(torch.nn.Module):  # type: ignore[misc]
        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return x * mask.float() + 1.0

    class Two(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b, self.c = torch.nn.Linear(8, 16), torch.nn.Linear(8, 16), torch.nn.Linear(16, 4)

        def forward(self, zed: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
            return self.c(torch.relu(self.a(zed)) - torch.sigmoid(self.b(alpha)))

    def export(name: str, model: torch.nn.Module, *inputs: torch.Tensor) -> None:
        torch.export.save(torch.export.export(model.eval(), inputs), folder / f"{name}.pt2")

    row = torch.randn(1, 8)
    export("chunk", Chunk(), row)
    export("mask", Mask(), row, torch.ones(1, 8, dtype=torch.bool))
    export("half", torch.nn.Linear(8, 4).half(), row.half())
    torch.jit.trace(torch.nn.Linear(8, 4).double().eval(), row.double()).save(str(folder / "double.pt"))
    two, zed, alpha = Two().eval(), torch.randn(50, 8), torch.randn(50, 8)
    torch.jit.trace(two, (row, row)).save(str(folder / "named.pt"))
    np.savez(folder / "named.npz", zed=zed.numpy(), alpha=alpha.numpy(), y=two(zed, alpha).argmax(1).numpy())


def onnx_forms(folder: Path) -> None:
    """Files that are no trouble to ONNX and some to a profiler: odd inputs, float64, a weight that is cut short."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper

    def save(name: str, node: Any, inputs: list[Any], output: Any, *weights: Any) -> None:
        graph = helper.make_graph([node], "g", inputs, [output], list(weights))
        onnx.save(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / f"{name}.onnx"
        )

    def value(name: str, kind: int = TensorProto.FLOAT, columns: int = 4) -> Any:
        return helper.make_tensor_value_info(name, kind, (1, columns))

    x, y = value("x", columns=8), value("y")
    matrix = np.random.default_rng(0).normal(size=(8, 4)).astype("f4")
    weight, product = onnx.numpy_helper.from_array(matrix, "W"), helper.make_node("MatMul", ["x", "W"], ["y"])
    save("string", product, [x, value("s", TensorProto.STRING)], y, weight)
    save("nothing", helper.make_node("Identity", ["W"], ["y"]), [], y, onnx.numpy_helper.from_array(matrix[:1], "W"))
    choice = helper.make_node("Where", ["c", "a", "b"], ["y"])
    save("choice", choice, [value("c", TensorProto.BOOL), value("a"), value("b")], y)
    double = onnx.numpy_helper.from_array(matrix.astype("f8"), "W")
    wide, out = value("x", TensorProto.DOUBLE, 8), value("y", TensorProto.DOUBLE)
    save("double", product, [wide], out, double)
    sequence = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, (1, 4))
    one = onnx.numpy_helper.from_array(np.array(0), "i")
    save("sequence", helper.make_node("SequenceAt", ["s", "i"], ["y"]), [sequence], y, one)
    weight.raw_data = weight.raw_data[:-4]
    save("cut", product, [x], y, weight)


def custom_operator(folder: Path) -> None:
    """A .tflite with an operator that TensorFlow Lite does not have."""
    import tensorflow as tf

    function = tf.function(lambda x: tf.math.bessel_i0e(x)).get_concrete_function(tf.TensorSpec((1, 4), tf.float32))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
    converter.allow_custom_ops = True
    (folder / "custom.tflite").write_bytes(converter.convert())


if __name__ == "__main__":
    for function in sys.argv[2:]:
        globals()[function](Path(sys.argv[1]))
