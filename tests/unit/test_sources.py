"""Recipes: found by name or path, and every mistake in one answered with file, line and advice."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from harness import FAKE_MODEL, forbid

from edgekit import config, recipes, sources
from edgekit.errors import SetupError, Unsupported, UserError
from edgekit.types import TensorSpec

GOOD = """TASK = "image-classification"
DESCRIPTION = "for a test"
LICENCE = "Apache-2.0"
INPUT = {"name": "image", "shape": (1, 8, 6, 3), "dtype": "float32", "layout": "NHWC"}
FILES = ()


def torch_model():
    return None
"""


def write(folder: Path, text: str, name: str = "custom") -> str:
    """A recipe's file; returns its path."""
    path = folder / f"{name}.py"
    path.write_text(text, "utf-8")
    return str(path)


def test_the_recipes_of_the_checkout_load_by_name_without_a_framework() -> None:
    for name in sources.names():
        model = sources.load(name)
        assert model.name == name and model.frameworks == ("torch", "keras")
        assert [spec.shape[0] for spec in model.inputs] == [1]
    assert recipes.folder() == Path(sources.__file__).parent.parent / "models"


def test_without_a_checkout_the_packaged_copy_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()  # someone else's folder of this name beside the package
    monkeypatch.setattr(config, "PACKAGE", tmp_path / "edgekit")
    assert recipes.folder() == tmp_path / "edgekit" / "_models"


def test_a_recipe_loads_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = sources.load(write(tmp_path, GOOD))
    assert model.source == tmp_path / "custom.py"
    assert (model.name, model.frameworks) == ("custom", ("torch",))
    assert model.inputs == (TensorSpec("image", (1, 8, 6, 3), "float32", "NHWC"),)
    monkeypatch.chdir(tmp_path)
    assert sources.load("custom.py") == model
    assert sources.load(str(FAKE_MODEL)).frameworks == ("fake",)


def test_images_are_nchw_in_torch_and_nhwc_in_keras(tmp_path: Path) -> None:
    model = sources.load(write(tmp_path, GOOD))
    assert sources.inputs_of(model, "torch") == (TensorSpec("image", (1, 3, 8, 6), "float32", "NCHW"),)
    assert sources.inputs_of(model, "keras") == model.inputs
    other = dataclasses.replace(model, inputs=(TensorSpec("image", (1, 3, 8, 6), "float32", "NCHW"),))
    assert sources.inputs_of(other, "keras") == model.inputs
    flat = dataclasses.replace(model, inputs=(TensorSpec("x", (1, 64), "float32"),))
    assert sources.inputs_of(flat, "torch") == flat.inputs


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("digits_cn", r"unknown model 'digits_cn' \(did you mean 'digits_cnn'\?\)"),
        ("_split", "unknown model"),
        ("nowhere/none.py", "no model recipe at nowhere/none.py"),
    ],
)
def test_unknown_recipes(name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        sources.load(name)


def changed(old: str, new: str) -> str:
    """The good recipe with one change."""
    assert old in GOOD
    return GOOD.replace(old, new)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (changed("TASK = ", "TASK == "), "line 1: NameError"),
        (changed("LICENCE = ", "LICENCE 3"), "line 3: invalid syntax"),
        (
            GOOD + "\nimport nothing_of_this_name\n",
            "line 11: ModuleNotFoundError: No module named 'nothing_of_this_name'",
        ),
        (GOOD + "\ndef f():\n    return 1 / 0\n\n\nf()\n", "line 12: ZeroDivisionError"),
        (GOOD + "\nimport sys\n\nsys.exit(3)\n", "line 13: SystemExit: 3"),
        (
            changed("DESCRIPTION", "DESCRIPTIN"),
            r"line 2: 'DESCRIPTIN' means nothing to edgekit \(did you mean 'DESCRIPTION'",
        ),
        (changed("LICENCE", "X"), "lacks LICENCE"),
        (changed('"for a test"', '" "'), "line 2: DESCRIPTION must be a text"),
        (changed('"image-classification"', "3"), "line 1: TASK must be a text"),
        (changed("torch_model", "model"), "neither torch_model.* nor keras_model"),
        (changed("torch_model", "torch_modl"), "line 8: 'torch_modl' means nothing.*did you mean 'torch_model'"),
        (GOOD + "\ndef wieghts():\n    return {}\n", "line 11: 'wieghts' means nothing.*did you mean 'weights'"),
        (changed("def torch_model():\n    return None", "torch_model = 3"), "line 8: torch_model must be a function"),
        (
            changed("torch_model", "keras_model") + "def weights():\n    return {}\n",
            "line 10: weights gives a torch state",
        ),
        (changed("INPUT = {", "INPUTS = {"), "line 4: INPUTS must be a list"),
        (
            changed("INPUT = {", "INPUTS = [{").replace('"NHWC"}', '"NHWC"}] * 2'),
            "line 4: INPUTS needs a name for each",
        ),
        (GOOD + "\nINPUTS = [INPUT]\n", "line 11: INPUTS and INPUT say the same thing"),
        (GOOD + "\nMETRIC_OUTPUT = -1\n", "line 11: METRIC_OUTPUT must be the index of an output"),
        (changed('"float32"', '"float64"'), "line 4: INPUT needs dtype 'float32', 'int32' or 'int64', not 'float64'"),
        (changed("(1, 8, 6, 3)", "(2, 8, 6, 3)"), "line 4: INPUT needs a shape"),
        (changed("(1, 8, 6, 3)", "(1, 8, 6, True)"), "line 4: INPUT needs a shape"),
        (changed("(1, 8, 6, 3)", "'1,8'"), "line 4: INPUT needs a shape"),
        (changed("(1, 8, 6, 3)", "(1, 8)"), "line 4: INPUT may have layout"),
        (changed('"NHWC"', '"HWC"'), "line 4: INPUT may have layout"),
        (changed('"name": "image"', '"name": "an image"'), "line 4: INPUT needs a name"),
        (changed('"layout"', '"layuot"'), "line 4: unknown key of INPUT 'layuot' .did you mean 'layout'"),
        (changed("INPUT = {", "INPUT = (").replace('"NHWC"}', '"NHWC")').replace(":", ",", 4), "line 4"),
        (changed("FILES = ()", "FILES = ('gone.npz',)"), "line 5: FILES names 'gone.npz'"),
        (changed("FILES = ()", "FILES = 'gone.npz'"), "line 5: FILES must be a tuple"),
    ],
)
def test_a_mistake_is_answered_with_file_and_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        sources.load(write(tmp_path, text))
    assert str(tmp_path / "custom.py") in str(caught.value)


