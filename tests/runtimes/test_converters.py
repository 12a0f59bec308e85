"""Real conversions of the small models, each artifact run by its official Python runtime on this machine."""

from __future__ import annotations

import atexit
import concurrent.futures
import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from harness import ROOT

from edgekit import cache, convert, data, metrics, plugins, sources, worker
from edgekit.errors import ConvertError, EdgekitError, UserError
from edgekit.types import Artifact, Json

pytestmark = pytest.mark.runtimes

SMALL = ("digits_mlp", "digits_cnn")
FORMATS = ("tflite", "onnx", "executorch")
# (model, format, framework, precision): every row of docs/formats.md that starts from a model; files are in test_two_ends.
CELLS = [
    (name, format_, plugins.load("converter", format_).SOURCES[0], precision)
    for name in SMALL
    for format_ in FORMATS
    for precision in ("fp32", "int8")
]
CELLS += [
    ("digits_cnn", format_, framework, precision)
    for format_ in ("tflite", "onnx", "executorch", "torchscript", "ptl", "savedmodel")
    for framework in plugins.load("converter", format_).SOURCES
    if framework in ("torch", "keras")
    for precision in plugins.load("converter", format_).PRECISIONS
    if (format_, framework) != ("executorch", "keras")  # a small one, in test_two_ends
]
CELLS += [("digits_cnn", "aoti", "torch", "fp32"), ("digits_mlp", "aoti", "torch", "bf16")]
CELLS = list(dict.fromkeys(CELLS))
# On these models the float formats reach 130 dB and more, int8 30 dB and more, int8 by FX 23 dB.
FLOOR_DB = {"fp32": 100.0, "fp16": 45.0, "bf16": 30.0, "int4_weight": 9.0, "torchscript": 20.0, "ptl": 20.0}
INT8_DB = 25.0


@pytest.fixture(scope="module", autouse=True)
def converted(request: pytest.FixtureRequest) -> None:
    """What the chosen tests of this module need, converted side by side; what fails fails again in its test."""
    wanted = [
        item.callspec.params
        for item in request.session.items
        if item.module is request.module and hasattr(item, "callspec")
    ]
    rows = dict.fromkeys((p["name"], p["format_"], p["precision"], p["framework"]) for p in wanted if "framework" in p)
    with concurrent.futures.ThreadPoolExecutor(convert.side_by_side()) as pool:
        list(pool.map(lambda row: quietly(artifact, *row), rows))


def quietly(function: Callable[..., object], *arguments: object) -> None:
    """Call it and forget what comes of it."""
    with contextlib.suppress(EdgekitError):
        function(*arguments)


@functools.cache
def artifact(name: str, format_: str, precision: str, source: str = "") -> Artifact:
    """From the cache, or converted now."""
    return convert.artifact(sources.load(name), format_, precision, {"source": source} if source else {})


def floor(made: Artifact) -> float:
    """The SQNR an artifact must have."""
    return FLOOR_DB.get(made.precision, FLOOR_DB.get(made.format, INT8_DB))


def encoded(raw: bytes, made: Artifact) -> list[np.ndarray]:
    """What `data.encode` wrote, as one array [N, ...] per input."""
    sizes = [np.dtype(spec.dtype).itemsize * int(np.prod(spec.shape[1:])) for spec in made.inputs]
    rows = np.frombuffer(raw, np.uint8).reshape(-1, sum(sizes))
    parts = np.split(rows, np.cumsum(sizes)[:-1], axis=1)
    return [
        np.frombuffer(part.tobytes(), spec.dtype).reshape(-1, *spec.shape[1:])
        for part, spec in zip(parts, made.inputs, strict=True)
    ]


@functools.cache
def host(format_: str) -> subprocess.Popen[str]:
    """The official runtime of a format, in a process that lives as long as the tests."""
    command = [sys.executable, "-W", "ignore", Path(__file__).with_name("run_on_host.py"), format_]
    environment = {**os.environ, **worker.ENVIRONMENT}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, text=True, env=environment, **pipes)

    def end() -> None:
        assert process.stdin and process.stdout
        process.stdin.close()
        process.stdout.close()
        process.wait(30)

    atexit.register(end)
    return process


