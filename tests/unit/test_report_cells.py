"""Thousands of cells: packed, they are what they were, and every form of a report says the same of them."""

from __future__ import annotations

import gc
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit import store
from edgekit.history import rows_of
from edgekit.report import Report, Reports, cells, forms, html
from edgekit.report.cells import Cells, append, tell
from edgekit.types import Json

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "run-schema-1"
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)
CELLS = st.lists(st.dictionaries(st.sampled_from([*cells.ALIKE, "id", "warnings", "latency"]), VALUES), max_size=8)


@given(CELLS)
def test_what_is_unpacked_is_what_was_packed(given: list[Json]) -> None:
    packed = Cells(given)
    assert json.dumps(list(packed)) == json.dumps(given), "in the order of its keys too"
    assert len(packed) == len(given) and packed[1:3] == given[1:3] and packed[::-1] == given[::-1]
    if given:
        assert packed[-1] == given[-1] == packed[len(given) - 1]
    with pytest.raises(IndexError):
        packed[len(given)]


def test_numbers_of_numpy_come_back_as_numbers() -> None:
    (cell,) = Cells([{"a": np.float64(0.1), "b": [np.float64(2.5)], "c": {"d": (1, 2)}}])
    assert cell == {"a": 0.1, "b": [2.5], "c": {"d": [1, 2]}}
    assert type(cell["a"]) is float


def test_a_cell_is_one_object_as_long_as_somebody_holds_it() -> None:
    packed = Cells([{"id": "a"}, {"id": "b"}])
    held = packed[0]
    held["more"] = 1
    assert packed[0] is held and next(iter(packed)) is held
    del held
    gc.collect()
    assert packed[0] == {"id": "a"}, "what nobody holds is what was packed"


def test_parts_that_are_alike_are_kept_once() -> None:
    packed = Cells([{"system": {"cores": 4}, "artifact": {"sha256": "x"}} for _ in range(5)])
    assert packed[0]["system"] is packed[4]["system"] and packed[0]["artifact"] is packed[4]["artifact"]
    packed.append({"system": {"cores": 2}, "artifact": {"sha256": "x"}})
    assert packed[5] == {"system": {"cores": 2}, "artifact": {"sha256": "x"}} and packed[0]["system"] == {"cores": 4}


@pytest.mark.parametrize("most", [2, 100])
def test_a_warning_that_comes_late_is_kept(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(cells, "LIVE", most)
    made: list[Json] | Cells = []
    for name in "abcd":
        made = append(made, {"id": name, "warnings": []})
    assert isinstance(made, Cells) == (most == 2)
    for code in ("x", "y"):
        tell(made, 1, {"code": code})
    gc.collect()
    assert [cell["warnings"] for cell in made] == [[], [{"code": "x"}, {"code": "y"}], [], []]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run on a real device with a failed cell, and warnings that come from comparing cells, also with later ones."""
    header = json.loads((GOLDEN / "run.json").read_text("utf-8"))
    header["device"] |= {"emulated": False, "transport": "ssh"}
    base = json.loads((GOLDEN / "measurements.jsonl").read_text("utf-8").splitlines()[0])
    kinds = [("int8", "tflite", 9), ("fp32", "tflite", 2), ("fp32", "tensorflow", 4), ("int8", "tensorflow", 3)]
    with (tmp_path / "measurements.jsonl").open("w") as stream:
        for precision, runtime, times in kinds:
            samples = [times * ns for ns in base["launches"][0]["samples_ns"]]
            line = {
                **base,
                "id": f"{precision} {runtime}",
                "launches": [{**base["launches"][0], "samples_ns": samples}],
            }
            line["cell"] = {**base["cell"], "precision": precision, "runtime": runtime}
            line["artifact"] = {**base["artifact"], "sha256": precision}
            stream.write(json.dumps(line) + "\n")
        failed = {"status": "failed", "error": {"kind": "crashed", "message": "no", "hint": ""}}
        stream.write(json.dumps({"id": "fp16", "cell": {**base["cell"], "precision": "fp16"}, **failed}) + "\n")
    (tmp_path / "run.json").write_text(json.dumps(header), "utf-8")
    return tmp_path


def test_the_run_has_warnings_that_come_from_comparing_cells(run: Path) -> None:
    codes = [{warning["code"] for warning in cell["warnings"]} for cell in Report.load(run).cells]
    assert "slower-than-fp32" in codes[0] and "slower-runtime" in codes[2]


@pytest.mark.parametrize("which", ["made up", "golden"])
@pytest.mark.parametrize("name", forms.FORMS)
def test_every_form_says_the_same_of_packed_cells(
    monkeypatch: pytest.MonkeyPatch, run: Path, name: str, which: str
) -> None:
    path = run if which == "made up" else GOLDEN
    plain = Report.load(path)
    assert isinstance(plain.cells, list)
    monkeypatch.setattr(cells, "LIVE", 1)
    packed = Report.load(path)
    assert isinstance(packed.cells, Cells) and len(packed.cells) == len(plain.cells) > 1
    assert forms.FORMS[name](packed) == forms.FORMS[name](plain)
    assert packed.failed == plain.failed and packed.warnings == plain.warnings and packed.noise == plain.noise
    assert Reports([packed], {}).cells == Reports([plain], {}).cells


def test_the_page_and_the_index_say_the_same_of_packed_cells(monkeypatch: pytest.MonkeyPatch, run: Path) -> None:
    def told() -> Any:
        return html.render(Report.load(run), store.Lines(run / store.LINES)), rows_of(run, "stamp")

    plain = told()
    monkeypatch.setattr(cells, "LIVE", 1)
    assert told() == plain


def test_a_run_is_read_once(monkeypatch: pytest.MonkeyPatch, run: Path) -> None:
    """Ten thousand lines with their samples take a second to read."""
    read = []
    placed = store.Lines.placed

    def counted(lines: store.Lines) -> Iterator[tuple[int, Json]]:
        for one in placed(lines):
            read.append(one[0])
            yield one

    monkeypatch.setattr(store.Lines, "placed", counted)
    report = Report.load(run)
    assert len(read) == len(set(read)) == len(report.cells)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_cells(tmp_path: Path) -> None:
    """The peak for many cells is not above one and a half times that for the most that are kept as they are."""
    header, lines = json.loads((GOLDEN / "run.json").read_text("utf-8")), (GOLDEN / "measurements.jsonl")
    base = json.loads(lines.read_text("utf-8").splitlines()[0])
    base["launches"] = [{**base["launches"][0], "counts": base["launches"][0]["counts"][:1]}]
    peaks = []
    for count in (cells.LIVE, 3 * cells.LIVE):
        path = tmp_path / str(count)
        path.mkdir()
        (path / "run.json").write_text(json.dumps({**header, "plan": {**header["plan"], "cells": []}}), "utf-8")
        with (path / "measurements.jsonl").open("w") as stream:
            for number in range(count):
                memory = {**base["memory"], "run_peak_bytes": 10**7 + number, "delta_bytes": 10**6 + number}
                stream.write(json.dumps({**base, "id": f"cell {number}", "memory": memory}) + "\n")
        tracemalloc.start()
        try:
            report = Report.load(path)
            assert report.cells[count - 1]["memory"]["run_peak_bytes"] == 10**7 + count - 1
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] <= 1.5 * peaks[0], peaks
