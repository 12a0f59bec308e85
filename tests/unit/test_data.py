"""Tensors to bytes and back, accuracy and fidelity against worked examples, and what data() of a recipe may return."""

from __future__ import annotations

import math
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from harness import FAKE_MODEL
from hypothesis import given
from hypothesis import strategies as st

from edgekit import cache as cache_
from edgekit import data, sources, worker
from edgekit.errors import ProtocolError, SetupError, UserError
from edgekit.types import Quantization, TensorSpec

HEAD = """
import numpy as np
TASK = "image-classification"
DESCRIPTION = "for a test"
LICENCE = "Apache-2.0"
INPUT = {"shape": (1, 3), "dtype": "float32"}

def fake_model():
    return {}
"""


def spec(shape: tuple[int, ...], dtype: str = "float32", layout: str | None = None, **q: float) -> TensorSpec:
    """A tensor, quantized when a scale is given."""
    quantization = Quantization((q["scale"],), (int(q["zero_point"]),)) if q else None
    return TensorSpec("x", shape, dtype, layout, quantization)


def test_float_inputs_pass_unchanged_and_little_endian() -> None:
    x = np.array([[1.5, -2.0, 3e-5]], np.float32)
    assert data.encode(x, spec((1, 3)), None).tobytes() == x.astype("<f4").tobytes()


@pytest.mark.parametrize(
    ("source", "target", "order"), [("NHWC", "NCHW", (0, 3, 1, 2)), ("NCHW", "NHWC", (0, 2, 3, 1))]
)
def test_images_are_transposed_to_the_layout_of_the_artifact(source: str, target: str, order: tuple[int, ...]) -> None:
    x = np.arange(2 * 2 * 3 * 4, dtype=np.float32).reshape(2, 2, 3, 4)
    expected = np.ascontiguousarray(x.transpose(order))
    encoded = data.encode(x, spec((1, *expected.shape[1:]), layout=target), source)
    assert np.array_equal(encoded, expected) and encoded.flags.c_contiguous
    assert np.array_equal(data.encode(x, spec((1, 2, 3, 4), layout=source), source), x)
    assert np.array_equal(data.to_layout(expected, target, source), x)


def test_quantized_inputs_round_halves_to_even_and_are_clipped() -> None:
    x = np.array([[0.0, 0.25, 0.75, 1.25, -0.25, 1e9, -1e9, 0.3]], np.float32)
    encoded = data.encode(x, spec((1, 8), "int8", scale=0.5, zero_point=3), None)
    assert encoded.dtype == np.int8
    assert encoded.tolist() == [[3, 3, 5, 5, 3, 127, -128, 4]]
    unsigned = data.encode(x, spec((1, 8), "uint8", scale=0.5, zero_point=3), None)
    assert unsigned.tolist() == [[3, 3, 5, 5, 3, 255, 0, 4]]


@given(
    st.lists(st.integers(-128, 127), min_size=1, max_size=20),
    st.floats(1e-6, 1e3),
    st.integers(-128, 127),
)
def test_every_int8_value_survives_decoding_and_encoding(values: list[int], scale: float, zero_point: int) -> None:
    tensor = spec((1, len(values)), "int8", scale=scale, zero_point=zero_point)
    raw = np.array(values, np.int8).tobytes()
    assert data.encode(data.decode(raw, tensor), tensor, None).tobytes() == raw


def test_outputs_of_many_inferences_are_decoded_at_once() -> None:
    raw = np.array([10, -128, 127, 0], np.int8).tobytes()
    decoded = data.decode(raw, spec((1, 2), "int8", scale=0.5, zero_point=10))
    assert decoded.dtype == np.float32
    assert decoded.tolist() == [[0.0, -69.0], [58.5, -5.0]]


def test_bytes_and_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ProtocolError, match="13 bytes"):
        data.decode(bytes(13), spec((1, 3)))
    with pytest.raises(UserError, match=r"shape \(1, 4\)"):
        data.encode(np.zeros((2, 3), np.float32), spec((1, 4)), None)


