"""What an adb transport asks of the adb server: which devices there are, in which state, and a stream to a service of one.

The server is the one of any `adb` on this machine, or of the program that adbutils brings; it is started when none runs.
Files go through the sync service of the device's adbd. Wire formats: AOSP, packages/modules/adb, SERVICES.TXT and SYNC.TXT.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import re
import socket
import stat
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from edgekit.cache import disk_errors
from edgekit.errors import ConnectError, DeviceError, ProtocolError, SetupError, TransportClosed, TransportTimeout
from edgekit.transports._remote import failed

T = TypeVar("T")
SERVER_S = 20.0  # for the server to start, and to answer
STALL_S = 30.0  # a device that takes or gives no byte for so long is stuck
SETTLE_S = 8.0  # a device that was just plugged in, or restarted its adbd, is not there at once
AGAIN_S = 0.2
DATA_BYTES = 64 << 10  # SYNC_DATA_MAX: the most that one DATA may carry
BURST = 16  # so many of them are handed to the server at a time
PASSING = ("offline", "authorizing", "connecting", "host")  # states that may pass by themselves
# State -> what is so, after "the Android device X", and what to do about it.
STATES = {
    "unauthorized": (
        "does not allow this computer to debug it",
        "unlock it and accept 'Allow USB debugging?'; if it does not ask: Developer options, Revoke USB debugging authorizations",
    ),
    "authorizing": ("is still being asked for its permission", "unlock it and accept 'Allow USB debugging?'"),
    "offline": ("is there and does not answer", "plug it in again, or restart it; then: adb reconnect offline"),
    "connecting": ("is not connected yet", "wait for it to start; if it stays so, plug it in again"),
    "no permissions": (
        "may not be opened by this user",
        "on Debian: apt-get install android-sdk-platform-tools-common, join the group plugdev, plug it in again",
    ),
    "recovery": ("is in recovery mode, where nothing can be run", "start Android: adb reboot"),
    "sideload": ("waits for a package (sideload), where nothing can be run", "start Android: adb reboot"),
    "rescue": ("is in rescue mode, where nothing can be run", "start Android: adb reboot"),
    "bootloader": ("is in its bootloader, where nothing can be run", "start Android: fastboot reboot"),
    "detached": ("is detached from the adb server", "adb attach"),
    "host": (
        "answers as a computer, not as a device",
        "plug the cable into the phone's own port, set to file transfer",
    ),
}
SWITCH_ON = "switch on Developer options, USB debugging on the device and plug it in with a data cable; `adb devices` must list it"


@dataclass(frozen=True)
class Listed:
    """One line of the server's list. `number` is its transport id: the same for as long as it stays connected."""

    serial: str
    state: str
    number: int


def parse_list(text: str) -> list[Listed]:
    """The devices in the answer to `host:devices-l`: serial, state (of several words), key:value pairs."""
    found = []
    for line in text.splitlines():
        match = re.match(r"(\(no serial number\)|\S+)\s+(no permissions|\S+)", line)
        number = re.search(r"\btransport_id:(\d+)", line)
        if match and number:
            found.append(Listed(match[1], match[2], int(number[1])))
    return found