def run(made: Artifact, xs: Sequence[np.ndarray], layouts: Sequence[str | None]) -> tuple[np.ndarray, ...]:
    """The artifact's float outputs on float inputs, by its official runtime."""
    with tempfile.TemporaryDirectory() as folder:
        inputs, outputs = Path(folder) / "x.npz", Path(folder) / "y.npz"
        arrays = encoded(data.encode(xs, made.inputs, layouts), made)
        np.savez(inputs, **{str(index): array for index, array in enumerate(arrays)})
        names = [spec.name for spec in made.inputs]
        process = host(made.format)
        assert process.stdin and process.stdout
        process.stdin.write(json.dumps([str(made.path), str(inputs), str(outputs), names]) + "\n")
        process.stdin.flush()
        said = process.stdout.readline().strip()
        assert said == "done", said
        with np.load(outputs) as found:
            columns = [found[str(index)] for index in range(len(found.files))]
        return tuple(
            data.decode(column.tobytes(), [spec])[0] for column, spec in zip(columns, made.outputs, strict=True)
        )


@functools.cache
def outputs(name: str, format_: str, precision: str, source: str = "") -> np.ndarray:
    """The artifact's first output on all test inputs of its recipe."""
    model = sources.load(name)
    return run(artifact(name, format_, precision, source), data.load(model).x, [spec.layout for spec in model.inputs])[
        0
    ]


def float_outputs(made: Artifact) -> np.ndarray:
    """What the source of an artifact answers."""
    return convert.reference(sources.load(made.model), made.framework).outputs[0]


@pytest.mark.parametrize(("name", "format_", "framework", "precision"), CELLS)
def test_an_artifact_computes_what_its_source_computes(name: str, format_: str, framework: str, precision: str) -> None:
    y = data.load(sources.load(name)).y
    assert y is not None
    made = artifact(name, format_, precision, framework)
    assert made.framework == framework
    reference, found = float_outputs(made), outputs(name, format_, precision, framework)
    fidelity: Json = data.fidelity(found, reference)
    assert fidelity["sqnr_db"] > floor(made)
    assert fidelity["agreement"] >= (0.94 if precision == "int4_weight" else 0.985)
    if precision == "fp32":
        assert fidelity["max_abs_diff"] < 1e-4
    allowed = 0.04 if precision == "int4_weight" else 0.01
    assert metrics.top(found, y, 1)["value"] >= metrics.top(reference, y, 1)["value"] - allowed
    assert metrics.top(reference, y, 1)["value"] >= {"digits_mlp": 0.96, "digits_cnn": 0.985}[name]


@pytest.mark.parametrize(("name", "format_", "framework", "precision"), CELLS)
def test_an_artifact_says_what_it_is(name: str, format_: str, framework: str, precision: str) -> None:
    made = artifact(name, format_, precision, framework)
    (spec,) = sources.inputs_of(sources.load(name), made.framework)
    (into,), (out,) = made.inputs, made.outputs
    assert (into.name, into.shape, into.layout, out.shape) == (spec.name, spec.shape, spec.layout, (1, 10))
    stored = "int8" if precision == "int8_io" else "float32"
    stored = "float16" if (format_, precision) == ("executorch", "fp16") else stored
    assert (into.dtype, out.dtype) == (stored, stored)
    assert (into.quantization is not None) == (out.quantization is not None) == (precision == "int8_io")
    assert set(made.made_with) == set(plugins.load("converter", format_).PACKAGES[made.framework])


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("format_", FORMATS)
def test_int8_is_int8_everywhere(name: str, format_: str) -> None:
    small, large = artifact(name, format_, "int8"), artifact(name, format_, "fp32")
    assert small.size_bytes < 0.7 * large.size_bytes
    if format_ == "tflite":
        assert small.details["float_ops"] == 0 < large.details["float_ops"]
    else:
        assert small.details["quantized_layers"] == small.details["layers"] > 0
    assert small.details["weights_quantized_share"] == 1.0


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("name", SMALL)
def test_xnnpack_takes_the_whole_executorch_model(name: str, precision: str) -> None:
    details = artifact(name, "executorch", precision).details
    assert details["delegated_share"] == 1.0 and details["delegates"] == 1 and "not_delegated" not in details


