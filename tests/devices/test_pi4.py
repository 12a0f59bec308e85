"""The main job for real: `edgekit profile --device pi4` with all three runtimes, ARM binaries under QEMU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgekit import convert, data, metrics, plugins, sources

pytestmark = [pytest.mark.emulated, pytest.mark.runtimes]
CELLS = {(runtime, precision) for runtime in ("tflite", "onnxruntime", "executorch") for precision in ("fp32", "int8")}


def profile(output: Path, *arguments: str, prefix: tuple[str, ...] = ()) -> dict[str, Any]:
    """The command as a user runs it; its report."""
    command = (sys.executable, "-m", "edgekit", "profile", "--device", "pi4", "--json", "--output", str(output))
    argv = [*prefix, *command, *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One full run of the main job, shared by the tests below."""
    folder = tmp_path_factory.mktemp("first")
    return {**profile(folder), "folder": folder}


def test_all_six_cells_are_measured(first: dict[str, Any]) -> None:
    assert {(cell["runtime"], cell["precision"]) for cell in first["cells"]} == CELLS
    assert [cell["error"] for cell in first["cells"]] == [None] * 6
    assert all(cell["latency"]["emulated"] for cell in first["cells"])
    assert "emulated-latency" in {warning["code"] for warning in first["warnings"]}


def framework_of(format_: str) -> str:
    """What the artifacts of a format are made from by default."""
    model = sources.load("digits_cnn")
    return next(name for name in plugins.load("converter", format_).SOURCES if name in model.frameworks)


def test_accuracy_on_the_arm_kernels_is_the_hosts(first: dict[str, Any]) -> None:
    model = sources.load("digits_cnn")
    labels = data.load(model).y
    assert labels is not None
    for cell in first["cells"]:
        host = metrics.top(convert.reference(model, framework_of(cell["format"])).outputs[0], labels, 1)
        assert cell["accuracy"]["total"] == host["total"] == 540
        allowed = 1 if cell["precision"] == "fp32" else 5  # one image; one point of 540
        assert abs(cell["accuracy"]["correct"] - host["correct"]) <= allowed, cell["id"]
        assert host["value"] > 0.97


def test_outputs_match_the_float_source(first: dict[str, Any]) -> None:
    for cell in first["cells"]:
        assert cell["fidelity"]["sqnr_db"] > (100 if cell["precision"] == "fp32" else 25), cell["id"]
        assert cell["fidelity"]["max_abs_diff"] < (1e-3 if cell["precision"] == "fp32" else 5), cell["id"]


def test_instructions_are_counted_by_class(first: dict[str, Any]) -> None:
    for cell in first["cells"]:
        found = cell["instructions"]
        classes = ("load_store", "simd_load_store", "fp_fma", "int_mac", "simd_other", "branch", "alu")
        assert abs(sum(found[name] for name in classes) - found["total"]) <= len(classes)
        worker = "fp_fma" if cell["precision"] == "fp32" else "int_mac"
        assert found[worker] > 0.1 * found["total"], cell["id"]


def test_memory_is_the_guests_and_plausible(first: dict[str, Any]) -> None:
    for cell in first["cells"]:
        memory = cell["memory"]
        assert memory["method"].startswith("guest")
        assert 5e6 < memory["baseline_bytes"] <= memory["load_peak_bytes"] < 80e6, cell["id"]
        assert memory["loaded_bytes"] <= memory["run_peak_bytes"] < 80e6, cell["id"]


def test_executorch_is_wholly_delegated(first: dict[str, Any]) -> None:
    lines = (first["folder"] / first["run"] / "measurements.jsonl").read_text().splitlines()
    for line in map(json.loads, lines):
        if line["cell"]["runtime"] == "executorch":
            assert line["artifact"]["details"]["delegated_share"] == 1.0


def test_a_second_run_needs_no_network_and_counts_the_same_instructions(first: dict[str, Any], tmp_path: Path) -> None:
    alone: tuple[str, ...] = ("unshare", "-Urn")  # a network namespace in which not even the loopback is up
    if subprocess.run([*alone, "true"], capture_output=True).returncode:
        alone = ()  # a kernel without unprivileged namespaces: the counts are compared all the same
    second = profile(tmp_path, "--samples", "3", prefix=alone)
    totals = {cell["id"]: cell["instructions"]["total"] for cell in first["cells"]}
    for cell in second["cells"]:
        again = cell["instructions"]["total"]
        assert abs(again - totals[cell["id"]]) <= 0.001 * totals[cell["id"]], (cell["id"], again, totals[cell["id"]])


def test_no_path_of_this_machine_in_what_a_run_leaves(first: dict[str, Any]) -> None:
    checkout = Path(__file__).parents[2]
    for path in (first["folder"] / first["run"]).iterdir():
        text = path.read_text()
        for private in (str(checkout), str(Path.home()) + "/", str(first["folder"])):
            assert private not in text, (path.name, private)


def test_tflite_runtime_runs_the_same_files_and_its_int8_costs_more(tmp_path: Path) -> None:
    report = profile(tmp_path, "--runtime", "tflite,tflite_runtime", "--samples", "20")
    cells = {(cell["runtime"], cell["precision"]): cell for cell in report["cells"]}
    assert [cell["error"] for cell in report["cells"]] == [None] * 4
    for precision in ("fp32", "int8"):
        new, old = cells["tflite", precision], cells["tflite_runtime", precision]
        assert old["artifact"]["sha256"] == new["artifact"]["sha256"]
        assert old["runtime_version"] == "2.14.0"
        assert old["instructions"]["spread"] < 0.001
        assert sum(old["instructions"][name] for name in ("fp_fma", "int_mac")) > 0
    ratio = cells["tflite_runtime", "int8"]["instructions"]["total"] / cells["tflite", "int8"]["instructions"]["total"]
    assert ratio > 2
    assert "slower-runtime" in {warning["code"] for warning in cells["tflite_runtime", "int8"]["warnings"]}
    assert "slower-runtime" not in {warning["code"] for warning in cells["tflite_runtime", "fp32"]["warnings"]}
