"""A serial port as bytes: a line of this machine, or a socket://HOST:PORT that stands for one. Errors of pyserial end here."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from edgekit.errors import ConnectError, EdgekitError, SetupError, TransportClosed, UserError
from edgekit.types import Device

BAUD = 115200
READ_BYTES = 65536
CONNECT_S = 5.0
STUCK_S = 10.0  # without a byte taken
BUSY = (errno.EBUSY, errno.EAGAIN, errno.EWOULDBLOCK)


class Port:
    """An open port. `name` is what the user calls it, `baud` its speed."""

    def __init__(self, name: str, baud: int) -> None:
        self.name = name
        self.baud = baud
        if "://" in name and not name.startswith("socket://"):
            raise UserError(f"'{name}' is no serial port", "/dev/ttyUSB0, or socket://HOST:PORT")
        self.line: Any = None
        self.open()

    def open(self) -> None:
        """Open it, anew too. Raises ConnectError, UserError or SetupError."""
        self.close()
        self.line = connected(self.name) if "://" in self.name else opened(self.name, self.baud)
        os.set_blocking(self.fileno(), False)

    def __enter__(self) -> Port:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def fileno(self) -> int:
        """For select. Raises TransportClosed when the port is gone."""
        if self.line is None:
            raise self.gone()
        return int(self.line.fileno())

    def read(self) -> bytes:
        """What has arrived, b"" for nothing. Raises TransportClosed when the port is gone."""
        try:
            data = os.read(self.fileno(), READ_BYTES)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise self.gone() from error
        if not data:
            raise self.gone()
        if isinstance(self.line, socket.socket):
            # The other side may hold back what it has until we acknowledge (Nagle), and we that for 40 ms.
            self.line.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        return data

    def write(self, data: bytes) -> int:
        """Write what the port takes now; returns how much. Raises TransportClosed."""
        try:
            return os.write(self.fileno(), data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise self.gone() from error

    def gone(self) -> TransportClosed:
        """The error of a port that was unplugged, or whose other side hung up."""
        return TransportClosed(f"{self.name} is gone", "was the adapter unplugged, or the emulator ended?", True)

    def wait(self, seconds: float) -> bytes:
        """What arrives within so many seconds, b"" for nothing."""
        if not select.select([self.fileno()], [], [], max(0.0, seconds))[0]:
            return b""
        return self.read()

    def put(self, data: bytes) -> None:
        """Write all. Raises ConnectError when nothing is taken for a while."""
        while data:
            if not select.select([], [self.fileno()], [], STUCK_S)[1]:
                raise ConnectError(f"{self.name} takes no data", "is what stands behind it stuck?", True)
            data = data[self.write(data) :]

    def type(self, data: bytes) -> None:
        """Write all, slowly enough for a terminal that takes its 16 bytes of buffer one by one."""
        for start in range(0, len(data), 32):
            self.put(data[start : start + 32])
            time.sleep(32 * 10 / self.baud + 0.002)

    def close(self) -> None:
        """Let go of it; never raises."""
        if self.line is not None:
            with contextlib.suppress(Exception):
                self.line.close()
            self.line = None


def connected(name: str) -> socket.socket:
    """A connection to socket://HOST:PORT. Raises ConnectError or UserError."""
    try:
        parts = urlsplit(name)
        host, port = parts.hostname or "", parts.port or 0
    except ValueError:
        host, port = "", 0
    if not host or not port:
        raise UserError(f"'{name}' is no serial port", "/dev/ttyUSB0, or socket://HOST:PORT")
    try:
        return socket.create_connection((host, port), CONNECT_S)
    except OSError as error:
        hint = "start what stands for the port there, or mend the address"
        raise ConnectError(f"nothing listens at {name}", hint, True) from error


def opened(name: str, baud: int) -> Any:
    """A line of this machine, for us alone. Raises ConnectError, UserError or SetupError."""
    try:
        import serial
    except ModuleNotFoundError as error:
        raise SetupError("serial ports need the package pyserial", "pip install 'edgekit[serial]'") from error
    try:
        return serial.Serial(name, baudrate=baud, timeout=0, exclusive=True)
    except serial.SerialException as error:
        raise refused(name, error.errno or 0, str(error)) from error
    except (ValueError, OverflowError) as error:
        raise UserError(f"{name} cannot be opened at {baud} baud: {error}", "--baud 115200") from error


def refused(name: str, number: int, words: str = "") -> ConnectError:
    """Why a line cannot be opened, from the number of an OSError, and what to do."""
    if number == errno.ENOENT:
        ports = ", ".join(str(path) for path in present()) or "none"
        return ConnectError(f"there is no {name}", f"plug the adapter in; the serial ports here: {ports}", True)
    if number in (errno.EACCES, errno.EPERM):
        group = Path(name).group() if Path(name).exists() else "dialout"
        return ConnectError(f"this user may not open {name}", f"sudo usermod -aG {group} $USER, then log in again")
    if number in BUSY:
        return ConnectError(f"another program has {name} open", f"close it: fuser -v {name} names it", True)
    return ConnectError(f"{name} cannot be opened: {os.strerror(number) if number else words}")


def present() -> list[Path]:
    """The serial ports of this machine that a board may hang on."""
    return sorted(path for kind in ("ttyUSB*", "ttyACM*", "ttyAMA*") for path in Path("/dev").glob(kind))


def place_of(device: Device, example: str = "/dev/ttyUSB0") -> tuple[str, int]:
    """The port that a device is on, and its speed. Raises UserError when nobody has said."""
    place = device.connection.get("tty")
    if not place:
        message = f"it is not known on which port {device.name} is"
        raise UserError(message, f"--port {example}, or tty = in [connection] of its profile")
    return str(place), int(device.connection.get("baud", BAUD))


def look(device: Device) -> tuple[bool, str]:
    """Whether its port is there and may be used, and in a few words what is lacking.

    A line of this machine is not opened: that would set its speed, and reset many a microcontroller.
    """
    if not device.connection.get("tty"):
        return False, "lacks a port: --port, or devices.toml"
    name, baud = place_of(device)
    try:
        if "://" in name:
            Port(name, baud).close()
        elif not os.access(name, os.R_OK | os.W_OK):
            raise refused(name, errno.EACCES if os.path.lexists(name) else errno.ENOENT)
    except EdgekitError as error:
        return False, error.message
    return True, "its port is there; not asked who is on it"
