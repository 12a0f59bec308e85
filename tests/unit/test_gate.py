"""The gate on instruction counts: each limit at its edge, missing cells, and runs that are not alike."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from harness import FAKE_BOARD, FAKE_MODEL, CommandLine

from edgekit import gate
from edgekit.errors import UserError

BOARD = {
    "name": "pi4", "arch": "aarch64", "transport": "emulator", "emulated": True, "description": "a board",
    "emulation": {"cpu": "cortex-a72", "cores": 4},
}  # fmt: skip


def cell(precision: str = "fp32", threads: int = 1, total: int | None = 1_000_000, **more: Any) -> dict[str, Any]:
    """A cell of a report."""
    found: dict[str, Any] = {
        "id": f"net/{precision}/tflite@pi4+threads={threads}", "model": "net", "precision": precision, "runtime": "tflite",
        "runtime_version": "2.3.0", "device": "pi4", "threads": threads, "status": "ok", "error": None,
    }  # fmt: skip
    return {**found, **({"instructions": {"total": total}} if total is not None else {}), **more}


def report(*cells: dict[str, Any], **more: Any) -> dict[str, Any]:
    """What `profile --json` prints, as far as the gate reads it."""
    return {
        "schema": 1,
        "run": "a-run",
        "edgekit": "0.1.0",
        "device": copy.deepcopy(BOARD),
        "cells": list(cells),
        **more,
    }


@pytest.fixture
def held(tmp_path: Path) -> Any:
    """held(now, baseline) -> what the gate says of two reports in files."""

    def check(now: Any, baseline: Any, limit: float = gate.LIMIT) -> gate.Gated:
        for name, value in (("now", now), ("baseline", baseline)):
            (tmp_path / f"{name}.json").write_text(json.dumps(value))
        return gate.check(str(tmp_path / "now.json"), str(tmp_path / "baseline.json"), limit)

    return check


@pytest.mark.parametrize(
    ("total", "limit", "passes"),
    [(1_010_000, 0.01, True), (1_010_001, 0.01, False), (1_005_001, 0.005, False), (500_000, 0.0, True), (1_000_001, 0.0, False)],
)  # fmt: skip
def test_the_limit_at_its_edge(total: int, limit: float, passes: bool, held: Any) -> None:
    found = held(report(cell(total=total)), report(cell()), limit)
    assert found.passed is passes
    assert found.rows[0].change == pytest.approx(total / 1_000_000 - 1)
    assert bool(found.rows[0].why) is not passes


def test_one_cell_over_the_limit_fails_the_whole(held: Any) -> None:
    found = held(report(cell(), cell("int8", total=1_100_000)), report(cell(), cell("int8")))
    assert [row.status for row in found.rows] == ["pass", "fail"]
    assert not found.passed
    assert "+10.00 %, the limit is +1 %" in found.rows[1].why
    assert found.to_json()["status"] == "fail"


def test_a_baseline_without_instructions_has_no_percentage(held: Any) -> None:
    (row,) = held(report(cell(total=5)), report(cell(total=0))).rows
    assert (row.status, row.why) == ("fail", "5 instead of none, the limit is +1 %")
    assert held(report(cell(total=0)), report(cell(total=0))).passed


@pytest.mark.parametrize("total", ["many", float("nan"), float("inf"), True, -1, None])
def test_counts_that_are_none_are_damage(total: Any, held: Any) -> None:
    with pytest.raises(UserError, match=r"baseline.json is damaged|cannot read .*baseline.json: .* is no number"):
        held(report(cell()), report(cell(instructions={"total": total})))


@pytest.mark.parametrize("key", ["threads", "runtime", "id", "model", "status"])
def test_a_cell_without_its_name_is_damage(key: str, held: Any) -> None:
    without = cell()
    del without[key]
    with pytest.raises(UserError, match=f"now.json is damaged: it lacks '{key}'"):
        held(report(without), report(cell()))


def test_a_cell_that_is_missing_failed_or_uncounted_fails(held: Any) -> None:
    failed = cell("int8", total=None, status="failed", error={"message": "the process died of SIGILL"})
    for now, why in (
        (report(cell()), "it is not in the new run"),
        (report(cell(), failed), "failed: the process died of SIGILL"),
        (report(cell(), cell("int8", total=None)), "it has no instruction counts now"),
    ):
        found = held(now, report(cell(), cell("int8")))
        assert [row.status for row in found.rows] == ["pass", "fail"]
        assert why in found.rows[1].why


def test_what_the_baseline_does_not_have_is_a_note(held: Any) -> None:
    found = held(report(cell(), cell("int8")), report(cell(), cell("int8", total=None)))
    assert found.passed
    assert len(found.rows) == 1
    assert "net/int8/tflite" in found.notes[0]
    with pytest.raises(UserError, match="has no instruction counts"):
        held(report(cell()), report(cell(total=None)))


def test_another_model_is_what_it_is_for_and_is_said(held: Any) -> None:
    renamed = cell(model="net_v2", id="net_v2/fp32/tflite@pi4+threads=1")
    found = held(report(renamed), report(cell()))
    assert found.passed
    assert found.notes == ["another model: net in the baseline, net_v2 now"]
    assert held(report(cell(), edgekit="0.2.0"), report(cell())).notes == [
        "another edgekit: 0.1.0 in the baseline, 0.2.0 now"
    ]


@pytest.mark.parametrize(
    ("now", "named"),
    [
        (report(cell(runtime_version="2.4.0")), r"the version of tflite: 2.3.0 in the baseline, 2.4.0 in the run"),
        (report(cell(threads=4)), r"threads: \[1\] in the baseline, \[4\] in the run"),
        (report(cell(), device={**BOARD, "name": "pi5"}), "device.name: pi4 in the baseline, pi5 in the run"),
        (report(cell(), device={**BOARD, "arch": "armv7"}), "device.arch: aarch64"),
        (
            report(cell(), device={**BOARD, "emulation": {"cpu": "cortex-a76", "cores": 4}}),
            "device.emulation.cpu: cortex-a72 in the baseline, cortex-a76 in the run",
        ),
    ],
)
def test_runs_that_are_not_alike_are_refused_by_the_key_that_differs(now: Any, named: str, held: Any) -> None:
    with pytest.raises(UserError, match=named):
        held(now, report(cell()))


def test_of_much_that_differs_the_first_is_named(held: Any) -> None:
    other = {"name": "x", "arch": "y", "transport": "ssh", "emulation": {f"key{number}": number for number in range(9)}}
    with pytest.raises(UserError, match=r"device.name: pi4 in the baseline, x in the run; .*; and 8 more"):
        held(report(cell(), device=other), report(cell()))


def test_what_describes_a_device_does_not_count(held: Any) -> None:
    other = {**BOARD, "description": "the same board", "limits": {"calls": 3}, "hardware": {"soc": "BCM2711"}}
    assert held(report(cell(), device=other), report(cell())).passed


def test_cells_are_told_apart_by_threads_and_options(held: Any) -> None:
    batch = cell(id="net/fp32/tflite@pi4+threads=1+batch=8", total=8_000_000)
    found = held(report(batch, cell()), report(cell(), batch))
    assert found.passed
    assert [row.baseline for row in found.rows] == [1_000_000, 8_000_000]
    assert not held(report(cell()), report(cell(), batch)).passed


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"schema": 1}', '{"schema": 9, "run": "r", "device": {}, "cells": []}']
)
def test_a_file_that_is_no_report_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "now.json").write_text(text)
    with pytest.raises(UserError, match=r"cannot read|is not the report of a run|has schema 9"):
        gate.check(str(tmp_path / "now.json"), str(tmp_path / "now.json"))


def test_a_run_of_several_devices_and_a_negative_limit_are_refused(tmp_path: Path) -> None:
    (tmp_path / "now.json").write_text(json.dumps({"schema": 1, "reports": []}))
    with pytest.raises(UserError, match="one device to a file"):
        gate.check(str(tmp_path / "now.json"), str(tmp_path / "now.json"))
    with pytest.raises(UserError, match="a limit must be 0 or more"):
        gate.check("last", "last", -0.01)


@pytest.mark.slow
@pytest.mark.fresh
def test_the_command_line_gates_a_planted_regression(cli: CommandLine, recipe: Any) -> None:
    board = ("--device", FAKE_BOARD, "--json", "--quiet")
    baseline = cli("profile", FAKE_MODEL, *board)
    (cli.cwd / "baseline.json").write_text(baseline.stdout)
    assert cli("gate", "last", "--baseline", "baseline.json").rc == 0
    assert cli("profile", recipe("heavier", instructions=126_000), *board).rc == 0
    ran = cli("gate", "last", "--baseline", "baseline.json")
    assert ran.rc == 1
    assert ran.stdout.count("FAIL ") == 2
    assert "123,456   126,000  +2.06 %  +1 %" in ran.stdout
    assert "note: another model: fake_identity in the baseline, heavier now" in ran.stdout
    assert "FAILED: 2 of 2 cells" in ran.stdout
    ran = cli("gate", "last", "--baseline", baseline.json["run"], "--limit", "2.1%", "--json")
    assert ran.rc == 0
    assert ran.json["status"] == "pass"
    assert ran.json["cells"][0]["limit"] == pytest.approx(0.021)
    assert cli("gate", "last", "--baseline", "baseline.json", "--limit", "0.02").rc == 2
    assert cli("gate", "last").rc == 2
