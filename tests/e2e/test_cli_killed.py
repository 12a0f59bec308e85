"""Runs that are cut off, or written by two at once: no finished cell is lost, and the reader is told."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from harness import FAKE_DEVICE, FAKE_MODEL, ROOT, CommandLine

from edgekit import store
from edgekit.errors import UserError
from edgekit.report import Report

RUN = ROOT / "tests" / "golden" / "run-schema-1"


def test_a_file_cut_short_anywhere_keeps_every_complete_line(tmp_path: Path) -> None:
    whole = (RUN / "measurements.jsonl").read_bytes()
    kept = store.Run.load(RUN).lines
    shutil.copy(RUN / "run.json", tmp_path)
    ends = [index + 1 for index, byte in enumerate(whole) if byte == ord("\n")]
    near = {end + shift for end in (0, *ends) for shift in (-2, -1, 0, 1, 2)} & set(range(len(whole) + 1))
    for length in sorted(near | set(range(0, len(whole), 997))):
        (tmp_path / "measurements.jsonl").write_bytes(whole[:length])
        complete = sum(end <= length for end in ends)
        run = store.Run.load(tmp_path)
        assert run.lines == kept[:complete]
        assert run.torn == (length not in (0, *ends))
        if complete == len(kept):
            continue
        report = Report.load(tmp_path)
        assert [cell["id"] for cell in report.cells] == [line["id"] for line in kept[:complete]]
        assert {"torn-line", "unfinished"} & {warning["code"] for warning in report.warnings}


def test_zeros_at_the_end_as_a_power_cut_leaves_them_are_a_torn_line(tmp_path: Path) -> None:
    shutil.copytree(RUN, tmp_path / "run")
    with (tmp_path / "run" / "measurements.jsonl").open("ab") as stream:
        stream.write(bytes(4096))
    run = store.Run.load(tmp_path / "run")
    assert run.torn and len(run.lines) == 6


@pytest.mark.slow
def test_the_report_says_what_is_missing(cli: CommandLine) -> None:
    assert cli("profile", FAKE_MODEL, "--device", FAKE_DEVICE, "-q").rc == 0
    (run,) = (cli.cwd / "results").iterdir()
    lines = (run / "measurements.jsonl").read_bytes().splitlines(keepends=True)
    (run / "measurements.jsonl").write_bytes(lines[0])
    shown = cli("show", "last")
    assert shown.rc == 0 and "1 of 2 cells are measured" in shown.stdout
    (run / "measurements.jsonl").write_bytes(lines[0] + lines[1][:50])
    assert "torn by a crash" in cli("show", "last").stdout
    again = cli("profile", FAKE_MODEL, "--device", FAKE_DEVICE, "--resume", "last", "--json")
    assert again.rc == 0 and [warning["code"] for warning in again.json["warnings"]] == []
    assert (run / "measurements.jsonl").read_bytes().startswith(lines[0])


@pytest.mark.slow
def test_a_run_is_written_by_one_process_at_a_time(cli: CommandLine) -> None:
    """The second says so, and the first one's cells are all there."""
    assert cli("profile", FAKE_MODEL, "--device", FAKE_DEVICE, "-q").rc == 0
    (path,) = (cli.cwd / "results").iterdir()
    run = store.Run.load(path)
    lines = (path / "measurements.jsonl").read_bytes().splitlines(keepends=True)
    (path / "measurements.jsonl").write_bytes(lines[0])
    first = store.Run.load(path)
    with first.claimed():
        second = cli("profile", FAKE_MODEL, "--device", FAKE_DEVICE, "--resume", "last")
        assert second.rc == 2 and "another edgekit is writing the run" in second.stderr
        assert len(first.lines) == 1
    late = store.Run.load(path)
    assert cli("profile", FAKE_MODEL, "--device", FAKE_DEVICE, "--resume", "last", "-q").rc == 0
    with pytest.raises(UserError, match="went on with the run"), late.claimed():
        raise AssertionError("it was claimed although it is another one now")
    assert store.Run.load(path).done() == run.done()


def test_two_runs_of_one_name_have_a_folder_each(tmp_path: Path) -> None:
    header = {"run": "20260101-000000-m-d-abcd", "device": {"emulated": False}, "plan": {"cells": []}}
    made = [store.Run.create(tmp_path, header) for _ in range(3)]
    assert [run.path.name[24:] for run in made] == ["", "-2", "-3"]
    assert [store.Run.load(run.path).header["run"] for run in made] == [run.path.name for run in made]


WRITER = """
import sys
from pathlib import Path
from edgekit import store
from edgekit.types import Cell, Measurement
header = {"run": "20260101-000000-m-d-abcd", "device": {"emulated": False}, "plan": {"cells": []}}
run = store.Run.create(Path(sys.argv[1]), header)
with run.claimed():
    for number in range(40):
        run.append(Measurement(Cell("m", "fake", sys.argv[2] + str(number), "fake", "d"), "ok"))
"""


def test_two_processes_that_write_runs_at_once_do_not_disturb_one_another(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = [subprocess.Popen([*command, name], env=environment) for name in "abc"]
    assert [process.wait() for process in started] == [0, 0, 0]
    runs = [store.Run.load(path) for path in store.all_runs(tmp_path)]
    assert [len(run.done()) for run in runs] == [40, 40, 40]
    assert {frozenset(line["cell"]["precision"][0] for line in run.lines) for run in runs} == {
        frozenset("a"), frozenset("b"), frozenset("c"),
    }  # fmt: skip


@pytest.mark.runtimes  # for the time it takes, not for what it needs
def test_kill_9_at_any_moment_loses_no_finished_cell() -> None:
    tool = [sys.executable, str(ROOT / "tools" / "bench" / "kill.py"), "--times", "20"]
    done = subprocess.run(tool, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("killed 20 times") and "0 times a cell was lost" in done.stdout