class Server:
    """The adb server of this machine."""

    def __init__(self, start: bool = True, answer_s: float | None = None) -> None:
        self.answer_s = SERVER_S if answer_s is None else answer_s
        try:
            import adbutils
        except ImportError as error:
            raise SetupError("adb devices need the package adbutils", "pip install 'edgekit[adb]'") from error
        self.library: Any = adbutils
        try:
            self.client: Any = adbutils.AdbClient(socket_timeout=self.answer_s)
        except ValueError as error:
            raise SetupError("ANDROID_ADB_SERVER_PORT is not a port", "unset it, or give a number") from error
        if start:
            self.start()

    def runs(self) -> bool:
        """Whether there is a server now."""
        with (
            contextlib.suppress(OSError),
            socket.create_connection((self.client.host, self.client.port), self.answer_s),
        ):
            return True
        return False

    def start(self) -> None:
        """Make sure that the server runs; it goes on when edgekit ends, as it does after any command of adb."""
        if self.runs():
            return
        try:
            program = self.library.adb_path()
            with tempfile.TemporaryFile() as said:
                # Not captured by a pipe: the server would inherit and hold it.
                done = subprocess.run(
                    [program, "start-server"],
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=said,
                    timeout=SERVER_S,
                    start_new_session=True,
                )
                said.seek(0)
                words = said.read().decode("utf-8", "replace").strip()
        except (OSError, subprocess.TimeoutExpired, self.library.AdbError) as error:
            raise ConnectError(f"the adb server cannot be started: {error}", "adb start-server says why") from error
        if done.returncode:
            raise ConnectError("the adb server does not start", words or "adb start-server says why")

    def ask(self, request: str) -> str:
        """The server's own answer to a request that concerns no device. Raises DeviceError."""

        def answer() -> str:
            with self.client.make_connection() as connection:
                connection.send_command(request)
                connection.check_okay()
                return str(connection.read_string_block())

        return self.guarded(answer)

    def guarded(self, call: Callable[[], T]) -> T:
        """Call something of adbutils; its errors become ours: what the server says of a device, or that the server is gone."""
        try:
            return call()
        except self.library.AdbTimeout as error:
            raise TransportTimeout("the adb server does not answer", "adb kill-server", transient=True) from error
        except (self.library.AdbError, OSError, ValueError, EOFError, subprocess.SubprocessError) as error:
            said = str(error) if isinstance(error, self.library.AdbError) else ""
            if re.search(r"offline|not found|unauthorized|authorizing|no devices", said):
                raise TransportClosed(f"the device is gone: {said}", SWITCH_ON, transient=True) from error
            shown = said or str(error) or type(error).__name__
            raise TransportClosed(f"the adb server broke off: {shown}", "adb kill-server", transient=True) from error

    def devices(self) -> list[Listed]:
        """All that are connected, in whichever state."""
        return parse_list(self.ask("host:devices-l"))

    def find(self, wanted: str, patient: bool = False) -> Listed:
        """The device that is meant, once it is ready; with `patient`, one that is not there at all is waited for too.

        `wanted` is a serial, `transport:N`, a pattern (emulator-*), or "" for the only one there is; HOST:PORT is connected to
        when it is not there yet. Raises ConnectError.
        """
        deadline = time.monotonic() + SETTLE_S
        over_network = re.fullmatch(r"[^*]+:\d+", wanted) and not wanted.startswith("transport:")
        called = False
        while True:
            devices = self.devices()
            found = [one for one in devices if is_meant(one, wanted)]
            if len(found) == 1 and found[0].state == "device":
                return found[0]
            if over_network and not called and (not found or found[0].state in PASSING):
                called = True
                self.call(wanted)
                continue
            may_come = found[0].state in PASSING if len(found) == 1 else (over_network or patient) and not found
            if not may_come or time.monotonic() > deadline:
                raise refusal(found, devices, wanted)
            time.sleep(AGAIN_S)

    def call(self, address: str) -> None:
        """Have the server connect to an adbd in the network, also where an earlier connection is dead."""
        with contextlib.suppress(DeviceError):
            self.ask(f"host:disconnect:{address}")
        answer = self.ask(f"host:connect:{address}")
        if "connected to" not in answer or answer.startswith("failed"):
            raise ConnectError(
                f"there is no adb at {address}: {answer.strip()}", "adb tcpip 5555 on the cable opens it"
            )

    def open(self, device: Listed, service: str, deadline_s: float | None = None) -> socket.socket:
        """A stream to a service of the device's adbd, within the deadline, or the server's own. Raises DeviceError."""

        def connect() -> socket.socket:
            connection = self.client.make_connection(min(self.answer_s, deadline_s or self.answer_s))
            try:
                connection.send_command(f"host:transport-id:{device.number}")
                connection.check_okay()
                connection.send_command(service)
                connection.check_okay()
            except BaseException:
                connection.close()
                raise
            stream: socket.socket = connection.conn
            stream.settimeout(STALL_S)
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return stream

        return self.guarded(connect)

    def features(self, device: Listed) -> set[str]:
        """What the device's adbd can do."""
        return set(self.ask(f"host-transport-id:{device.number}:features").split(","))


def is_meant(one: Listed, wanted: str) -> bool:
    """Whether a device is the one that is asked for."""
    if not wanted or one.serial == wanted or wanted == f"transport:{one.number}":
        return True
    return "*" in wanted and fnmatch.fnmatchcase(one.serial, wanted)


