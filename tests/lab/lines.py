"""Serial lines without hardware: pseudo-terminals whose bytes pass through us, who may lose, garble, stop or cut them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import random
import select
import signal
import subprocess
import termios
import threading
import tty
from collections.abc import Callable
from pathlib import Path
from typing import Any

Filter = Callable[[bytes], bytes]


class Noise:
    """Loses and garbles bytes at random, the same ones in each run; quiet until `on`."""

    def __init__(self, lost: float, garbled: float, seed: int = 1) -> None:
        self.lost, self.garbled = lost, garbled
        self.random = random.Random(seed)
        self.on = False
        self.hits = 0

    def __call__(self, data: bytes) -> bytes:
        if not self.on:
            return data
        out = bytearray()
        for byte in data:
            draw = self.random.random()
            self.hits += draw < self.lost + self.garbled
            if draw >= self.lost:
                out.append(byte ^ 1 << self.random.randrange(8) if draw < self.lost + self.garbled else byte)
        return bytes(out)


class Line:
    """A serial port of this machine, `name`, and what is at the other end of the cable, a file descriptor.

    `to_host` and `to_device` see all bytes and say what arrives.
    """

    def __init__(self, device: int) -> None:
        self.device = device
        self.host, self.slave = pty.openpty()  # the slave stays open, so that the port outlives its users
        tty.setraw(self.slave)
        self.name = os.ttyname(self.slave)
        self.to_host: Filter = bytes
        self.to_device: Filter = bytes
        self.counted = 0  # bytes to the device
        self.stop_read, self.stop_write = os.pipe()
        self.thread = threading.Thread(target=self._carry, daemon=True)
        self.thread.start()

    def _carry(self) -> None:
        while True:
            ready = select.select([self.host, self.device, self.stop_read], [], [])[0]
            if self.stop_read in ready:
                return
            if self.host in ready:
                data = os.read(self.host, 4096)
                self.counted += len(data)
                self._write(self.device, self.to_device(data))
            if self.device in ready:
                try:
                    data = os.read(self.device, 4096)
                except OSError:  # nobody has the terminal open there any more
                    return
                self._write(self.host, self.to_host(data))

    def _write(self, where: int, data: bytes) -> None:
        while data:
            with contextlib.suppress(OSError):
                data = data[os.write(where, data) :]
                continue
            return

    def close(self) -> None:
        os.write(self.stop_write, b"\0")
        self.thread.join()
        for handle in (self.host, self.slave, self.stop_read, self.stop_write):
            os.close(handle)


class Board:
    """A board with a serial console: a real shell on a terminal of its own, in a home folder of its own."""

    def __init__(self, home: Path, *argv: str) -> None:
        self.home = home
        self.terminal, slave = pty.openpty()
        self.process = subprocess.Popen(
            argv,
            cwd=home,
            env={"HOME": str(home), "PATH": os.environ["PATH"], "PS1": "board$ ", "TERM": "vt100"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self.line = Line(self.terminal)

    @property
    def pid(self) -> int:
        return self.process.pid

    def settings(self) -> list[Any]:
        """The terminal's attributes."""
        return termios.tcgetattr(self.terminal)

    def processes(self) -> list[int]:
        """What has been started from the shell and lives."""
        found = []
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                mark = f"HOME={self.home}".encode()
                if folder.name.isdigit() and mark in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
        return [pid for pid in found if pid != self.pid]

    def close(self) -> None:
        for pid in [*self.processes(), self.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.line.close()
        os.close(self.terminal)
