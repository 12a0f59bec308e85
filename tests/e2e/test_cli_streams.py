"""The command line when its streams misbehave: closed, full, read by somebody who leaves. The work and its exit code hold."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import FAKE_DEVICE, FAKE_MODEL, ROOT

import edgekit
from edgekit.errors import UserError

RUN = f"{shlex.quote(sys.executable)} -P -m edgekit profile {shlex.quote(str(FAKE_MODEL))} -d {shlex.quote(str(FAKE_DEVICE))}"


def bash(script: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A line of shell, with its redirections."""
    return subprocess.run(
        ["bash", "-c", script],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_progress_that_nobody_reads_stops_nothing(tmp_path: Path) -> None:
    done = bash(f"set -o pipefail; {RUN} --json 2> >(head -c 1 >/dev/null) > cells.json", tmp_path)
    assert done.returncode == 0
    assert len(json.loads((tmp_path / "cells.json").read_text("utf-8"))["cells"]) == 2


@pytest.mark.slow
def test_a_reader_that_leaves_does_not_change_the_exit_code(tmp_path: Path, recipe: Callable[..., Path]) -> None:
    name = recipe("failing", fault={"int8": "crash"})
    line = RUN.replace(shlex.quote(str(FAKE_MODEL)), shlex.quote(str(name)))
    assert bash(f"{line} -q --json | true; exit ${{PIPESTATUS[0]}}", tmp_path).returncode == 4
    assert bash(f"{RUN} -q | true; exit ${{PIPESTATUS[0]}}", tmp_path).returncode == 0


def test_a_report_that_cannot_be_written_is_said_and_the_run_kept(tmp_path: Path) -> None:
    done = bash(f"{RUN} -q --json > /dev/full", tmp_path)
    assert done.returncode == 3
    assert "cannot write the report: No space left on device" in done.stderr
    assert "the run is kept in results/" in done.stderr and "Traceback" not in done.stderr
    assert len(edgekit.load_report("last", tmp_path / "results").cells) == 2


@pytest.mark.parametrize(
    "closed", [*(pytest.param(one, marks=pytest.mark.slow) for one in (">&-", "2>&-", "<&-")), "<&- >&- 2>&-"]
)
def test_closed_streams(tmp_path: Path, closed: str) -> None:
    done = bash(f"{RUN} {closed}", tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(edgekit.load_report("last", tmp_path / "results").cells) == 2


def test_what_the_encoding_lacks_is_escaped(tmp_path: Path) -> None:
    folder = tmp_path / "größe"
    folder.mkdir()
    done = bash(f"{RUN} -q -o größe", tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "gr\\xf6\\xdfe" in done.stdout


def test_a_module_in_the_users_folder_is_not_taken_for_a_package(tmp_path: Path) -> None:
    for name in ("numpy.py", "secrets.py"):
        (tmp_path / name).write_text("raise RuntimeError('not me')\n", "utf-8")
    assert bash(f"{RUN} -q", tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"samples": 0}, "samples must be a whole number of at least 1, not 0"),
        ({"samples": -3}, "samples must be a whole number of at least 1, not -3"),
        ({"effort": {"cals": 3}}, "unknown field of the effort 'cals'"),
        ({"effort": {"calls": 2.5}}, "calls must be a whole number of at least 1, not 2.5"),
        ({"precisions": []}, "no precisions are left to measure"),
        ({"threads": []}, "no threads are left to measure"),
        ({"threads": 0}, "threads must be whole numbers of at least 1, not 0"),
    ],
)
def test_the_python_api_refuses_what_no_run_can_be_made_of(
    arguments: dict[str, object], words: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=words):
        edgekit.profile(FAKE_MODEL, FAKE_DEVICE, output=tmp_path, **arguments)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_the_python_api_takes_one_value_for_a_list(tmp_path: Path) -> None:
    report = edgekit.profile(FAKE_MODEL, FAKE_DEVICE, runtimes="fake", precisions="int8", threads=2, output=tmp_path)
    assert [cell["id"] for cell in report.cells] == ["fake_identity/int8/fake@fake+threads=2"]
