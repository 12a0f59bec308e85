"""The main job end to end with the fake runtime: the real command line, agent, workers and files; no framework, no clock."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import FAKE_BOARD, FAKE_DEVICE, FAKE_MODEL, ROOT, CommandLine, Ran, wait_gone, wait_until
from rich.console import Console

import edgekit as package
from edgekit import store, verification
from edgekit.agent.protocol import INSTRUCTION_CLASSES
from edgekit.errors import UserError
from edgekit.report import table

pytestmark = pytest.mark.timeout(90)
PROFILE = ("profile", FAKE_MODEL, "--device", FAKE_DEVICE)
REQUIRED = (
    "id", "model", "format", "precision", "runtime", "device", "threads", "status", "error", "warnings", "latency",
    "instructions", "memory", "accuracy", "fidelity", "artifact",
)  # fmt: skip


def run_folder(cli: CommandLine) -> Path:
    """The one run in the results of a command line."""
    (path,) = (cli.cwd / "results").iterdir()
    return path


def lines(path: Path) -> list[Any]:
    """The measurements of a run."""
    return [json.loads(line) for line in (path / "measurements.jsonl").read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> tuple[CommandLine, Ran]:
    """One run that several tests look at, and the command line that made it."""
    cli = CommandLine(tmp_path_factory.mktemp("first"), warm=False)
    cli.environment["EDGEKIT_CACHE_DIR"] = str(shared_cache)
    return cli, cli(*PROFILE, "--launches", "2", "--json", "--quiet")


def test_json_is_one_object_with_everything_that_was_measured(first: tuple[CommandLine, Ran]) -> None:
    cli, ran = first
    assert ran.rc == 0
    assert ran.stderr == "", "--quiet"
    found = ran.json
    assert found["schema"] == store.SCHEMA
    assert found["run"] == run_folder(cli).name
    assert found["warnings"] == []
    assert [cell["id"] for cell in found["cells"]] == [
        "fake_identity/fp32/fake@fake+threads=1",
        "fake_identity/int8/fake@fake+threads=1",
    ]
    for cell in found["cells"]:
        assert set(REQUIRED) <= set(cell)
        assert (cell["model"], cell["format"], cell["runtime"], cell["device"]) == (
            "fake_identity",
            "fake",
            "fake",
            "fake",
        )
        assert (cell["threads"], cell["status"], cell["error"]) == (1, "ok", None)
        assert cell["latency"]["p50_ns"] == 1_200_000  # 1.2 ms on the fake clock, whatever this machine does
        assert cell["latency"]["emulated"] is False
        assert cell["latency"]["samples"] == 10  # two launches of five, as profile and command line say
        assert cell["instructions"]["total"] == 123_456
        assert set(INSTRUCTION_CLASSES) <= set(cell["instructions"])
        assert cell["memory"]["load_peak_bytes"] > 1_000_000
        assert cell["memory"]["run_peak_bytes"] > 1_000_000
        accuracy = cell["accuracy"]
        assert (accuracy["metric"], accuracy["correct"], accuracy["total"], accuracy["value"]) == (
            "top1",
            190,
            200,
            0.95,
        )
        assert cell["fidelity"]["sqnr_db"] >= 100
        assert cell["fidelity"]["max_abs_diff"] == 0
        assert len(cell["artifact"]["sha256"]) == 64
        assert cell["artifact"]["size_bytes"] > 100


def test_the_run_on_disk_keeps_raw_samples_and_gives_the_same_report(first: tuple[CommandLine, Ran]) -> None:
    cli, ran = first
    path = run_folder(cli)
    header = json.loads((path / "run.json").read_text("utf-8"))
    assert header["schema"] == store.SCHEMA
    assert header["plan"]["cells"] == [cell["id"] for cell in ran.json["cells"]]
    assert header["edgekit"] == package.__version__
    for line in lines(path):
        assert [len(launch["samples_ns"]) for launch in line["launches"]] == [5, 5]
        assert all(type(ns) is int for launch in line["launches"] for ns in launch["samples_ns"])
        # The fake clock is the process's own: the first launch goes on where 200 verified inferences ended, the next is fresh.
        assert [launch["samples_ns"][0] for launch in line["launches"]] == [1_188_000, 1_200_000]
    for name in (str(path), path.name, path.name[:16], "last"):
        assert package.load_report(name, cli.cwd / "results").to_json() == ran.json
    with pytest.raises(UserError, match="there is no run 'nonsense'"):
        package.load_report("nonsense", cli.cwd / "results")


def test_a_torn_line_is_said_and_done_again(first: tuple[CommandLine, Ran]) -> None:
    cli, _ = first
    path = cli.cwd / "torn" / "copy"
    shutil.copytree(run_folder(cli), path)
    whole = (path / "measurements.jsonl").read_bytes()
    (path / "measurements.jsonl").write_bytes(whole[:-100])
    torn = package.load_report(path)
    assert [warning["code"] for warning in torn.warnings] == ["torn-line"]
    assert len(torn.cells) == 1
    again = cli(*PROFILE[:4], "--resume", "copy", "--output", "torn", "--json")
    assert (again.rc, len(again.json["cells"]), again.json["warnings"]) == (0, 2, [])
    assert [len(line["launches"]) for line in lines(path)] == [2, 2], "with the effort of the earlier run"


def test_the_table_is_on_stdout_and_progress_on_stderr(cli: CommandLine) -> None:
    ran = cli(*PROFILE)
    assert ran.rc == 0
    head, *rest = ran.stdout.splitlines()
    assert head.strip() == "fake_identity on fake: the fake runtime on this machine"
    assert [line.split()[1:6] for line in rest[2:4]] == [
        ["fake", of, "95.0", "190/200", "100.0"] for of in ("fp32", "int8")
    ]
    assert all(re.search(r"\b1\.20\b", line) for line in rest[2:4])
    assert rest[-1] == f"results: results/{run_folder(cli).name}/run.json, measurements.jsonl, report.html"
    assert max(map(len, ran.stdout.splitlines())) <= 100
    assert "cell 2 of 2: fake_identity/int8/fake@fake+threads=1" in ran.stderr


def test_what_is_emulated_is_marked_as_such(cli: CommandLine) -> None:
    found = cli("profile", FAKE_MODEL, "-d", FAKE_BOARD, "--precision", "fp32", "--json").json
    assert found["cells"][0]["latency"]["emulated"] is True
    assert found["device"]["emulated"] is True
    assert [warning["code"] for warning in found["warnings"]] == ["uncounted-latency"]


def test_the_matrix_is_precisions_by_threads_and_the_numbers_are_obeyed(cli: CommandLine) -> None:
    options = ("--precision", "int8,fp32", "--threads", "2,1", "--samples", "40", "--launches", "1", "--calls", "3")
    found = cli(*PROFILE, *options, "--runtime", "all", "--output", "else where", "--json").json
    assert [(cell["precision"], cell["threads"]) for cell in found["cells"]] == [
        ("int8", 2), ("int8", 1), ("fp32", 2), ("fp32", 1),
    ]  # fmt: skip
    for cell in found["cells"]:
        assert cell["accuracy"]["total"] == 40
        assert "few-inputs" in [warning["code"] for warning in cell["warnings"]]
        assert (cell["latency"]["launches"], cell["latency"]["samples"]) == (1, 3)
    assert (cli.cwd / "else where" / found["run"] / "run.json").is_file()


FAULTS = (
    ("crash", "crashed", "SIGABRT"),
    ("segfault", "crashed", "SIGSEGV"),
    ("exit", "crashed", "code 3"),
    ("oom", "out_of_memory", "memory"),
    ("bad_model", "bad_model", "the file says it is bad"),
    ("wrong", "wrong_output", "the outputs are wrong"),
    ("short", "device", "the device answered for 100 of 200 inputs"),
)


def test_a_fault_fails_its_cell_alone(cli: CommandLine, recipe: Callable[..., Path]) -> None:
    """One fault for each number of threads; after them all, one cell that prints but works."""
    faults = {str(threads): fault for threads, (fault, _, _) in enumerate(FAULTS, 1)}
    name = recipe("faults", fault={**faults, "8": "print"}).name
    ran = cli("profile", name, "-d", FAKE_DEVICE, "-p", "fp32", "-t", "1,2,3,4,5,6,7,8,9", "--json")
    assert ran.rc == 4
    assert "Traceback" not in ran.stderr
    *failed, chatty, fine = ran.json["cells"]
    for cell, (fault, kind, words) in zip(failed, FAULTS, strict=True):
        assert (cell["status"], cell["error"]["kind"]) == ("failed", kind), fault
        assert words in cell["error"]["message"]
        assert not {"latency", "instructions", "memory"} & set(cell)
        assert cell["artifact"]["sha256"]
    assert failed[-2]["fidelity"]["sqnr_db"] < 15, "the evidence against a wrong output is kept"
    for cell in (chatty, fine):
        assert (cell["status"], cell["accuracy"]["correct"]) == ("ok", 190)
    table = cli("profile", name, "-d", FAKE_DEVICE, "--resume", "last").stdout
    assert "FAILED: fake fp32 x1: the process died of SIGABRT" in table
    assert table.count("190/200") == 2


@pytest.mark.slow
def test_a_hang_is_ended_at_its_deadline(
    recipe: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "PREDICT_S", 0.3)
    report = package.profile(recipe("hang", fault={"fp32": "hang"}), FAKE_DEVICE, output=tmp_path)
    assert [cell["status"] for cell in report.cells] == ["failed", "ok"]
    assert report.cells[0]["error"]["kind"] == "timeout"
    assert "0.3 s" in report.cells[0]["error"]["message"]


@pytest.mark.slow
def test_a_lost_device_fails_its_cell_and_the_next_has_a_new_agent(
    cli: CommandLine, recipe: Callable[..., Path]
) -> None:
    command = cli.start("profile", recipe("lost", fault={"fp32": "hang"}).name, "-d", FAKE_DEVICE, "--json")
    command.until("verifying on")

    def agent() -> int | None:
        found = [pid for pid in cli.running() if b".pyz" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        return sorted(found)[1] if len(found) == 3 else None  # the lock's holder, the agent, and the child that hangs

    with contextlib.suppress(ProcessLookupError):
        os.kill(wait_until(agent), signal.SIGKILL)
    ran = command.end()
    assert ran.rc == 4
    lost, fine = ran.json["cells"]
    assert lost["error"]["kind"] == "device"
    assert "SIGKILL" in lost["error"]["message"]
    assert fine["status"] == "ok"


@pytest.mark.slow
def test_a_converter_that_crashes_fails_its_cells_and_leaves_nothing(
    cli: CommandLine, recipe: Callable[..., Path], shared_cache: Path
) -> None:
    ran = cli("profile", recipe("crashing", convert_fault="crash").name, "-d", FAKE_DEVICE, "--json")
    assert ran.rc == 4
    assert [cell["error"]["kind"] for cell in ran.json["cells"]] == ["convert", "convert"], "the second was tried too"
    for cell in ran.json["cells"]:
        assert "killed by SIGSEGV" in cell["error"]["message"]
        assert "artifact" not in cell
    assert not list((shared_cache / "artifacts").rglob("*crashing*"))
    assert not [path for path in (shared_cache / "artifacts").glob(".*") if not path.name.endswith(".lock")]


def test_a_full_disk_is_one_sentence_and_keeps_what_was_finished(
    cli: CommandLine, recipe: Callable[..., Path], tmp_path: Path
) -> None:
    cold = tmp_path / "cold"
    ran = cli("profile", recipe("full", convert_fault="disk_full").name, "-d", FAKE_DEVICE, EDGEKIT_CACHE_DIR=str(cold))
    assert ran.rc == 3
    assert ran.stdout == ""
    assert "No space left on device" in ran.stderr
    assert "--cache-dir" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert "0 of 2 cells are kept" in ran.stderr
    assert not [path for path in (cold / "artifacts").iterdir() if not path.name.endswith(".lock")]


@pytest.mark.fresh
def test_interrupted_and_resumed(cli: CommandLine) -> None:
    command = cli.start(*PROFILE, "--threads", "1,2,3,4", "--json")
    command.until("cell 2 of 8")
    command.ctrl_c()
    ran = command.end()
    assert ran.rc == 130
    assert "Traceback" not in ran.stderr
    path = run_folder(cli)
    kept = (path / "measurements.jsonl").read_bytes()
    done = lines(path)
    assert 1 <= len(done) < 8
    assert [cell["id"] for cell in ran.json["cells"]] == [line["id"] for line in done]
    assert f"{len(done)} of 8 cells are kept in results/{path.name}" in ran.stderr
    # The model and the device lie elsewhere, and a run keeps no path that leads there.
    assert f"edgekit profile --resume {path.name} {FAKE_MODEL} --device {FAKE_DEVICE}" in ran.stderr
    assert cli("profile", "--resume", path.name).rc == 2
    assert not cli.running()

    again = cli(*PROFILE[:4], "--resume", path.name, "--json")
    assert again.rc == 0, again.stderr
    assert run_folder(cli) == path, "no other run was begun"
    assert (path / "measurements.jsonl").read_bytes().startswith(kept), "what was done is not done again"
    assert [line["id"] for line in lines(path)] == json.loads((path / "run.json").read_text("utf-8"))["plan"]["cells"]
    assert all(line["id"] not in again.stderr for line in done)
    assert [cell["status"] for cell in again.json["cells"]] == ["ok"] * 8
    third = cli(*PROFILE[:4], "--resume", "last", "--json")
    assert third.json == again.json
    assert "cell " not in third.stderr, "nothing is left to do"


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_ctrl_c_in_the_middle_of_a_hang_ends_at_once_and_keeps_what_is_done(
    cli: CommandLine, recipe: Callable[..., Path], number: signal.Signals
) -> None:
    command = cli.start("profile", recipe("hang_int8", fault={"int8": "hang"}).name, "-d", FAKE_DEVICE)
    command.until("cell 2 of 2")
    command.until("verifying on")
    begun = os.times().elapsed
    command.ctrl_c() if number == signal.SIGINT else command.process.send_signal(number)
    ran = command.end()
    assert os.times().elapsed - begun < 8, "it waited for a device that hangs"
    assert ran.rc == 130
    assert "edgekit: interrupted" in ran.stderr
    assert "1 of 2 cells are kept" in ran.stderr
    assert "190/200" in ran.stdout
    assert not cli.running()


@pytest.mark.slow
@pytest.mark.fresh
def test_when_the_host_is_killed_the_device_ends_by_itself(cli: CommandLine, recipe: Callable[..., Path]) -> None:
    command = cli.start("profile", recipe("orphan", fault="hang").name, "-d", FAKE_DEVICE)
    command.until("verifying on")
    others = [pid for pid in cli.running() if pid != command.process.pid]
    assert others
    command.process.kill()
    command.end()
    assert all(wait_gone(pid) for pid in others)
    wait_until(lambda: not cli.running())


@pytest.mark.slow
def test_nothing_written_tells_where_it_was_made(
    cli: CommandLine, recipe: Callable[..., Path], shared_cache: Path
) -> None:
    (cli.cwd / "mine.toml").write_bytes(FAKE_DEVICE.read_bytes())
    shown = io.StringIO()
    for number, fault in enumerate(({"fault": {"fp32": "crash"}}, {"convert_fault": "raise"})):
        name = recipe(f"where{number}", **fault).name
        shown.write(cli("profile", f"./{name}", "-d", "mine.toml", "--json", "--quiet").stdout)
        table.show(package.load_report("last", cli.cwd / "results"), Console(file=shown, width=400))
    assert '"log_tail": "Traceback' in shown.getvalue(), "what is searched below has a traceback in it"
    files = [path for path in (cli.cwd / "results").rglob("*") if path.is_file()]
    files += [path for path in (shared_cache / "artifacts").rglob("*") if path.is_file()]
    assert len(files) > 4
    for place in (str(ROOT), str(cli.cwd), str(shared_cache), f"{Path.home()}/", f"{tempfile.gettempdir()}/"):
        assert place not in shown.getvalue().replace(str(cli.cwd / "results"), "")  # load_report was given that path
        for path in files:
            assert place not in path.read_text("utf-8"), f"{place} stands in {path}"


def test_the_python_api_returns_the_same_report(cli: CommandLine, tmp_path: Path) -> None:
    said: list[str] = []
    report = package.profile(
        FAKE_MODEL, FAKE_DEVICE, precisions=["fp32"], output=tmp_path, effort={"calls": 4}, say=said.append
    )
    assert isinstance(report, package.Report)
    assert [cell["status"] for cell in report.cells] == ["ok"]
    assert report.cells[0]["latency"]["samples"] == 4
    assert report.failed == []
    assert any("cell 1 of 1" in line for line in said)
    assert package.load_report("last", tmp_path).to_json() == report.to_json()
    with pytest.raises(package.EdgekitError, match="unknown device 'pi44'"):
        package.profile(device="pi44")
