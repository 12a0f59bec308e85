"""A device at the other end of a serial console: a login there, and from one typed line on, our own program on a framed link."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from edgekit.cache import digest, disk_errors, file_sha256
from edgekit.errors import ConnectError, DeviceError, TransportClosed
from edgekit.transports import Channel, Transport
from edgekit.transports._console import Console, Progress
from edgekit.transports._login import open_console
from edgekit.transports._port import Port, look, place_of
from edgekit.types import Device

__all__ = ["Serial", "connect", "look"]
ROOT = "~/.edgekit"  # as over SSH: what was sent there is here too
RETRIES = 1  # of a push, over a link that is made anew


class Serial(Transport):
    """One console for all that a run does on the device; given back as it was when the run lets go."""

    seamless = True  # the device's end goes, and with it every program, when it hears nothing of us

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self.place, self.baud = place_of(device)
        self.user = str(device.connection.get("login", "root"))
        self.console = self._open()

    def _open(self) -> Console:
        """Log in, start our program, make the edgekit folder. Raises ConnectError."""
        port = Port(self.place, self.baud)
        try:
            session = open_console(port, self.user, ROOT)
        except TransportClosed as error:
            port.close()
            raise ConnectError(error.message, error.hint, True) from error
        except BaseException:
            port.close()
            raise
        console = Console(port, session)
        try:
            console.request("hello", root=ROOT)
        except BaseException:
            console.close()
            raise
        return console

    def push(self, local: Path, remote: str) -> None:
        for left in reversed(range(RETRIES + 1)):
            try:
                self._push(local, remote)
                return
            except DeviceError as error:
                if not error.transient or not left:
                    raise
                self.console.close()
                self.console = self._open()

    def _push(self, local: Path, remote: str) -> None:
        """File by file, so that what was sent before a link broke is not sent again, nor what a neighbour has."""
        with disk_errors(local.name):
            paths = sorted(local.rglob("*")) if local.is_dir() else [local]
            name = {path: path.relative_to(local).as_posix() if local.is_dir() else "" for path in paths}
            plain = [path for path in paths if path.is_symlink() or not path.is_dir()]
            with self.console.turn:
                sizes = [(name[path], path.lstat().st_size) for path in plain]
                if not self.console.request("whole", path=remote, files=sizes):
                    self._send(local, remote, {path: name[path] for path in paths})

    def _send(self, local: Path, remote: str, names: dict[Path, str]) -> None:
        links = [(name, str(path.readlink())) for path, name in names.items() if path.is_symlink()]
        folders = [name for path, name in names.items() if path.is_dir() and not path.is_symlink()]
        regular = [path for path in names if path.is_file() and not path.is_symlink()]
        files = [
            (names[path], path.stat().st_size, file_sha256(path), stat.S_IMODE(path.stat().st_mode) & 0o755 | 0o600)
            for path in regular
        ]
        holder = str(PurePosixPath(remote).parent / f".push-{digest([remote, links, files])[:16]}")
        missing = self.console.request(
            "plan",
            holder=holder,
            siblings=str(PurePosixPath(remote).parent),
            folders=folders if local.is_dir() else None,
            links=links,
            files=files,
        )
        progress = Progress(PurePosixPath(remote).parent.name, sum(files[place][1] for place in missing), self.say)
        for place in missing:
            name, size, sha256, mode = files[place]
            there = str(PurePosixPath(holder) / name) if name else holder
            with regular[place].open("rb") as stream:
                stream.seek(self.console.request("put", path=there, size=size, digest=sha256, mode=mode))
                self.console.upload(progress.watch(stream))
        self.console.request("commit", holder=holder, path=remote)

    def pull(self, remote: str, local: Path) -> None:
        with self.console.turn:
            self.console.request("get", path=remote)
            with disk_errors(local.name), local.open("wb") as stream:
                for data in self.console.download():
                    stream.write(data)

    def spawn(self, argv: Sequence[str]) -> Channel:
        try:
            return self.console.spawn(list(argv))
        except TransportClosed:
            raise
        except DeviceError as error:
            message = f"cannot start {Path(argv[0]).name}: {error.message}"
            raise ConnectError(message, error.hint, error.transient) from error

    def close(self) -> None:
        self.console.close()


def connect(device: Device, counter: Path | None) -> Serial:
    """The transport for a profile with transport = "serial"."""
    return Serial(device)
