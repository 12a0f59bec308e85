"""The artifact cache with the fake converter: hits, damage, a full disk, keys; and header checks of real formats."""

from __future__ import annotations

import errno
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import FAKE_MODEL, wait_until
from hypothesis import example, given
from hypothesis import strategies as st

from edgekit import cache as cache_
from edgekit import convert, data, files, plugins, sources, worker
from edgekit.errors import ConvertError, SetupError, Unsupported, UserError, WorkerCrashed
from edgekit.types import Artifact, Model, to_json

FORMATS = [name for name in plugins.names("converter") if name != "fake" and plugins.load("converter", name).SUFFIX]


@pytest.fixture
def model() -> Model:
    """The fake identity."""
    return sources.load(str(FAKE_MODEL))


@pytest.fixture
def no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any conversion from now on is an error."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something was converted again")

    monkeypatch.setattr(worker, "run", refuse)


def entries(cache: Path) -> list[str]:
    """What stands in the cache of artifacts, without locks."""
    folder = cache / "artifacts"
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock")) if folder.exists() else []


def test_an_artifact_is_converted_once(model: Model, cold_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    made = convert.artifact(model, "fake", "int8", {}, heard.append)
    assert heard == ["converting fake_identity to fake int8"]
    assert made.path == cold_cache / "artifacts" / made.key / "fake_identity_int8.fake"
    assert made.sha256 == cache_.file_sha256(made.path) and made.size_bytes == made.path.stat().st_size
    assert made.details["calibration_inputs"] == 50
    assert (made.inputs[0].name, made.inputs[0].shape, made.outputs[0].shape) == ("x", (1, 10), (1, 10))
    assert json.loads(made.path.read_text())["precision"] == "int8"
    monkeypatch.setattr(worker, "run", None)
    assert convert.artifact(model, "fake", "int8", {}, heard.append) == made
    assert len(heard) == 1 and entries(cold_cache) == [made.key]


def test_precision_options_recipe_and_converter_each_have_their_own_key(
    model: Model, recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keys = [
        convert.artifact(model, "fake", "fp32").key,
        convert.artifact(model, "fake", "int8").key,
        convert.artifact(model, "fake", "fp32", {"colour": "red"}).key,
        convert.artifact(sources.load(str(recipe("other", latency_ns=5))), "fake", "fp32").key,
    ]
    converter = plugins.load("converter", "fake")
    source = Path(str(converter.__file__)).read_text("utf-8")
    (tmp_path / "fake.py").write_text(source + "# changed\n", "utf-8")
    monkeypatch.setattr(converter, "__file__", str(tmp_path / "fake.py"))
    keys.append(convert.artifact(model, "fake", "fp32").key)
    monkeypatch.setattr(converter, "PACKAGES", {"fake": ("numpy",)})
    keys.append(convert.artifact(model, "fake", "fp32").key)
    assert len(set(keys)) == len(keys)


def test_the_default_value_of_an_option_and_no_option_are_the_same(model: Model) -> None:
    assert convert.artifact(model, "fake", "fp32", {"colour": "grey"}) == convert.artifact(model, "fake", "fp32")


@pytest.mark.slow
def test_calibration_is_part_of_the_key_of_int8_only(
    recipe: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = recipe("calibrated")
    text = path.read_text("utf-8") + "\n_data = data\n\n\ndef data():\n    import numpy as np\n"
    # What data() returns changes although neither the recipe nor a file that it names does: it reads the environment.
    text += "    import os\n    level = float(os.environ['EDGEKIT_TEST_LEVEL'])\n"
    text += "    return {**_data(), 'calibration': np.full((4, 10), level, 'f4')}\n"
    path.write_text(text, "utf-8")
    keys: dict[str, set[str]] = {"fp32": set(), "int8": set()}
    for level in ("1", "2"):
        monkeypatch.setenv("EDGEKIT_TEST_LEVEL", level)
        monkeypatch.setenv("EDGEKIT_CACHE_DIR", str(tmp_path / level))
        for precision, found in keys.items():
            found.add(convert.artifact(sources.load(str(path)), "fake", precision).key)
    assert {precision: len(found) for precision, found in keys.items()} == {"fp32": 1, "int8": 2}


@pytest.mark.parametrize(
    "damage",
    ["flip", *(pytest.param(one, marks=pytest.mark.slow) for one in ("truncate", "remove", "record", "empty record"))],
)
def test_a_damaged_entry_is_made_again_and_said(model: Model, cold_cache: Path, damage: str) -> None:
    made = convert.artifact(model, "fake", "fp32")
    record = made.path.with_name("artifact.json")
    content = made.path.read_bytes()
    if damage == "flip":
        made.path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    elif damage == "truncate":
        made.path.write_bytes(content[:-1])
    elif damage == "remove":
        made.path.unlink()
    elif damage == "record":
        record.write_text('{"model": ', "utf-8")
    else:
        record.write_text("{}", "utf-8")
    heard: list[str] = []
    again = convert.artifact(model, "fake", "fp32", {}, heard.append)
    assert again == made and again.path.read_bytes() == content
    assert "is damaged; making it again" in heard[0] and entries(cold_cache) == [made.key]


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        ("refuse", ConvertError, "the fake converter refuses"),
        ("raise", ConvertError, "converting .* failed: ValueError: an operator is missing"),
        ("crash", WorkerCrashed, "killed by SIGSEGV"),
        ("hang", WorkerCrashed, r"did not finish within 0\.7 s"),
        ("disk_full", SetupError, "No space left on device"),
    ],
)
def test_a_failed_conversion_leaves_nothing_behind(
    recipe: Callable[..., Path],
    cold_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    kind: type[Exception],
    words: str,
) -> None:
    if fault == "hang":
        monkeypatch.setattr(convert, "DEADLINE_S", 0.7)
    model = sources.load(str(recipe("failing", convert_fault=fault)))
    with pytest.raises(kind, match=words):
        convert.artifact(model, "fake", "fp32")
    assert entries(cold_cache) == []


def test_a_disk_that_fills_up_while_the_record_is_written_leaves_nothing_behind(
    model: Model, cold_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(SetupError, match="No space left on device"):
            convert.artifact(model, "fake", "fp32")
    assert entries(cold_cache) == []
    assert convert.artifact(model, "fake", "fp32").path.is_file()


def test_what_a_format_cannot_do_is_an_answer_and_a_wrong_name_is_a_mistake(model: Model, no_worker: None) -> None:
    with pytest.raises(Unsupported, match=r"fake comes in fp32, int8 only"):
        convert.artifact(model, "fake", "int4")
    with pytest.raises(Unsupported, match="tflite is made from keras"):
        convert.artifact(model, "tflite", "fp32")
    with pytest.raises(UserError, match="unknown converter 'tflit'"):
        convert.artifact(model, "tflit", "fp32")
    with pytest.raises(UserError, match=r"unknown option of fake 'color' \(did you mean 'colour'\?\)"):
        convert.artifact(model, "fake", "fp32", {"color": "red"})
    with pytest.raises(UserError, match="unknown value of the fake option 'colour' 'blue'"):
        convert.artifact(model, "fake", "fp32", {"colour": "blue"})


def test_a_missing_package_names_the_extra(model: Model, monkeypatch: pytest.MonkeyPatch, no_worker: None) -> None:
    monkeypatch.setattr(plugins.load("converter", "fake"), "PACKAGES", {"fake": ("no-such-package",)})
    with pytest.raises(SetupError, match=r"pip install 'edgekit\[fake\]'"):
        convert.artifact(model, "fake", "fp32")


def test_the_reference_is_computed_once(model: Model, cold_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = convert.reference(model, "fake")
    monkeypatch.setattr(worker, "run", None)
    x = data.load(model).x
    again = convert.reference(model, "fake")
    assert np.array_equal(again.outputs, first.outputs) and np.array_equal(first.outputs, x)
    assert again.names == first.names == ("output",)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.nan, "are not finite: 2000 of 2000 values"),
        (np.inf, "are not finite: 2000 of 2000 values"),
        (0.0, "are all zero, on 200 inputs"),
    ],
)
def test_a_source_whose_own_outputs_mean_nothing_is_told_before_anything_is_compared(
    model: Model, cold_cache: Path, tmp_path: Path, value: float, words: str
) -> None:
    x = np.full_like(data.load(model).x[0], value)
    request = {"model": to_json(model), "weights": None, "framework": "fake", "folder": str(tmp_path)}
    with pytest.raises(ConvertError) as caught:
        convert.reference_in_worker({**request, "x": convert._keep((x,), tmp_path)})
    assert caught.value.message == f"{model.source.name}: the float outputs of the source itself {words}"
    assert "weights" in caught.value.hint


