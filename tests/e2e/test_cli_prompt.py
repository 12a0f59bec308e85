"""A password asked for at the terminal while devices are measured: which device it is for, and Ctrl-C in the middle of it."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import FAKE_BOARD, FAKE_MODEL, PATIENCE_S, ROOT, CommandLine, wait_until
from lab.fake_sshd import FakeServer
from lab.terminal import Terminal

from edgekit import fleet

pytestmark = pytest.mark.timeout(90)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """An SSH server that takes one password."""
    with FakeServer({"password": "raspberry"}) as started:
        yield started


def start(cli: CommandLine, server: FakeServer, tmp_path: Path, *names: str) -> Terminal:
    """`edgekit profile` at a terminal, on devices behind that server."""
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/known_hosts").write_text(server.known_host)
    for name in names:
        text = FAKE_BOARD.read_text("utf-8")
        for key, value in (("arch", "aarch64"), ("transport", "ssh")):
            text = re.sub(rf'^{key} = ".*"$', f'{key} = "{value}"', text, flags=re.MULTILINE)
        text = re.sub(r"(?ms)^\[emulation.*?(?=^\[(?!emulation)|\Z)", "", text)
        place = f'\n[connection]\nhost = "127.0.0.1"\nport = {server.port}\nuser = "{name}"\n'
        (cli.cwd / f"{name}.toml").write_text(text + place, "utf-8")
    devices = ",".join(f"{name}.toml" for name in names)
    environment = {**cli.environment, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "SSH_AUTH_SOCK": ""}
    argv = [sys.executable, "-m", "edgekit", "profile", str(FAKE_MODEL), "-d", devices]
    return Terminal(argv, cli.cwd, environment)


def test_each_device_asks_in_its_turn_and_ctrl_c_gives_the_terminal_back(
    cli: CommandLine, server: FakeServer, tmp_path: Path
) -> None:
    terminal = start(cli, server, tmp_path, "left", "right")
    try:
        asked = [terminal.until(b"): ").rpartition(b"@")[2]]
        wait_until(lambda: not terminal.echoes())
        assert terminal.silence(0.3) == b"", "the other device does not write over it"
        terminal.type(b"wrong\n")
        asked.append(terminal.until(b"): ").rpartition(b"@")[2])
        assert {re.search(rb"password \((\w+)\)", text)[1] for text in asked} == {b"left", b"right"}  # type: ignore[index]
        wait_until(lambda: not terminal.echoes())
        begun = os.times().elapsed
        terminal.process.send_signal(signal.SIGINT)
        said = terminal.until(b"right: go on with: ")
        assert terminal.process.wait(PATIENCE_S) == 130
        assert os.times().elapsed - begun < fleet.ENDING_S, "it waited for an answer"
        assert b"wrong" not in said and b"Traceback" not in said
        assert terminal.echoes()
    finally:
        terminal.close()
