"""Real conversions of the small models, each artifact run by its official Python runtime on this machine."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from harness import ROOT

from edgekit import cache, convert, data, plugins, sources
from edgekit.errors import ConvertError, UserError
from edgekit.types import Artifact, Json

pytestmark = pytest.mark.runtimes

SMALL = ("digits_mlp", "digits_cnn")
FORMATS = ("tflite", "onnx", "executorch")
CELLS = [(name, format_, precision) for name in SMALL for format_ in FORMATS for precision in ("fp32", "int8")]
CELLS += [(name, "tflite", "int8_io") for name in SMALL]
# On these models the float formats reach 130 dB and more, int8 30 dB and more.
FLOOR_DB = {"fp32": 100.0, "int8": 25.0, "int8_io": 25.0}


@functools.cache
def artifact(name: str, format_: str, precision: str) -> Artifact:
    """From the cache, or converted now."""
    return convert.artifact(sources.load(name), format_, precision)


def run(made: Artifact, x: np.ndarray) -> np.ndarray:
    """The artifact's float outputs on float inputs, by its official runtime in a process of its own."""
    layout = sources.load(made.model).input.layout
    with tempfile.TemporaryDirectory() as folder:
        inputs, outputs = Path(folder) / "x.npy", Path(folder) / "y.npy"
        np.save(inputs, data.encode(x, made.inputs[0], layout))
        script = Path(__file__).with_name("run_on_host.py")
        command = [sys.executable, "-W", "ignore", script, made.format, made.path, inputs, outputs]
        subprocess.run(command, check=True, capture_output=True)
        return data.decode(np.load(outputs).tobytes(), made.outputs[0])


@functools.cache
def outputs(name: str, format_: str, precision: str) -> np.ndarray:
    """The artifact's outputs on all test inputs of its recipe."""
    return run(artifact(name, format_, precision), data.load(sources.load(name)).x)


@pytest.mark.parametrize(("name", "format_", "precision"), CELLS)
def test_an_artifact_computes_what_its_source_computes(name: str, format_: str, precision: str) -> None:
    model = sources.load(name)
    y = data.load(model).y
    assert y is not None
    reference = convert.reference(model, plugins.load("converter", format_).SOURCE)
    found = outputs(name, format_, precision)
    fidelity: Json = data.fidelity(found, reference)
    assert fidelity["sqnr_db"] > FLOOR_DB[precision]
    assert fidelity["agreement"] >= 0.99
    if precision == "fp32":
        assert fidelity["max_abs_diff"] < 1e-4
    assert data.accuracy(found, y)["value"] >= data.accuracy(reference, y)["value"] - 0.01
    assert data.accuracy(reference, y)["value"] >= {"digits_mlp": 0.96, "digits_cnn": 0.985}[name]


@pytest.mark.parametrize(("name", "format_", "precision"), CELLS)
def test_an_artifact_says_what_it_is(name: str, format_: str, precision: str) -> None:
    made = artifact(name, format_, precision)
    spec = sources.input_of(sources.load(name), plugins.load("converter", format_).SOURCE)
    (into,), (out,) = made.inputs, made.outputs
    assert (into.name, into.shape, into.layout, out.shape) == (spec.name, spec.shape, spec.layout, (1, 10))
    stored = "int8" if precision == "int8_io" else "float32"
    assert (into.dtype, out.dtype) == (stored, stored)
    assert (into.quantization is not None) == (out.quantization is not None) == (precision == "int8_io")
    assert set(made.made_with) == set(plugins.load("converter", format_).PACKAGES)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("format_", FORMATS)
def test_int8_is_int8_everywhere(name: str, format_: str) -> None:
    small, large = artifact(name, format_, "int8"), artifact(name, format_, "fp32")
    assert small.size_bytes < 0.7 * large.size_bytes
    if format_ == "tflite":
        assert small.details["float_ops"] == 0 < large.details["float_ops"]
    else:
        assert small.details["quantized_layers"] == small.details["layers"] > 0


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("name", SMALL)
def test_xnnpack_takes_the_whole_executorch_model(name: str, precision: str) -> None:
    details = artifact(name, "executorch", precision).details
    assert details["delegated_share"] == 1.0 and details["delegates"] == 1 and "not_delegated" not in details


@pytest.mark.parametrize("name", SMALL)
def test_one_model_is_the_same_model_in_every_format(name: str) -> None:
    first, *others = (outputs(name, format_, "fp32") for format_ in FORMATS)
    for other in others:
        assert np.abs(first - other).max() < 1e-4


