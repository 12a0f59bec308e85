"""The report: the machine form leaves out what was not measured, and distrusts aloud."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from edgekit import noise, store
from edgekit.report import Report, table
from edgekit.types import Cell, Measurement, to_json

REQUIRED = ("id", "model", "format", "precision", "runtime", "device", "threads", "status", "error", "warnings")


def cell(
    precision: str = "fp32", runtime: str = "tflite", status: str = "ok", threads: int = 1, **more: Any
) -> dict[str, Any]:
    """A line of measurements.jsonl; `latency_ns`, `bytes` and `instructions` fill the places that tests look at."""
    latency_ns, size, total = (
        more.pop("latency_ns", 2_000_000),
        more.pop("bytes", 40_000),
        more.pop("instructions", None),
    )
    launch: dict[str, Any] = {
        "samples_ns": [latency_ns] * 30,
        "batch": 1,
        "first_ns": 1,
        "load_ns": 1,
        "version": "2.3",
    }
    if total:
        launch["counts"] = [[total, *[1] * 7]] * 3
    found: dict[str, Any] = {
        "artifact": {"sha256": "ab", "size_bytes": size, "details": more.pop("details", {})},
        "environment": {"greeting": {"system": {"machine": "aarch64"}}},
        "accuracy": {"metric": "top1", "correct": 538, "total": 540, "value": 538 / 540},
        "fidelity": {"sqnr_db": 123.4, "max_abs_diff": 1e-6, "agreement": 1.0, "cosine": 1.0},
        "launches": (launch,),
        "memory": {"load_peak_bytes": 30 << 20, "run_peak_bytes": 31 << 20},
    }
    measured = Measurement(Cell("digits_cnn", "x", precision, runtime, "pi4", threads), status, **{**found, **more})
    return {**to_json(measured), "id": measured.cell.id}


def timed(*medians_ns: int, **more: Any) -> dict[str, Any]:
    """A line whose launches have these medians."""
    line = cell(**more)
    return {**line, "launches": [{**line["launches"][0], "samples_ns": [ns] * 30} for ns in medians_ns]}


def report(
    *lines: dict[str, Any], target: float = 0.0, emulated: bool = False, torn: bool = False, **device: Any
) -> Report:
    """The report of a run with these lines."""
    described = {"name": "pi4", "description": "Raspberry Pi 4 Model B, 4 GB, 64-bit", "emulated": emulated, **device}
    plan = {"model": "digits_cnn", "name": "digits_cnn", "cells": [], "effort": {"target": target}}
    header = {"schema": store.SCHEMA, "run": "r", "device": described, "plan": plan}
    return Report.of(store.Run(Path("results/20260101-000000-digits_cnn-pi4-abcd"), header, list(lines), torn))


def shown(made: Report, width: int = 100) -> str:
    """The terminal form as plain text."""
    target = io.StringIO()
    table.show(made, Console(width=width, file=target, highlight=False, color_system=None))
    return target.getvalue()


def codes(made: Report, index: int) -> list[str]:
    """The caveats of one cell."""
    return [warning["code"] for warning in made.cells[index]["warnings"]]


def test_the_machine_form_has_what_was_measured() -> None:
    made = report(cell(instructions=5_000), emulated=True)
    (found,) = made.to_json()["cells"]
    assert set(REQUIRED) <= set(found)
    assert found["id"] == "digits_cnn/fp32/tflite@pi4+threads=1"
    assert found["error"] is None
    assert found["latency"]["p50_ns"] == 2_000_000
    assert found["latency"]["emulated"] is True
    assert found["instructions"]["total"] == 5_000
    assert set(found["instructions"]) >= {"load_store", "fp_fma", "int_mac", "branch", "alu"}
    assert found["memory"]["run_peak_bytes"] == 31 << 20
    assert found["accuracy"]["correct"] == 538
    assert found["fidelity"]["sqnr_db"] == 123.4
    assert found["artifact"]["sha256"] == "ab"
    assert found["runtime_version"] == "2.3"
    whole = made.to_json()
    assert whole["schema"] == store.SCHEMA
    assert whole["run"] == "20260101-000000-digits_cnn-pi4-abcd"
    assert json.loads(json.dumps(whole, allow_nan=False)) == whole


@pytest.mark.parametrize("absent", ["accuracy", "fidelity", "artifact", "memory"])
def test_what_was_not_measured_is_absent(absent: str) -> None:
    line = cell()
    del line[absent]
    (found,) = report(line).cells
    assert absent not in found
    assert None not in {key: value for key, value in found.items() if key != "error"}.values()


def test_a_cell_that_failed_has_no_speed() -> None:
    """Even when it was timed before it failed: nothing was proven, so nothing is claimed."""
    error = {"kind": "crashed", "message": "the process died of SIGABRT", "hint": ""}
    (found,) = report(cell(status="failed", error=error, instructions=5)).cells
    assert not {"latency", "instructions", "memory"} & set(found)
    assert found["error"] == error
    assert found["artifact"]


def test_a_wrong_output_keeps_the_evidence_against_it() -> None:
    line = cell(status="failed", error={"kind": "wrong_output", "message": "wrong"}, launches=(), memory=None)
    (found,) = report(line).cells
    assert found["fidelity"]["sqnr_db"] == 123.4
    assert "latency" not in found


def test_failed_counts_failures_and_no_answers() -> None:
    made = report(
        cell(),
        cell("int8", "failed"),
        cell("int8", status="unsupported", error={"kind": "unsupported", "message": "no"}),
    )
    assert made.failed == []
    made = report(cell(), cell("int8", status="failed", error={"kind": "convert", "message": "no"}))
    assert [found["precision"] for found in made.failed] == ["int8"]


@pytest.mark.parametrize(
    ("fp32_ns", "int8_ns", "emulated", "warned"),
    [(1_000_000, 1_500_000, False, True), (1_000_000, 1_010_000, False, False), (1_000_000, 500_000, False, False),
     (1_000_000, 1_500_000, True, False)],
    ids=["slower", "as good as equal", "faster", "emulated"],
)  # fmt: skip
def test_int8_that_is_slower_is_said_aloud(fp32_ns: int, int8_ns: int, emulated: bool, warned: bool) -> None:
    made = report(cell(latency_ns=fp32_ns), cell("int8", latency_ns=int8_ns, bytes=10_000), emulated=emulated)
    assert ("slower-than-fp32" in codes(made, 1)) == warned
    assert codes(made, 0) == []
    if warned:
        assert "int8 takes 1.50x the time of fp32" in shown(made)


def test_no_difference_is_claimed_where_the_intervals_overlap() -> None:
    """fp32 lies in 1.00 to 1.10 ms; from 1.11 ms on there is no doubt."""
    fp32 = timed(*range(1_000_000, 1_100_001, 20_000))
    for low, warned in ((1_100_000, False), (1_100_001, True)):
        int8 = timed(*range(low, low + 500_001, 100_000), precision="int8")
        made = report(fp32, int8)
        assert made.cells[0]["latency"]["high_ns"] == 1_100_000 and made.cells[1]["latency"]["low_ns"] == low
        assert codes(made, 1) == (["slower-than-fp32"] if warned else [])
        other = timed(*range(low, low + 500_001, 100_000), runtime="tflite_runtime")
        assert codes(report(fp32, other), 1) == (["slower-runtime"] if warned else [])


def test_the_noise_of_the_device_is_printed(cold_cache: Path) -> None:
    text = shown(report(cell()))
    assert "A/A noise of this device: not calibrated: edgekit calibrate --device pi4" in text
    known = noise.Noise(0.0083, "2026-11-23", "pi4", "digits_cnn/fp32/tflite@pi4+threads=1", 100)
    environment = {"greeting": {"system": {"machine": "aarch64"}}, "noise": to_json(known)}
    made = report(cell(environment=environment))
    assert "A/A noise of this device: 0.8 % (calibrated 2026-11-23)" in shown(made)
    assert made.to_json()["noise"]["relative"] == 0.0083
    assert "A/A noise" not in shown(report(cell(), emulated=True))
    assert "noise" not in report(cell()).to_json()


def test_int8_is_compared_with_its_own_sibling_only() -> None:
    made = report(
        cell(latency_ns=9_000_000), cell(threads=4, latency_ns=1_000_000), cell(runtime="onnxruntime", latency_ns=9_000_000),
        cell("int8", threads=4, latency_ns=2_000_000, bytes=10_000), cell("int8", latency_ns=2_000_000, bytes=10_000),
    )  # fmt: skip
    assert "slower-than-fp32" in codes(made, 3)
    assert codes(made, 4) == []
    alone = report(cell("int8", latency_ns=2_000_000))
    assert codes(alone, 0) == []
    failed = report(cell(status="failed", error={"kind": "crashed", "message": "no"}, latency_ns=1), cell("int8"))
    assert codes(failed, 1) == []


@pytest.mark.parametrize("precision", ["fp16", "int16x8", "int8_dynamic", "int4_weight"])
def test_every_smaller_precision_that_is_slower_is_said_aloud(precision: str) -> None:
    made = report(cell(latency_ns=1_000_000), cell(precision, latency_ns=40_000_000, bytes=10_000))
    assert codes(made, 1) == ["slower-than-fp32"]
    assert f"{precision} takes 40.00x the time of fp32" in shown(made, 200)


def test_a_runtime_that_needs_more_for_the_same_file_is_said_aloud() -> None:
    lines = [
        cell("int8", latency_ns=1_000_000, instructions=1_000),
        cell("int8", "tflite_runtime", latency_ns=1_100_000, instructions=3_000),
    ]
    assert codes(report(*lines), 1) == []
    made = report(*lines, emulated=True)
    assert codes(made, 0) == []
    assert codes(made, 1) == ["slower-runtime"]
    assert "tflite_runtime needs 3.0x the instructions of tflite for the very same file" in shown(made, 200)
    slow = report(lines[0], cell("int8", "tflite_runtime", latency_ns=9_000_000))
    assert "tflite_runtime needs 9.0x the time of tflite for the very same file" in shown(slow, 200)
    other = cell(
        "int8", "tflite_runtime", latency_ns=9_000_000, artifact={"sha256": "cd", "size_bytes": 9, "details": {}}
    )
    assert codes(report(lines[0], other), 1) == []
    assert codes(report(lines[0], cell("int8", "tflite_runtime", threads=2, latency_ns=9_000_000)), 1) == []


def test_int8_that_is_partly_float_is_said_aloud() -> None:
    layers = {"layers": 5, "quantized_layers": 3, "total_ops": 9}
    made = report(
        cell(details=layers), cell("int8", details=layers), cell("int8_io", details={**layers, "quantized_layers": 5})
    )
    assert [codes(made, index) for index in range(3)] == [[], ["partly-float"], []]
    assert "2 of 5 layers compute in float although int8 was asked for" in shown(made)
    operators = report(cell("int8", details={"not_quantized": 2, "total_ops": 9}))
    assert "2 of 9 operators compute in float" in shown(operators)


def test_partial_delegation_is_said_aloud() -> None:
    details = {"delegated_share": 0.5, "delegated_ops": 3, "total_ops": 6}
    made = report(cell(details=details), cell("int8", details={**details, "delegated_share": 1.0, "delegated_ops": 6}))
    assert codes(made, 0) == ["partial-delegation"]
    assert "partial-delegation" not in codes(made, 1)
    assert "3 of 6 operators run on the fast backend" in shown(made)


def test_weights_that_stayed_as_they_were_are_said_aloud() -> None:
    kept = {"weights": {"float32": 9, "int8": 1}, "weights_quantized_share": 0.1, "weights_half_share": 0.0}
    made = report(cell(details=kept), cell("int8_weight", details=kept), cell("fp16", details=kept))
    assert [codes(made, index) for index in range(3)] == [[], ["weights-kept"], ["weights-kept"]]
    assert "only 0% to 10% of the weights became smaller by int8_weight/fp16" in shown(made, 200)


def test_kernels_that_are_known_to_be_slow_are_said_aloud_even_where_time_says_nothing() -> None:
    made = report(cell("int16x8", details={"slow_kernels": "int16x8 has reference kernels only"}), emulated=True)
    assert codes(made, 0) == ["slow-kernels"]
    assert "int16x8 has reference kernels only" in shown(made, 200)


def test_the_weaknesses_of_a_whole_run() -> None:
    assert [warning["code"] for warning in report(cell(), emulated=True, torn=True).warnings] == [
        "emulated-latency", "torn-line",
    ]  # fmt: skip
    uncounted = report(cell(), emulated=True, transport="vm")
    assert [warning["code"] for warning in uncounted.warnings] == ["uncounted-latency"]
    assert report(cell()).warnings == []
    unmeasured = report(cell(status="failed", error={"kind": "crashed", "message": "no"}), emulated=True)
    assert unmeasured.warnings == [], "no latency is there to be distrusted"
