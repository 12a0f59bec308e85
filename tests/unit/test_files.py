"""Model files by suffix and header, what --input may say, and a finished file taken as it is."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from harness import FAKE_MODEL, write_fake_model

from edgekit import api, convert, data, files, inspection, opening, sources
from edgekit.converters import _tflite_graph
from edgekit.errors import Unsupported, UserError
from edgekit.types import Model, Quantization, TensorSpec, to_json


def archive(path: Path, *names: str) -> Path:
    """A zip file with these members."""
    with zipfile.ZipFile(path, "w") as made:
        for name in names:
            made.writestr(name, b"x")
    return path


@pytest.mark.parametrize(
    ("name", "members", "found"),
    [
        ("a.pt2", ("a/models/model.json", "a/archive_format"), ("pt2", "")),
        ("a.pt2", ("serialized_exported_program.json",), ("pt2", "")),
        ("a.pt2", ("a/data/aotinductor/model/x.so",), ("artifact", "aoti")),
        ("a.pt", ("a/data.pkl", "a/code/__torch__.py"), ("torchscript", "torchscript")),
        ("a.pt", ("a/data.pkl", "a/data/0"), ("checkpoint", "")),
        ("a.pth", ("a/data.pkl", "a/data/0"), ("checkpoint", "")),
        ("a.keras", ("config.json", "model.weights.h5"), ("keras", "")),
    ],
)
def test_a_source_is_known_by_what_is_in_it(
    tmp_path: Path, name: str, members: tuple[str, ...], found: tuple[str, str]
) -> None:
    assert files.recognise(archive(tmp_path / name, *members)) == found


def test_hdf5_folders_and_old_pickles_are_known(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_bytes(b"\x89HDF\r\n\x1a\n rest")
    assert files.recognise(tmp_path / "a.h5") == ("keras", "")
    (tmp_path / "old.pt").write_bytes(b"\x80\x02 a pickle of torch 1.5")
    assert files.recognise(tmp_path / "old.pt") == ("checkpoint", "")
    (tmp_path / "saved").mkdir()
    with pytest.raises(UserError, match="the folder saved is no SavedModel"):
        files.recognise(tmp_path / "saved")
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"x")
    assert files.recognise(tmp_path / "saved") == ("savedmodel", "savedmodel")


@pytest.mark.parametrize("name", ["a.pt2", "a.pt", "a.keras", "a.h5"])
@pytest.mark.parametrize("content", [b"", b"PK", b"\x7fELF" + bytes(100)])
def test_a_damaged_source_is_refused_without_opening_it(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} is damaged, or no model file of its suffix"):
        sources.load(str(tmp_path / name))
    with pytest.raises(UserError, match="a zip archive, but no model file"):
        files.recognise(archive(tmp_path / f"zip{Path(name).suffix}", "hello.txt"))


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("1x3x224x224", TensorSpec("", (1, 3, 224, 224), "float32")),
        ("ids=1x128:int64", TensorSpec("ids", (1, 128), "int64")),
        ("1x32x32x3:nhwc", TensorSpec("", (1, 32, 32, 3), "float32", "NHWC")),
        ("x=1x32x32x3:uint8:nhwc", TensorSpec("x", (1, 32, 32, 3), "uint8", "NHWC")),
    ],
)
def test_inputs_are_written_as_sizes(text: str, spec: TensorSpec) -> None:
    assert files.parse_shapes([text]) == (spec,)


@pytest.mark.parametrize("text", ["", "x", "1,3,224", "1x-3", "1x0x3", "1x3:float31", "=1x3", "1x3:nhcw"])
def test_inputs_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(UserError):
        files.parse_shapes([text])


def test_an_open_batch_becomes_one_and_is_said() -> None:
    open_ = [TensorSpec("a", (-1, 4), "float32"), TensorSpec("b", (1, 8, 8, 3), "float32")]
    specs, notes = opening.fixed(open_, (), "NHWC")
    assert [(spec.shape, spec.layout) for spec in specs] == [((1, 4), None), ((1, 8, 8, 3), "NHWC")]
    assert notes == ["the batch of 'a' is open in the model and was fixed to 1"]
    looked, said = opening.fixed(open_, None, "NHWC")
    assert (looked[0].shape, said) == ((-1, 4), [])


def test_another_open_size_is_asked_for() -> None:
    open_ = [TensorSpec("image", (-1, -1, 8, 3), "float32")]
    with pytest.raises(UserError, match=r"'image' has an open size at axis 1.*--input 1x.*x8x3"):
        opening.fixed(open_, (), "NHWC")
    (spec,), _ = opening.fixed(open_, files.parse_shapes(["1x32x8x3"]), "NHWC")
    assert spec.shape == (1, 32, 8, 3)
    with pytest.raises(UserError, match="has 8 at axis 2, --input says 9"):
        opening.fixed(open_, files.parse_shapes(["1x32x9x3"]), "NHWC")
    with pytest.raises(UserError, match="the model has 1 inputs, --input gives 2"):
        opening.fixed(open_, files.parse_shapes(["1x3", "1x4"]), "NHWC")


def test_inputs_are_matched_by_name_in_any_order() -> None:
    open_ = [TensorSpec("zed", (-1, -1), "float32"), TensorSpec("alpha", (-1, -1), "float32")]

    def shapes(*texts: str, said: bool = True) -> list[tuple[int, ...]]:
        return [spec.shape for spec in opening.fixed(open_, files.parse_shapes(texts), None, said)[0]]

    assert shapes("zed=1x2", "alpha=1x3") == shapes("alpha=1x3", "zed=1x2") == [(1, 2), (1, 3)]
    assert shapes("alpha=1x3", "1x2") == [(1, 2), (1, 3)]
    with pytest.raises(UserError, match=r"unknown input 'alfa' \(did you mean 'alpha'"):
        shapes("alfa=1x3", "1x2")
    with pytest.raises(UserError, match="gives 'zed' twice"):
        shapes("zed=1x3", "zed=1x2")
    with pytest.raises(UserError, match="'zed' has an open size at axis 1"):
        shapes("alpha=1x3")
    # The names of INPUTS beside a factory are its author's own.
    assert shapes("image=1x2", "ids=1x3", said=False) == [(1, 2), (1, 3)]
    assert shapes("alpha=1x3", "zed=1x2", said=False) == [(1, 2), (1, 3)]


class Net:
    """What opening asks of a torch module."""

    def forward(self, zed: object, alpha: object, mask: object = None) -> None: ...


def test_inputs_of_a_torch_module_are_matched_by_name() -> None:
    def named(*texts: str, said: bool = True) -> list[tuple[str, tuple[int, ...]]]:
        made = opening.torch_inputs(Net(), files.parse_shapes(texts), None, "net.py:make", said)
        return [(spec.name, spec.shape) for spec in made]

    assert named("1x2", "1x3") == named("alpha=1x3", "zed=1x2") == [("zed", (1, 2)), ("alpha", (1, 3))]
    assert named("image=1x2", "ids=1x3", said=False) == [("image", (1, 2)), ("ids", (1, 3))]
    with pytest.raises(UserError, match="unknown input 'nosuch'"):
        named("nosuch=1x2", "1x3")
    with pytest.raises(UserError, match="takes 'alpha', and --input does not give it"):
        named("1x2", "mask=1x3")
    with pytest.raises(UserError, match="takes zed, alpha, mask, --input gives 4"):
        named("1x2", "1x3", "1x4", "1x5")
    (spec,) = opening.torch_inputs(None, files.parse_shapes(["1x4"]), None, "package.pt2")
    assert spec.name == "input"


def test_the_ends_of_a_tflite_file_are_in_the_order_of_its_graph() -> None:
    """TensorFlow's converter lists them by the alphabet in the signature; the runtimes go by the graph."""

    def entry(name: bytes, index: int) -> SimpleNamespace:
        return SimpleNamespace(name=name, tensorIndex=index)

    tensors = [
        SimpleNamespace(name=name) for name in (b"serving_default_zed:0", b"b", b"serving_default_alpha:0", b"d")
    ]
    graph = SimpleNamespace(tensors=tensors, inputs=[0, 2], outputs=[3, 1])
    signature = SimpleNamespace(
        subgraphIndex=0,
        inputs=[entry(b"alpha", 2), entry(b"zed", 0)],
        outputs=[entry(b"output_0", 1), entry(b"output_1", 3)],
    )
    model = SimpleNamespace(subgraphs=[graph], signatureDefs=[signature])
    assert _tflite_graph.ends(model, "inputs") == [("zed", 0), ("alpha", 2)]
    assert _tflite_graph.ends(model, "outputs") == [("output_1", 3), ("output_0", 1)]
    assert _tflite_graph.first_output(model) == 1
    model.signatureDefs = None
    assert _tflite_graph.ends(model, "inputs")[0] == ("serving_default_zed:0", 0)


