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

from edgekit.errors import ConnectError, EdgekitError, SetupError, TransportClosed, UserError
from edgekit.types import Device

BAUD = 115200
READ_BYTES = 65536
BUSY = (errno.EBUSY, errno.EAGAIN, errno.EWOULDBLOCK)


class Port:
    """An open port. `name` is what the user calls it, `baud` its speed."""

    def __init__(self, name: str, baud: int) -> None:
        self.name = name
        self.baud = baud
        if "://" in name and not name.startswith("socket://"):
            raise UserError(f"'{name}' is no serial port", "/dev/ttyUSB0, or socket://HOST:PORT")
        self.line: Any = None
        self.socket: socket.socket | None = None
        self.open()

    def open(self) -> None:
        """Open it, anew too. Raises ConnectError or SetupError."""
        try:
            import serial
        except ModuleNotFoundError as error:
            raise SetupError("serial ports need the package pyserial", "pip install 'edgekit[serial]'") from error

        self.close()
        only = {} if "://" in self.name else {"exclusive": True}
        try:
            self.line = serial.serial_for_url(self.name, baudrate=self.baud, timeout=0, **only)
        except serial.SerialException as error:
            raise self.refused(error) from error
        except ValueError as error:
            raise UserError(f"{self.name} cannot be opened at {self.baud} baud: {error}", "--baud 115200") from error
        os.set_blocking(self.line.fileno(), False)
        self.socket = socket.socket(fileno=os.dup(self.line.fileno())) if "://" in self.name else None

    def refused(self, error: OSError) -> ConnectError:
        """Why it cannot be opened, and what to do."""
        number = error.errno
        if "://" in self.name:
            return ConnectError(
                f"nothing listens at {self.name}", "start what stands for the port there, or mend the address", True
            )
        if number == errno.ENOENT:
            ports = ", ".join(str(path) for path in present()) or "none"
            return ConnectError(
                f"there is no {self.name}", f"plug the adapter in; the serial ports here: {ports}", True
            )
        if number in (errno.EACCES, errno.EPERM):
            group = Path(self.name).group() if Path(self.name).exists() else "dialout"
            hint = f"sudo usermod -aG {group} $USER, then log in again"
            return ConnectError(f"this user may not open {self.name}", hint)
        if number in BUSY:
            return ConnectError(f"another program has {self.name} open", "close it: fuser -v PORT names it", True)
        return ConnectError(f"{self.name} cannot be opened: {os.strerror(number) if number else error}")

    def __enter__(self) -> Port:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def fileno(self) -> int:
        """For select."""
        return int(self.line.fileno())

    def read(self) -> bytes:
        """What has arrived, b"" for nothing. Raises TransportClosed when the port is gone."""
        try:
            data = os.read(self.fileno(), READ_BYTES)
        except BlockingIOError:
            return b""
        except (OSError, AttributeError) as error:
            raise self.gone() from error
        if not data:
            raise self.gone()
        if self.socket:
            # The other side may hold back what it has until we acknowledge (Nagle), and we that for 40 ms.
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        return data

    def write(self, data: bytes) -> int:
        """Write what the port takes now; returns how much. Raises TransportClosed."""
        try:
            return os.write(self.fileno(), data)
        except BlockingIOError:
            return 0
        except (OSError, AttributeError) as error:
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
        """Write all."""
        while data:
            select.select([], [self.fileno()], [], 1.0)
            data = data[self.write(data) :]

    def type(self, data: bytes) -> None:
        """Write all, slowly enough for a terminal that takes its 16 bytes of buffer one by one."""
        for start in range(0, len(data), 32):
            self.put(data[start : start + 32])
            time.sleep(32 * 10 / self.baud + 0.002)

    def close(self) -> None:
        """Let go of it; never raises."""
        if self.socket:
            self.socket.close()
            self.socket = None
        if self.line is not None:
            with contextlib.suppress(Exception):
                self.line.close()
            self.line = None


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
    """Whether its port can be opened now, and in a few words what is lacking. Nothing is sent."""
    if not device.connection.get("tty"):
        return False, "lacks a port: --port, or devices.toml"
    try:
        Port(*place_of(device)).close()
    except EdgekitError as error:
        return False, error.message
    return True, "its port is there; not asked who is on it"
