"""Tensors to bytes and back, accuracy and fidelity against worked examples, and what data() of a recipe may return."""

from __future__ import annotations

import math
import resource
from pathlib import Path

import numpy as np
import pytest
from harness import FAKE_MODEL
from hypothesis import given
from hypothesis import strategies as st

from edgekit import cache as cache_
from edgekit import data, sources, worker
from edgekit.errors import ProtocolError, SetupError, UserError
from edgekit.types import Quantization, TensorSpec, to_json

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
    assert data.encode((x,), (spec((1, 3)),), (None,)) == x.astype("<f4").tobytes()


@pytest.mark.parametrize(
    ("source", "target", "order"), [("NHWC", "NCHW", (0, 3, 1, 2)), ("NCHW", "NHWC", (0, 2, 3, 1))]
)
def test_images_are_transposed_to_the_layout_of_the_artifact(source: str, target: str, order: tuple[int, ...]) -> None:
    x = np.arange(2 * 2 * 3 * 4, dtype=np.float32).reshape(2, 2, 3, 4)
    expected = np.ascontiguousarray(x.transpose(order))
    encoded = data.encode((x,), (spec((1, *expected.shape[1:]), layout=target),), (source,))
    assert encoded == expected.tobytes()
    assert data.encode((x,), (spec((1, 2, 3, 4), layout=source),), (source,)) == x.tobytes()
    assert np.array_equal(data.to_layout(expected, target, source), x)


@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_sent_is_in_the_order_of_reading_whatever_the_strides(channels: int) -> None:
    """ExecuTorch reads memory as it lies: a channels-last view, or odd strides of one channel, would be silently misread."""
    nhwc = np.arange(2 * 4 * 5 * channels, dtype=np.float32).reshape(2, 4, 5, channels)
    view = nhwc.transpose(0, 3, 1, 2)
    expected = np.array([[[row.tolist() for row in plane] for plane in image] for image in view], np.float32).tobytes()
    wanted = (spec((1, channels, 4, 5), layout="NCHW"),)
    assert data.encode((view,), wanted, ("NCHW",)) == data.encode((nhwc,), wanted, ("NHWC",)) == expected
    second = spec((1, 2))
    pair = data.encode((view, np.ones((2, 2), "f4")[:, ::-1]), (*wanted, second), ("NCHW", None))
    assert pair[: 4 * 20 * channels] == expected[: 4 * 20 * channels]


def test_quantized_inputs_round_halves_to_even_and_are_clipped() -> None:
    x = np.array([[0.0, 0.25, 0.75, 1.25, -0.25, 1e9, -1e9, 0.3]], np.float32)
    encoded = data.encode((x,), (spec((1, 8), "int8", scale=0.5, zero_point=3),), (None,))
    assert np.frombuffer(encoded, np.int8).tolist() == [3, 3, 5, 5, 3, 127, -128, 4]
    unsigned = data.encode((x,), (spec((1, 8), "uint8", scale=0.5, zero_point=3),), (None,))
    assert np.frombuffer(unsigned, np.uint8).tolist() == [3, 3, 5, 5, 3, 255, 0, 4]


@given(
    st.lists(st.integers(-128, 127), min_size=1, max_size=20),
    st.floats(1e-6, 1e3),
    st.integers(-128, 127),
)
def test_every_int8_value_survives_decoding_and_encoding(values: list[int], scale: float, zero_point: int) -> None:
    tensor = spec((1, len(values)), "int8", scale=scale, zero_point=zero_point)
    raw = np.array(values, np.int8).tobytes()
    assert data.encode(data.decode(raw, (tensor,)), (tensor,), (None,)) == raw


def test_outputs_of_many_inferences_are_decoded_at_once() -> None:
    raw = np.array([10, -128, 127, 0], np.int8).tobytes()
    (decoded,) = data.decode(raw, (spec((1, 2), "int8", scale=0.5, zero_point=10),))
    assert decoded.dtype == np.float32
    assert decoded.tolist() == [[0.0, -69.0], [58.5, -5.0]]


def test_bytes_and_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ProtocolError, match="13 bytes"):
        data.decode(bytes(13), (spec((1, 3)),))
    with pytest.raises(UserError, match=r"shape \(1, 4\)"):
        data.encode((np.zeros((2, 3), np.float32),), (spec((1, 4)),), (None,))


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


def test_several_inputs_lie_sample_after_sample_and_in_each_input_after_input() -> None:
    a = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    b = np.array([[10.0], [20.0]], np.float32)
    specs = (spec((1, 2)), spec((1, 1), "int8", scale=1.0, zero_point=0))
    raw = data.encode((a, b), specs, (None, None))
    assert raw == b"".join(a[i].tobytes() + b[i].astype("i1").tobytes() for i in range(2))
    first, second = data.decode(raw, specs)
    assert np.array_equal(first, a) and np.array_equal(second, b)
    with pytest.raises(UserError, match="different numbers of samples: 2, 1"):
        data.encode((a, b[:1]), specs, (None, None))
    with pytest.raises(UserError, match="the artifact has 2 inputs, the data 1"):
        data.encode((a,), specs, (None, None))
    with pytest.raises(ProtocolError, match="no multiple of 9"):
        data.decode(raw[:-1], specs)