def test_a_keras_file_under_the_suffix_of_the_other_form_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.h5 is a \.keras file.*rename it to \.keras"):
        files.recognise(archive(tmp_path / "a.h5", "config.json", "model.weights.h5"))
    (tmp_path / "b.keras").write_bytes(b"\x89HDF\r\n\x1a\n rest")
    with pytest.raises(UserError, match=r"b\.keras is an HDF5 file.*rename it to \.h5"):
        files.recognise(tmp_path / "b.keras")


def test_what_is_no_model_file_is_told_without_the_formats_of_our_own_tests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"no model file at digits_cnn .*profile and convert take recipes") as caught:
        api.inspect("digits_cnn")
    assert ".fake" not in str(caught.value)
    with pytest.raises(UserError, match=f"the folder {tmp_path.name} is no SavedModel"):
        api.inspect(".")
    (tmp_path / "saved_model.pb").write_bytes(b"x")
    monkeypatch.setattr("edgekit.files.describe", lambda *_: {})
    assert api.inspect(".")["file"] == tmp_path.name


@pytest.mark.parametrize(
    ("file", "name"), [("日本.keras", "日本"), ("e\u0301 t.keras", "é_t"), ("a b.keras", "a_b"), ("-+-.keras", "model")]
)
def test_a_model_is_named_after_its_file(file: str, name: str) -> None:
    assert files.model_name(Path(file)) == name


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "takes no inputs"),
        ([TensorSpec("s", (1, 4), "string")], "the input 's' is of the type string, which is not measured"),
        ([TensorSpec("h", (1, 4), "bfloat16")], "the input 'h' is of the type bfloat16"),
    ],
)
def test_ends_that_cannot_be_filled_are_refused(tmp_path: Path, inputs: list[TensorSpec], message: str) -> None:
    write_fake_model(tmp_path / "odd.fake")
    whole = json.loads((tmp_path / "odd.fake").read_text("utf-8"))
    (tmp_path / "odd.fake").write_text(json.dumps({**whole, "inputs": to_json(inputs)}), "utf-8")
    with pytest.raises(UserError, match=message):
        sources.load(str(tmp_path / "odd.fake"))


