"""Made-up reports for tests of what reads them: cells in their machine form, with the figures that a test names."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from edgekit import metrics

LOCAL = {"name": "board", "arch": "aarch64", "transport": "ssh", "emulated": False, "description": "a board"}
EMULATED = {
    "name": "pi4", "arch": "aarch64", "transport": "emulator", "emulated": True, "description": "a board",
    "emulation": {"cpu": "cortex-a72", "cores": 4},
}  # fmt: skip
MS, MB = 1e6, 1_000_000


def cell(
    precision: str = "fp32",
    runtime: str = "tflite",
    threads: int = 1,
    *,
    p50_ms: float | tuple[float, float, float] | None = None,
    each_ms: list[float] | None = None,
    emulated: bool = False,
    peak_mb: float | None = None,
    top1: tuple[int, int] | None = None,
    total: int | None = None,
    size: int | None = None,
    **more: Any,
) -> dict[str, Any]:
    """A cell that is ok. p50_ms: the median, or (low, median, high); each_ms: one per launch; top1: (right, of how many)."""
    found: dict[str, Any] = {
        "id": f"net/{precision}/{runtime}@board+threads={threads}", "model": "net", "format": "tflite",
        "precision": precision, "runtime": runtime, "runtime_version": "2.3.0", "device": "board", "threads": threads,
        "status": "ok", "error": None, "warnings": [],
    }  # fmt: skip
    if p50_ms is not None:
        low, middle, high = p50_ms if isinstance(p50_ms, tuple) else (None, p50_ms, None)
        ends = {"low_ns": round(low * MS), "high_ns": round(high * MS)} if low and high else {}
        figures = {
            "p50_ns": round(middle * MS),
            **ends,
            "samples": 300,
            "launches": 6,
            "batch": 1,
            "first_ns": 1,
            "load_ns": 1,
        }
        found["latency"] = {**figures, "emulated": emulated}
        if each_ms:
            found["latency"]["each_launch"] = {"p50": [value * MS for value in each_ms]}
    if peak_mb is not None:
        found["memory"] = {"method": "VmHWM", "run_peak_bytes": round(peak_mb * MB)}
    if top1 is not None:
        right, of = top1
        interval = list(metrics.wilson(right, of))
        found["accuracy"] = {"metric": "top1", "correct": right, "total": of, "value": right / of, "interval": interval}
    if total is not None:
        found["instructions"] = {"total": total, "spread": 0.0}
    if size is not None:
        found["artifact"] = {"sha256": "5" * 64, "size_bytes": size, "details": {}}
    return {**found, **more}


def failed(precision: str = "int8", status: str = "failed", **more: Any) -> dict[str, Any]:
    """A cell without figures."""
    return cell(precision, status=status, error={"message": "the process died of SIGILL"}, **more)


def report(*cells: dict[str, Any], run: str = "a-run", device: dict[str, Any] = LOCAL, **more: Any) -> dict[str, Any]:
    """The machine form of a run."""
    return {
        "schema": 1, "run": run, "edgekit": "0.1.0", "device": copy.deepcopy(device), "plan": {"effort": {"warmup_s": 0.5}},
        "data": {"sha256": {"x": "a" * 64, "y": "b" * 64}}, "warnings": [], "cells": copy.deepcopy(list(cells)), **more,
    }  # fmt: skip


def kept(form: dict[str, Any], path: Path) -> str:
    """A report in a file; returns its name."""
    path.write_text(json.dumps(form), "utf-8")
    return str(path)
