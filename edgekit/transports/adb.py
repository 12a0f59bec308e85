"""Android over adb: the shell (mksh and toybox), files by adb's own sync service. Android 7 or newer; nothing is installed.

Wire format of the shell: AOSP, packages/modules/adb, shell_protocol.h.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import signal
import socket
import stat
import struct
import threading
import time
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from edgekit.errors import ConnectError, DeviceError, EdgekitError, TransportClosed, TransportTimeout
from edgekit.transports import Channel, _adb, printable
from edgekit.transports._remote import COMMAND_S, GROUP, FedChannel, RemoteTransport
from edgekit.types import Device

GOODBYE_S = 2.0
LOOK_S = 1.0  # for the server to take a connection, and to answer
PLACE = "/data/local/tmp/edgekit"  # the one folder of stock Android where this user may write and run programs
STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = range(5)
PACKET_BYTES = 64 << 10
LARGE_BYTES = 8 << 20
# What `uname -m` says -> the architectures of programs that run there
MACHINES = {"aarch64": ("aarch64",), "armv8l": ("aarch64",), "armv7l": ("armv7",), "x86_64": ("x86_64",)}


class ShellStream:
    """One command in the device's shell: packets of (kind, length, bytes) both ways."""

    def __init__(self, stream: socket.socket) -> None:
        self.socket = stream
        self.file: BinaryIO = stream.makefile("rb")
        self.writing = threading.Lock()

    def send(self, kind: int, data: bytes = b"") -> None:
        with self.writing:
            for start in range(0, len(data) or 1, PACKET_BYTES):
                part = data[start : start + PACKET_BYTES]
                self.socket.sendall(struct.pack("<BI", kind, len(part)) + part)

    def receive(self) -> tuple[int, bytes]:
        """The next packet. Raises EOFError and OSError."""
        kind, size = struct.unpack("<BI", _adb.exactly(self.file, 5))
        return kind, _adb.exactly(self.file, size)

    def give_up_after(self, seconds: float) -> None:
        """How long the other side may take nothing of what is sent, where that has no deadline otherwise."""
        whole = int(seconds)
        limit = struct.pack("@ll", whole, int((seconds - whole) * 1e6))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)

    def hang_up(self, seconds: float) -> None:
        """Tell the program that its stdin has ended, unless that takes longer; never raises."""
        if self.writing.acquire(timeout=seconds):
            try:
                with contextlib.suppress(OSError):
                    self.give_up_after(seconds)
                    self.socket.sendall(struct.pack("<BI", CLOSE_STDIN, 0))
            finally:
                self.writing.release()

    def cut(self) -> None:
        """End it; a reader in another thread wakes up."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of it; nobody may be reading any more."""
        self.cut()
        self.file.close()
        self.socket.close()


class AdbChannel(FedChannel):
    """The pipes of a program on the device, through its shell service."""

    def __init__(self, transport: Adb, stream: ShellStream) -> None:
        super().__init__()
        self.transport = transport
        self.stream = stream
        self.stream.socket.settimeout(None)  # for reading, deadlines are those of read_line
        self.stream.give_up_after(_adb.STALL_S)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        ending = "is out of reach: the link to the device was cut"
        try:
            while True:
                kind, data = self.stream.receive()
                if kind == STDOUT:
                    self.feed(data)
                elif kind == STDERR:
                    self.feed_error(data)
                elif kind == EXIT:
                    ending = ended(data[0]) if data else "ended"
                    break
        except ValueError:
            ending = "sends something endless that is no answer"
        except (OSError, EOFError):
            pass
        self.finish(ending)

    def write(self, data: bytes) -> None:
        try:
            self.stream.send(STDIN, data)
        except BlockingIOError:
            raise TransportTimeout(f"the device took no data for {_adb.STALL_S:g} s", self.stderr_tail()) from None
        except OSError as error:
            self.reader.join(GOODBYE_S)
            raise self.closed() from error

    def close(self) -> None:
        self.stream.hang_up(GOODBYE_S)
        self.reader.join(GOODBYE_S)
        if self.reader.is_alive() and self.group.isdigit():
            with contextlib.suppress(DeviceError):
                self.transport.run(f"kill -9 -{self.group.decode()}", GOODBYE_S)
        self.stream.cut()
        self.reader.join()
        self.stream.close()


