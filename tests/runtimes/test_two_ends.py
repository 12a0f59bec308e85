"""A model with two inputs and two outputs in every format, from models and from files: nothing is swapped or lost on the way."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
from pathlib import Path

import pytest
from test_converters import quietly, run

from edgekit import convert, data, plugins, sources
from edgekit.types import Artifact, Model

pytestmark = pytest.mark.runtimes

RECIPE = Path(__file__).with_name("two_ends.py")
# What treats the ends of a model in a way of its own; the other precisions are in test_converters.
ENDS = {
    ("tflite", "keras"): ("fp32", "int8", "int8_io", "int16x8"),
    ("tflite", "torch"): ("fp32", "int8", "int8_io", "int16x8"),
    ("onnx", "torch"): ("fp32", "fp16", "int8"),
    ("onnx", "keras"): ("fp32", "int8"),
    ("executorch", "torch"): ("fp16", "int8"),
    ("executorch", "keras"): ("fp32", "fp16", "int8", "int8_dynamic"),
    ("torchscript", "torch"): ("int8",),
    ("ptl", "torch"): ("int8",),
    ("aoti", "torch"): ("fp32",),
    ("savedmodel", "keras"): ("fp32",),
    # From files, which are float artifacts of the Keras form.
    ("tflite", "savedmodel"): ("fp32", "int8", "int8_weight"),
    ("onnx", "savedmodel"): ("fp32", "int8"),
    ("onnx", "onnx"): ("fp16", "int8", "int8_dynamic"),
    ("tflite", "tflite"): plugins.load("converter", "tflite").PRECISIONS[1:],
}
ROWS = [(*pair, precision) for pair, precisions in ENDS.items() for precision in precisions]
FLOOR_DB = {"fp32": 100.0, "fp16": 50.0, "bf16": 30.0, "int4_weight": 12.0}


@pytest.fixture(scope="module", autouse=True)
def converted(request: pytest.FixtureRequest) -> None:
    """What the chosen tests need, converted side by side: first what other rows start from."""
    wanted = [item.callspec.params for item in request.session.items if item.module is request.module]
    rows = [(p["format_"], p["framework"], p["precision"]) for p in wanted]
    starts = [(framework, "keras", "fp32") for _, framework, _ in rows if framework not in ("torch", "keras")]
    with concurrent.futures.ThreadPoolExecutor(convert.side_by_side()) as pool:
        for some in (starts, rows):
            list(pool.map(lambda row: quietly(artifact, *row), dict.fromkeys(some)))


@functools.cache
def artifact(format_: str, framework: str, precision: str) -> Artifact:
    """From the cache, or converted now; from a file with the calibration of the recipe."""
    recipe = sources.load(str(RECIPE))
    if framework in recipe.frameworks:
        return convert.artifact(recipe, format_, precision, {"source": framework})
    file = sources.load(str(artifact(framework, "keras", "fp32").path))
    assert file.frameworks == (framework,)
    return convert.artifact(file, format_, precision, inputs=rearranged(file, data.load(recipe), recipe))


def rearranged(file: Model, given: data.Data, recipe: Model) -> data.Data:
    """The recipe's data with the inputs in the order of a file: that of a SavedModel is the alphabet's."""
    places = data.order(file.inputs, recipe.inputs)
    calibration, x = (tuple(arrays[place] for place in places) for arrays in (given.calibration, given.x))
    return dataclasses.replace(given, calibration=calibration, x=x)


@pytest.mark.parametrize(("format_", "framework", "precision"), ROWS)
def test_two_inputs_and_two_outputs(format_: str, framework: str, precision: str) -> None:
    recipe = sources.load(str(RECIPE))
    made = artifact(format_, framework, precision)
    assert made.framework == framework
    assert sorted(spec.name for spec in made.inputs) == ["angle", "zoom"]
    places = data.order(made.inputs, recipe.inputs)
    xs = [data.load(recipe).x[place] for place in places]
    found = run(made, xs, [recipe.inputs[place].layout for place in places])
    expected = convert.reference(recipe, "torch" if framework == "torch" else "keras").outputs
    assert [spec.shape for spec in made.outputs] == [(1, 3), (1, 4)]
    for ours, theirs in zip(found, expected, strict=True):
        assert data.fidelity(ours, theirs)["sqnr_db"] > FLOOR_DB.get(precision, 20.0)
    smaller = "weights_half_share" if precision == "fp16" else "weights_quantized_share"
    if precision not in ("fp32", "int8_dynamic", "fp16") or (format_, precision) == ("onnx", "fp16"):
        assert made.details[smaller] > 0.99
