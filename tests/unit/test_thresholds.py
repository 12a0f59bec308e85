"""Published thresholds at their edge that no other file of tests has: what is told of cells, outputs, threads, process pairs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit import ratio, report, store, timing, turns, verification
from edgekit.errors import WrongOutput
from edgekit.types import Cell, Json

CELL = Cell("m", "tflite", "fp32", "tflite", "board", 4)
ARTIFACT: Json = {"sha256": "ab", "size_bytes": 1, "details": {}}
LAUNCH: Json = {"samples_ns": [1], "batch": 1, "first_ns": 1, "load_ns": 1}


def told(base_ns: int, other_ns: int, **other: str) -> list[str]:
    """What is said of the second of two cells of one launch each, in a report on a real device."""
    lines = []
    for number, (ns, changes) in enumerate(((base_ns, {}), (other_ns, other))):
        cell = {
            "model": "m",
            "format": "tflite",
            "precision": "fp32",
            "runtime": "tflite",
            "device": "d",
            "threads": 1,
            **changes,
        }
        line = {"id": f"m{number}", "cell": {**cell, "options": []}, "status": "ok", "warnings": []}
        line |= {"artifact": ARTIFACT, "launches": [{**LAUNCH, "samples_ns": [ns] * 30}]}
        lines.append(line)
    header = {
        "schema": store.SCHEMA,
        "run": "r",
        "device": {"name": "d", "emulated": False},
        "plan": {"model": "m", "cells": []},
    }
    made = report.Report.of(store.Run(Path("results/r"), header, lines, False))
    return [found["code"] for found in made.cells[1]["warnings"]]


@pytest.mark.parametrize(("ns", "said"), [(1_050_000, []), (1_050_001, ["slower-than-fp32"])])
def test_a_smaller_precision_that_takes_a_twentieth_more_is_slower(ns: int, said: list[str]) -> None:
    assert told(1_000_000, ns, precision="int8") == said


@pytest.mark.parametrize(("ns", "said"), [(1_250_000, []), (1_250_001, ["slower-runtime"])])
def test_a_runtime_that_takes_a_quarter_more_for_the_same_file_is_slower(ns: int, said: list[str]) -> None:
    assert told(1_000_000, ns, runtime="tflite_runtime") == said


@pytest.mark.parametrize(("share", "said"), [(0.99, []), (0.9899, ["weights-kept"])])
def test_weights_that_did_not_become_smaller(share: float, said: list[str]) -> None:
    assert [
        one.code for one in report.artifact_caveats("int8", {"details": {"weights_quantized_share": share}})
    ] == said


@pytest.mark.parametrize(("precision", "least"), [("fp32", 15.0), ("int8", 15.0), ("int4_weight", 6.0)])
def test_outputs_at_the_floor_are_the_models_and_below_it_are_not(precision: str, least: float) -> None:
    good = (np.zeros((1, 2)),)
    verification.check_fidelity({"sqnr_db": least}, good, precision)
    with pytest.raises(WrongOutput):
        verification.check_fidelity({"sqnr_db": math.nextafter(least, 0)}, good, precision)


@pytest.mark.parametrize(("cores", "said"), [(4, []), (3, ["more-threads-than-cores"])])
def test_as_many_threads_as_cores_are_not_too_many(cores: int, said: list[str]) -> None:
    found = {"launches": (LAUNCH,), "memory": {}}
    assert [one.code for one in timing.device_caveats(CELL, {"system": {"cores": cores}}, found)] == said


def test_a_kernel_that_cannot_restart_its_peak_is_said() -> None:
    found = {"launches": (LAUNCH,), "memory": {"run_peak_includes_load": True}}
    assert [one.code for one in timing.device_caveats(CELL, {"system": {"cores": 4}}, found)] == [
        "run-peak-includes-load"
    ]


@pytest.mark.parametrize(("pairs", "said"), [(ratio.LEAST_PAIRS - 1, "inconclusive"), (ratio.LEAST_PAIRS, "equal")])
def test_nothing_is_decided_by_fewer_than_five_process_pairs(pairs: int, said: str) -> None:
    session: Any = turns.Session(logs=[[0.0, 0.0001, -0.0001]] * pairs)
    assert session.verdict(0.03) == said
    assert (session.estimate is None) == (said == "inconclusive")
