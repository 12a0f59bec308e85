"""A/B tests with real runtimes: instruction counts on the emulated Pi 4, blocks by turns on this machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import edgekit
from edgekit import ratio
from edgekit.pairs import BLOCKS

pytestmark = pytest.mark.runtimes
RECIPE = """
TASK, DESCRIPTION, LICENCE = "none", "equal layers", "Apache-2.0"
INPUT = {{"name": "image", "shape": (1, 16, 16, 32), "dtype": "float32", "layout": "NHWC"}}


def keras_model():
    import keras

    keras.utils.set_random_seed(0)
    inputs = x = keras.Input((16, 16, 32))
    for _ in range({layers}):
        x = keras.layers.Conv2D(32, 1, activation="relu", kernel_initializer="he_normal")(x)
    return keras.Model(inputs, x)
"""


def chain(folder: Path, layers: int) -> Path:
    """A model whose work is its number of layers."""
    path = folder / f"chain_{layers}.py"
    path.write_text(RECIPE.format(layers=layers))
    return path


@pytest.mark.emulated
def test_five_percent_more_work_is_a_regression_in_counts(tmp_path: Path) -> None:
    old, new = chain(tmp_path, 20), chain(tmp_path, 21)
    found = edgekit.ab(old, new, "pi4", runtimes="tflite", output=tmp_path / "runs")
    assert (found.metric, found.verdict, found.confirmed) == ("instructions", "regression", True)
    assert found.ratio == pytest.approx(1.05, abs=0.005)
    back = edgekit.ab(new, old, "pi4", runtimes="tflite", output=tmp_path / "runs")
    assert back.verdict == "improvement"
    assert back.ratio == pytest.approx(1 / found.ratio, rel=1e-3)


@pytest.mark.emulated
def test_the_same_file_counts_the_same(tmp_path: Path) -> None:
    found = edgekit.ab("digits_mlp", device="pi4", samples=20, output=tmp_path / "runs")
    assert (found.verdict, found.confirmed) == ("equal", None)
    assert found.ratio == pytest.approx(1.0, abs=1e-3)
    assert found.old["sha256"] == found.new["sha256"]


@pytest.mark.parametrize("runtimes", ["tflite", ("tflite", "onnxruntime")])
def test_this_machine_measures_both_by_turns(runtimes: str | tuple[str, str], tmp_path: Path) -> None:
    found = edgekit.ab("digits_mlp", device="local", runtimes=runtimes, output=tmp_path, max_seconds=15, wait=True)
    assert found.verdict in ("equal", "regression", "improvement", "inconclusive")
    lines = [json.loads(line) for line in (found.path / "pairs.jsonl").read_text().splitlines()]
    shapes = [line["shape"] for line in lines if "shape" in line]
    assert all(shape == shapes[0] for shape in shapes)
    assert shapes[0]["blocks"] == BLOCKS
    assert shapes[0]["batch"] > 1, "a call takes microseconds"
    blocks = [line for line in lines if "block" in line]
    assert {len(line[side]) for line in blocks for side in ("old_ns", "new_ns")} == {shapes[0]["calls"]}
    assert {tuple(line["order"]) for line in blocks} == {("old", "new"), ("new", "old")}
    assert found.old["accuracy"]["correct"] > 500
    assert found.new["accuracy"]["correct"] > 500
    if found.pairs >= ratio.LEAST_PAIRS:
        assert found.ratio is not None and found.interval is not None
        assert found.interval[0] <= found.ratio <= found.interval[1]
