"""What the quick tests share beside fixtures: the command line and the agent as processes, the fakes, waiting."""

from __future__ import annotations

import atexit
import contextlib
import errno
import functools
import json
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgekit import session, userland
from edgekit.converters import fake
from edgekit.session import Session
from edgekit.transports import Transport
from edgekit.types import TensorSpec

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


class Forked:
    """A process that another one forked (tests/warm.py), used like a subprocess.Popen."""

    def __init__(self, cwd: Path, environment: Mapping[str, str], args: Sequence[str], stdout: int) -> None:
        hears, says = os.pipe()
        self.status, reports = os.pipe()
        self.stderr = open(hears, encoding="utf-8")  # noqa: PTH123, SIM115
        request = json.dumps({"cwd": str(cwd), "environment": environment, "args": args}).encode()
        with Path(os.devnull).open("rb") as nothing:
            socket.send_fds(warm_python(), [request], [nothing.fileno(), stdout, says, reports])
        os.close(says)
        os.close(reports)
        self.returncode: int | None = None
        self.pid = self._told()

    def _told(self) -> int:
        line = b""
        while not line.endswith(b"\n"):
            said = os.read(self.status, 1)
            assert said, "the Python that forks has ended"
            line += said
        return int(line)

    def poll(self) -> int | None:
        """Its exit code when it has ended."""
        return (
            self.wait(0) if self.returncode is None and select.select([self.status], [], [], 0)[0] else self.returncode
        )

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, once it has ended."""
        if self.returncode is None:
            if not select.select([self.status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("edgekit", timeout or 0)
            self.returncode = self._told()
            os.close(self.status)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """A signal, where it is still there."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


@functools.cache
def warm_python() -> socket.socket:
    """The Python that forks commands, one for this process; it ends with it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "warm.py"), str(theirs.fileno())],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    atexit.register(process.wait)
    atexit.register(ours.close)
    return ours


def started(cwd: Path, environment: Mapping[str, str], args: Sequence[str], stdout: int) -> subprocess.Popen[str]:
    """`edgekit` in an interpreter of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "edgekit", *args],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell's background job, which a test run may be, ignores Ctrl-C, and so would all that it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


class Command:
    """`edgekit` of this checkout under way, as a process of its own; `warm` saves it the imports."""

    def __init__(self, cwd: Path, environment: Mapping[str, str], args: Sequence[object], warm: bool = False) -> None:
        self.out = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
        self.said = ""
        everything = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        begin = Forked if warm else started
        self.process = begin(cwd, everything, [str(arg) for arg in args], self.out.fileno())

    def ctrl_c(self) -> None:
        """What a terminal does: SIGINT for the whole group, and so for every child that has not left it."""
        os.killpg(self.process.pid, signal.SIGINT)

    def until(self, text: str) -> None:
        """Wait for it to say something on stderr."""
        assert self.process.stderr
        for line in self.process.stderr:
            self.said += line
            if text in line:
                return
        raise AssertionError(f"it ended without saying '{text}': {self.said}")

    def end(self) -> Ran:
        """Wait for its end."""
        assert self.process.stderr
        with self.process.stderr, self.out:
            self.said += self.process.stderr.read()
            rc = self.process.wait()
            self.out.seek(0)
            return Ran(rc, self.out.read(), self.said)


class CommandLine:
    """Runs `edgekit` in a folder of its own: each command in a fork of a warm Python, or in an interpreter of its own."""

    def __init__(self, cwd: Path, warm: bool = True) -> None:
        self.cwd = cwd
        self.warm = warm
        self.environment = {TOKEN: secrets.token_hex(8)}
        self.commands: list[Command] = []

    def start(self, *args: object, **environment: str) -> Command:
        """Start it; the caller waits."""
        at_start = any(
            name.startswith(("PYTHON", "LC_", "LANG")) for name in environment
        )  # read by a Python that starts
        self.commands.append(Command(self.cwd, {**self.environment, **environment}, args, self.warm and not at_start))
        return self.commands[-1]

    def __call__(self, *args: object, **environment: str) -> Ran:
        """Run it to its end."""
        return self.start(*args, **environment).end()

    def running(self) -> list[int]:
        """The processes alive that descend from this command line."""
        mark = f"{TOKEN}={self.environment[TOKEN]}".encode()
        found = {command.process.pid for command in self.commands if command.process.poll() is None}
        for folder in Path("/proc").iterdir():
            try:
                if folder.name.isdigit() and mark in (folder / "environ").read_bytes().split(b"\0"):
                    found.add(int(folder.name))
            except OSError:
                continue
        return sorted(found)


