"""How to reach a device. A transport supplies four primitives: push, pull, spawn, close; the rest is built once on these.

All paths on the device are relative to its edgekit folder, which is the working directory of everything spawned there.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from edgekit.errors import ConnectError, DeviceError, TransportClosed, TransportTimeout
from edgekit.types import Device, Json

STDERR_LINES = 40


def printable(line: bytes) -> str:
    """A device's words as they may end up on the user's terminal: without control sequences."""
    text = line.decode("utf-8", "replace").rstrip()
    return "".join(mark if mark.isprintable() or mark == "\t" else "?" for mark in text)


def check_same(name: str, before: str, now: str) -> None:
    """Two links under one name lead to one device, as far as they can tell ("" where they cannot). Raises DeviceError."""
    if before and now and before != now:
        hint = f"it was {before} and is {now} now: connect the first one again, or start a new run"
        raise DeviceError(f"another device than before answers as {name}", hint)


class Channel(ABC):
    """The pipes of a program running on the device."""

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Send bytes to its stdin. Raises TransportClosed."""

    @abstractmethod
    def read_line(self, deadline_s: float) -> bytes:
        """The next line of its stdout. Raises TransportTimeout, or TransportClosed with the last stderr lines."""

    @abstractmethod
    def close(self) -> None:
        """End it; never raises, never hangs."""

    def stderr_tail(self) -> str:
        """The last lines it wrote to stderr."""
        return ""


class Transport(ABC):
    """A link to one device. Foreign exceptions are mapped to DeviceError here, in each transport, and nowhere else.

    `shared`: others may use the very same device, so a run locks it; False where each connection has a device of its own.
    `seamless`: a program there always learns at once that the link has ended; False where a cut cable goes unnoticed.
    `identity`: what the link knows the device by, once connected: the same word for one device for good, "" where it has none.
    """

    shared = True
    seamless = False
    identity = ""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.say: Callable[[str], None] = lambda text: None  # to the user; for links that let one wait

    @abstractmethod
    def push(self, local: Path, remote: str) -> None:
        """Put a file or a folder on the device unless `remote`, which is named by its content, is already there."""

    @abstractmethod
    def pull(self, remote: str, local: Path) -> None:
        """Fetch a file."""

    @abstractmethod
    def spawn(self, argv: Sequence[str]) -> Channel:
        """Start a program in the edgekit folder of the device. Raises ConnectError."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the link; never raises."""

    def facts(self) -> Json:
        """What the link itself can tell of the device, for the record: it stands beside what the agent says of the system."""
        return {}

    def command(self, argv: Sequence[str]) -> list[str]:
        """The argv by which a program on the device starts `argv` there; an emulated device puts its emulator before it."""
        return list(argv)


class QueuedChannel(Channel):
    """A channel into which other threads put the program's lines, then None; `errors` are the last lines of its stderr."""

    def __init__(self) -> None:
        self.lines: queue.Queue[bytes | None] = queue.Queue()
        self.errors: deque[str] = deque(maxlen=STDERR_LINES)

    def read_line(self, deadline_s: float) -> bytes:
        try:
            line = self.lines.get(timeout=deadline_s)
        except queue.Empty:
            raise TransportTimeout(f"the device said nothing for {deadline_s:g} s", self.stderr_tail()) from None
        if line is None:
            self.lines.put(None)
            raise self.closed()
        return line

    @abstractmethod
    def closed(self) -> TransportClosed:
        """The error of a program that is no longer there."""

    def stderr_tail(self) -> str:
        return "\n".join(self.errors)


class ProcessChannel(QueuedChannel):
    """A channel over the pipes of a local child process, which leads a session of its own so that Ctrl-C spares it."""

    def __init__(self, argv: Sequence[str], cwd: Path, env: Mapping[str, str] | None = None) -> None:
        super().__init__()
        try:
            self.process = subprocess.Popen(
                list(argv),
                cwd=cwd,
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise ConnectError(
                f"cannot start {Path(argv[0]).name}: {error.strerror}", "edgekit doctor says what is missing"
            ) from error
        self.readers = [threading.Thread(target=task, daemon=True) for task in (self._read_stdout, self._read_stderr)]
        for reader in self.readers:
            reader.start()

    def _read_stdout(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def _read_stderr(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self.errors.append(printable(line))

    def write(self, data: bytes) -> None:
        assert self.process.stdin
        try:
            self.process.stdin.write(data)
            self.process.stdin.flush()
        except OSError as error:
            raise self.closed() from error

    def closed(self) -> TransportClosed:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(1)
        self.readers[1].join(1)
        code = self.process.returncode
        how = (
            "ended"
            if code is None
            else f"died of {signal.Signals(-code).name}"
            if code < 0
            else f"ended with code {code}"
        )
        return TransportClosed(f"the program on the device {how}", self.stderr_tail())

    def close(self) -> None:
        with contextlib.suppress(OSError):
            assert self.process.stdin
            self.process.stdin.close()
        deadline = time.monotonic() + 2
        while self.process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.1)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for reader in self.readers:
            reader.join(1)
        for stream in (self.process.stdout, self.process.stderr):
            if stream:
                stream.close()