@pytest.mark.parametrize("name", ["outputs.npz", pytest.param("outputs.json", marks=pytest.mark.slow)])
def test_a_damaged_reference_is_computed_again(model: Model, cold_cache: Path, name: str) -> None:
    first = convert.reference(model, "fake")
    (damaged,) = (cold_cache / "references").glob(f"*/{name}")
    damaged.write_bytes(damaged.read_bytes()[:-1])
    heard: list[str] = []
    assert np.array_equal(convert.reference(model, "fake", heard.append).outputs, first.outputs)
    assert "is damaged; making it again" in heard[0]


def test_a_model_file_is_known_by_its_suffix_and_header(model: Model, tmp_path: Path) -> None:
    made: Artifact = convert.artifact(model, "fake", "fp32")
    assert files.recognise(made.path) == ("artifact", "fake")
    (tmp_path / "cut.fake").write_bytes(made.path.read_bytes()[:-5])
    with pytest.raises(UserError, match="damaged"):
        files.recognise(tmp_path / "cut.fake")
    with pytest.raises(
        UserError, match=r"files end in \.h5, \.hdf5, \.keras, \.onnx, .*, or are SavedModel folders; profile"
    ):
        files.recognise(tmp_path / "model.mlmodel")
    with pytest.raises(UserError, match="there is no model file"):
        files.recognise(tmp_path / "gone.onnx")


