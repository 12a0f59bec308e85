"""Made-up runs for the tests of the HTML report: everything a run can hold, in any number of cells, with any names."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from edgekit import caveats, store
from edgekit.types import Cell, to_json

HOSTILE = (
    "<script>window.hacked=1</script>",
    "</script><img src=x onerror=window.hacked=1>",
    '"><svg onload=window.hacked=1>',
    "'; window.hacked=1; '",
    "{{ 7 * 7 }}${7*7}",
    "<!-- <script>",
    "\u2028\u202e reversed",
)


def header(cells: int, name: str = "net", emulated: bool = False) -> dict[str, Any]:
    """run.json."""
    effort = {"launches": 6, "calls": None, "target": 0.02, "max_seconds": 60.0}
    device = {"name": "board", "description": f"a board for {name}", "arch": "aarch64", "transport": "ssh"}
    plan = {"model": name, "device": "board", "name": name, "runtimes": ["tflite"], "precisions": ["fp32", "int8"]}
    return {
        "schema": store.SCHEMA,
        "run": "20260101-000000-net-board-abcd",
        "started": "2026-01-01T00:00:00Z",
        "edgekit": "0.1.0",
        "plan": {**plan, "threads": [1, 4], "effort": effort, "cells": [f"cell {number}" for number in range(cells)]},
        "device": {**device, "hardware": {"soc": name}, "emulated": emulated},
        "data": {"source": name, "stated": [f"540 inputs of {name}"]},
        "host": {"system": "Linux"},
    }


def line(number: int, name: str = "net", launches: int = 6, samples: int = 60) -> dict[str, Any]:
    """One measurement. Higher numbers are slower, and more accurate."""
    rng = random.Random(number)
    base = 1_000_000 * (1 + number / 10)
    precision, runtime = ("fp32", "int8")[number % 2], ("tflite", "onnxruntime", name)[number % 3]
    cell = Cell("net", "tflite", precision, runtime, "board", number // 6 + 1)
    timed = [
        {
            "samples_ns": [round(base * rng.uniform(0.98, 1.04)) for _ in range(samples)],
            "batch": 1, "first_ns": 5_000_000, "load_ns": 9_000_000, "version": "2.3",
            "counts": [[1000 + number, 200, 100, 300, 0, 150, 50, 200]] * 3,
        }
        for _ in range(launches)
    ]  # fmt: skip
    correct = min(540, 500 + number)
    operators = [
        {"index": index, "name": f"{name} {index}", "type": "CONV_2D", "ns": 50_000, "share": 0.05, "macs": 10_000}
        | ({"delegate": "XNNPACK"} if index % 3 else {})
        for index in range(14)
    ]
    windows = [
        {"start_s": second, "end_s": second + 1, "calls": 100, "p50_ns": round(base * (1 + second / 400)), "p95_ns": 1,
         "clock_mhz": 1500 - second, "temperature_c": 50 + second / 5}
        for second in range(60)
    ]  # fmt: skip
    return {
        "id": f"{cell.id} {number}",
        "cell": to_json(cell),
        "status": "ok",
        "error": None,
        "launches": timed,
        "artifact": {"sha256": "ab" * 32, "size_bytes": 40_000 + 500 * number, "details": {}, "made_with": {"tool": name}},
        "environment": {"greeting": {"system": {"machine": "aarch64", "cpu": name}}},
        "accuracy": {"metric": "top1", "correct": correct, "total": 540, "value": correct / 540,
                     "interval": [correct / 540 - 0.01, min(1.0, correct / 540 + 0.01)]},
        "fidelity": {"sqnr_db": 40.0 + number / 10, "agreement": 0.99, "max_abs_diff": 1e-6, "cosine": 1.0},
        "memory": {"load_peak_bytes": 30 << 20, "run_peak_bytes": (31 << 20) + number, "baseline_bytes": 20 << 20},
        "operators": {"runtime_profiler": "x", "runs": 10, "resolution_ns": 1000, "total_ns": 1_000_000,
                      "unprofiled_share": 0.3, "operators": operators},
        "sustained": {"asked_s": 60.0, "ran_s": 60.0, "calls": 6000, "start_ns": round(base), "end_ns": round(base * 1.1),
                      "steady_ns": round(base * 1.1), "steady_from_s": 40.0, "slowdown": 1.1, "windows": windows},
        "energy": {"mj_per_inference": 2.5 + number, "mj_above_idle": 1.5, "idle_mw": 500.0, "active_mw": 900.0, "method": "x"},
        "warnings": [{"code": "no-labels", "message": f"{caveats.caveat('no-labels').message} ({name})"}],
    }  # fmt: skip


def failed(name: str) -> dict[str, Any]:
    """A cell that came to nothing."""
    cell = to_json(Cell("net", "tflite", "int8", "executorch", "board", 1))
    error = {"kind": "convert", "message": f"the tool said {name}", "hint": name, "log_tail": f"last words: {name}"}
    return {"id": f"failed {name}", "cell": cell, "status": "failed", "error": error, "warnings": []}


def write(folder: Path, lines: list[dict[str, Any]], name: str = "net", emulated: bool = False) -> Path:
    """A run of these measurements on the disk."""
    path = folder / "20260101-000000-net-board-abcd"
    path.mkdir(parents=True)
    (path / "run.json").write_text(json.dumps(header(len(lines), name, emulated)), "utf-8")
    (path / "measurements.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines), "utf-8")
    return path