@pytest.mark.parametrize(
    ("spec", "kept"),
    [
        (TensorSpec("x", (1, 3), "float16"), "float16"),
        (TensorSpec("x", (1, 3), "float64"), "float64"),
        (TensorSpec("x", (1, 3), "bool"), "bool"),
        (TensorSpec("x", (1, 3), "int8", None, Quantization((0.1,), (0,))), "float32"),
    ],
)
def test_a_framework_gets_the_types_it_takes(finished: Model, tmp_path: Path, spec: TensorSpec, kept: str) -> None:
    np.save(tmp_path / "0.npy", np.ones((5, 3), np.float32))
    (array,) = convert._arrays([str(tmp_path / "0.npy")], dataclasses.replace(finished, inputs=(spec,)), [spec])
    assert array.dtype == kept


def test_a_file_of_doubles_is_called_so() -> None:
    ends = [TensorSpec("x", (1, 3), "float64")]
    assert inspection._precision({"float64": 32}, {"float32"}, ends, False) == "fp64"
    assert inspection._precision({}, {"float32"}, ends, False) == "fp64"
    assert inspection._precision({}, {"float32"}, (), False) == "fp32"


def test_results_of_any_form_become_a_list_with_names() -> None:
    one, two, three = np.float32([1.0, 2.0, 3.0])
    assert opening.flat(three) == ([three], ["output"])
    assert opening.flat((one, two)) == ([one, two], ["output", "output1"])
    assert opening.flat({"a": one, "b": (two,)}) == ([one, two], ["a", "b"])
    assert opening.flat([(one, two), {"c": three}])[0] == [one, two, three]


@pytest.mark.parametrize("result", [(1, 2), {"scores": "high"}, [None], None], ids=str)
def test_a_model_that_returns_anything_but_tensors_is_told(result: object) -> None:
    with pytest.raises(UserError, match=r"the model returns a (int|str|NoneType) where a tensor is needed"):
        opening.flat(result)