class Adb(RemoteTransport):
    """A device of the adb server."""

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self.wanted = wanted_of(device)
        self.server = _adb.Server()
        try:
            self._open()
        except DeviceError as error:
            if not error.transient or isinstance(error, ConnectError):  # for a device that is not ready we have waited
                raise
            self.reconnect()

    def _open(self, patient: bool = False) -> None:
        self.listed = self.server.find(self.wanted, patient)
        self.identity = f"adb {hashlib.sha256(self.listed.serial.encode()).hexdigest()[:12]}"  # serials are personal
        self.features = self.server.features(self.listed)
        if "shell_v2" not in self.features:
            raise ConnectError(
                f"the Android device {self.listed.serial} is too old: its adbd does not tell exit codes",
                "edgekit needs Android 7 or newer",
            )
        self._check_machine()
        self.open_folder(PLACE)

    def reconnect(self) -> None:
        deadline = time.monotonic() + _adb.SETTLE_S
        while True:
            self.server.start()
            try:
                self._open(patient=True)
                return
            except TransportClosed:  # for a moment the server still lists a device that is gone
                if time.monotonic() > deadline:
                    raise
            time.sleep(_adb.AGAIN_S)

    def _check_machine(self) -> None:
        """The device is of the profile's architecture: else its loader would only say "not executable"."""
        machine = printable(self.run("uname -m", COMMAND_S)[1])
        if self.device.arch not in MACHINES.get(machine, (machine,)):
            raise ConnectError(
                f"the Android device {self.listed.serial} is {machine or 'of no known kind'}, the profile says {self.device.arch}",
                "choose the profile of its kind (android is aarch64, android-emulator x86_64), or set arch in your own",
            )

    def _shell(self, command: str, deadline_s: float | None = None) -> ShellStream:
        # raw: pipes, not a terminal, which would mangle what is binary
        return ShellStream(self.server.open(self.listed, f"shell,v2,raw:{command}", deadline_s))

    def run(self, command: str, deadline_s: float, data: bytes = b"") -> tuple[int, bytes, bytes]:
        deadline = time.monotonic() + deadline_s
        parts: dict[int, list[bytes]] = {STDOUT: [], STDERR: []}
        with contextlib.closing(self._shell(command, deadline_s)) as stream, _adb.stalls("running a command"):
            sender = threading.Thread(target=feed, args=(stream, data), daemon=True)
            sender.start()
            try:
                while True:
                    stream.socket.settimeout(max(0.01, deadline - time.monotonic()))
                    kind, got = stream.receive()
                    if kind == EXIT:
                        return got[0] if got else 255, b"".join(parts[STDOUT]), b"".join(parts[STDERR])
                    if kind in parts:
                        parts[kind].append(got)
            except TimeoutError:
                raise TransportTimeout(f"the device did not answer within {deadline_s:g} s") from None
            finally:
                stream.cut()
                sender.join()

    def put(self, local: Path, remote: str) -> None:
        with contextlib.closing(self.server.open(self.listed, "sync:")) as stream:
            _adb.send(stream, local, remote)

    def _push(self, local: Path, target: PurePosixPath, holder: PurePosixPath) -> None:
        large = local.is_file() and local.stat().st_size > LARGE_BYTES
        if large and "stat_v2" in self.features and not self._look(target, holder):
            # Straight to its name: adbd writes in order and removes what was cut short, and a rest has another size.
            self.put(local, f"{self.root}/{target}")
        else:
            super()._push(local, target, holder)

    def _look(self, target: PurePosixPath, holder: PurePosixPath) -> bytes:
        """As the shell would tell it; without the shell for what is absent or a file. adbd makes missing folders by itself."""
        if "stat_v2" not in self.features:
            return super()._look(target, holder)
        with contextlib.closing(self.server.open(self.listed, "sync:")) as stream:
            mode, size = _adb.look_at(stream, f"{self.root}/{target}")
        if stat.S_ISREG(mode):
            return b"there\n%d %s\n" % (size, os.fsencode(f"./{target}"))
        return super()._look(target, holder) if mode else b""

    def _send_file(self, local: Path, holder: PurePosixPath, target: PurePosixPath) -> None:
        self.put(local, f"{self.root}/{holder / target.name}")  # adbd sets the mode, and says whether all arrived

    def _send_folder(self, local: Path, holder: PurePosixPath, target: PurePosixPath) -> None:
        super()._look(target, holder)  # what pushes of yesterday left behind goes
        super()._send_folder(local, holder, target)

    def pull(self, remote: str, local: Path) -> None:
        try:
            with contextlib.closing(self.server.open(self.listed, "sync:")) as stream:
                _adb.receive(stream, f"{self.root}/{remote}", local)
        except FileNotFoundError:
            raise DeviceError(f"the device has no file {remote}") from None
        except BaseException:
            local.unlink(missing_ok=True)  # half a file looks like a whole one
            raise

    def spawn(self, argv: Sequence[str]) -> Channel:
        # adbd makes each command the leader of a group of its own
        command = f"echo {GROUP.decode()}$$ >&2; {self.in_folder(f'TMPDIR=$PWD exec {shlex.join(argv)}')}"
        try:
            return AdbChannel(self, self._shell(command))
        except DeviceError as error:
            raise ConnectError(f"cannot start the agent: {error.message}", error.hint, error.transient) from error

    def close(self) -> None:
        """Nothing is held between programs: the link is the server's."""


def feed(stream: ShellStream, data: bytes) -> None:
    """The stdin of a command that is read at the same time; a command may end without reading it."""
    with contextlib.suppress(OSError):
        if data:
            stream.send(STDIN, data)
        stream.send(CLOSE_STDIN)


def ended(code: int) -> str:
    """The end of a program, by its exit code as the shell service tells it."""
    with contextlib.suppress(ValueError):
        return f"died of {signal.Signals(code - 128).name}"
    return f"ended with code {code}"


def connect(device: Device, counter: Path | None) -> Adb:
    """The transport for a profile with transport = "adb"."""
    return Adb(device)


def look(device: Device) -> tuple[bool, str]:
    """Whether the device is ready now, and in a few words what is lacking. No adb server is started for that."""
    wanted = wanted_of(device)
    try:
        server = _adb.Server(start=False, answer_s=LOOK_S)
        devices = server.devices() if server.runs() else None
    except EdgekitError as error:
        return False, error.hint or error.message
    if devices is None:
        return False, "not looked for: no adb server runs (adb start-server)"
    found = [one for one in devices if _adb.is_meant(one, wanted)]
    if len(found) == 1 and found[0].state == "device":
        return True, f"answers as {found[0].serial}"
    return False, _adb.refusal(found, devices, wanted).message


def wanted_of(device: Device) -> str:
    """The serial of the profile or the command line, else the one that every command of adb takes."""
    return str(device.connection.get("serial") or os.environ.get("ANDROID_SERIAL") or "")