@pytest.mark.parametrize("name", SMALL)
def test_one_model_is_the_same_model_in_every_format(name: str) -> None:
    formats = FORMATS if name == "digits_mlp" else (*FORMATS, "torchscript", "ptl", "savedmodel", "aoti")
    first, *others = (outputs(name, format_, "fp32") for format_ in formats)
    for other in others:
        assert np.abs(first - other).max() < 1e-4


@pytest.mark.parametrize(("name", "format_", "framework", "precision"), CELLS)
def test_no_path_of_this_machine_is_in_an_artifact(name: str, format_: str, framework: str, precision: str) -> None:
    path = artifact(name, format_, precision, framework).path
    parts = [path] if path.is_file() else [part for part in path.rglob("*") if part.is_file()]
    content = b"".join(part.read_bytes() for part in parts)
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


@pytest.mark.parametrize(("name", "format_", "framework", "precision"), CELLS)
def test_a_file_that_is_cut_short_is_refused(
    name: str, format_: str, framework: str, precision: str, tmp_path: Path
) -> None:
    made = artifact(name, format_, precision, framework)
    check = plugins.load("converter", format_).check
    check(made.path)
    if made.path.is_dir():
        return  # test_a_savedmodel_that_lacks_a_part_is_refused
    content = made.path.read_bytes()
    cut = tmp_path / made.path.name
    for length in (0, 3, 8, 40, len(content) // 2, len(content) - 100, len(content) - 17, len(content) - 1):
        cut.write_bytes(content[:length])
        with pytest.raises(UserError):
            check(cut)


@pytest.mark.parametrize(
    "part", ["saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001"]
)
def test_a_savedmodel_that_lacks_a_part_is_refused(part: str, tmp_path: Path) -> None:
    broken = tmp_path / "m.savedmodel"
    shutil.copytree(artifact("digits_cnn", "savedmodel", "fp32").path, broken)
    (broken / part).unlink()
    with pytest.raises(UserError):
        plugins.load("converter", "savedmodel").check(broken)


@pytest.mark.parametrize("format_", FORMATS)
def test_a_file_of_another_format_is_refused(format_: str, tmp_path: Path) -> None:
    for other in set(FORMATS) - {format_}:
        disguised = tmp_path / f"model{plugins.load('converter', format_).SUFFIX}"
        disguised.write_bytes(artifact("digits_mlp", other, "fp32").path.read_bytes())
        with pytest.raises(UserError):
            plugins.load("converter", format_).check(disguised)


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
    calibration, tests = plain(found.calibration[0]), plain(found.x[0])
    assert calibration <= training and not calibration & held_out
    assert tests == held_out and found.count == 540


def test_int8_activations_are_an_option_of_onnx() -> None:
    model = sources.load("digits_cnn")
    made = convert.artifact(model, "onnx", "int8", {"activation": "int8"})
    assert made.key != artifact("digits_cnn", "onnx", "int8").key
    found = run(made, data.load(model).x, [model.inputs[0].layout])[0]
    assert data.fidelity(found, float_outputs(made))["sqnr_db"] > INT8_DB


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
    (reference,) = convert.reference(model, "keras").outputs
    assert np.std(reference, axis=0).mean() > 0.5
    fidelity = data.fidelity(outputs("mobilenet_v2", "tflite", "int8"), reference)
    assert 12 < fidelity["sqnr_db"] < 40