@pytest.mark.parametrize(
    ("shape", "layout"),
    [((1, 8, 8, 3), "NHWC"), ((1, 3, 8, 8), "NCHW"), ((1, 49, 10, 1), "NHWC"), ((1, 7, 7, 7), None), ((1, 3), None)],
)
def test_the_channels_tell_the_layout(shape: tuple[int, ...], layout: str | None) -> None:
    assert files.image_layout(shape) == layout


@pytest.fixture
def finished(tmp_path: Path) -> Model:
    """A finished file of the fake format."""
    write_fake_model(tmp_path / "ready.fake")
    return sources.load(str(tmp_path / "ready.fake"))


def test_a_finished_file_is_taken_as_it_is(finished: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (finished.kind, finished.entry, finished.precision, finished.name) == ("artifact", "fake", "fp32", "ready")
    assert finished.inputs == (TensorSpec("x", (1, 10), "float32"),)
    monkeypatch.setattr("edgekit.worker.run", None)  # nothing is converted, and what was found out is remembered
    made = convert.artifact(finished, "fake", "fp32")
    assert (made.path, made.framework, made.details["as_it_is"]) == (finished.source, "", True)
    assert made.size_bytes == finished.source.stat().st_size
    assert sources.load(str(finished.source)) == finished


def test_only_a_float_file_can_be_converted(finished: Model) -> None:
    with pytest.raises(Unsupported, match="fake is made from fake, which 'ready' does not have"):
        convert.artifact(finished, "fake", "int8")
    other = dataclasses.replace(finished, precision="int8", frameworks=("fake",))
    with pytest.raises(Unsupported, match=r"ready\.fake is int8 already"):
        convert.artifact(other, "fake", "fp32")


def test_a_file_of_the_user_is_never_written_to(finished: Model, tmp_path: Path) -> None:
    before = (finished.source.read_bytes(), sorted(tmp_path.iterdir()))
    convert.artifact(finished, "fake", "fp32")
    assert (finished.source.read_bytes(), sorted(tmp_path.iterdir())) == before


def test_random_inputs_of_a_finished_file_fill_its_range(finished: Model) -> None:
    spec = TensorSpec("x", (1, 1000), "int8", None, Quantization((0.5,), (-128,)))
    numbers = TensorSpec("ids", (1, 50), "int64")
    found = data.load(dataclasses.replace(finished, inputs=(spec, numbers)))
    assert (found.origin, found.count, found.y) == ("random", data.RANDOM_INPUTS, None)
    assert found.x[0].dtype == "float32" and 0 <= found.x[0].min() < 5 and 122 < found.x[0].max() <= 127.5
    assert found.x[1].dtype == "int64" and set(found.x[1].ravel()) == {0, 1}
    mask = data.load(dataclasses.replace(finished, inputs=(TensorSpec("mask", (1, 50), "bool"),))).x[0]
    assert mask.dtype == "bool" and set(mask.ravel()) == {False, True}


def test_a_recipe_says_itself_what_it_takes() -> None:
    with pytest.raises(UserError, match="--input is not for digits_cnn"):
        sources.load("digits_cnn", ["1x3"])


def test_convert_writes_the_file_once(tmp_path: Path) -> None:
    place = tmp_path / "out" / "model.fake"
    path, made = api.convert(FAKE_MODEL, "fake", "int8", place)
    assert path == place and place.read_bytes() == made.path.read_bytes()
    with pytest.raises(UserError, match=r"is there already .*--force"):
        api.convert(FAKE_MODEL, "fake", "fp32", place)
    assert place.read_bytes() == made.path.read_bytes()
    _, other = api.convert(FAKE_MODEL, "fake", "fp32", place, force=True)
    assert place.read_bytes() == other.path.read_bytes() != made.path.read_bytes()
    assert sorted(path.name for path in place.parent.iterdir()) == ["model.fake"]
    with pytest.raises(UserError, match=r"fake files end in '\.fake', not '\.onnx'"):
        api.convert(FAKE_MODEL, "fake", "fp32", tmp_path / "model.onnx")


def test_inspect_tells_what_is_in_a_file(finished: Model) -> None:
    found = api.inspect(finished.source)
    assert (found["file"], found["kind"], found["format"], found["precision"]) == (
        "ready.fake",
        "artifact",
        "fake",
        "fp32",
    )
    assert found["size_bytes"] == finished.source.stat().st_size and found["total_ops"] == 1
