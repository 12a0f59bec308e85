"""Model files of every kind, made by the frameworks themselves: opened in a worker, converted, measured as they are, refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from harness import CommandLine

from edgekit import api, convert, data, sources
from edgekit.errors import ConvertError, Unsupported, UserError

pytestmark = pytest.mark.runtimes
MAKER = Path(__file__).with_name("make_files.py")
Make = Callable[..., Path]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """make("pt2", "keras"): the folder with what these functions of make_files.py write, each made once."""
    folder = tmp_path_factory.mktemp("files")
    done: set[str] = set()

    def made(*names: str) -> Path:
        wanted = [name for name in names if name not in done]
        if wanted:
            argv = [sys.executable, "-W", "ignore", MAKER, folder, *wanted]
            ran = subprocess.run(argv, capture_output=True, text=True, timeout=300)
            assert ran.returncode == 0, ran.stderr[-2000:]
            done.update(wanted)
        return folder

    return made


def verified(path: str, format_: str, shapes: tuple[str, ...] = ()) -> list[tuple[int, ...]]:
    """Convert a model to fp32, and the shapes of the outputs of the source it would be compared with."""
    model = sources.load(path, shapes)
    made = convert.artifact(model, format_, "fp32")
    reference = convert.reference(model, made.framework)
    assert [output.shape[1:] for output in reference.outputs] == [spec.shape[1:] for spec in made.outputs]
    return [output.shape for output in reference.outputs]


def test_torch_export_with_an_open_batch(make: Make) -> None:
    path = make("pt2") / "model.pt2"
    model = sources.load(str(path))
    assert (model.kind, model.frameworks, model.inputs[0].shape) == ("pt2", ("torch",), (1, 3, 8, 8))
    assert "fixed to 1" in model.notes[0]
    assert verified(str(path), "onnx") == [(data.RANDOM_INPUTS, 5)]


def test_torchscript_asks_for_its_inputs_and_is_then_converted(make: Make) -> None:
    path = make("torchscript") / "model.pt"
    with pytest.raises(UserError, match=r"does not say the shapes of its inputs.*--input for each of 1: input"):
        sources.load(str(path))
    assert api.inspect(path)["inputs"][0]["name"] == "input"
    assert verified(str(path), "onnx", ("1x3x8x8",)) == [(data.RANDOM_INPUTS, 5)]
    with pytest.raises(UserError, match="the model does not take input"):
        sources.load(str(path), ["1x3x9x8"])


@pytest.mark.parametrize("name", ["training.pt2", "training.pt"])
def test_a_model_saved_in_training_mode_is_refused(make: Make, name: str) -> None:
    path = make("training_pt2", "torchscript") / name
    with pytest.raises(ConvertError, match=r"saved in training mode .*call model\.eval\(\) before"):
        sources.load(str(path), ["1x3x8x8"] if path.suffix == ".pt" else ())


def test_no_pickle_is_loaded_without_trust(make: Make) -> None:
    folder = make("pickles")
    for name in ("whole.pt", "evil.pt", "weights.pt"):
        with pytest.raises(UserError, match=r"pickled model, which can run any code .*--trust"):
            sources.load(str(folder / name), ["1x3x8x8"])
    with pytest.raises(UserError, match=r"evil\.pt2"):
        sources.load(str(folder / "evil.pt2"))
    assert not (folder / "it_ran").exists()


def test_a_trusted_pickle_is_a_model_and_bare_weights_are_not(make: Make) -> None:
    folder = make("pickles")
    with pytest.raises(UserError, match=r"weights without their architecture.*factory"):
        sources.load(str(folder / "weights.pt"), ["1x3x8x8"], trust=True)
    model = sources.load(str(folder / "whole.pt"), ["1x3x8x8"], trust=True)
    assert (model.kind, model.trusted, model.inputs[0].shape) == ("checkpoint", True, (1, 3, 8, 8))
    assert convert.reference(model, "torch").outputs[0].shape == (data.RANDOM_INPUTS, 5)


def test_keras_with_two_inputs_and_outputs(make: Make) -> None:
    model = sources.load(str(make("keras") / "two.keras"))
    assert [(spec.name, spec.shape) for spec in model.inputs] == [("image", (1, 8, 8, 3)), ("extra", (1, 4))]
    reference = convert.reference(model, "keras")
    assert dict(zip(reference.names, [output.shape[1] for output in reference.outputs], strict=True)) == {
        "classes": 5,
        "angle": 1,
    }


@pytest.mark.parametrize("name", ["single.keras", "single.h5"])
def test_keras_files_new_and_old(make: Make, name: str) -> None:
    assert verified(str(make("keras") / name), "tflite") == [(data.RANDOM_INPUTS, 5)]


def test_a_saved_model(make: Make) -> None:
    model = sources.load(str(make("keras") / "saved"))
    assert (model.kind, model.frameworks, model.inputs[0].shape) == ("savedmodel", ("savedmodel",), (1, 8, 8, 3))
    assert convert.reference(model, "savedmodel").outputs[0].shape == (data.RANDOM_INPUTS, 5)


def test_a_lambda_layer_needs_trust(make: Make) -> None:
    path = str(make("keras") / "lambda.keras")
    with pytest.raises(UserError, match=r"holds Python code .*--trust"):
        sources.load(path)
    reference = convert.reference(sources.load(path, trust=True), "keras")
    assert np.allclose(reference.outputs[0], 2 * data.load(sources.load(path, trust=True)).x[0])


def test_custom_operators_are_refused_with_the_cure(make: Make) -> None:
    path = make("custom_operator") / "custom.tflite"
    assert api.inspect(path)["custom_operators"] == ["BesselI0e"]
    with pytest.raises(Unsupported, match=r"does not know: BesselI0e .*SELECT_TF_OPS"):
        convert.artifact(sources.load(str(path)), "tflite", "fp32")


FACTORY = """
import torch
import part_of_the_factory


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = torch.nn.Linear(4, 3), torch.nn.Linear(2, 3)
        for p in self.parameters():
            torch.nn.init.constant_(p, part_of_the_factory.VALUE)

    def forward(self, left, right):
        return {"sum": self.a(left) + self.b(right), "left": left * 2}