def test_accuracy_counts_rows_and_treats_nan_as_wrong() -> None:
    outputs = np.array([[0, 1], [1, 0], [np.nan, 5], [0, 3]], np.float32)
    found = data.accuracy(outputs, np.array([1, 0, 1, 0]))
    assert (found["correct"], found["total"], found["value"], found["metric"]) == (2, 4, 0.5, "top1")


@pytest.mark.parametrize(
    ("y", "words"),
    [
        ([0, 7, 8], "the largest label is 8, but the model has 2 outputs.*from 0 to 1"),
        ([0, -1, 1], "the smallest label is -1, but the model has 2 outputs"),
    ],
)
def test_labels_that_no_output_stands_for_are_refused(y: list[int], words: str) -> None:
    with pytest.raises(UserError, match=words):
        data.accuracy(np.zeros((3, 2), np.float32), np.array(y))


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    # The first four: Newcombe 1998, Statistics in Medicine 17:857, table I, method 3.
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 0.8389, 1.0),
    ],
)
def test_wilson_intervals_of_the_literature(correct: int, total: int, low: float, high: float) -> None:
    assert data.wilson(correct, total) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_contains_the_share_and_stays_within_0_and_1(case: tuple[int, int]) -> None:
    low, high = data.wilson(*case)
    assert 0 <= low <= case[0] / case[1] <= high <= 1


def test_fidelity_of_a_worked_example() -> None:
    reference = np.array([[3.0, 4.0], [0.0, 5.0]])
    found = data.fidelity(np.array([[3.0, 4.5], [0.5, 5.0]], np.float32), reference)
    assert found["sqnr_db"] == pytest.approx(10 * math.log10(50 / 0.5))
    assert found["max_abs_diff"] == 0.5
    assert found["agreement"] == 1.0
    cosines = [(9 + 18) / (5 * math.hypot(3, 4.5)), 5 / math.hypot(0.5, 5)]
    assert found["cosine"] == pytest.approx(sum(cosines) / 2)


def test_identical_outputs_have_the_capped_ratio_and_zero_references_none() -> None:
    x = np.array([[1.0, 2.0]])
    found = data.fidelity(x, x)
    assert found["sqnr_db"] == data.SQNR_CAP_DB
    assert (found["max_abs_diff"], found["agreement"], found["cosine"]) == (0.0, 1.0, pytest.approx(1.0))
    silent = data.fidelity(np.zeros((1, 2)), np.zeros((1, 2)))
    assert silent == {"max_abs_diff": 0.0, "agreement": 1.0, "cosine": 1.0}
    assert data.fidelity(np.zeros((1, 2)), x)["sqnr_db"] == pytest.approx(0.0)


def test_outputs_that_are_not_finite_leave_only_what_still_means_something() -> None:
    outputs = np.array([[np.nan, 1.0], [np.inf, 0.0], [0.0, 9.0]])
    found = data.fidelity(outputs, np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]))
    assert found == {"agreement": pytest.approx(1 / 3), "non_finite": 2}


def test_outputs_of_another_shape_are_refused() -> None:
    with pytest.raises(UserError, match="cannot be compared"):
        data.fidelity(np.zeros((2, 3)), np.zeros((2, 4)))


def made(folder: Path, body: str) -> data.Data:
    """What make_data keeps of a recipe with this data()."""
    path = folder / "custom.py"
    path.write_text(HEAD + body, "utf-8")
    place = folder / "made"
    place.mkdir()
    about = data.make_data({"recipe": str(path), "folder": str(place)})
    read: Callable[[str], np.ndarray] = lambda name: np.load(place / f"{name}.npy")  # noqa: E731
    y = read("y") if "y" in about["sha256"] else None
    return data.Data(read("calibration"), read("x"), y, about["origin"])