def refusal(found: list[Listed], devices: list[Listed], wanted: str) -> ConnectError:
    """Why no device can be taken."""
    if len(found) > 1:
        listed = ", ".join(f"{one.serial} ({one.state}, transport:{one.number})" for one in found)
        twins = len({one.serial for one in found}) == 1
        how = "--serial with the transport:N" if twins else "--serial with one of these names"
        what = f"have the serial {found[0].serial}" if twins else "are connected"
        return ConnectError(f"{len(found)} Android devices {what}: {listed}", f"choose one: {how}")
    if not found:
        if wanted and devices:
            there = ", ".join(one.serial for one in devices)
            return ConnectError(f"no Android device '{wanted}' is connected", f"connected: {there}", transient=True)
        what = f"no Android device '{wanted}' is connected" if wanted else "no Android device is connected"
        return ConnectError(what, SWITCH_ON, transient=True)
    what, remedy = STATES.get(found[0].state, (f"is in the state '{found[0].state}'", SWITCH_ON))
    return ConnectError(f"the Android device {found[0].serial} {what}", remedy, transient=found[0].state in PASSING)


@contextlib.contextmanager
def stalls(what: str) -> Iterator[None]:
    """The errors of a stream that is under way, as ours."""
    try:
        yield
    except TimeoutError as error:
        raise TransportTimeout(
            f"{what}: the device is stuck, nothing moved for {STALL_S:g} s", transient=True
        ) from error
    except (OSError, EOFError) as error:
        words = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "it ended"
        raise TransportClosed(f"{what}: the link to the device was cut ({words})", transient=True) from error


def exactly(file: BinaryIO, size: int) -> bytes:
    """So many bytes of a stream. Raises EOFError when it ends before."""
    data = file.read(size)
    if len(data) < size:
        raise EOFError
    return data


def request(word: bytes, path: str) -> bytes:
    """A request of the sync service."""
    name = os.fsencode(path)
    return struct.pack("<4sI", word, len(name)) + name


def look_at(stream: socket.socket, path: str) -> tuple[int, int]:
    """Mode and size of what lies at a path of the device; (0, 0) for nothing."""
    with stream.makefile("rb") as answers, stalls(f"looking at {path}"):
        stream.sendall(request(b"LST2", path))
        word, error, _, _, mode, _, _, _, size, _, _, _ = struct.unpack("<4sIQQIIIIQqqq", exactly(answers, 72))
    if word != b"LST2":
        raise nonsense(f"looking at {path}", word)
    return (mode, size) if not error else (0, 0)


def send(stream: socket.socket, local: Path, path: str) -> None:
    """A file to a path of the device, with its mode; folders are made there. adbd confirms that all was written."""
    what = f"sending {local.name}"
    about = local.stat()
    mode = stat.S_IFREG | about.st_mode & 0o755 | 0o600
    with local.open("rb", buffering=0) as source, stream.makefile("rb") as answers, stalls(what):
        try:
            stream.sendall(request(b"SEND", f"{path},{mode}"))
            for burst in bursts(source):
                stream.sendall(burst)
            stream.sendall(struct.pack("<4sI", b"DONE", int(about.st_mtime)))
        except (BrokenPipeError, ConnectionResetError):
            pass  # the device had enough before the end; its answer says why
        word, size = struct.unpack("<4sI", exactly(answers, 8))
        said = exactly(answers, size) if word == b"FAIL" else b""
    if word == b"FAIL":
        raise failed(what, 1, said)
    if word != b"OKAY":
        raise nonsense(what, word)


def bursts(source: FileIO) -> Iterator[memoryview]:
    """A file as DATA packets, many at a time, each time in the same memory."""
    step = 8 + DATA_BYTES
    memory = memoryview(bytearray(BURST * step))
    got = 1
    while got:
        end = 0
        for _ in range(BURST):
            got = source.readinto(memory[end + 8 : end + step]) or 0
            if not got:
                break
            struct.pack_into("<4sI", memory, end, b"DATA", got)
            end += 8 + got
        yield memory[:end]


def receive(stream: socket.socket, path: str, local: Path) -> None:
    """A file of the device. Raises FileNotFoundError when there is none."""
    what = f"fetching {path}"
    with stream.makefile("rb") as answers, disk_errors(local.name), local.open("wb") as target:
        with stalls(what):
            stream.sendall(request(b"RECV", path))
        word = b"DATA"
        while word == b"DATA":
            with stalls(what):
                word, size = struct.unpack("<4sI", exactly(answers, 8))
                data = exactly(answers, size) if word in (b"DATA", b"FAIL") and size <= DATA_BYTES else b""
            target.write(data if word == b"DATA" else b"")
    if word == b"FAIL" and b"No such file" in data:
        local.unlink()
        raise FileNotFoundError(path)
    if word == b"FAIL":
        raise failed(what, 1, data)
    if word != b"DONE":
        raise nonsense(what, word)


def nonsense(what: str, word: bytes) -> ProtocolError:
    """The error of an answer that the sync service does not know."""
    return ProtocolError(f"{what}: adbd answered {word!r}, which is no word of its protocol")
