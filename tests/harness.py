"""What the quick tests share beside fixtures: the real command line as a process, the fakes, waiting for what has no event."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FAKES = ROOT / "tests" / "fakes"
FAKE_DEVICE = FAKES / "devices" / "fake.toml"
FAKE_BOARD = FAKES / "devices" / "fake_board.toml"
FAKE_MODEL = FAKES / "models" / "fake_identity.py"
TOKEN = "EDGEKIT_TEST_TOKEN"  # every process that a test starts has it in its environment, with a value of its own
PATIENCE_S = 20.0  # how long anything that must happen may take on a busy machine


@dataclass(frozen=True)
class Ran:
    """What a run of the command line left behind."""

    rc: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """stdout as one JSON document; anything beside it is an error."""
        return json.loads(self.stdout)


class CommandLine:
    """`edgekit` of this checkout as a process of its own, in a folder of its own."""

    def __init__(self, cwd: Path, token: str) -> None:
        self.cwd = cwd
        self.token = token

    def start(self, *args: object, **environment: str) -> subprocess.Popen[str]:
        """Start it; the caller waits."""
        return subprocess.Popen(
            [sys.executable, "-m", "edgekit", *map(str, args)],
            cwd=self.cwd,
            env={**os.environ, "PYTHONPATH": str(ROOT), TOKEN: self.token, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *args: object, **environment: str) -> Ran:
        """Run it to its end."""
        process = self.start(*args, **environment)
        try:
            stdout, stderr = process.communicate(timeout=60)
        finally:
            process.kill()
            process.wait()
        return Ran(process.returncode, stdout, stderr)

    def running(self) -> list[int]:
        """The processes alive that descend from this command line."""
        mark = f"{TOKEN}={self.token}".encode()
        found = []
        for folder in Path("/proc").iterdir():
            try:
                if folder.name.isdigit() and mark in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
            except OSError:
                continue
        return found


def wait_gone(pid: int) -> bool:
    """Whether a process, child of ours or not, ends in good time. A zombie has ended."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], PATIENCE_S)[0])
    finally:
        os.close(handle)


def wait_until(condition: Callable[[], Any]) -> Any:
    """Look often until something without an event of its own is so, and return it; fails when it never is."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)
    return found
