"""Several devices at once: `profile --device A,B` with the fake runtime, one of them broken, busy or interrupted."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import FAKE_BOARD, FAKE_DEVICE, FAKE_MODEL, CommandLine, Ran, wait_gone

import edgekit as package
from edgekit import bench, fleet, store
from edgekit.errors import DeviceError, UserError

pytestmark = pytest.mark.timeout(90)
Boards = Callable[..., list[str]]


@pytest.fixture
def boards(cli: CommandLine) -> Boards:
    """Writes profiles of fake boards, which are emulated and so measured side by side: boards("a", "b") -> their files."""

    def write(*names: str, **changes: str) -> list[str]:
        for name in names:
            text = FAKE_BOARD.read_text("utf-8")
            for key, value in changes.items():
                text = re.sub(rf'^{key} = ".*"$', f'{key} = "{value}"', text, flags=re.MULTILINE)
            (cli.cwd / f"{name}.toml").write_text(text, "utf-8")
        return [f"{name}.toml" for name in names]

    return write


def profile(cli: CommandLine, model: object, devices: list[str], *options: object) -> Ran:
    """`edgekit profile` on these devices."""
    return cli("profile", model, "--device", ",".join(devices), *options)


def runs(cli: CommandLine) -> dict[str, Path]:
    """The run folders by their device."""
    found = (cli.cwd / "results").iterdir()
    return {json.loads((path / "run.json").read_text("utf-8"))["device"]["name"]: path for path in found}


def resumed(cli: CommandLine, device: str, stderr: str) -> Any:
    """The report after the command that a run was said to be finished with."""
    (command,) = re.findall(rf"^edgekit: {device}: go on with: edgekit (.*)$", stderr, re.MULTILINE)
    ran = cli(*command.split(), "--json")
    assert ran.rc == 0, ran.stderr
    return ran.json


@pytest.mark.fresh
def test_two_devices_are_one_table_and_two_runs(cli: CommandLine, boards: Boards) -> None:
    ran = profile(cli, FAKE_MODEL, boards("left", "right"))
    assert ran.rc == 0, ran.stderr
    rows = [line.split() for line in ran.stdout.splitlines()]
    assert rows[2][0] == "device"
    assert [row[1:6] for row in rows[4:8]] == [
        [name, "fake", of, "95.0", "190/200"] for name in ("left", "right") for of in ("fp32", "int8")
    ]
    assert ran.stdout.count("latency is the emulator's") == 1
    assert "weak: latency is" in ran.stdout, "it is so on both, and needs no names"
    assert max(map(len, ran.stdout.splitlines())) <= 100
    assert set(runs(cli)) == {"left", "right"}
    for name, path in runs(cli).items():
        assert f"results: results/{path.name}/run.json" in ran.stdout
        assert re.search(rf"\] {name}: cell 2 of 2: fake_identity/int8/fake@{name}\+threads=1", ran.stderr)


def test_json_holds_the_report_of_each_device_as_one_alone_has_it(cli: CommandLine, boards: Boards) -> None:
    left, right = boards("left", "right")
    found = profile(cli, FAKE_MODEL, [left, right], "--json", "--quiet").json
    assert (set(found), found["schema"]) == ({"schema", "reports"}, store.SCHEMA)
    assert [report["device"]["name"] for report in found["reports"]] == ["left", "right"]
    for report in found["reports"]:
        assert report == package.load_report(report["run"], cli.cwd / "results").to_json()
    assert set(profile(cli, FAKE_MODEL, [left, left], "--json").json) == set(found["reports"][0]), "one asked for twice"


@pytest.mark.slow
def test_a_device_that_cannot_be_reached_stops_no_other(cli: CommandLine, boards: Boards) -> None:
    (good,) = boards("good")
    (broken,) = boards("broken", arch="aarch64", transport="ssh")
    ran = profile(cli, FAKE_MODEL, [broken, good], "--json")
    assert ran.rc in (2, 3), ran.stderr
    lost, fine = ran.json["reports"]
    assert (lost["cells"], [cell["status"] for cell in fine["cells"]]) == ([], ["ok", "ok"])
    assert lost["error"]["message"] and "error" not in fine
    assert f"edgekit: broken: {lost['error']['message']}" in ran.stderr
    assert "broken: 0 of 2 cells are kept" in ran.stderr
    assert "good: " in ran.stderr and "good: go on" not in ran.stderr
    assert f"FAILED: broken: {lost['error']['message']}" in re.sub(
        r"\s+", " ", profile(cli, FAKE_MODEL, [good, broken]).stdout
    )
    assert "Traceback" not in ran.stderr


@pytest.mark.slow
def test_a_busy_device_stops_no_other_and_its_run_is_finished_later(
    cli: CommandLine, boards: Boards, recipe: Callable[..., Path]
) -> None:
    busy, free = boards("busy", "free")
    first = cli.start("profile", recipe("hanging", fault={"fp32": "hang"}).name, "-d", busy)
    first.until("verifying on")
    ran = profile(cli, FAKE_MODEL, [busy, free], "--json")
    assert ran.rc == 3
    assert "busy: busy is in use: " in ran.stderr
    assert [len(report["cells"]) for report in ran.json["reports"]] == [0, 2]
    first.process.kill()
    first.end()
    assert [cell["status"] for cell in resumed(cli, "busy", ran.stderr.replace("--wait", ""))["cells"]] == ["ok", "ok"]


def test_cells_that_fail_are_the_exit_code(cli: CommandLine, boards: Boards, recipe: Callable[..., Path]) -> None:
    ran = profile(cli, recipe("breaking", fault={"int8": "crash"}).name, boards("left", "right"))
    assert ran.rc == 4
    assert "FAILED: left fake int8, right fake int8: the process died of SIGABRT" in ran.stdout
    assert "go on with" not in ran.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_all_devices_and_each_run_is_resumed_by_its_name(
    cli: CommandLine,
    boards: Boards,
    recipe: Callable[..., Path],
    tmp_path: Path,
    cold_cache: Path,
    number: signal.Signals,
) -> None:
    go = tmp_path / "go"
    name = recipe("paused", fault={"int8": f"pause {go}"}).name
    last = str(FAKE_DEVICE)  # is not begun when the others are interrupted
    command = cli.start("profile", name, "--device", ",".join([*boards("left", "right"), last]), "--json")
    waiting = {"left", "right"}
    while waiting:
        command.until(": cell 2 of 2")
        waiting -= set(re.findall(r"\] (\w+): cell 2 of 2", command.said))
    begun = os.times().elapsed
    command.ctrl_c() if number == signal.SIGINT else command.process.send_signal(number)
    ran = command.end()
    assert os.times().elapsed - begun < fleet.ENDING_S, "it waited for a device"
    assert ran.rc == 130
    assert ran.stderr.count("edgekit: interrupted") == 1
    assert "Traceback" not in ran.stderr
    assert not [pid for pid in cli.running() if not wait_gone(pid)]
    assert [[c["precision"] for c in r["cells"]] for r in ran.json["reports"]] == [["fp32"], ["fp32"], []]
    for device, kept in (("left", 1), ("right", 1), ("fake", 0)):
        assert f"edgekit: {device}: {kept} of 2 cells are kept in results/{runs(cli)[device].name}" in ran.stderr
    go.touch()
    for device in ("left", "right", "fake"):
        assert [cell["status"] for cell in resumed(cli, device, ran.stderr)["cells"]] == ["ok", "ok"]


def test_ctrl_c_while_converting_ends_all(cli: CommandLine, boards: Boards, recipe: Callable[..., Path]) -> None:
    name = recipe("endless", convert_fault="hang").name
    command = cli.start("profile", name, "--device", ",".join(boards("left", "right")))
    command.until("converting endless")
    command.ctrl_c()
    ran = command.end()
    assert (ran.rc, ran.stdout) == (130, "")
    assert ran.stderr.count("0 of 2 cells are kept") == 2
    assert not [pid for pid in cli.running() if not wait_gone(pid)]


@pytest.mark.slow
def test_everything_is_made_before_anything_is_measured_and_this_machine_is_measured_alone(
    cli: CommandLine, boards: Boards, recipe: Callable[..., Path]
) -> None:
    first, second = boards("first", "second")
    ran = profile(cli, recipe("order", latency_ns=77_000).name, [str(FAKE_DEVICE), first, second], "--threads", "1,2")
    assert ran.rc == 0, ran.stderr
    said = ran.stderr.splitlines()
    made = [n for n, line in enumerate(said) if "converting" in line or "computing the float" in line]
    timed = [n for n, line in enumerate(said) if "measuring" in line]
    assert len(made) == 3, "once for all devices"
    assert max(made) < min(timed)
    others = [n for n, line in enumerate(said) if re.search(r"\] (first|second): ", line)]
    local = [n for n, line in enumerate(said) if "] fake: " in line]
    assert max(others) < min(local)
    heads = next(line.split() for line in ran.stdout.splitlines() if line.split()[:1] == ["device"])
    assert heads[heads.index("emul.") :][:2] == ["emul.", "p50"], (
        "an emulator's latency stands in no column with a device's"
    )
    assert "weak: first, second: latency is the emulator's" in ran.stdout


@pytest.mark.slow
def test_the_devices_are_measured_at_the_same_time(
    cli: CommandLine, boards: Boards, recipe: Callable[..., Path], tmp_path: Path, cold_cache: Path
) -> None:
    """Each waits in its first cell: one after another, the second would never get there."""
    go = tmp_path / "go"
    name = recipe("together", fault={"fp32": f"pause {go}"}).name
    command = cli.start("profile", name, "--device", ",".join(boards("left", "right")))
    command.until("verifying on")
    command.until("verifying on")
    go.touch()
    assert command.end().rc == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--host", "pi@192.0.2.7"), "say where one device is, and 2 are asked for"),
        (("--resume", "last"), "resume each run by its own name"),
    ],
)
def test_what_is_for_one_device_is_refused(
    cli: CommandLine, boards: Boards, options: tuple[str, ...], words: str
) -> None:
    ran = profile(cli, FAKE_MODEL, boards("left", "right"), *options)
    assert (ran.rc, ran.stdout) == (2, "")
    assert words in ran.stderr
    assert not (cli.cwd / "results").exists()


def test_bad_input_for_one_device_is_said_before_any_is_measured(cli: CommandLine, boards: Boards) -> None:
    (left,) = boards("left")
    (cli.cwd / "more").mkdir()
    (cli.cwd / "more" / "left.toml").write_bytes((cli.cwd / left).read_bytes())
    for other, words in (("pi44", "unknown device 'pi44'"), ("more/left.toml", "two of the devices are called 'left'")):
        ran = profile(cli, FAKE_MODEL, [left, other])
        assert (ran.rc, ran.stdout) == (2, "")
        assert words in ran.stderr
    assert not (cli.cwd / "results").exists()


@pytest.mark.slow
def test_the_python_api_returns_a_report_for_each_device(
    boards: Boards, cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = [str(cli.cwd / name) for name in boards("left", "right")]
    found = package.profile(FAKE_MODEL, devices, precisions="fp32", output=tmp_path / "out")
    assert [report.header["device"]["name"] for report in found.reports] == ["left", "right"]
    assert (found.errors, found.failed) == ({}, [])
    one = package.profile(FAKE_MODEL, devices[:1], precisions="fp32", output=tmp_path / "out")
    assert len(one.reports) == 1, "a list gives Reports, however long"
    with pytest.raises(UserError, match="no devices are left"):
        package.profile(FAKE_MODEL, [], output=tmp_path / "out")

    real = bench.carry_out

    def unlucky(job: bench.Job) -> None:
        if job.subject.device.name == "left":
            raise failure
        real(job)

    monkeypatch.setattr(bench, "carry_out", unlucky)
    failure: Exception = DeviceError("it is gone")
    found = package.profile(FAKE_MODEL, devices, precisions="fp32", output=tmp_path / "out")
    assert [len(report.cells) for report in found.reports] == [0, 1]
    assert found.errors == {"left": failure}
    failure = ZeroDivisionError("a bug of ours")
    with pytest.raises(ZeroDivisionError):
        package.profile(FAKE_MODEL, devices, precisions="fp32", output=tmp_path / "out")


@pytest.mark.slow
def test_an_error_of_this_machine_while_making_ends_all(
    boards: Boards, cli: CommandLine, recipe: Callable[..., Path], tmp_path: Path
) -> None:
    cold = str(tmp_path / "cold")
    name = recipe("full", convert_fault="disk_full").name
    ran = cli("profile", name, "--device", ",".join(boards("left", "right")), EDGEKIT_CACHE_DIR=cold)
    assert (ran.rc, ran.stdout) == (3, "")
    assert ran.stderr.count("No space left on device") == 1
    assert ran.stderr.count("0 of 2 cells are kept") == 2
    assert "Traceback" not in ran.stderr
