"""The runtimes over the official shared libraries, on this machine: right answers, no crash on a bad file, plain refusals."""

from __future__ import annotations

import ctypes
import multiprocessing
import random
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tiny_models

from edgekit import plugins, userland
from edgekit.agent.protocol import Fault

pytestmark = pytest.mark.runtimes
RUNTIMES = tuple(tiny_models.FILES)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of each runtime."""
    return tiny_models.make(tmp_path_factory.mktemp("models"))


@pytest.fixture(params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def module(runtime: str) -> ModuleType:
    return plugins.load("runtime", runtime)


@pytest.fixture
def libraries(runtime: str) -> Mapping[str, str]:
    return userland.native(runtime, lambda text: None).libraries


@pytest.fixture
def model(runtime: str, models: dict[str, Path]) -> Path:
    return models[runtime]


def attempt(module: str, path: Path, libraries: Mapping[str, str]) -> str:
    """Load and run a file in a process of its own: "loaded", the Fault's kind and message, or how the process died."""
    receiver, sender = multiprocessing.get_context("fork").Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_attempt, args=(sender, module, path, libraries))
    process.start()
    sender.close()
    process.join(60)
    return str(receiver.recv()) if process.exitcode == 0 else f"died: {process.exitcode}"


def _attempt(sender: Any, module: str, path: Path, libraries: Mapping[str, str]) -> None:
    try:
        plugins.load("runtime", module).load(str(path), {"threads": 1, "libraries": libraries}).run()
        sender.send("loaded")
    except Fault as fault:
        sender.send(f"{fault.kind}: {fault.message}")


def test_version_is_the_installed_one(runtime: str, module: ModuleType, libraries: Mapping[str, str]) -> None:
    assert module.probe(libraries)["version"] == userland.native(runtime, lambda text: None).versions["runtime"]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            b"\x42\x04\x0a\x00\x10\x11",
            b"\x42\x04\x0a\x00\x10\x7d",
            r"opset 125 of ai\.onnx, and ONNX Runtime .* opset \d+$",
        ),
        (b"\x08\x09", b"\x08\x7d", r"ONNX IR version 125, and ONNX Runtime .*: save it with ir_version = \d+$"),
    ],
)
def test_a_file_that_is_newer_than_onnx_runtime_is_called_so(
    models: dict[str, Path], tmp_path: Path, old: bytes, new: bytes, words: str
) -> None:
    """Its opset_import (field 8 of ModelProto), or its ir_version (field 1, the first in the file)."""
    content = models["onnxruntime"].read_bytes()
    assert old in content
    path = tmp_path / "newer.onnx"
    path.write_bytes(content.replace(old, new, 1))
    found = attempt("onnxruntime", path, userland.native("onnxruntime", lambda text: None).libraries)
    assert found.startswith("unsupported: the file has ") and re.search(words, found), found


def test_answers_are_right(module: ModuleType, libraries: Mapping[str, str], model: Path) -> None:
    loaded = module.load(str(model), {"threads": 1, "libraries": libraries})
    assert [(t["shape"], t["dtype"]) for t in loaded.inputs] == [([1, tiny_models.INPUTS], "float32")]
    assert [(t["shape"], t["dtype"]) for t in loaded.outputs] == [([1, tiny_models.OUTPUTS], "float32")]
    for scale in (1.0, -2.0, 0.5):
        x = [value * scale for value in tiny_models.SAMPLE]
        loaded.set_input(0, tiny_models.pack(x))
        loaded.run()
        assert loaded.output(0) == tiny_models.pack(tiny_models.answer(x))
    loaded.close()
    loaded.close()


def test_timing_loop_runs_the_model(module: ModuleType, libraries: Mapping[str, str], model: Path) -> None:
    loaded = module.load(str(model), {"threads": 1, "libraries": libraries})
    loaded.set_input(0, tiny_models.pack(tiny_models.SAMPLE))
    library = ctypes.CDLL(libraries["loop"])
    library.edgekit_loop.restype = ctypes.c_uint64
    address, arguments, mask = loaded.native
    times, values = (ctypes.c_uint64 * 20)(), (ctypes.c_uint64 * 8)(*arguments)
    u64 = ctypes.c_uint64
    status = library.edgekit_loop(ctypes.c_void_p(address), values, u64(mask), u64(20), u64(50), times, None)
    assert status == 0
    assert all(0 < time < 10**9 for time in times)
    assert loaded.output(0) == tiny_models.pack(tiny_models.answer(tiny_models.SAMPLE))
    loaded.close()


def test_memory_does_not_grow_with_inferences(module: ModuleType, libraries: Mapping[str, str], model: Path) -> None:
    loaded = module.load(str(model), {"threads": 1, "libraries": libraries})
    loaded.set_input(0, tiny_models.pack(tiny_models.SAMPLE))

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    for _ in range(2000):
        loaded.run()
    before = resident()
    for _ in range(20000):
        loaded.run()
    assert resident() - before < 1 << 20
    loaded.close()


