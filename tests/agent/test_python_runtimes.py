"""The runtimes that are used from Python, each through a real agent on this machine: right answers, plain refusals."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models

from edgekit import config, plugins, session, userland
from edgekit.agent import measure, plugin
from edgekit.agent.protocol import Fault
from edgekit.errors import AgentError, Unsupported
from edgekit.types import Json
from edgekit.userland import targets

needs_wheel = pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="tflite-runtime 2.14 is for Python 3.11")
RUNTIMES = [
    pytest.param(name, marks=[needs_wheel] if name == "tflite_runtime" else []) for name in tiny_models.PYTHON_FILES
]
SPECS = {
    "inputs": [{"name": "x", "shape": [1, tiny_models.INPUTS], "dtype": "float32"}],
    "outputs": [{"name": "y", "shape": [1, tiny_models.OUTPUTS], "dtype": "float32"}],
}
EFFORT = {"warmup_calls": 1, "warmup_s": 0, "calls": 3, "min_calls": 3, "max_seconds": 5}
SCALES = (1.0, -2.0, 0.5)


def silent(text: str) -> None:
    """Progress that nobody reads."""


# ---- without a runtime ----


def test_a_framework_that_is_not_here_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(targets.FRAMEWORKS, "torchscript", ("edgekit-no-such-framework",))
    with pytest.raises(Unsupported, match="needs edgekit-no-such-framework, which is not installed"):
        userland.native("torchscript", silent)


def test_a_python_too_new_for_the_last_wheel_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 13, 1, "final", 0))
    with pytest.raises(Unsupported, match=r"made for Python 3\.11; this is Python 3\.13"):
        userland.native("tflite_runtime", silent)


def test_counts_without_a_counter_are_a_fault_not_zeros() -> None:
    class Loaded:
        def run(self) -> None:
            """Nothing."""

    with pytest.raises(Fault, match="no counter answers"):
        measure.Stopwatch(Loaded(), {}, True)


def test_counts_around_python_calls_lose_what_an_empty_call_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000]

    class Count:
        """A counter of which each question costs 7."""

        before = after = 0

        def start(self) -> None:
            self.before = now[0]
            now[0] += 7

        def stop(self) -> None:
            self.after = now[0]

        def read(self) -> list[int]:
            return [self.after - self.before]

    class Loaded:
        def run(self) -> None:
            now[0] += 100

    monkeypatch.setattr(plugin, "Count", Count)
    watch = measure.Stopwatch(Loaded(), {}, True)
    assert watch.kind == "in-process"
    times, rows = watch.time(3, 4)
    assert len(times) == 3
    assert rows == [[407]] * 3
    assert watch.overhead(4) == [7]


# ---- with each of them ----


@pytest.fixture(scope="module", params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(runtime: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.make(tmp_path_factory.mktemp(runtime), runtime)[runtime]


@pytest.fixture(scope="module")
def live(runtime: str) -> Iterator[session.Session]:
    """An agent with this runtime."""
    with session.Session.open(config.device("local"), runtime, silent) as made:
        yield made


def request_for(live: session.Session, runtime: str, model: str, folder: Path) -> Json:
    """What bench sends: three samples."""
    encoded = folder / "input.bin"
    encoded.write_bytes(b"".join(tiny_models.pack([v * scale for v in tiny_models.SAMPLE]) for scale in SCALES))
    place = live.push(encoded)
    return {"runtime": runtime, "model": model, "threads": 1, "libraries": live.libraries, "input": place, **SPECS}


@pytest.mark.runtimes
def test_answers_are_right_and_timed(runtime: str, live: session.Session, model: Path, tmp_path: Path) -> None:
    request = request_for(live, runtime, live.push(model), tmp_path)
    reply = live.fetch("predict", {**request, "keep": True}, 120, tmp_path / "output.bin")
    expected = [tiny_models.answer([v * scale for v in tiny_models.SAMPLE]) for scale in SCALES]
    assert (tmp_path / "output.bin").read_bytes() == b"".join(map(tiny_models.pack, expected))
    assert [t["shape"] for t in reply["outputs"]] == [[1, tiny_models.OUTPUTS]]
    size = sum(path.stat().st_size for path in model.rglob("*") if path.is_file()) or model.stat().st_size
    assert reply["memory"]["model_file_bytes"] == size
    found = live.call("measure", {**request, **EFFORT, "continue": True}, 120)
    assert len(found["samples_ns"]) == 3
    assert found["version"] == live.versions["runtime"]
    # tflite_runtime's inference is a C++ function that the native loop can call; a framework's is a Python call.
    native = runtime == "tflite_runtime" and bool(shutil.which("gcc"))
    assert found["timer"] == ("native" if native else "in-process")
    assert "counts" not in found


@pytest.mark.runtimes
@pytest.mark.parametrize("content", [b"\0" * 100, b"no model at all\n" * 100, b"PK\x03\x04" + bytes(500)])
def test_a_foreign_file_is_refused(runtime: str, live: session.Session, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "foreign"
    path.write_bytes(content)
    with pytest.raises(AgentError) as caught:
        live.fetch("predict", request_for(live, runtime, live.push(path), tmp_path), 120, tmp_path / "out")
    assert caught.value.kind == "bad_model", caught.value.message


@pytest.mark.runtimes
def test_a_truncated_file_is_refused(runtime: str, live: session.Session, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut"
    if model.is_dir():
        shutil.copytree(model, path)
        whole = (path / "saved_model.pb").read_bytes()
        (path / "saved_model.pb").write_bytes(whole[: len(whole) // 2])
    else:
        path.write_bytes(model.read_bytes()[: model.stat().st_size // 2])
    with pytest.raises(AgentError) as caught:
        live.fetch("predict", request_for(live, runtime, live.push(path), tmp_path), 120, tmp_path / "out")
    assert caught.value.kind == "bad_model", caught.value.message


@pytest.mark.runtimes
def test_outputs_other_than_the_host_was_told_are_refused(
    runtime: str, live: session.Session, model: Path, tmp_path: Path
) -> None:
    if runtime in ("tflite_runtime", "tensorflow"):
        pytest.skip("its file says what comes out")
    wrong: Any = [{**SPECS["outputs"][0], "shape": [1, 9]}]
    request = {**request_for(live, runtime, live.push(model), tmp_path), "outputs": wrong}
    with pytest.raises(AgentError, match=r"output 'y' is torch\.float32 \[1, 4\], not float32 \[1, 9\]"):
        live.fetch("predict", request, 120, tmp_path / "out")


@pytest.mark.runtimes
@needs_wheel
def test_an_operator_newer_than_tflite_runtime_is_an_answer(tmp_path: Path) -> None:
    model = tiny_models.make(tmp_path, "tflite_runtime")["tflite_runtime"]
    newer = tmp_path / "newer.tflite"
    newer.write_bytes(raised(model.read_bytes()))
    with session.Session.open(config.device("local"), "tflite_runtime", silent) as live:
        request = request_for(live, "tflite_runtime", live.push(newer), tmp_path)
        with pytest.raises(Unsupported, match=r"older than an operator.*FULLY_CONNECTED.*version '99'"):
            live.fetch("predict", request, 60, tmp_path / "out")


def test_a_tensor_type_that_came_after_tflite_runtime_is_unsupported() -> None:
    """What it says of int4 weights."""
    words = (
        "kernels/dequantize.cc:58 op_context.input->type == kTfLiteUInt8 || op_context.input->type == kTfLiteFloat16 was not "
        "true.Node number 1 (DEQUANTIZE) failed to prepare.Failed to apply the default TensorFlow Lite delegate indexed at 0."
    )
    refusal = plugins.load("runtime", "tflite_runtime").refusal
    assert refusal("2.14.0", ValueError(words)).kind == "unsupported"
    assert (
        "2.14.0 has no kernel for a tensor type of this model (DEQUANTIZE)"
        in refusal("2.14.0", ValueError(words)).message
    )
    assert refusal("2.14.0", ValueError("the model is not a flatbuffer")).kind == "bad_model"


def raised(data: bytes) -> bytes:
    """The tiny model with its one operator in version 99."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data))
    model.operatorCodes[0].version = 99
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@pytest.mark.runtimes
@needs_wheel
def test_the_environment_of_tflite_runtime_is_apart_and_made_once() -> None:
    said: list[str] = []
    first, second = userland.native("tflite_runtime", silent), userland.native("tflite_runtime", said.append)
    assert first == second
    assert not said
    folder = Path(first.libraries["runtime"])
    assert {"numpy", "tflite_runtime"} <= set(os.listdir(folder))
    assert Path(sys.prefix) not in folder.parents
