"""The Keras form of a recipe computes what its torch form computes, and a form that does not is refused with the reason."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit import convert, sources, twins, worker
from edgekit.errors import ConvertError
from edgekit.types import to_json

pytestmark = pytest.mark.runtimes


@pytest.fixture(scope="module")
def layers() -> Any:
    """keras.layers, imported here once; its own deprecations are none of our business."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keras = pytest.importorskip("keras", reason="needs the extra: pip install 'edgekit[tensorflow]'")
        pytest.importorskip("tensorflow", reason="needs the extra: pip install 'edgekit[tensorflow]'")
    return keras.layers


@pytest.mark.parametrize(("name", "limit"), [("digits_mlp", 1e-5), ("digits_cnn", 1e-5), ("mobilenet_v2", 1e-4)])
def test_both_forms_give_the_same_outputs(name: str, limit: float) -> None:
    model = sources.load(name)
    (torch,), (keras,) = (convert.reference(model, framework).outputs for framework in ("torch", "keras"))
    difference = np.abs(torch - keras)
    assert difference.max() <= limit


def test_weights_are_the_same_at_every_training(tmp_path: Path) -> None:
    hashes = set()
    for run in ("first", "second"):
        (tmp_path / run).mkdir()
        request = {"model": to_json(sources.load("digits_mlp")), "folder": str(tmp_path / run)}
        worker.run("edgekit.sources:make_weights", request, 120)
        hashes.add(sources.weights_sha256(tmp_path / run / "weights.npz"))
    assert len(hashes) == 1


def test_damaged_weights_are_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE_DIR", str(tmp_path))
    model = sources.load("digits_mlp")
    path = sources.weights(model)
    assert path is not None
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    heard: list[str] = []
    assert sources.weights(model, heard.append) == path and path.read_bytes() == content
    assert "weights of digits_mlp is damaged; making it again" in heard[0]


def model_of(layers: Any, shape: tuple[int, ...], *stack: Any) -> Any:
    """A Keras model of some layers one after the other."""
    import keras

    return keras.Sequential([keras.Input(shape), *stack])


def test_each_kind_of_layer_is_copied_to_its_place(layers: Any) -> None:
    rng = np.random.default_rng(0)
    state = {
        "a.weight": rng.normal(size=(4, 3, 1, 2)),
        "a.bias": rng.normal(size=4),
        "b.weight": rng.normal(size=(8, 1, 1, 1)),
        "c.weight": rng.normal(size=8),
        "c.bias": rng.normal(size=8),
        "c.running_mean": rng.normal(size=8),
        "c.running_var": rng.uniform(1, 2, size=8),
        "c.num_batches_tracked": np.array(3),
        "d.weight": rng.normal(size=(2, 8)),
        "d.bias": rng.normal(size=2),
    }
    model = model_of(
        layers,
        (1, 2, 3),
        layers.Conv2D(4, (1, 2)),
        layers.DepthwiseConv2D(1, depth_multiplier=2, use_bias=False),
        layers.BatchNormalization(epsilon=1e-5),
        layers.Flatten(),
        layers.Dense(2),
    )
    twins.copy_weights(state, model)
    x = rng.normal(size=(1, 2, 3)).astype(np.float32)
    y = np.einsum("hwc,ochw->o", x, state["a.weight"]) + state["a.bias"]
    y = np.repeat(y, 2) * state["b.weight"].ravel()
    y = (y - state["c.running_mean"]) / np.sqrt(state["c.running_var"] + 1e-5) * state["c.weight"] + state["c.bias"]
    y = state["d.weight"] @ y + state["d.bias"]
    assert np.asarray(model(x[None], training=False))[0] == pytest.approx(y, rel=1e-4)


def dense_state(inputs: int, outputs: int, **more: np.ndarray) -> dict[str, np.ndarray]:
    """The state dict of one linear layer."""
    return {"fc.weight": np.zeros((outputs, inputs)), "fc.bias": np.zeros(outputs), **more}


@pytest.mark.parametrize(
    ("stack", "state", "words"),
    [
        (
            lambda la: [la.Dense(3, name="head")],
            dense_state(4, 2),
            r"'head' \(Dense\) does not fit torch's 'fc': its weights",
        ),
        (lambda la: [la.Dense(2, name="head", use_bias=False)], dense_state(4, 2), "'head'.*use_bias is False"),
        (lambda la: [la.BatchNormalization(name="norm")], dense_state(4, 4), "'norm'.*does not fit torch's 'fc'"),
        (lambda la: [la.Dense(2), la.Dense(2)], dense_state(4, 2), "2 layers with weights, the torch form has 1"),
        (
            lambda la: [la.PReLU(name="act")],
            {"a.weight": np.zeros(4)},
            "'act' is a PReLU, whose weights cannot be copied",
        ),
    ],
)
def test_a_layer_that_does_not_map_is_named(
    layers: Any, stack: Callable[[Any], list[Any]], state: dict[str, np.ndarray], words: str
) -> None:
    with pytest.raises(ConvertError, match=words):
        twins.copy_weights(state, model_of(layers, (4,), *stack(layers)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('(layers.ZeroPadding2D(1)(x), "valid") if stride == 2', '(x, "same") if stride == 2'),
        ("EPSILON = 1e-5", "EPSILON = 1e-3"),
        ("layers.ReLU(6.0)", "layers.ReLU(5.0)"),
    ],
)
def test_a_form_with_the_same_weights_that_computes_something_else_is_refused(
    layers: Any, tmp_path: Path, old: str, new: str
) -> None:
    model = sources.load("digits_cnn")
    text = model.source.read_text("utf-8")
    assert old in text
    (tmp_path / "other.py").write_text(text.replace(old, new), "utf-8")
    with pytest.raises(
        ConvertError, match="'other': the outputs of its Keras form differ from those of its torch form"
    ):
        sources.build(sources.load(str(tmp_path / "other.py")), "keras", sources.weights(model))