def test_wrong_input_size_is_a_fault(module: ModuleType, libraries: Mapping[str, str], model: Path) -> None:
    loaded = module.load(str(model), {"threads": 1, "libraries": libraries})
    with pytest.raises(Fault, match="takes 32 bytes") as caught:
        loaded.set_input(0, b"short")
    assert caught.value.kind == "bad_model"
    loaded.close()


def test_two_threads_answer_the_same(module: ModuleType, libraries: Mapping[str, str], model: Path) -> None:
    loaded = module.load(str(model), {"threads": 2, "libraries": libraries})
    loaded.set_input(0, tiny_models.pack(tiny_models.SAMPLE))
    loaded.run()
    assert loaded.output(0) == tiny_models.pack(tiny_models.answer(tiny_models.SAMPLE))
    loaded.close()


@pytest.mark.parametrize("content", [b"", b"\0", b"no model at all\n" * 100, b"\x7fELF" + bytes(500)])
def test_foreign_file_is_refused(runtime: str, libraries: Mapping[str, str], tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "foreign"
    path.write_bytes(content)
    assert attempt(runtime, path, libraries).startswith("bad_model: ")


def test_every_truncation_is_refused(runtime: str, libraries: Mapping[str, str], model: Path, tmp_path: Path) -> None:
    data = model.read_bytes()
    path = tmp_path / "truncated"
    for size in sorted({*range(1, len(data), max(1, len(data) // 25)), len(data) - 1}):
        path.write_bytes(data[:size])
        result = attempt(runtime, path, libraries)
        # Padding or a last field may be missing without harm; what must not happen is a crash.
        assert result.startswith("bad_model: ") or (result == "loaded" and size > len(data) - 16), (size, result)


def test_damage_does_not_crash(runtime: str, libraries: Mapping[str, str], model: Path, tmp_path: Path) -> None:
    data, chance = model.read_bytes(), random.Random(7)
    path = tmp_path / "damaged"
    for _ in range(20):
        damaged = bytearray(data)
        for _ in range(4):
            damaged[chance.randrange(8, len(data))] = chance.randrange(256)
        path.write_bytes(damaged)
        result = attempt(runtime, path, libraries)
        assert result == "loaded" or result.split(":")[0] in ("bad_model", "unsupported", "out_of_memory"), result


def test_missing_library_is_unavailable(module: ModuleType, tmp_path: Path) -> None:
    text = tmp_path / "library.so"
    text.write_text("not a library")
    for libraries in ({}, {"runtime": str(tmp_path / "none.so")}, {"runtime": str(text)}):
        with pytest.raises(Fault) as caught:
            module.probe(libraries)
        assert caught.value.kind == "unavailable"


def test_other_library_is_unavailable(module: ModuleType) -> None:
    foreign = userland.native("fake", lambda text: None).libraries["loop"]
    with pytest.raises(Fault) as caught:
        module.probe({"runtime": foreign})
    assert caught.value.kind == "unavailable"


def test_litert_of_another_minor_version_is_refused(tmp_path: Path) -> None:
    real = Path(userland.native("tflite", lambda text: None).libraries["runtime"])
    package = tmp_path / "ai_edge_litert"
    package.mkdir()
    (package / real.name).symlink_to(real)
    (tmp_path / "ai_edge_litert-2.4.0.dist-info").mkdir()
    with pytest.raises(Fault, match=r"2\.4\.0.*only for 2\.3"):
        plugins.load("runtime", "tflite").probe({"runtime": str(package / real.name)})


def test_onnx_free_dimension_becomes_one(tmp_path: Path) -> None:
    path = tmp_path / "free.onnx"
    tiny_models.make_onnxruntime(path, "n")
    libraries = userland.native("onnxruntime", lambda text: None).libraries
    loaded = plugins.load("runtime", "onnxruntime").load(str(path), {"threads": 1, "libraries": libraries})
    assert loaded.inputs[0]["shape"] == [1, tiny_models.INPUTS]
    assert loaded.outputs[0]["shape"] == [1, tiny_models.OUTPUTS]
    loaded.set_input(0, tiny_models.pack(tiny_models.SAMPLE))
    loaded.run()
    assert loaded.output(0) == tiny_models.pack(tiny_models.answer(tiny_models.SAMPLE))
    loaded.close()


def test_delegation_is_reported(runtime: str, module: ModuleType, libraries: Mapping[str, str], model: Path) -> None:
    loaded = module.load(str(model), {"threads": 1, "libraries": libraries})
    expected = {
        "tflite": {"delegate": "XNNPACK", "fully_accelerated": True},
        "onnxruntime": None,
        "executorch": {"backends": ["XnnpackBackend"]},
    }
    assert loaded.delegation == expected[runtime]
    loaded.close()
