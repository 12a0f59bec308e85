"""A device behind SSH: commands, files and the agent's pipes are channels of one link. What it takes to log in is in _ssh_login."""

from __future__ import annotations

import contextlib
import shlex
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit.cache import disk_errors
from edgekit.errors import ConnectError, DeviceError, TransportClosed, TransportTimeout, UserError
from edgekit.transports import Channel
from edgekit.transports._remote import COMMAND_S, GROUP, FedChannel, RemoteTransport, failed
from edgekit.transports._ssh_login import Destination, Link, host_key, library, open_link, resolve
from edgekit.types import Device

FOLDER = '"${HOME:-.}/.edgekit"'
CHUNK = 1 << 18
STALL_S = 30.0  # a transfer that does not move for so long has ended
GOODBYE_S = 2.0
ABSENT = 44  # an exit code of our own
LOOK_S = 2.0
# A program is ended by its process group when it does not end by itself; "-" where the server makes no group for it.
TELL_GROUP = (
    "read -r pid name state parent group rest < /proc/self/stat; "
    f'case $group in "$pid" | "$parent") ;; *) group=- ;; esac; echo "{GROUP.decode()}$group" >&2'
)


class Ssh(RemoteTransport):
    """One link to one device. With `known_hosts`, that file alone is believed, and nothing of the user's ~/.ssh is used."""

    def __init__(self, device: Device, known_hosts: Path | None = None) -> None:
        super().__init__(device)
        host = str(device.connection.get("host", ""))
        if not host:
            hint = f'--host [USER@]HOST, or host = "..." under [{device.name}.connection] in your devices.toml'
            raise UserError(f"nobody said where {device.name} is", hint)
        to = resolve(host, device.connection, known_hosts)
        self.destination: Destination = replace(to, device=device.name)
        self.link: Link | None = None
        try:
            self.reconnect()
        except DeviceError as error:
            if not error.transient:
                raise
            self.reconnect()

    def reconnect(self) -> None:
        self.close()
        self.link = open_link(self.destination)
        self.identity = host_key(self.link.transport.get_remote_server_key()).shown
        try:
            self.open_folder(FOLDER)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self.link is not None:
            self.link.close()
            self.link = None

    @contextlib.contextmanager
    def mapped(self, what: str) -> Iterator[None]:
        """Turn what paramiko raises on a link that is up into a DeviceError: `what` was going on."""
        paramiko = library()
        try:
            yield
        except DeviceError:
            raise
        except TimeoutError as error:
            raise TransportTimeout(f"{self.device.name} did not answer in time while {what}") from error
        except paramiko.ChannelException as error:
            hint = "end some sessions there, or raise MaxSessions in its sshd_config"
            raise DeviceError(f"{self.device.name} refused to start a program: {error.text}", hint) from error
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise self.lost(what) from error

    def lost(self, what: str) -> TransportClosed:
        """The error of a link that ended."""
        return TransportClosed(
            f"the link to {self.device.name} was lost while {what}",
            "is the device still on, and its network?",
            transient=True,
        )

    def session(self, command: str, deadline_s: float) -> Any:
        """A channel on which `command` runs, whatever shell the user there has."""
        link = self.link
        if link is None:
            raise self.lost("starting a command")
        channel = link.transport.open_session(timeout=deadline_s)
        channel.settimeout(deadline_s)
        # paramiko waits for the answer to this request without an end; a link on which none comes is good for nothing else.
        watch = threading.Timer(deadline_s, link.close)
        watch.start()
        try:
            channel.exec_command(f"sh -c {shlex.quote(command)}")
        except library().SSHException:
            if watch.finished.is_set():
                raise TimeoutError from None
            raise
        finally:
            watch.cancel()
        return channel

    def run(self, command: str, deadline_s: float, data: bytes = b"") -> tuple[int, bytes, bytes]:
        deadline = time.monotonic() + deadline_s
        with self.mapped("running a command"):
            channel = self.session(command, deadline_s)
            with contextlib.closing(channel):
                channel.sendall(data)
                channel.shutdown_write()
                return self.finish(channel, deadline)

    def finish(self, channel: Any, deadline: float) -> tuple[int, bytes, bytes]:
        """The exit code of a command and all it says until it ends. stderr is read last: there is room for 2 MB of it."""
        texts = [read_all(receive, channel, deadline) for receive in (channel.recv, channel.recv_stderr)]
        if not channel.status_event.wait(max(0.01, deadline - time.monotonic())):
            raise TimeoutError
        code = channel.exit_status
        if code < 0:
            if not self.link or not self.link.transport.is_active():
                raise self.lost("running a command")
            code = 128 + signal.SIGKILL  # only a signal ends a program without a code
        return code, texts[0], texts[1]

    def put(self, local: Path, remote: str) -> None:
        what = f"sending {local.name}"
        with self.mapped(what), local.open("rb") as stream:
            channel = self.session(f"LC_ALL=C exec cat > {shlex.quote(remote)}", STALL_S)
            with contextlib.closing(channel):
                ended = False
                while (chunk := stream.read(CHUNK)) and not ended:
                    try:
                        channel.sendall(chunk)
                    except OSError as error:
                        if isinstance(error, TimeoutError) or not channel.status_event.is_set():
                            raise
                        ended = True  # a full disk, say: its last words are worth reading
                with contextlib.suppress(OSError):
                    channel.shutdown_write()
                code, _, err = self.finish(channel, time.monotonic() + COMMAND_S)
        if code:
            raise failed(what, code, err)

    def pull(self, remote: str, local: Path) -> None:
        try:
            self._pull(remote, local)
        except BaseException:
            local.unlink(missing_ok=True)  # half a file looks like a whole one
            raise

    def _pull(self, remote: str, local: Path) -> None:
        path = shlex.quote(f"{self.root}/{remote}")
        with self.mapped(f"fetching {remote}"):
            channel = self.session(f"[ -f {path} ] || exit {ABSENT}; LC_ALL=C exec cat {path}", STALL_S)
            with contextlib.closing(channel), disk_errors(local.name), local.open("wb") as stream:
                while chunk := channel.recv(CHUNK):
                    stream.write(chunk)
                code, _, err = self.finish(channel, time.monotonic() + COMMAND_S)
        if code == ABSENT:
            raise DeviceError(f"the device has no file {remote}")
        if code:
            raise failed(f"fetching {remote}", code, err)

    def spawn(self, argv: Sequence[str]) -> Channel:
        command = f"{TELL_GROUP}; {self.in_folder(shlex.join(argv))}; exit $?"
        try:
            with self.mapped("starting the agent"):
                return SshChannel(self, self.session(command, COMMAND_S))
        except DeviceError as error:
            raise ConnectError(error.message, error.hint, error.transient) from error


