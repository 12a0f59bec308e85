"""Several inputs per call, in real runtimes: nothing but the size of a call changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import edgekit
from edgekit import api

pytestmark = pytest.mark.runtimes

MANY_INPUTS = Path(__file__).with_name("two_ends.py")


def test_a_batch_changes_no_answer_in_any_runtime(tmp_path: Path) -> None:
    """7 is no divisor of the 540 inputs: the last call is filled up."""
    report = edgekit.profile("digits_mlp", "local", batches=(1, 7), output=tmp_path, effort={"launches": 1, "calls": 5})
    cells = {(cell["runtime"], cell["precision"], cell.get("batch") == 7): cell for cell in report.cells}
    assert {cell["status"] for cell in report.cells} == {"ok"} and len(cells) == 12
    for (runtime, precision, batched), cell in cells.items():
        single = cells[(runtime, precision, False)]
        assert cell["accuracy"]["total"] == 540
        # Calibration sees the same inputs; ExecuTorch's observers see them seven at a time, which moves a scale a little.
        assert abs(cell["accuracy"]["correct"] - single["accuracy"]["correct"]) <= (1 if precision == "int8" else 0)
        assert cell["artifact"]["inputs"][0]["shape"][0] == (7 if batched else 1)


@pytest.mark.parametrize("runtime", ["tflite", "onnxruntime", "executorch"])
def test_several_inputs_and_outputs_in_one_call(runtime: str, tmp_path: Path) -> None:
    report = edgekit.profile(
        MANY_INPUTS, "local", runtime, "fp32", batches=3, output=tmp_path, effort={"launches": 1, "calls": 3}
    )
    (cell,) = report.cells
    assert cell["status"] == "ok", cell["error"]
    assert cell["fidelity"]["sqnr_db"] > 100


def test_a_finished_file_takes_the_batch_it_was_made_for(tmp_path: Path) -> None:
    four, made = api.convert("digits_mlp", "tflite", output=tmp_path / "four.tflite", batch=4)
    assert made.inputs[0].shape[0] == 4
    # 7 inputs, two calls; the reference is a file of another batch.
    numbers = np.random.default_rng(0).uniform(0, 1, (7, *made.inputs[0].shape[1:])).astype(np.float32)
    np.savez(tmp_path / "some.npz", x=numbers)
    single, _ = api.convert("digits_mlp", "onnx", output=tmp_path / "one.onnx")
    report = edgekit.profile(
        four, "local", "tflite", output=tmp_path, data=tmp_path / "some.npz", reference=single, effort={"launches": 1}
    )
    (cell,) = report.cells
    assert cell["status"] == "ok", cell["error"]
    assert cell["id"].endswith("+batch=4") and cell["fidelity"]["sqnr_db"] > 100
    report = edgekit.profile(single, "local", "onnxruntime", batches=4, output=tmp_path)
    assert report.cells[0]["status"] == "unsupported" and "for a batch of 1" in report.cells[0]["error"]["message"]


def test_a_float_file_of_a_larger_batch_is_its_own_reference_and_can_be_quantized(tmp_path: Path) -> None:
    four, _ = api.convert("digits_mlp", "tflite", output=tmp_path / "four.tflite", batch=4)
    report = edgekit.profile(four, "local", "tflite", ("fp32", "int8_weight"), output=tmp_path, effort={"launches": 1})
    assert [cell["status"] for cell in report.cells] == ["ok", "ok"], [cell["error"] for cell in report.cells]
    assert [cell["artifact"]["inputs"][0]["shape"][0] for cell in report.cells] == [4, 4]
