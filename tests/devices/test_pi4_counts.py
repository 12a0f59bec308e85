"""Instruction counts of whole inferences: the same in two commands, with one thread and with four."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgekit.agent.protocol import INSTRUCTION_CLASSES

pytestmark = [pytest.mark.emulated, pytest.mark.runtimes]
LIMITS = {1: 1e-4, 4: 5e-3}


def counted(output: Path) -> dict[str, Any]:
    """`edgekit profile --metric instructions`, as a user runs it; its cells by their ids."""
    argv = [sys.executable, "-m", "edgekit", "profile", "digits_cnn", "--device", "pi4", "--metric", "instructions"]
    argv += ["--runtime", "tflite,onnxruntime,executorch", "--threads", "1,4", "--json", "--output", str(output)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return {cell["id"]: cell for cell in json.loads(done.stdout)["cells"]}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The cells of two commands."""
    folder = tmp_path_factory.mktemp("counts")
    return [counted(folder), counted(folder)]


def test_two_commands_count_the_same(both: list[dict[str, Any]]) -> None:
    first, second = both
    assert len(first) == 12
    for name, cell in first.items():
        totals = [cell["instructions"]["total"], second[name]["instructions"]["total"]]
        assert max(totals) / min(totals) - 1 <= LIMITS[cell["threads"]], name


def test_nothing_else_is_judged(both: list[dict[str, Any]]) -> None:
    for cell in both[0].values():
        assert "accuracy" not in cell
        assert cell["fidelity"]["sqnr_db"] > 25, cell["id"]  # that the outputs are the model's is still seen to
        assert "few-inputs" not in {warning["code"] for warning in cell["warnings"]}


def test_classes_add_up_with_threads_too(both: list[dict[str, Any]]) -> None:
    for cell in both[0].values():
        found = cell["instructions"]
        total = sum(found[name] for name in INSTRUCTION_CLASSES[1:])
        assert total == pytest.approx(found["total"], rel=1e-3), cell["id"]


def test_four_threads_do_the_work_of_one(both: list[dict[str, Any]]) -> None:
    """The arithmetic is the same to the last instruction but for tiles that end elsewhere; only the sharing out costs more."""
    for name, cell in both[0].items():
        if cell["threads"] == 1:
            continue
        alone = both[0][name.replace("+threads=4", "+threads=1")]["instructions"]
        for worker in ("fp_fma", "int_mac"):
            assert cell["instructions"][worker] == pytest.approx(alone[worker], rel=0.02, abs=100), name
        assert alone["total"] < cell["instructions"]["total"] < 1.2 * alone["total"], name


def test_an_estimate_is_refused_in_words(both: list[dict[str, Any]]) -> None:
    reasons = {name: cell["estimate"]["refused"] for name, cell in both[0].items()}
    assert "4 threads" in reasons["digits_cnn/fp32/tflite@pi4+threads=1"]
    assert "model file" in reasons["digits_cnn/fp32/tflite@pi4+threads=4"]
    assert "for tflite" in reasons["digits_cnn/fp32/executorch@pi4+threads=4"]


def test_operators_have_instructions_that_add_up(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "edgekit", "profile", "digits_cnn", "--device", "pi4", "--metric", "instructions"]
    argv += ["--runtime", "tflite,onnxruntime,executorch", "--precision", "int8", "--operators", "--json"]
    done = subprocess.run([*argv, "--output", str(tmp_path)], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    cells = {cell["runtime"]: cell for cell in json.loads(done.stdout)["cells"]}
    for runtime in ("tflite", "executorch"):
        profile = cells[runtime]["operators"]
        inside = sum(row["instructions"] for row in profile["operators"])
        alone = cells[runtime]["instructions"]["total"]
        assert 0.9 * alone < inside < profile["total_instructions"] < 1.25 * alone, runtime
        largest = max(profile["operators"], key=lambda row: row["instructions"])
        assert "Convolution" in largest["name"], runtime
    # Its profiler's own work is within the operators, and more than theirs.
    assert "total_instructions" not in cells["onnxruntime"]["operators"]
