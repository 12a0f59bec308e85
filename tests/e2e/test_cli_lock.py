"""One run per device at a time: two command lines on one device, and each process of a run killed in the worst moment."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import FAKE_DEVICE, FAKE_MODEL, Command, CommandLine, wait_gone, wait_until

import edgekit as package
from edgekit import bench, plan
from edgekit.errors import DeviceError
from edgekit.transports import local

pytestmark = pytest.mark.timeout(90)
PROFILE = ("profile", FAKE_MODEL, "-d", FAKE_DEVICE)


def agents(cli: CommandLine, command: Command) -> list[int]:
    """The agents of one command, those that it started first in front; their children are left out."""
    found = []
    for pid in cli.running():
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
            parent, start = (int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[n]) for n in (1, 19))
        except OSError:
            continue
        if b".pyz" in line and b"--child" not in line and parent == command.process.pid:
            found.append((start, pid))
    return [pid for _, pid in sorted(found)]


@pytest.fixture
def hanging(cli: CommandLine, recipe: Callable[..., Path]) -> Iterator[Command]:
    """A run that has the device, and whose first cell does not end."""
    command = cli.start("profile", recipe("hanging", fault={"fp32": "hang"}).name, "-d", FAKE_DEVICE)
    try:
        command.until("verifying on")
        yield command
    finally:
        command.process.kill()
        if command.process.returncode is None:
            command.end()


def kill(command: Command) -> None:
    """SIGKILL to the host's process alone."""
    command.process.kill()
    command.end()


def test_the_second_is_told_who_has_the_device(cli: CommandLine, hanging: Command) -> None:
    ran = cli(*PROFILE)
    assert ran.rc == 3
    pid = hanging.process.pid
    words = rf"edgekit: fake is in use: \S+@\S+, process {pid} runs profile hanging on it since \d{{4}}-[-\d]+ [\d:]+ UTC \(\d+ s\)"
    assert re.search(words, ran.stderr), ran.stderr
    assert "wait for it with --wait" in ran.stderr and "Traceback" not in ran.stderr
    assert re.search(r"go on with: edgekit profile --resume \S+ .*--wait", ran.stderr)
    assert hanging.process.poll() is None, "the first goes on undisturbed"
    kill(hanging)


def test_when_the_host_is_killed_the_device_is_free_at_once(cli: CommandLine, hanging: Command) -> None:
    holder_agent_child = 3
    others = wait_until(
        lambda: found if len(found := set(cli.running()) - {hanging.process.pid}) == holder_agent_child else ()
    )
    kill(hanging)
    assert all(wait_gone(pid) for pid in others)
    assert cli(*PROFILE).rc == 0


@pytest.mark.slow
def test_whoever_waits_goes_on_when_the_first_is_killed(cli: CommandLine, hanging: Command) -> None:
    second = cli.start(*PROFILE, "--wait", "--json")
    second.until("waiting, fake is in use")
    kill(hanging)
    ran = second.end()
    assert ran.rc == 0
    assert [cell["status"] for cell in ran.json["cells"]] == ["ok", "ok"]


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_waiting_can_be_ended(cli: CommandLine, hanging: Command, number: signal.Signals) -> None:
    second = cli.start(*PROFILE, "--wait")
    second.until("waiting, fake is in use")
    (waiting,) = agents(cli, second)
    second.ctrl_c() if number == signal.SIGINT else second.process.kill()
    assert second.end().rc == (130 if number == signal.SIGINT else -9)
    assert wait_gone(waiting)
    assert cli(*PROFILE).rc == 3, "the first still has the device"
    kill(hanging)


@pytest.mark.slow
def test_two_that_wait_for_each_other_both_finish(cli: CommandLine, recipe: Callable[..., Path]) -> None:
    names = [recipe(f"both{n}", latency_ns=10**6 * n).name for n in (2, 3)]
    commands = [cli.start("profile", name, "-d", FAKE_DEVICE, "--json", "--wait") for name in names]
    for command, number in zip(commands, (2, 3), strict=True):
        ran = command.end()
        assert ran.rc == 0, ran.stderr
        assert [cell["latency"]["p50_ns"] for cell in ran.json["cells"]] == [10**6 * number] * 2


def test_of_two_that_do_not_wait_one_finishes(cli: CommandLine, recipe: Callable[..., Path], tmp_path: Path) -> None:
    name = recipe("race", fault={"fp32": f"pause {tmp_path / 'go'}"}).name
    commands = [cli.start("profile", name, "-d", FAKE_DEVICE) for _ in range(2)]
    wait_until(lambda: any(command.process.poll() is not None for command in commands))
    (tmp_path / "go").touch()
    ran = [command.end() for command in commands]
    assert sorted(one.rc for one in ran) == [0, 3], [one.stderr for one in ran]
    assert [one.stderr.count("is in use") for one in ran] == [int(one.rc == 3) for one in ran]