def forbid(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Nothing in a folder can be looked at from now on, not even by root, whom permissions do not stop."""

    def guarded(real: Callable[..., Any]) -> Callable[..., Any]:
        def look(path: Any, *args: Any, **options: Any) -> Any:
            if not isinstance(path, int) and os.fspath(path).startswith(f"{folder}/"):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
            return real(path, *args, **options)

        return look

    for name in ("stat", "lstat", "mkdir", "open"):
        monkeypatch.setattr(os, name, guarded(getattr(os, name)))


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


@functools.cache
def archive_once() -> bytes:
    """The agent's archive, made once for all tests of this process."""
    return session.agent_archive()


class Agent:
    """The pushed archive as a process, spoken to by its pipes: what a device runs, without the host's session around it."""

    def __init__(self, folder: Path, *options: str) -> None:
        archive = folder / "agent.pyz"
        archive.write_bytes(archive_once())
        self.stderr = (folder / "stderr").open("w+b")
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(archive), *options],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.stderr,
            start_new_session=True,
        )
        self.buffer = b""
        self.greeting = self.receive()

    def send(self, request: dict[str, Any] | bytes) -> None:
        """One request, or whatever bytes are to stand in its place."""
        assert self.process.stdin
        self.process.stdin.write(request if isinstance(request, bytes) else json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        """The next frame; fails when a line is no frame, or when none comes in good time."""
        assert self.process.stdout
        while b"\n" not in self.buffer:
            assert select.select([self.process.stdout], [], [], PATIENCE_S)[0], "the agent says nothing"
            data = os.read(self.process.stdout.fileno(), 65536)
            assert data, f"the agent ended: {self.said()}"
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\n")
        frame: dict[str, Any] = json.loads(line)
        return frame

    def reply(self) -> dict[str, Any]:
        """The next frame that is no event."""
        while "event" in (frame := self.receive()):
            pass
        return frame

    def call(self, op: str, **args: object) -> dict[str, Any]:
        """One request and its reply."""
        self.send({"id": 7, "op": op, "args": args})
        return self.reply()

    def children(self) -> list[int]:
        """The processes it has started and not yet reaped."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                if int(stat.read_text().rpartition(")")[2].split()[1]) == self.process.pid:
                    found.append(int(stat.parent.name))
            except OSError:
                continue
        return found

    def said(self) -> str:
        """Everything on its stderr so far."""
        self.stderr.seek(0)
        return self.stderr.read().decode("utf-8", "replace")

    def close(self) -> None:
        """End it and all that it started."""
        assert self.process.stdin and self.process.stdout
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()
        self.stderr.close()


def write_fake_model(path: Path, **description: Any) -> str:
    """A model of the fake runtime, ten floats in and out, as its converter writes it; returns the file's name."""
    known = {"latency_ns": 1_200_000, "jitter": 0.01, "instructions": 123_456, **description}
    specs = (TensorSpec("x", (1, 10), "float32"),)
    fake.convert(known, "fp32", None, specs, {"colour": "grey"}, path, "fake")
    return path.name


def fake_session(transport: Transport) -> Session:
    """The agent of the fake runtime behind a link to this machine."""
    land = userland.Userland("k" * 64, None, (sys.executable,), {"runtime": "fake"}, {"runtime": "1"})
    return Session._start(transport.device, transport, land, lambda text: None)


def fake_request(live: Session, folder: Path, **description: Any) -> dict[str, object]:
    """A request to run a model of the fake runtime that behaves as told, its files on the device."""
    (folder / "input").write_bytes(bytes(40))
    model = live.push(folder / write_fake_model(folder / "model.fake", **description), ".fake")
    return {"runtime": "fake", "model": model, "input": live.push(folder / "input"), "libraries": {}, "threads": 1}
