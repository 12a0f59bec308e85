"""A recorded run of every schema version is read and reported for as long as edgekit exists."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit import Reports, load_report, store
from edgekit.report.table import notes

GOLDEN = Path(__file__).parents[1] / "golden"


def test_every_schema_has_its_recording() -> None:
    assert sorted(path.name for path in GOLDEN.glob("run-schema-*")) == [
        f"run-schema-{n}" for n in range(1, store.SCHEMA + 1)
    ]


@pytest.mark.parametrize("schema", range(1, store.SCHEMA + 1))
def test_a_recorded_run_is_read_and_reported(schema: int) -> None:
    report = load_report(GOLDEN / f"run-schema-{schema}")
    assert report.schema == store.SCHEMA
    assert {cell["runtime"] for cell in report.cells} == {"tflite", "onnxruntime", "executorch"}
    for cell in report.cells:
        assert cell["status"] == "ok" and cell["accuracy"]["total"] == 540
        assert cell["latency"]["emulated"] and cell["latency"]["p50_ns"] > 0
        assert cell["instructions"]["total"] > cell["instructions"]["load_store"] > 0
        assert cell["memory"]["run_peak_bytes"] > 0 and len(cell["artifact"]["sha256"]) == 64
    assert any("latency is the emulator's" in note for note in notes(Reports([report], {})))