def test_a_name_that_is_no_name_and_a_file_that_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="rename the file"):
        sources.load(write(tmp_path, GOOD, "two words"))
    (tmp_path / "binary.py").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"binary\.py"):
        sources.load(str(tmp_path / "binary.py"))


def test_loading_leaves_nothing_beside_the_recipe_and_sees_every_change(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    assert sources.load(path).task == "image-classification"
    write(tmp_path, changed("image-classification", "speech-classification"[:20]))  # the same size, the same second
    assert sources.load(path).task == "speech-classification"[:20]
    assert [entry.name for entry in tmp_path.iterdir()] == ["custom.py"]


def test_a_recipe_is_run_once_for_each_content(tmp_path: Path) -> None:
    count = f"with open({str(tmp_path / 'log')!r}, 'a') as log:\n    log.write('.')\n"
    model = sources.load(write(tmp_path, GOOD + count))
    sources.source_sha256(model)
    assert sources.weights(model) is None
    assert (tmp_path / "log").read_text() == "."
    sources.load(write(tmp_path, GOOD + count + "# another\n"))
    assert (tmp_path / "log").read_text() == ".."


def test_a_recipe_that_one_may_not_look_at_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, GOOD)
    forbid(monkeypatch, tmp_path)
    for name in (path, "~nobody-of-this-name/model.py", "x" * 300 + ".py"):
        with pytest.raises(UserError, match="there is no model recipe at"):
            sources.load(name)


def test_the_hash_covers_the_files_that_a_recipe_names(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("SIZE = 3", "utf-8")
    (tmp_path / "weights.bin").write_bytes(b"1")
    model = sources.load(write(tmp_path, changed("FILES = ()", "FILES = ('net.py', 'weights.bin')")))
    first = sources.source_sha256(model)
    assert sources.source_sha256(model) == first
    (tmp_path / "weights.bin").write_bytes(b"2")
    assert sources.source_sha256(model) != first


def test_a_function_of_a_recipe_may_import_from_its_folder_and_names_its_own_line_when_it_fails(tmp_path: Path) -> None:
    (tmp_path / "net_beside_the_recipe.py").write_text(
        "def make(fail):\n    return 1 / 0 if fail else 'made'\n", "utf-8"
    )
    body = "    import net_beside_the_recipe\n    return net_beside_the_recipe.make({})"
    good = sources.load(write(tmp_path, changed("    return None", body.format(False)), "good"))
    assert recipes.call(good, "torch_model") == "made"
    bad = sources.load(write(tmp_path, changed("    return None", body.format(True)), "bad"))
    with pytest.raises(UserError, match=r"bad\.py line 10: torch_model\(\) failed: ZeroDivisionError"):
        recipes.call(bad, "torch_model")
    leaving = sources.load(write(tmp_path, changed("return None", "raise SystemExit(3)"), "leaving"))
    with pytest.raises(UserError, match=r"leaving\.py line 9: torch_model\(\) failed: SystemExit: 3"):
        recipes.call(leaving, "torch_model")
    lacking = sources.load(write(tmp_path, changed("return None", "import nothing_of_this_name"), "lacking"))
    with pytest.raises(SetupError, match="needs the Python package 'nothing_of_this_name'"):
        recipes.call(lacking, "torch_model")


def test_a_framework_that_a_recipe_does_not_have_is_an_answer() -> None:
    with pytest.raises(Unsupported, match="has no keras form"):
        sources.build(sources.load(str(FAKE_MODEL)), "keras", None)
    assert sources.build(sources.load(str(FAKE_MODEL)), "fake", None)["output"] == "identity"
    assert sources.weights(sources.load(str(FAKE_MODEL))) is None


def test_a_missing_package_names_the_extra() -> None:
    with pytest.raises(SetupError, match=r"no-such-package is not installed.*pip install 'edgekit\[tflite\]'"):
        sources.versions(("no-such-package",), "tflite")
