"""Time per operator by the real profilers, on this machine: of a layer, of an operator that XNNPACK lacks, of digits_cnn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_models

from edgekit import userland
from edgekit.agent import operators as agent
from edgekit.agent import protocol
from edgekit.types import Json

pytestmark = pytest.mark.runtimes
PROFILERS = {
    "tflite": "LiteRT profiler",
    "onnxruntime": "ONNX Runtime profile",
    "executorch": "ExecuTorch event tracer",
}
WITHOUT = ("tflite_runtime", "torchscript", "ptl", "aoti", "tensorflow", "mlperf_tiny")
LAYER = {"tflite": "Fully Connected", "onnxruntime": "Gemm", "executorch": "Fully Connected"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return tiny_models.make(folder, *tiny_models.FILES, *tiny_models.FALLBACK_FILES)


def run(runtime: str, model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Json:
    """The agent's pass in this process, in a folder of its own."""
    monkeypatch.chdir(folder)
    (folder / "input.bin").write_bytes(tiny_models.pack(tiny_models.SAMPLE))
    libraries = dict(userland.native(runtime, lambda text: None).libraries)
    args = {"runtime": runtime, "model": str(model), "input": "input.bin", "libraries": libraries, "threads": 1}
    found: Json = agent.operators({**args, "runs": 6, "warmup_calls": 3, "max_seconds": 20}, lambda event: None)
    return found


@pytest.mark.parametrize("runtime", PROFILERS)
def test_the_layer_is_found_in_every_run(
    runtime: str, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = run(runtime, models[runtime], tmp_path, monkeypatch)
    assert found["profiler"] == PROFILERS[runtime]
    assert found["version"] == userland.native(runtime, lambda text: None).versions["runtime"]
    assert len(found["plain_ns"]) == len(found["profiled_ns"]) == len(found["total_ns"]) == 6
    assert min(found["plain_ns"]) > 0
    layer = [one for one in found["operators"] if LAYER[runtime] in one.get("type", one["name"])]
    assert len(layer) == 1
    assert len(layer[0]["ns"]) == 6
    assert layer[0].get("delegate") == (None if runtime == "onnxruntime" else "XNNPACK")
    for index, total in enumerate(found["total_ns"]):
        assert sum(one["ns"][index] for one in found["operators"]) <= total <= found["profiled_ns"][index] + 1000
    assert os.listdir(tmp_path) == ["input.bin"], "no profile is left behind"


@pytest.mark.parametrize("runtime", ["tflite", "executorch"])
def test_what_xnnpack_lacks_is_outside_of_it(
    runtime: str, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = run(runtime, models[f"fallback_{runtime}"], tmp_path, monkeypatch)
    outside = [(one["name"], one["place"]) for one in found["operators"] if "delegate" not in one]
    assert outside == [("CUMSUM" if runtime == "tflite" else "cumsum.out", 1)]


@pytest.mark.parametrize("runtime", WITHOUT)
def test_a_runtime_without_a_profiler_says_why(runtime: str, tmp_path: Path) -> None:
    with pytest.raises(protocol.Fault) as caught:
        agent.operators({"runtime": runtime, "model": "m", "input": "i"}, lambda event: None)
    assert caught.value.kind == "unsupported"
    assert len(caught.value.message) > 20


def profile(device: str, folder: Path, *arguments: str) -> Json:
    """digits_cnn and its operators through the command line; its report."""
    command = [
        sys.executable,
        "-m",
        "edgekit",
        "profile",
        "digits_cnn",
        "--device",
        device,
        "--operators",
        "--json",
        "--wait",
    ]
    effort = ["--samples", "3", "--launches", "1", "--calls", "5", "--output", str(folder), *arguments]
    done = subprocess.run([*command, *effort], capture_output=True, text=True, timeout=900)
    assert done.returncode in (0, 4), done.stderr[-3000:]
    found: Json = json.loads(done.stdout)
    return found


def check_digits_cnn(report: Json, emulated: bool) -> None:
    """All seven convolutions and the dense layer, each with its work; shares that add up to no more than all."""
    cells = {cell["runtime"]: cell for cell in report["cells"]}
    assert set(cells) == set(PROFILERS)
    for runtime, cell in cells.items():
        assert cell["error"] is None, cell["error"]
        found: Any = cell["operators"]
        assert found["runtime_profiler"] == PROFILERS[runtime]
        assert found["emulated"] is emulated
        layers = [one for one in found["operators"] if one.get("macs")]
        assert len(layers) == 8
        assert sum(one["macs"] for one in layers) == found["macs"] == 653_952
        assert sum(one["parameters"] for one in layers) == found["parameters"] == 8_746
        assert all(one["intensity"] > 0 for one in layers)
        shares = [one["share"] for one in found["operators"]]
        assert 0 < sum(shares) <= 1 + 1e-9
        assert sum(shares) + found["unprofiled_share"] == pytest.approx(1)
        assert {one.get("delegate") for one in layers} == {None if runtime == "onnxruntime" else "XNNPACK"}


def test_digits_cnn_here(tmp_path: Path) -> None:
    check_digits_cnn(profile("local", tmp_path, "--precision", "fp32"), emulated=False)


@pytest.mark.emulated
def test_digits_cnn_on_the_emulated_pi4(tmp_path: Path) -> None:
    report = profile("pi4", tmp_path, "--precision", "fp32")
    check_digits_cnn(report, emulated=True)
    for cell in report["cells"]:
        # An emulated layer takes many microseconds: none is lost to the profiler's resolution.
        assert all(one["ns"] > 0 for one in cell["operators"]["operators"] if one.get("macs")), cell["id"]


def test_full_delegation_is_told_and_required(tmp_path: Path) -> None:
    arguments = ("--precision", "int16x8,int8", "--runtime", "tflite", "--require-full-delegation")
    report = profile("local", tmp_path, *arguments)
    cells = {cell["precision"]: cell for cell in report["cells"]}
    assert cells["int8"]["status"] == "ok"
    assert cells["int16x8"]["error"]["kind"] == "delegation"
    assert "CONV_2D x" in cells["int16x8"]["error"]["message"]
    assert not [one for one in cells["int16x8"]["operators"]["operators"] if "delegate" in one]
