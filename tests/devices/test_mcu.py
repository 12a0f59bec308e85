"""`edgekit profile` of a microcontroller: MLPerf Tiny's firmware, scripted, whose answers come from the real model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
import pytest
from harness import CommandLine
from lab.mcu import Mcu

from edgekit import convert, data, sources

pytestmark = [pytest.mark.emulated, pytest.mark.runtimes]
SAMPLES = 30


class Model:
    """A .tflite file that is run here: what was flashed."""

    def __init__(self, path: Path) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.interpreter = Interpreter(str(path))
        self.interpreter.allocate_tensors()
        (self.input,) = self.interpreter.get_input_details()
        (self.output,) = self.interpreter.get_output_details()

    def __call__(self, raw: bytes) -> list[float]:
        given = numpy.frombuffer(raw, self.input["dtype"]).reshape(self.input["shape"])
        self.interpreter.set_tensor(self.input["index"], given)
        self.interpreter.invoke()
        scale, zero = self.output["quantization"]
        stored = self.interpreter.get_tensor(self.output["index"]).ravel().astype(float)
        return [float(value) for value in ((stored - zero) * scale if scale else stored)]


def test_a_model_on_a_microcontroller_is_verified_and_timed_by_the_rules(cli: CommandLine) -> None:
    model = sources.load("digits_mlp")
    artifacts = convert.Artifacts(model, [("tflite", "int8_io", 1)], data.load(model, print), print)
    artifact = artifacts.get("tflite", "int8_io", 1)
    mcu = Mcu(Model(artifact.path), inference_s=0.0005)
    try:
        place = ("--device", "mlperf-tiny-mcu", "--port", mcu.line.name)
        what = ("--precision", "int8_io", "--samples", SAMPLES, "--calls", 1, "--json")
        said = cli("profile", "digits_mlp", *place, *what)
    finally:
        mcu.close()
    assert said.rc == 0, said.stderr
    (cell,) = said.json["cells"]
    assert cell["error"] is None
    assert cell["accuracy"]["correct"] >= 28
    assert cell["fidelity"]["sqnr_db"] > 20
    assert not cell.get("memory"), "a microcontroller does not tell"
    timed = [command for command in mcu.commands if command.startswith("infer") and command.split()[1] != "1"]
    assert len(timed) == 1 and int(timed[0].split()[1]) >= 20_000  # ten seconds of half a millisecond
    (folder,) = (cli.cwd / "results").iterdir()
    launch: dict[str, Any] = json.loads((folder / "measurements.jsonl").read_text())["launches"][0]
    assert launch["timer"] == "device"
    assert launch["samples_ns"][0] / launch["batch"] == pytest.approx(500_000, rel=0.01)
    assert launch["samples_ns"][0] >= 10_000_000_000