@pytest.mark.slow
def test_the_lock_stays_when_an_agent_is_killed(cli: CommandLine, hanging: Command) -> None:
    holder, agent = wait_until(lambda: found if len(found := agents(cli, hanging)) == 2 else None)
    second = cli.start(*PROFILE, "--wait")
    second.until("waiting, fake is in use")
    os.kill(agent, signal.SIGKILL)
    ran = hanging.end()
    assert ran.rc == 4, "one cell failed, the next had a new agent"
    assert "190/200" in ran.stdout
    assert second.process.poll() is None or second.end().rc == 0
    assert wait_gone(holder)
    if second.process.returncode is None:
        assert second.end().rc == 0


@pytest.mark.slow
def test_a_cell_during_which_the_lock_was_lost_fails_and_the_device_is_locked_again(
    cli: CommandLine, recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """Nothing else on the device fails when the holder is killed; but another run could have used the device since then."""
    name = recipe("paused", fault={"fp32": f"pause {tmp_path / 'go'}"}).name
    command = cli.start("profile", name, "-d", FAKE_DEVICE, "--json")
    command.until("verifying on")
    holder, _ = wait_until(lambda: found if len(found := agents(cli, command)) == 2 else None)
    os.kill(holder, signal.SIGKILL)
    assert wait_gone(holder)
    (tmp_path / "go").touch()
    ran = command.end()
    assert ran.rc == 4
    lost, fine = ran.json["cells"]
    assert (lost["status"], lost["error"]["kind"]) == ("failed", "device")
    assert lost["error"]["message"] == "the lock on fake was lost while this was measured"
    assert fine["status"] == "ok"


@pytest.mark.slow
def test_when_the_lock_was_lost_and_taken_the_run_ends_and_can_be_resumed(
    cli: CommandLine, recipe: Callable[..., Path], tmp_path: Path
) -> None:
    name = recipe("robbed", fault={"fp32": f"pause {tmp_path / 'go'}"}).name
    command = cli.start("profile", name, "-d", FAKE_DEVICE)
    command.until("verifying on")
    holder, _ = wait_until(lambda: found if len(found := agents(cli, command)) == 2 else None)
    os.kill(holder, signal.SIGKILL)
    robber = cli.start("profile", recipe("robber", fault={"fp32": "hang"}).name, "-d", FAKE_DEVICE)
    robber.until("verifying on")
    (tmp_path / "go").touch()
    ran = command.end()
    assert ran.rc == 3
    assert "runs profile robber on it" in ran.stderr
    assert "1 of 2 cells are kept" in ran.stderr
    kill(robber)
    again = cli("profile", name, "-d", FAKE_DEVICE, "--resume", re.findall(r"--resume (\S+)", ran.stderr)[0], "--json")
    assert [cell["status"] for cell in again.json["cells"]] == ["ok", "ok"], (
        "what was lost with the lock is measured again"
    )


@pytest.mark.slow
def test_the_lock_is_on_the_device_and_stays_there_unheld(cli: CommandLine, cold_cache: Path) -> None:
    assert cli(*PROFILE).rc == 0
    (lock,) = cold_cache.rglob("lock")
    assert lock.read_bytes() == b""
    assert lock.stat().st_mode & 0o777 == 0o600


@pytest.mark.slow
def test_a_run_is_finished_only_on_the_device_it_was_begun_on(
    cold_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two phones of one profile: which of them is plugged in is nowhere in the profile."""
    monkeypatch.setattr(local.Local, "identity", "adb 1")
    monkeypatch.chdir(tmp_path)
    package.profile(FAKE_MODEL, FAKE_DEVICE, output=tmp_path / "out")
    (lines,) = (tmp_path / "out").rglob("measurements.jsonl")
    kept = lines.read_text("utf-8").splitlines(keepends=True)[0]
    lines.write_text(kept, "utf-8")
    again = plan.Request(str(FAKE_MODEL), str(FAKE_DEVICE), output=tmp_path / "out", resume="last")
    monkeypatch.setattr(local.Local, "identity", "adb 2")
    with pytest.raises(DeviceError, match="another device than before answers as fake"):
        bench.run(again, lambda _: None)
    assert lines.read_text("utf-8") == kept
    monkeypatch.setattr(local.Local, "identity", "adb 1")
    assert len(bench.run(again, lambda _: None).lines) == 2