def test_what_data_returns_is_kept_as_float32_and_int64(tmp_path: Path) -> None:
    body = "def data():\n    return {'calibration': np.ones((4, 3)), 'x': np.zeros((2, 3)), 'y': [1, 2]}"
    found = made(tmp_path, body)
    assert (found.calibration.dtype, found.x.dtype) == (np.float32, np.float32)
    assert found.y is not None and found.y.dtype == np.int64
    assert found.origin == "recipe"


def test_without_data_the_inputs_are_random_and_say_so(tmp_path: Path) -> None:
    found = made(tmp_path, "")
    assert found.origin == "random" and found.y is None
    assert found.calibration.shape == (data.RANDOM_CALIBRATION, 3) and found.x.shape == (data.RANDOM_INPUTS, 3)


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        ("[1]", "must return a dict"),
        ("{'x': np.zeros((2, 3))}", "must return a dict"),
        ("{'calibration': np.zeros((2, 3)), 'x': np.ones((2, 3)), 'labels': [1]}", "must return a dict"),
        ("{'calibration': np.zeros((2, 4)), 'x': np.ones((2, 3))}", r"calibration is float64 \(2, 4\)"),
        ("{'calibration': np.zeros((2, 3)), 'x': np.ones((2, 3), int)}", "x is int64"),
        ("{'calibration': np.zeros((2, 3)), 'x': np.ones((0, 3))}", "x is float64"),
        (
            "{'calibration': [[1.0], [1.0, 2.0]], 'x': np.ones((2, 3))}",
            r"custom\.py: data\(\): calibration is no array",
        ),
        ("{'calibration': np.zeros((2, 3)), 'x': np.ones((2, 3)), 'y': [[1], []]}", r"data\(\): y is no array"),
        ("1 / 0", r"custom\.py line \d+: data\(\) failed: ZeroDivisionError"),
        ("{'calibration': np.full((2, 3), np.inf), 'x': np.ones((2, 3))}", "not finite"),
        ("{'calibration': np.zeros((2, 3)), 'x': np.ones((2, 3)), 'y': [1]}", "one whole number for each of the 2"),
        ("{'calibration': np.zeros((2, 3)), 'x': np.ones((2, 3)), 'y': [1.0, 2.0]}", "y is float64"),
        ("{'calibration': np.ones((2, 3)), 'x': np.ones((2, 3))}", "2 of 2 calibration inputs are test inputs"),
    ],
)
def test_what_data_returns_is_checked(tmp_path: Path, returned: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        made(tmp_path, f"def data():\n    return {returned}")


def test_data_is_made_once(cold_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = sources.load(str(FAKE_MODEL))
    first = data.load(model)
    monkeypatch.setattr(worker, "run", None)
    second = data.load(model)
    assert np.array_equal(first.x, second.x) and second.y is not None
    assert data.describe(model)["shapes"] == {"calibration": [50, 10], "x": [200, 10], "y": [200]}
    assert int(np.sum(second.x.argmax(1) == second.y)) == 190


def test_an_array_that_does_not_fit_on_the_disk_is_an_error_with_a_number(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(SetupError, match=r"cannot write the data.*File too large"), cache_.disk_errors("the data"):
            data.save(tmp_path / "x.npy", np.zeros(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    data.save(tmp_path / "x.npy", np.arange(6.0).reshape(2, 3).T)
    assert np.array_equal(np.load(tmp_path / "x.npy"), np.arange(6.0).reshape(2, 3).T)


@pytest.mark.parametrize("name", ["x.npy", "data.json"])
def test_damaged_data_is_made_again(cold_cache: Path, name: str) -> None:
    model = sources.load(str(FAKE_MODEL))
    first = data.load(model)
    (damaged,) = (cold_cache / "data").glob(f"*/{name}")
    damaged.write_bytes(damaged.read_bytes()[:-1])
    if name == "data.json":
        assert data.describe(model)["shapes"]["x"] == [200, 10]
    heard: list[str] = []
    assert np.array_equal(data.load(model, heard.append).x, first.x)
    assert bool(heard) == (name == "x.npy")
