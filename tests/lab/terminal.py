"""A program under way at a terminal of the test, which types and reads what is shown."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import termios
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness import PATIENCE_S


def at_home() -> None:
    """In the program's process: its terminal is the one that /dev/tty means, and Ctrl-C is heard (not so in a background job)."""
    os.close(os.open(os.ttyname(0), os.O_RDWR))
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Terminal:
    """A program under way at a terminal of the test."""

    def __init__(self, argv: Sequence[str], cwd: Path, environment: Mapping[str, str]) -> None:
        self.seen = b""
        self.main, end = pty.openpty()
        plain = {name: value for name, value in os.environ.items() if name != "CI"}
        self.process = subprocess.Popen(
            list(argv),
            cwd=cwd,
            stdin=end,
            stdout=end,
            stderr=end,
            env={**plain, "TERM": "xterm", **environment},
            start_new_session=True,
            preexec_fn=at_home,
        )
        os.close(end)

    def until(self, words: bytes) -> bytes:
        """Everything that is written up to these words and with them."""
        while words not in self.seen:
            assert select.select([self.main], [], [], PATIENCE_S)[0], self.seen[-500:]
            self.seen += os.read(self.main, 4096)
        before, found, self.seen = self.seen.partition(words)
        return before + found

    def type(self, text: bytes) -> None:
        """What the user types."""
        os.write(self.main, text)

    def echoes(self) -> bool:
        """Whether what is typed is seen."""
        return bool(termios.tcgetattr(self.main)[3] & termios.ECHO)

    def silence(self, seconds: float) -> bytes:
        """What is written in so long a time."""
        found = b""
        while select.select([self.main], [], [], seconds)[0]:
            found += os.read(self.main, 4096)
            if len(found) > 10_000:
                break
        return found

    def close(self) -> None:
        """Hang up."""
        self.process.kill()
        self.process.wait()
        os.close(self.main)
