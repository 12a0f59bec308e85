"""The lock on a board behind SSH: two hosts at once, and a host that is killed while it has the board."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import sshd

from edgekit import cache

pytestmark = [pytest.mark.emulated, pytest.mark.runtimes]
RUN = ("profile", "digits_mlp", "-d", "pi4", "-r", "tflite", "-p", "fp32", "--launches", "1", "--max-seconds", "1")
FREE_S = 30.0  # how long after the host was killed another may have to wait, its own start included


class Host:
    """Somebody's machine: a home folder with the board's address in devices.toml and its key in known_hosts."""

    def __init__(self, home: Path, board: sshd.Server) -> None:
        self.home = home
        (home / ".ssh").mkdir(parents=True)
        (home / ".ssh/known_hosts").write_text(f"[127.0.0.1]:{board.port} {board.host_key}\n")
        (home / "devices.toml").write_text(
            f'[pi4.connection]\nhost = "{board.user}@127.0.0.1:{board.port}"\nidentity = "{board.identity}"\n'
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """edgekit there; the caller waits."""
        places = {
            "EDGEKIT_CACHE_DIR": str(cache.cache_dir()),
            "EDGEKIT_CONFIG_DIR": str(self.home),
            "HOME": str(self.home),
        }
        argv = [sys.executable, "-m", "edgekit", *arguments]
        return subprocess.Popen(
            argv, cwd=self.home, env={**os.environ, **places}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sshd.Server]:
    """A Pi in a namespace, with a real SSH server."""
    with sshd.pi(tmp_path_factory.mktemp("pi") / "device") as server:
        yield server


@pytest.fixture(scope="module")
def hosts(board: sshd.Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[Host, Host]:
    """Two that share the board."""
    one, two = (Host(tmp_path_factory.mktemp("host") / "home", board) for _ in range(2))
    return one, two


def until(process: subprocess.Popen[str], words: str) -> None:
    """Wait for it to say something."""
    assert process.stderr
    said = []
    for line in process.stderr:
        said.append(line)
        if words in line:
            return
    raise AssertionError(f"it ended without '{words}': {said}")


def test_the_second_host_is_told_who_has_it_or_waits(hosts: tuple[Host, Host]) -> None:
    one, two = hosts
    # Long enough that it still runs when the second one asks, on a slow machine too.
    first = one.start(*RUN, "--json", "--calls", "1000000", "--max-seconds", "30")
    until(first, "verifying on pi4")
    hasty, patient = two.start(*RUN, "--quiet"), two.start(*RUN, "--wait", "--json")
    _, said = hasty.communicate(timeout=120)
    assert hasty.returncode == 3
    assert f"process {first.pid} runs profile digits_mlp on it since " in said
    for process in (first, patient):
        found, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
        (cell,) = json.loads(found)["cells"]
        assert (cell["status"], cell["latency"]["emulated"]) == ("ok", False)


def test_after_the_host_was_killed_the_board_is_free_and_nothing_runs_on(hosts: tuple[Host, Host]) -> None:
    one, two = hosts
    first = one.start(*RUN, "--calls", "1000000", "--max-seconds", "600")
    until(first, "measuring, launch 1")
    first.send_signal(signal.SIGKILL)
    first.communicate()
    killed = time.monotonic()
    second = two.start(*RUN, "--wait")
    until(second, "verifying on pi4")
    assert time.monotonic() - killed < FREE_S
    _, said = second.communicate(timeout=300)
    assert second.returncode == 0, said