@pytest.mark.parametrize(("name", "format_", "precision"), CELLS)
def test_no_path_of_this_machine_is_in_an_artifact(name: str, format_: str, precision: str) -> None:
    content = artifact(name, format_, precision).path.read_bytes()
    places = (
        ROOT,
        cache.cache_dir(),
        Path(tempfile.gettempdir()),
        Path(sys.prefix),
        Path.home(),
        Path(os.__file__).parent,
    )
    for place in places:
        assert f"{place}/".encode() not in content
    for word in (b"site-packages", b'.py"', b"Traceback"):
        assert word not in content


@pytest.mark.parametrize(("name", "format_", "precision"), CELLS)
def test_a_file_that_is_cut_short_is_refused(name: str, format_: str, precision: str, tmp_path: Path) -> None:
    made = artifact(name, format_, precision)
    assert convert.check_file(made.path) == format_
    content = made.path.read_bytes()
    cut = tmp_path / made.path.name
    for length in (0, 3, 8, 40, len(content) // 2, len(content) - 100, len(content) - 17, len(content) - 1):
        cut.write_bytes(content[:length])
        with pytest.raises(UserError):
            convert.check_file(cut)


@pytest.mark.parametrize("format_", FORMATS)
def test_a_file_of_another_format_is_refused(format_: str, tmp_path: Path) -> None:
    for other in set(FORMATS) - {format_}:
        disguised = tmp_path / f"model{plugins.load('converter', format_).SUFFIX}"
        disguised.write_bytes(artifact("digits_mlp", other, "fp32").path.read_bytes())
        with pytest.raises(UserError):
            convert.check_file(disguised)


@pytest.mark.parametrize("name", SMALL)
def test_calibration_is_made_of_training_images_only(name: str) -> None:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    rows = train_test_split(np.arange(len(digits.target)), test_size=0.3, random_state=0, stratify=digits.target)
    found = data.load(sources.load(name))
    step = 4 if name == "digits_cnn" else 1

    def plain(x: np.ndarray) -> set[bytes]:
        return {np.rint(row[::step, ::step] * 16 if step > 1 else row * 16).astype("i1").tobytes() for row in x}

    training, held_out = ({digits.images[row].astype("i1").tobytes() for row in part} for part in rows)
    assert plain(found.calibration) <= training and not plain(found.calibration) & held_out
    assert plain(found.x) == held_out and len(found.x) == 540


def test_int8_activations_are_an_option_of_onnx() -> None:
    model = sources.load("digits_cnn")
    made = convert.artifact(model, "onnx", "int8", {"activation": "int8"})
    assert made.key != artifact("digits_cnn", "onnx", "int8").key
    fidelity = data.fidelity(run(made, data.load(model).x), convert.reference(model, "torch"))
    assert fidelity["sqnr_db"] > FLOOR_DB["int8"]


def test_a_warm_artifact_and_reference_import_nothing_heavy() -> None:
    for name in SMALL:
        convert.reference(sources.load(name), "keras")
        artifact(name, "tflite", "int8")
    code = (
        "import sys\nfrom edgekit import convert, data, sources\n"
        f"for name in {SMALL!r}:\n"
        "    model = sources.load(name)\n"
        "    convert.artifact(model, 'tflite', 'int8'); convert.reference(model, 'keras'); data.load(model)\n"
        "print([n for n in ('torch', 'tensorflow', 'keras', 'sklearn', 'onnx', 'onnxruntime', 'executorch') if n in sys.modules])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_int8_that_would_silently_stay_float_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """XNNPACK's quantizer leaves a matrix product written as `@` in float and says nothing."""
    monkeypatch.setenv("EDGEKIT_CACHE_DIR", str(tmp_path / "cache"))
    recipe = tmp_path / "product.py"
    recipe.write_text(
        "TASK = 'regression'\nDESCRIPTION = 'a product'\nLICENCE = 'Apache-2.0'\n"
        "INPUT = {'shape': (1, 8), 'dtype': 'float32'}\n\n\n"
        "def torch_model():\n"
        "    import torch\n\n"
        "    class Net(torch.nn.Module):\n"
        "        def __init__(self):\n"
        "            super().__init__()\n"
        "            self.matrix = torch.nn.Parameter(torch.ones(8, 4))\n\n"
        "        def forward(self, x):\n"
        "            return x @ self.matrix + 1\n\n"
        "    return Net()\n",
        "utf-8",
    )
    with pytest.raises(ConvertError, match="no layer was quantized"):
        convert.artifact(sources.load(str(recipe)), "executorch", "int8")


def test_random_weights_of_mobilenet_survive_int8() -> None:
    """Its logits depend on the image and its activations fit eight bits: that is what the recipe's weights are made for."""
    model = sources.load("mobilenet_v2")
    reference = convert.reference(model, "keras")
    assert np.std(reference, axis=0).mean() > 0.5
    fidelity = data.fidelity(outputs("mobilenet_v2", "tflite", "int8"), reference)
    assert 12 < fidelity["sqnr_db"] < 40