def make():
    return Net(), (torch.zeros(1, 4), torch.zeros(1, 2))


def bare():
    return torch.nn.Linear(4, 3)


def wrong():
    return 3
"""


def test_a_factory_with_several_inputs_and_outputs(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(FACTORY, "utf-8")
    (tmp_path / "part_of_the_factory.py").write_text("VALUE = 0.5\n", "utf-8")
    text = f"{tmp_path}/net.py:make"
    model = sources.load(text)
    assert [(spec.name, spec.shape) for spec in model.inputs] == [("left", (1, 4)), ("right", (1, 2))]
    assert verified(text, "onnx") == [(data.RANDOM_INPUTS, 3), (data.RANDOM_INPUTS, 4)]
    (tmp_path / "part_of_the_factory.py").write_text("VALUE = 0.25\n", "utf-8")
    assert sources.source_sha256(sources.load(text)) != sources.source_sha256(model)
    with pytest.raises(UserError, match=r"bare does not say what it takes .*--input"):
        sources.load(f"{tmp_path}/net.py:bare")
    assert sources.load(f"{tmp_path}/net.py:bare", ["1x4"]).inputs[0].name == "input"
    with pytest.raises(UserError, match=r"wrong\(\) returned int, neither"):
        sources.load(f"{tmp_path}/net.py:wrong")
    with pytest.raises(UserError, match=r"unknown function of net\.py 'mak' \(did you mean 'make'"):
        sources.load(f"{tmp_path}/net.py:mak")


def profiled(cli: CommandLine, *arguments: object) -> list[dict[str, Any]]:
    """The cells of `edgekit profile --device local`."""
    ran = cli("profile", *arguments, "-d", "local", "--json", "-q", "--launches", "1", "--calls", "20")
    assert ran.rc == 0, ran.stderr
    cells: list[dict[str, Any]] = json.loads(ran.stdout)["cells"]
    return cells


@pytest.mark.parametrize("runtime", ["tflite", "onnxruntime", "executorch"])
def test_a_finished_file_is_measured_as_it_is_in_its_runtime(cli: CommandLine, tmp_path: Path, runtime: str) -> None:
    path = tiny_models.make(tmp_path, runtime)[runtime]
    (cell,) = (cell for cell in profiled(cli, path, "-r", runtime) if cell["runtime"] == runtime)
    assert cell["status"] == "ok" and cell["artifact"]["details"]["as_it_is"] is True
    assert "fidelity" not in cell and "no-reference" in {warning["code"] for warning in cell["warnings"]}
    assert cell["artifact"]["size_bytes"] == path.stat().st_size


def test_an_int8_ptl_file_is_measured_as_it_is_and_compared(cli: CommandLine, tmp_path: Path) -> None:
    path, _ = api.convert("digits_cnn", "ptl", "int8", tmp_path / "small.ptl")
    digits = data.load(sources.load("digits_cnn"))
    np.savez(cli.cwd / "digits.npz", x=digits.x[0][:100], y=digits.y[:100] if digits.y is not None else None)
    source = ("--input", "1x1x32x32", "--reference", "digits_cnn", "--data", "digits.npz")
    (cell,) = profiled(cli, path, *source)
    assert (cell["status"], cell["runtime"], cell["precision"]) == ("ok", "ptl", "int8")
    assert cell["fidelity"]["sqnr_db"] > 15 and cell["accuracy"]["correct"] >= 97


def test_labels_that_no_output_stands_for_are_told_before_anything_is_converted(cli: CommandLine, make: Make) -> None:
    np.savez(cli.cwd / "rows.npz", x=np.zeros((20, 8, 8, 3), np.float32), y=np.arange(20) % 9)
    ran = cli("profile", make("keras") / "single.keras", "-d", "local", "--data", "rows.npz", "-p", "fp32")
    assert ran.rc == 2 and "5 outputs" in ran.stderr and "converting" not in ran.stderr


def test_an_open_batch_is_measured_as_one(cli: CommandLine, make: Make) -> None:
    folder = make("keras")
    cells = profiled(cli, folder / "open.tflite", "-r", "tflite", "--reference", folder / "single.keras")
    assert cells[0]["status"] == "ok" and cells[0]["fidelity"]["sqnr_db"] > 100
    assert any("fixed to 1" in warning["message"] for warning in cells[0]["warnings"])


def test_two_inputs_and_two_outputs_all_the_way(cli: CommandLine, make: Make) -> None:
    (cell,) = profiled(cli, make("keras") / "two.keras", "-r", "tflite", "-p", "fp32")
    assert cell["status"] == "ok", cell["error"]
    assert {output["name"] for output in cell["fidelity"]["outputs"]} == {"classes", "angle"}
    assert min(output["sqnr_db"] for output in cell["fidelity"]["outputs"]) == cell["fidelity"]["sqnr_db"] > 100


BOTH = ("-r", "tflite,tflite_runtime", "-p", "fp32")


@pytest.mark.parametrize("source", ["stock.tflite", "stock.keras", "stock"])
def test_no_input_or_output_of_a_stock_file_of_tensorflow_is_swapped(cli: CommandLine, make: Make, source: str) -> None:
    folder = make("stock_tflite")
    cells = profiled(cli, folder / source, "--data", folder / "stock.npz", *BOTH)
    assert [(cell["status"], cell["accuracy"]["correct"]) for cell in cells] == [("ok", 60)] * 2, cells


def test_a_stock_file_lists_its_ends_as_runtimes_number_them(make: Make) -> None:
    found = api.inspect(make("stock_tflite") / "stock.tflite")
    assert [spec["name"] for spec in found["inputs"]] == ["zed", "alpha"]
    outputs = [spec["name"] for spec in found["outputs"]]
    assert sorted(outputs) == ["output_0", "output_1"]
    assert outputs[found.get("first_output", 0)] == "output_0"


@pytest.mark.parametrize("reference", ["stock.keras", "stock"])
def test_a_stock_file_is_compared_with_the_model_it_came_from(cli: CommandLine, make: Make, reference: str) -> None:
    folder = make("stock_tflite")
    data_ = ("--data", folder / "stock.npz", "--reference", folder / reference)
    for cell in profiled(cli, folder / "stock.tflite", *data_, *BOTH):
        assert cell["status"] == "ok" and cell["fidelity"]["sqnr_db"] > 100
        assert cell["accuracy"]["correct"] == 60


def test_a_quantized_file_is_a_reference_of_real_numbers(cli: CommandLine, make: Make, tmp_path: Path) -> None:
    folder = make("stock_tflite")
    path, _ = api.convert(
        folder / "stock.tflite", "tflite", "int8_io", tmp_path / "small.tflite", calibration=folder / "stock.npz"
    )
    rows = ("--data", folder / "stock.npz", "-r", "tflite")
    (cell,) = profiled(cli, folder / "stock.keras", *rows, "-p", "fp32", "--reference", path)
    assert cell["status"] == "ok" and cell["fidelity"]["sqnr_db"] > 20
    for given in ((), ("--reference", folder / "stock.keras")):
        (cell,) = profiled(cli, path, *rows, *given)  # with its first output judged, as in the file it was made from
        assert cell["status"] == "ok" and cell["accuracy"]["correct"] >= 55
    assert cell["fidelity"]["sqnr_db"] > 20


def test_a_stock_file_is_quantized_with_every_end_in_its_place(cli: CommandLine, make: Make) -> None:
    folder = make("stock_tflite")
    rows = folder / "stock.npz"
    precisions = ("int8", "int8_io", "int8_weight", "int16x8")
    flags = ("-r", "tflite,tflite_runtime", "-p", ",".join(precisions), "--preprocess", "overlap=allow")
    cells = profiled(cli, folder / "stock.tflite", "--data", rows, "--calibration", rows, *flags)
    assert [cell["precision"] for cell in cells] == [*precisions, *precisions]
    for cell in cells:
        assert cell["status"] == "ok" and cell["fidelity"]["sqnr_db"] > 20 and cell["accuracy"]["correct"] >= 55, cell


@pytest.mark.parametrize("name", ["twice", "through"])
def test_an_output_that_litert_does_not_fill_is_no_figure(cli: CommandLine, make: Make, name: str) -> None:
    path = make("stock_tflite") / f"{name}.tflite"
    ran = cli("profile", path, "-d", "local", "--json", "-q", "--launches", "1", "--calls", "20", *BOTH)
    litert, older = json.loads(ran.stdout)["cells"]
    assert litert["status"] == "unsupported" and "leaves it empty" in litert["error"]["message"]
    assert older["status"] == "ok"


def test_a_torch_export_with_operators_of_several_outputs(make: Make) -> None:
    assert verified(str(make("torch_forms") / "chunk.pt2"), "onnx") == [(data.RANDOM_INPUTS, 4)]


@pytest.mark.parametrize("name", ["mask", "half"])
def test_inputs_of_other_types_than_float32(make: Make, name: str) -> None:
    assert verified(str(make("torch_forms") / f"{name}.pt2"), "onnx")


def test_a_torchscript_file_of_doubles(make: Make) -> None:
    path = str(make("torch_forms") / "double.pt")
    with pytest.raises(UserError, match=r"must have the same dtype.*as in 1x8:float64"):
        sources.load(path, ["1x8"])
    assert verified(path, "onnx", ("1x8:float64",))


@pytest.mark.parametrize(
    "given", [("zed=1x8", "alpha=1x8"), ("alpha=1x8", "zed=1x8"), ("1x8", "1x8"), ("alpha=1x8", "1x8")], ids=" ".join
)
def test_torchscript_inputs_are_told_by_their_names(cli: CommandLine, make: Make, given: tuple[str, ...]) -> None:
    folder = make("torch_forms")
    flags = [part for shape in given for part in ("--input", shape)]
    rows = ("--data", folder / "named.npz", "-r", "torchscript", "-p", "fp32")
    (cell,) = profiled(cli, folder / "named.pt", *flags, *rows)
    assert (cell["status"], cell["accuracy"]["correct"]) == ("ok", 50)


def test_a_name_that_a_torchscript_file_lacks_is_refused(make: Make) -> None:
    path = str(make("torch_forms") / "named.pt")
    with pytest.raises(UserError, match=r"unknown input 'alfa' \(did you mean 'alpha'"):
        sources.load(path, ["zed=1x8", "alfa=1x8"])
    with pytest.raises(UserError, match=r"takes 'zed', and --input does not give it"):
        sources.load(path, ["alpha=1x8"])


def test_an_aotinductor_package_needs_trust_and_shapes(cli: CommandLine, make: Make, tmp_path: Path) -> None:
    source = make("torch_forms") / "named.pt"
    path, _ = api.convert(source, "aoti", "fp32", tmp_path / "named.pt2", inputs=("1x8", "1x8"))
    assert "--input tells them" in api.inspect(path)["notes"][0]
    shapes = ("--input", "zed=1x8", "--input", "alpha=1x8")
    with pytest.raises(UserError, match=r"holds machine code.*--trust"):
        sources.load(str(path), ["1x8", "1x8"])
    (cell,) = profiled(cli, path, *shapes, "--trust", "--data", make("torch_forms") / "named.npz")
    assert (cell["status"], cell["runtime"], cell["accuracy"]["correct"]) == ("ok", "aoti", 50)
    assert any("were taken in order" in warning["message"] for warning in cell["warnings"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("string", "the input 's' is of the type string, which is not measured"),
        ("nothing", "takes no inputs"),
        ("sequence", "its input or output 's' is no tensor but a sequence"),
        ("cut", "damaged: the weight 'W' has 124 bytes, not 128"),
    ],
)
def test_an_onnx_file_that_cannot_be_measured_is_refused(make: Make, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        sources.load(str(make("onnx_forms") / f"{name}.onnx"))


def test_onnx_files_of_bools_and_doubles(cli: CommandLine, make: Make) -> None:
    folder = make("onnx_forms")
    assert profiled(cli, folder / "choice.onnx")[0]["status"] == "ok"
    (cell,) = profiled(cli, folder / "double.onnx")
    assert (cell["status"], cell["precision"]) == ("ok", "fp64")