def test_a_batch_of_several_inputs_lies_call_after_call_and_in_each_input_after_input() -> None:
    a, b = np.arange(8, dtype="f4").reshape(4, 2), np.arange(4, dtype="f4").reshape(4, 1)
    specs = (spec((2, 2)), spec((2, 1)))
    raw = data.encode((a, b), specs, (None, None))
    assert raw == b"".join(part.tobytes() for part in (a[:2], b[:2], a[2:], b[2:]))
    first, second = data.decode(raw, specs)
    assert np.array_equal(first, a) and np.array_equal(second, b)


def test_tensors_are_matched_by_name_and_else_by_place() -> None:
    def named(*names: str) -> list[TensorSpec]:
        return [TensorSpec(name, (1,), "float32") for name in names]

    assert data.order(named("b", "a"), named("a", "b")) == [1, 0]
    assert data.order(named("x", "y"), named("a", "b")) == [0, 1]
    with pytest.raises(UserError, match="2 tensors are wanted, and there are 1"):
        data.order(named("a", "b"), named("a"))


def test_of_several_outputs_the_worst_counts_and_all_are_kept() -> None:
    reference = np.array([[1.0, 2.0]])
    found = data.fidelities((reference, reference + 1), (reference, reference), ("good", "bad"))
    assert found["sqnr_db"] == pytest.approx(10 * math.log10(5 / 2))
    assert [(entry["name"], entry["max_abs_diff"]) for entry in found["outputs"]] == [("good", 0.0), ("bad", 1.0)]
    broken = data.fidelities((reference, reference * np.nan), (reference, reference), ("good", "bad"))
    assert broken["non_finite"] == 2
    assert "outputs" not in data.fidelities((reference,), (reference,), ("only",))


TWO = HEAD.replace(
    'INPUT = {"shape": (1, 3), "dtype": "float32"}',
    'INPUTS = [{"name": "a", "shape": (1, 3), "dtype": "float32"}, {"name": "ids", "shape": (1, 2), "dtype": "int64"}]',
)


@pytest.mark.parametrize("form", ["(a, ids)", "[a, ids]", "{'ids': ids, 'a': a}"])
def test_data_of_several_inputs_comes_in_order_or_by_name(tmp_path: Path, form: str) -> None:
    body = f"""def data():
    a, ids = np.ones((4, 3)), np.full((4, 2), 7)
    x = {form}
    a, ids = a[:2] * 2, ids[:2]
    return {{'calibration': x, 'x': {form}}}
"""
    found = made(tmp_path, body, TWO)
    assert {name: (array.dtype.name, array.shape) for name, array in found.items()} == {
        "calibration": ("float32", (4, 3)),
        "calibration1": ("int64", (4, 2)),
        "x": ("float32", (2, 3)),
        "x1": ("int64", (2, 2)),
    }
    kept = data._read(tmp_path / "made")
    assert kept is not None and kept.count == 2 and len(kept.x) == len(kept.calibration) == 2


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        ("(np.ones((4, 3)),)", "calibration has 1 arrays, the model 2 inputs"),
        ("{'a': np.ones((4, 3))}", "calibration lacks the input 'ids'"),
        ("(np.ones((4, 3)), np.ones((4, 2)))", "'ids' of INPUTS asks for int64"),
        ("(np.ones((4, 3)), np.ones((3, 2), int))", "calibration has 4, 3 rows"),
    ],
)
def test_data_of_several_inputs_is_checked(tmp_path: Path, returned: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        made(tmp_path, f"def data():\n    return {{'calibration': {returned}, 'x': {returned}}}", TWO)


def made(folder: Path, body: str, head: str = HEAD) -> dict[str, np.ndarray]:
    """The arrays that make_data keeps of a recipe with this data(), and its "about" on disk beside them."""
    path = folder / "custom.py"
    path.write_text(head + body, "utf-8")
    place = folder / "made"
    place.mkdir()
    about = data.make_data({"model": to_json(sources.load(str(path))), "folder": str(place)})
    return {name: np.load(place / f"{name}.npy") for name in about["sha256"]}


def test_what_data_returns_is_kept_as_float32_and_int64(tmp_path: Path) -> None:
    body = "def data():\n    return {'calibration': np.ones((4, 3)), 'x': np.zeros((2, 3)), 'y': [1, 2]}"
    found = made(tmp_path, body)
    assert {name: array.dtype.name for name, array in found.items()} == {
        "calibration": "float32",
        "x": "float32",
        "y": "int64",
    }
    kept = data._read(tmp_path / "made")
    assert kept is not None and (kept.origin, kept.count) == ("recipe", 2)


def test_without_data_the_inputs_are_random_and_say_so(tmp_path: Path) -> None:
    found = made(tmp_path, "")
    kept = data._read(tmp_path / "made")
    assert kept is not None and kept.origin == "random" and kept.y is None
    assert found["calibration"].shape == (data.RANDOM_CALIBRATION, 3)
    assert found["x"].shape == (data.RANDOM_INPUTS, 3)


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
    assert (second.calibration[0].shape, second.x[0].shape, second.y.shape) == ((50, 10), (200, 10), (200,))
    assert int(np.sum(second.x[0].argmax(1) == second.y)) == 190


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
    heard: list[str] = []
    assert np.array_equal(data.load(model, heard.append).x, first.x)
    assert "is damaged; making it again" in heard[0]
