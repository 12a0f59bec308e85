"""Policies, budgets and baselines in which anything may stand: an answer or a UserError, and never anything else."""

from __future__ import annotations

import contextlib
import copy
import json
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from made_up import cell, failed, kept, report

from edgekit import advice, baseline, comparison, gate, judge, limits, policy
from edgekit.errors import UserError
from edgekit.figures import METRICS

WORDS = st.sampled_from(
    ["limits", "cells", "inconclusive", "missing", "*", "[", "p50_ms", "top1", "", "<= 1", "<= +1%", ">= 0.5", "warn"]
)
LEAVES = WORDS | st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
ANYTHING = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3), max_leaves=8
)

WHOLE = report(
    cell(
        p50_ms=(9.0, 10.0, 11.0), each_ms=[9.0, 11.0], peak_mb=1.0, top1=(9, 10), total=9, size=9, governor="performance",
        system={"machine": "aarch64", "cpu": {"part": "a"}, "cores": 4}, fidelity={"agreement": 1.0, "sqnr_db": 40.0},
        energy={"method": "RAPL", "mj_per_inference": 1.0}, sustained={"asked_s": 60.0, "steady_ns": 9},
        estimate={"latency_ns": 9, "low_ns": 8, "high_ns": 10}, warnings=[{"code": "busy", "message": "-"}],
    ),
    cell(threads=2, p50_ms=9.0), cell("int8", p50_ms=30.0, top1=(5, 10)), failed("fp16"),
    protocol=1, judged_by={"metric": "top1", "reference": None}, noise={"relative": 0.01},
    plan={"effort": {"warmup_s": 0.5}, "samples": 20, "cells": ["net/fp32/tflite@board+threads=1"]},
)  # fmt: skip


def places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The place of everything in a JSON document, outermost first."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place, *(below for key, one in items for below in places(one, (*place, key)))]


@given(ANYTHING)
@example({"limits": {"p50_ms": [["<= 1"]]}})
@example({"inconclusive": {}, "limits": {"top1": ">= 0.5"}})
@settings(max_examples=200)
def test_a_policy_of_anything(found: Any) -> None:
    with contextlib.suppress(UserError):
        if isinstance(found, dict):
            assert policy.of(found).every


@given(st.sampled_from(sorted(METRICS)) | st.text(max_size=6), st.text("<>=+-0123456789.e %msMkB\u00b5", max_size=12))
@settings(max_examples=300)
def test_a_limit_of_anything(name: str, text: str) -> None:
    with contextlib.suppress(UserError):
        assert limits.parse(name, text).metric in METRICS
    with contextlib.suppress(UserError):
        assert limits.budget(f"{name}{text},{text}")


def test_what_is_damaged_below_is_whole(tmp_path: Path) -> None:
    name = kept(WHOLE, tmp_path / "whole.json")
    rules = policy.of(tomllib.loads(policy.written(baseline.read(name, tmp_path))))
    found = judge.check(name, rules, name)
    assert found.status == "pass" and len(found.rows) == 8
    assert {row.verdict for row in comparison.compare(name, name).rows} == {"equal", "inconclusive"}
    assert gate.check(name, name).passed


def check_all(place: tuple[Any, ...], value: Any, gone: bool) -> None:
    """Read, judge, compare and advise on WHOLE with another value in that place, or without it; only UserError may come of it."""
    form: Any = copy.deepcopy({"": WHOLE})
    inner = form
    for key in ("", *place)[:-1]:
        inner = inner[key]
    if gone:
        del inner[("", *place)[-1]]
    else:
        inner[("", *place)[-1]] = value
    limited = {"p50": ["<= 5 ms", "<= +1%"], "top1": ">= -1 pp", "peak": "<= 1 GB", "size": "<= 1 MB"}
    rules = policy.of({"limits": limited})
    with tempfile.TemporaryDirectory() as folder:
        whole, odd = kept(WHOLE, Path(folder) / "whole.json"), kept(form.get(""), Path(folder) / "odd.json")
        for before, after in ((whole, odd), (odd, whole)):
            for hold, args in (
                (judge.check, (after, rules, before)),
                (comparison.compare, (before, after)),
                (gate.check, (after, before)),
            ):
                with contextlib.suppress(UserError):
                    json.dumps(hold(*args).to_json(), allow_nan=False)  # type: ignore[operator]
        with contextlib.suppress(UserError):
            read = baseline.read(odd, Path(folder))
            json.dumps(advice.advise(read, limits.budget("p50<=20ms, top1>=0.6")).to_json(), allow_nan=False)
            baseline.save(read, Path(folder) / "saved.json")
            assert policy.of(tomllib.loads(policy.written(read))).every


@pytest.mark.slow
@given(st.sampled_from(places(WHOLE)), LEAVES | st.sampled_from([{}, [], [1], {"": 1}, 10**400]), st.booleans())
@settings(max_examples=150)
def test_a_baseline_with_anything_anywhere(place: tuple[Any, ...], value: Any, gone: bool) -> None:
    check_all(place, value, gone)
