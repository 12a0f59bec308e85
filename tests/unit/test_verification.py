"""The way of inputs to a device and of outputs back, and what is made of outputs that are not the model's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from harness import FAKE_DEVICE, FAKE_MODEL

from edgekit import bench, cache, convert, plan, session, verification
from edgekit.errors import WrongOutput
from edgekit.types import Artifact, Json, TensorSpec

GOOD = (np.ones((2, 3), np.float32),)


@pytest.mark.parametrize(("portion_bytes", "portions"), [(1, 200), (40 * 64, 4), (1 << 20, 1)])
def test_portions_change_nothing_but_their_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, portion_bytes: int, portions: int
) -> None:
    lent: list[str] = []
    lend = session.Session.lend

    def spy(self: session.Session, path: Path) -> str:
        lent.append(lend(self, path))
        return lent[-1]

    monkeypatch.setattr(session.Session, "lend", spy)
    monkeypatch.setattr(verification, "PORTION_BYTES", portion_bytes)
    request = plan.Request(
        str(FAKE_MODEL), str(FAKE_DEVICE), precisions=("fp32",), output=tmp_path, effort={"launches": 1}
    )
    said: list[str] = []
    (line,) = bench.run(request, said.append).lines
    assert (line["accuracy"]["correct"], line["accuracy"]["total"]) == (190, 200)
    assert line["fidelity"]["sqnr_db"] == 200 and len(line["launches"]) == 1
    assert len(lent) == portions - 1
    assert not [path for place in lent for path in cache.cache_dir().glob(f"devices/*/{place}")]


@pytest.mark.parametrize("portion_bytes", [1, 1 << 20])
def test_a_batch_changes_no_output_and_the_last_one_is_filled_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, portion_bytes: int
) -> None:
    monkeypatch.setattr(verification, "PORTION_BYTES", portion_bytes)
    request = plan.Request(
        str(FAKE_MODEL),
        str(FAKE_DEVICE),
        precisions=("fp32",),
        output=tmp_path,
        effort={"launches": 1},
        batches=(1, 7),
    )
    single, batched = bench.run(request, lambda _: None).lines
    assert batched["id"] == single["id"] + "+batch=7"
    assert batched["accuracy"]["total"] == 200 and batched["accuracy"] == single["accuracy"]
    assert batched["fidelity"]["sqnr_db"] == 200
    assert batched["artifact"]["inputs"][0]["shape"][0] == 7 and single["artifact"]["inputs"][0]["shape"][0] == 1


@pytest.mark.parametrize(("precision", "sqnr_db"), [("fp32", 15.0), ("int8", 20.0), ("int4_weight", 11.0)])
def test_outputs_that_follow_the_float_source_pass(precision: str, sqnr_db: float) -> None:
    verification.check_fidelity({"sqnr_db": sqnr_db}, GOOD, precision)
    verification.check_fidelity(None, GOOD, precision)


@pytest.mark.parametrize(("precision", "sqnr_db"), [("fp32", 14.0), ("int8", 11.0), ("int4_weight", 5.0)])
def test_outputs_of_another_model_are_refused(precision: str, sqnr_db: float) -> None:
    with pytest.raises(WrongOutput, match=f"at {sqnr_db:.1f} dB SQNR against the float source"):
        verification.check_fidelity({"sqnr_db": sqnr_db}, GOOD, precision)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_outputs_that_are_not_finite_are_refused_with_and_without_a_reference(value: float) -> None:
    bad = (*GOOD, np.array([[1.0, value]], np.float32))
    with pytest.raises(WrongOutput, match="not finite against the float source"):
        verification.check_fidelity({"agreement": 0.0, "non_finite": 1}, bad, "fp16")
    with pytest.raises(WrongOutput, match=r"the outputs are not finite .*damaged"):
        verification.check_fidelity(None, bad, "fp32")


@pytest.mark.parametrize(
    ("shape", "dtype", "right"),
    [((1, 3, 8, 8), "float32", True), ((1, 8, 8, 3), "float32", False), ((1, 3, 8, 8), "int8", False)],
)
def test_a_runtime_whose_inputs_are_not_those_of_the_file_is_refused(
    shape: tuple[int, ...], dtype: str, right: bool
) -> None:
    """The same bytes in another order or type would be read without an error."""
    promised = (TensorSpec("x", (1, 3, 8, 8), "float32", "NCHW"),)
    artifact = Artifact("m", "onnx", "fp32", Path("m"), "", 1, promised, (), "", {})
    reply: Json = {"inputs": [{"name": "x", "shape": list(shape), "dtype": dtype}], "outputs": []}
    if right:
        verification.check_tensors(artifact, reply)
    else:
        with pytest.raises(WrongOutput, match="the runtime has the inputs"):
            verification.check_tensors(artifact, reply)


def test_a_runtime_that_numbers_the_same_names_otherwise_is_refused() -> None:
    """Inputs of one shape would be swapped without an error."""
    promised = tuple(TensorSpec(name, (1, 8), "float32") for name in ("zed", "alpha"))
    artifact = Artifact("m", "tflite", "fp32", Path("m"), "", 1, promised, (), "", {})

    def told(*names: str) -> Json:
        return {"inputs": [{"name": name, "shape": [1, 8], "dtype": "float32"} for name in names], "outputs": []}

    verification.check_tensors(artifact, told("zed", "alpha"))
    verification.check_tensors(artifact, told("serving_default_zed:0", "serving_default_alpha:0"))
    with pytest.raises(WrongOutput, match=r"in the order .*'alpha', 'zed'.*the file promises .*'zed', 'alpha'"):
        verification.check_tensors(artifact, told("alpha", "zed"))


@pytest.mark.parametrize("names", [("output", "output1"), ("output_0", "output_1")])
def test_outputs_are_matched_by_their_numbers(names: tuple[str, ...]) -> None:
    """TensorFlow's converter leaves output_1 before output_0; a Keras model's outputs have no names."""
    specs = tuple(TensorSpec(name, (1, 3), "float32") for name in ("output_1", "output_0"))
    artifact = Artifact("m", "tflite", "fp32", Path("m"), "", 1, (), specs, "", {})
    one, zero = np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32)
    found = verification.matched((one, zero), artifact, convert.Reference((zero, one), names))
    assert found[0] is zero and found[1] is one


def test_only_numbered_names_are_numbers() -> None:
    assert verification.numbered(["output1", "output"]) == [1, 0]
    assert verification.numbered(["output_0", "output_10"]) == [0, 10]
    assert verification.numbered(["output", "output_0"]) is verification.numbered(["outputs", "x"]) is None