@given(st.binary(max_size=300))
@example(b"")
@example(b"\x00" * 4 + b"TFL3")
@example(b"\x1c\x00\x00\x00TFL3" + b"\xff" * 64)
@example(b"\x00" * 4 + b"ET12eh00" + b"\xff" * 40)
@pytest.mark.parametrize("name", FORMATS)
def test_bytes_of_any_kind_are_refused_as_a_mistake_and_never_crash_a_check(
    name: str, tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / f"any.{name}"
    path.write_bytes(content)
    with pytest.raises(UserError):
        plugins.load("converter", name).check(path)


def test_all_artifacts_of_a_run_are_made_side_by_side_when_the_first_is_asked_for(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    meeting = threading.Barrier(2, timeout=20)  # passed only by two conversions at the same time

    def convert_one(_: Model, format_: str, precision: str, *__: Any) -> str:
        meeting.wait()
        return f"{format_} {precision}"

    monkeypatch.setattr(convert, "artifact", convert_one)
    monkeypatch.setattr(convert, "side_by_side", lambda: 2)
    wanted = [("a", "fp32", 1), ("b", "fp32", 1), ("a", "fp32", 1)]
    artifacts = convert.Artifacts(model, wanted, data.load(model), lambda _: None)
    assert artifacts.get("b", "fp32", 1) == "b fp32"
    monkeypatch.setattr(convert, "artifact", None)
    assert artifacts.get("a", "fp32", 1) == "a fp32"


def test_a_failed_conversion_is_kept_for_its_own_cell(model: Model) -> None:
    artifacts = convert.Artifacts(model, [("fake", "int4", 1), ("fake", "fp32", 1)], data.load(model), lambda _: None)
    assert artifacts.get("fake", "fp32", 1).precision == "fp32"
    for _ in range(2):
        with pytest.raises(Unsupported, match="fake comes in fp32, int8 only"):
            artifacts.get("fake", "int4", 1)


def test_an_interrupt_ends_the_conversions_under_way(
    recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, cold_cache: Path
) -> None:
    model = sources.load(str(recipe("hanging", convert_fault="hang")))
    artifacts = convert.Artifacts(model, [("fake", "fp32", 1), ("fake", "int8", 1)], data.load(model), lambda _: None)

    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        wait_until(lambda: worker.LIVE)
        signal.pthread_kill(main, signal.SIGINT)

    had = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests are a background job
    try:
        threading.Thread(target=interrupt).start()
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            artifacts.make()
    finally:
        signal.signal(signal.SIGINT, had)
    assert time.monotonic() - started < 20 and not worker.LIVE
    assert entries(cold_cache) == []
