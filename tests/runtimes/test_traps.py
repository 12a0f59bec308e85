"""Every way we know in which a conversion tool does something else than was asked for, without an error of its own."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from harness import ROOT

from edgekit import worker

pytestmark = pytest.mark.runtimes

KERAS_LAYERS = (
    "strided same", "dilated", "separable", "multiplier", "max same", "average", "flatten", "reshape", "dense on pixels", "rest",
    "activations", "two inputs and a nested model",
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the cases leave their files."""
    return tmp_path_factory.mktemp("traps")


@functools.cache
def answers(place: Path, group: str) -> dict[str, Any]:
    """What came of the cases of a group; those of tflite start from a file that those of torch leave."""
    if group == "tflite":
        answers(place, "torch")
    environment = {**os.environ, **worker.ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, Path(__file__).with_name("trap_cases.py"), place, group]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_example_of_an_export_has_the_strides_of_a_fresh_tensor(place: Path) -> None:
    """Those of a permuted one-channel image, kept, make an ExecuTorch program that computes something else."""
    assert answers(place, "torch")["strides"] == [64, 64, 8, 1]


def test_a_model_in_training_mode_is_refused(place: Path) -> None:
    found = answers(place, "torch")["training"]
    assert found.startswith("ConvertError: the model is in training mode") and ".eval()" in found


def test_int8_for_qnnpack_is_refused_with_the_reason(place: Path) -> None:
    found = answers(place, "torch")
    assert found["qnnpack"].startswith("Unsupported: QNNPACK computes ReLU6")
    assert found["onednn"]["weights_quantized_share"] == 1.0


def test_executorch_takes_a_top_level_sequential_with_batch_norm_in_int8(place: Path) -> None:
    found = answers(place, "torch")["sequential"]
    assert found["quantized_layers"] == found["layers"] == 2 and found["delegated_share"] == 1.0


def test_executorch_says_that_fp16_leaves_convolutions_as_they_are(place: Path) -> None:
    assert answers(place, "torch")["fp16 convolution"]["weights_half_share"] == 0.0


def test_dynamic_int8_leaves_convolutions_alone_unless_asked(place: Path) -> None:
    found = answers(place, "torch")
    assert "no layer was quantized" in found["dynamic convolution"] and "ops=all" in found["dynamic convolution"]
    assert found["dynamic everything"]["operators"]["ConvInteger"] == 1
    mixed = found["dynamic mixed"]
    assert (mixed["layers"], mixed["quantized_layers"]) == (2, 1) and "slower than float" in mixed["slow_kernels"]
    assert "several times as long" in found["dynamic everything"]["slow_kernels"]


def test_a_product_that_stays_float_beside_a_layer_is_counted(place: Path) -> None:
    """Of which the report makes "1 of 2 layers compute in float although int8 was asked for"."""
    found = answers(place, "torch")["half"]
    assert (found["layers"], found["quantized_layers"]) == (2, 1)


@pytest.mark.parametrize("format_", ["onnx", "torchscript", "executorch", "tflite"])
def test_a_model_that_draws_random_numbers_is_refused(place: Path, format_: str) -> None:
    """Functional dropout stays in training mode whatever .eval() says, and no exporter minds."""
    found = answers(place, "torch")[f"dropping {format_}"]
    assert found.startswith("ConvertError: the torch model gives another output") and "self.training" in found


@pytest.mark.parametrize("group", ["torch", "keras"])
def test_weights_that_are_no_numbers_are_named(place: Path, group: str) -> None:
    assert "holds NaN (its training diverged" in answers(place, group)["diverged"]


def test_kernels_that_are_slow_on_every_device_are_told(place: Path) -> None:
    found = answers(place, "keras")
    assert "the 1 depthwise convolution in int8_dynamic" in found["depthwise int8_dynamic"]["slow_kernels"]
    assert "reference kernels only" in found["depthwise int16x8"]["slow_kernels"]
    for precision in ("int8", "int8_weight"):
        assert "slow_kernels" not in found[f"depthwise {precision}"]


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("branching", "torch.where"),
        ("no tensor", "returns NoneType, not tensors"),
        ("wrong shape", "does not take inputs of shape (1, 8)"),
        ("no weights", "no layer was quantized"),
    ],
)
def test_a_torch_model_that_cannot_be_converted_is_one_sentence(place: Path, case: str, words: str) -> None:
    found = answers(place, "torch")[case]
    assert found.startswith("ConvertError: ") and words in found and "\n" not in found


def test_a_float_tflite_file_is_quantized_with_and_without_a_signature(place: Path) -> None:
    found = answers(place, "tflite")
    for case in ("int8", "no signature"):
        assert found[case]["weights_quantized_share"] == 1.0 and found[case]["float_ops"] == 0


@pytest.mark.parametrize(
    ("group", "case", "words"),
    [
        ("tflite", "twice", "quantized already"),
        ("tflite", "other shape", "was made for inputs of shape (1, 8), not (1, 9)"),
        ("tflite", "custom", "custom operators: FlexErf"),
        ("onnx", "twice", "quantized already"),
        ("onnx", "newer opset", "has opset 125, and onnx"),
        ("onnx", "newer form", "has IR version 125, and onnx"),
        ("onnx", "other input", "has the input 'x', for which there is no shape"),
    ],
)
def test_a_file_that_cannot_be_converted_is_one_sentence(place: Path, group: str, case: str, words: str) -> None:
    found = answers(place, group)[case]
    assert found.startswith("ConvertError: ") and words in found and "\n" not in found


def test_an_onnx_file_gets_its_batch_fixed_and_its_opset_raised(place: Path) -> None:
    found = answers(place, "onnx")
    assert found["open batch"]["quantized_layers"] == 1 and found["its output"] == [1, 4]
    assert found["old opset"]["quantized_layers"] == 1 and found["old opset"]["opset"] >= 13


@pytest.mark.parametrize("case", KERAS_LAYERS)
def test_a_keras_layer_computes_the_same_in_torch(place: Path, case: str) -> None:
    assert answers(place, "keras")[case] == "same"


def test_a_keras_layer_without_a_torch_form_is_named(place: Path) -> None:
    found = answers(place, "keras")["lstm"]
    assert found.startswith("Unsupported: the Keras layer 'memory' (LSTM) cannot go to ExecuTorch")


def test_dynamic_int8_of_dense_layers_loads_in_the_old_runtime_too(place: Path) -> None:
    """tflite-runtime 2.14 knows FULLY_CONNECTED (9) up to version 11; TensorFlow writes 12 unless told otherwise."""
    found = answers(place, "keras")
    assert found["dynamic"]["weights_quantized_share"] == 1.0
    assert found["versions"]["9"] < 12


def test_tensorflow_leaves_small_weights_float_and_that_is_said(place: Path) -> None:
    assert "fewer than 1024" in answers(place, "keras")["too small"]
