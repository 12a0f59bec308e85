"""An adb server in threads of the test, with one device that is this machine: for what a real one does not do to order."""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import pytest

from edgekit import session
from edgekit.transports import _adb, adb
from edgekit.types import Device

from .sshd import free_port

ONE = "R58M1\tdevice usb:1-1 product:lab model:Lab device:lab transport_id:1\n"


class FakeAdb:
    """Answers as the host's adb server does. Use as a context manager.

    `listing` is its answer to `adb devices -l`; `full` is after how many bytes the device's disk is full; `refusal` is what it
    says instead of opening a service; `requests` are all it was asked.
    """

    def __init__(self, listing: str = ONE) -> None:
        self.listing, self.features = listing, "shell_v2,cmd,stat_v2"
        self.full, self.refusal, self.port = -1, "", free_port()
        self.requests: list[str] = []
        self._live: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket | None = None

    def start(self) -> None:
        """Listen, again after stop() on the same port."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._run(self._accept, self._listener)

    def stop(self) -> None:
        """As if it were killed."""
        if self._listener is not None:
            for one in [self._listener, *self._live]:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()
            for thread in self._threads:
                thread.join(5)
            self._listener, self._live, self._threads = None, [], []

    def __enter__(self) -> FakeAdb:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self, task: Callable[..., None], *arguments: object) -> None:
        self._threads.append(threading.Thread(target=self._quietly, args=(task, *arguments), daemon=True))
        self._threads[-1].start()

    @staticmethod
    def _quietly(task: Callable[..., None], *arguments: object) -> None:
        """A connection may be cut at any place."""
        with contextlib.suppress(OSError, EOFError, struct.error, ValueError):
            task(*arguments)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            connection, _ = listener.accept()
            self._live.append(connection)
            self._run(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as asked:
            while head := asked.read(4):
                request = asked.read(int(head, 16)).decode()
                self.requests.append(request)
                answer = self._answer(request)
                if answer is not None:
                    connection.sendall(b"OKAY%04x%s" % (len(answer), answer.encode()))
                    return
                if self.refusal and not request.startswith("host"):
                    connection.sendall(b"FAIL%04x%s" % (len(self.refusal), self.refusal.encode()))
                    return
                connection.sendall(b"OKAY")
                if request == "sync:":
                    self._sync(connection, asked)
                    return
                if request.startswith("shell,v2,raw:"):
                    self._shell(connection, asked, request.partition(":")[2])
                    return

    def _answer(self, request: str) -> str | None:
        """What the server itself answers; None for what a device does."""
        if request == "host:devices-l":
            return self.listing
        if request.startswith(("host:connect:", "host:disconnect:")):
            return f"failed to connect to '{request.split(':', 2)[2]}': Connection refused"
        return self.features if request.endswith(":features") else None

    def _shell(self, connection: socket.socket, asked: BinaryIO, command: str) -> None:
        process = subprocess.Popen(
            ["sh", "-c", command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stdin and process.stdout and process.stderr
        turn = threading.Lock()

        def tell(kind: int, stream: BinaryIO) -> None:
            while data := os.read(stream.fileno(), 65536):
                with turn:
                    connection.sendall(struct.pack("<BI", kind, len(data)) + data)

        self._run(self._feed, process, asked)
        tellers = [(1, process.stdout), (2, process.stderr)]
        threads = [threading.Thread(target=self._quietly, args=(tell, *one), daemon=True) for one in tellers]
        for thread in threads:
            thread.start()
        code = process.wait()
        for thread in threads:
            thread.join(5)
        process.stdout.close()
        process.stderr.close()
        connection.sendall(struct.pack("<BIB", 3, 1, code if code >= 0 else 128 - code))

    def _feed(self, process: subprocess.Popen[bytes], asked: BinaryIO) -> None:
        """What the host writes, to the program; when the host is gone it hangs up, as adbd does."""
        assert process.stdin
        try:
            while head := asked.read(5):
                kind, size = struct.unpack("<BI", head)
                data = asked.read(size)
                if kind == 4:
                    process.stdin.close()
                else:
                    process.stdin.write(data)
                    process.stdin.flush()
        finally:
            with contextlib.suppress(OSError):
                process.stdin.close()
            if process.poll() is None:
                process.send_signal(1)

    def _sync(self, connection: socket.socket, asked: BinaryIO) -> None:
        word, size = struct.unpack("<4sI", asked.read(8))
        path = Path(os.fsdecode(asked.read(size)))
        if word == b"LST2":
            found = path.lstat() if path.exists() else None
            about = (found.st_mode, 0, 0, 0, found.st_size) if found else (0,) * 5
            connection.sendall(struct.pack("<4sIQQIIIIQqqq", word, 0 if found else 2, 0, 0, *about, 0, 0, 0))
        elif word == b"SEND":
            name, _, mode = str(path).rpartition(",")
            data = b""
            while (head := struct.unpack("<4sI", asked.read(8)))[0] == b"DATA":
                data += asked.read(head[1])
                if 0 <= self.full < len(data):
                    connection.sendall(failure("couldn't write: No space left on device"))
                    return
            try:
                Path(name).parent.mkdir(parents=True, exist_ok=True)
                Path(name).write_bytes(data)
                Path(name).chmod(int(mode) & 0o777)
                connection.sendall(struct.pack("<4sI", b"OKAY", 0))
            except OSError as error:
                connection.sendall(failure(f"couldn't create file: {error.strerror}"))
        elif path.is_file():
            data = path.read_bytes()
            for start in range(0, len(data), 65536):
                part = data[start : start + 65536]
                connection.sendall(struct.pack("<4sI", b"DATA", len(part)) + part)
            connection.sendall(struct.pack("<4sI", b"DONE", 0))
        else:
            connection.sendall(failure("No such file or directory"))


def failure(text: str) -> bytes:
    """The sync service's word for a request that failed."""
    return struct.pack("<4sI", b"FAIL", len(text)) + text.encode()


def device(serial: str = "", arch: str = platform.machine()) -> Device:
    """The profile of a phone that runs programs of this machine."""
    return Device("phone", "", arch, "adb", ("fake",), {"serial": serial} if serial else {})


@contextlib.contextmanager
def at_hand(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAdb]:
    """An adb server with one device, whose folder is `folder`; a real one is never started or asked."""
    monkeypatch.setattr(adb, "PLACE", f"{folder}/phone/edgekit")
    monkeypatch.setattr(_adb, "SETTLE_S", 0.1)
    monkeypatch.setattr(_adb, "AGAIN_S", 0.01)
    monkeypatch.setenv("ADBUTILS_ADB_PATH", "/bin/false")
    monkeypatch.delenv("ANDROID_SERIAL", raising=False)
    monkeypatch.delenv("ANDROID_ADB_SERVER_HOST", raising=False)
    with FakeAdb() as started:
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(started.port))
        yield started


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines that a test can wait for."""
    monkeypatch.setattr(_adb, "STALL_S", 0.3)
    monkeypatch.setattr(_adb, "SERVER_S", 0.5)
    monkeypatch.setattr(adb, "COMMAND_S", 1.0)
    monkeypatch.setattr(adb, "GOODBYE_S", 0.1)
    monkeypatch.setattr(session, "GRACE_S", 0.2)
    monkeypatch.setattr("edgekit.transports._remote.COMMAND_S", 1.0)