class SshChannel(FedChannel):
    """The pipes of a program behind SSH. Two threads read them, so that neither can fill up."""

    def __init__(self, transport: Ssh, channel: Any) -> None:
        super().__init__()
        self.transport = transport
        self.channel = channel
        self.readers = [threading.Thread(target=task, daemon=True) for task in (self._read_stdout, self._read_stderr)]
        for reader in self.readers:
            reader.start()

    def _read_stdout(self) -> None:
        try:
            for data in patiently(self.channel.recv):
                self.feed(data)
            ending = self._ending()
        except ValueError as error:
            ending = f"does not speak our protocol: {error}"
        self.readers[1].join(GOODBYE_S)
        self.finish(ending)

    def _read_stderr(self) -> None:
        for data in patiently(self.channel.recv_stderr):
            self.feed_error(data)

    def _ending(self) -> str:
        """How the program ended, for "the program on the device ..."."""
        self.channel.status_event.wait(GOODBYE_S)
        code = self.channel.exit_status
        link = self.transport.link
        if code < 0:
            alive = link is not None and link.transport.is_active()
            return "died of a signal" if alive else "is out of reach: the link was lost"
        if code > 128:
            with contextlib.suppress(ValueError):
                return f"died of {signal.Signals(code - 128).name}"
        return f"ended with code {code}"

    def write(self, data: bytes) -> None:
        try:
            self.channel.sendall(data)
        except TimeoutError:
            raise TransportTimeout(f"the device took no data for {COMMAND_S:g} s", self.stderr_tail()) from None
        except (
            OSError,
            EOFError,
            library().SSHException,
        ) as error:  # EOFError: the link ended while a message went out
            self.readers[0].join(GOODBYE_S)
            raise self.closed() from error

    def close(self) -> None:
        lost = (OSError, EOFError, library().SSHException)
        with contextlib.suppress(*lost):
            self.channel.shutdown_write()
        self.readers[0].join(GOODBYE_S)
        if self.readers[0].is_alive() and self.group.isdigit():
            with contextlib.suppress(DeviceError):
                self.transport.run(f"kill -9 -{self.group.decode()}", GOODBYE_S)
        with contextlib.suppress(*lost):
            self.channel.close()
        for reader in self.readers:
            reader.join(GOODBYE_S)


def read_all(receive: Any, channel: Any, deadline: float) -> bytes:
    """All that comes until the end of a stream. Raises TimeoutError past the deadline."""
    parts: list[bytes] = []
    while True:
        channel.settimeout(max(0.01, deadline - time.monotonic()))
        data = receive(CHUNK)
        if not data:
            return b"".join(parts)
        parts.append(data)


def patiently(receive: Any) -> Iterator[bytes]:
    """What comes until the end of a stream, however long it takes: the timeout of a channel is meant for writing."""
    while True:
        try:
            data = receive(CHUNK)
        except TimeoutError:
            continue
        if not data:
            return
        yield data


def connect(device: Device, counter: Path | None) -> Ssh:
    """The transport for a profile with transport = "ssh"."""
    return Ssh(device)


def look(device: Device) -> tuple[bool, str]:
    """Whether an SSH server answers there now, and in a few words what is lacking. Nobody is logged in for that."""
    host = device.connection.get("host")
    if not host:
        return False, "lacks a host: --host, or devices.toml"
    to = resolve(str(host), device.connection)
    if to.jumps or to.proxy:
        return True, f"not tried: behind {', '.join(to.jumps) or 'a proxy'}"
    try:
        with socket.create_connection((to.host, to.port), LOOK_S) as server:
            server.settimeout(LOOK_S)
            answers = server.recv(4) == b"SSH-"
    except (OSError, UnicodeError) as error:
        return False, f"no answer: {error.strerror or error if isinstance(error, OSError) else 'no such name'}"
    return (True, "answers") if answers else (False, "something else than SSH answers")
