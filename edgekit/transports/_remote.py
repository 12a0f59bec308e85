"""Base of the transports that reach another machine by commands in its shell: push is built here once, on `run` and `put`.

The shell is plain POSIX sh with toybox, busybox or GNU tools: no bash, no /tmp, no Python is expected there.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import tarfile
import tempfile
from abc import abstractmethod
from pathlib import Path, PurePosixPath
from typing import IO

from edgekit.cache import disk_errors
from edgekit.errors import ConnectError, DeviceError, TransportClosed, TransportTimeout
from edgekit.transports import QueuedChannel, Transport, check_same, printable

COMMAND_S = 30.0  # for a command that moves no data
UNPACK_BYTES_PER_S = 500_000  # slower than any card: a deadline, not a guess
LINE_LIMIT = 1 << 22  # as the agent's own
GROUP = (
    b"edgekit-group "  # on a line of stderr, what comes after it is the process group by which a program can be ended
)
# What the device's tools say (in the C locale) -> what to do about it.
REMEDIES = {
    "No space left": "free some space there: the edgekit folder holds only what can be sent again and may be removed",
    "Read-only file system": "make that file system writable, or log in as a user whose home folder is",
    "Permission denied": "the user must be able to write there: another user, or another owner of that folder",
    "Quota exceeded": "free some space there: the edgekit folder holds only what can be sent again and may be removed",
    "not found": "the device needs the usual small tools (sh, mkdir, mv, rm, stat, find, tar): toybox or busybox brings them",
}


class FedChannel(QueuedChannel):
    """A channel whose subclass hands over what the program wrote as it arrives, from a thread of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.ending = "ended"
        self.group = b""
        self._stdout = self._stderr = b""

    def feed(self, data: bytes) -> None:
        """Some more of the program's stdout. Raises ValueError when it is no text of lines."""
        *lines, self._stdout = (self._stdout + data).split(b"\n")
        for line in lines:
            self.lines.put(line + b"\n")
        if len(self._stdout) > LINE_LIMIT:
            raise ValueError("a line is longer than 4 MiB")

    def feed_error(self, data: bytes) -> None:
        """Some more of its stderr; start-up files may have written there before the program's group is told."""
        *lines, self._stderr = (self._stderr + data).split(b"\n")
        self._stderr = self._stderr[-LINE_LIMIT:]
        for line in lines:
            words, told, group = line.partition(GROUP)
            if told and not self.group:
                self.group, line = group.strip(), words
                if not words:
                    continue
            self.errors.append(printable(line))

    def finish(self, ending: str) -> None:
        """Nothing more will come; `ending` goes after "the program on the device"."""
        self.ending = ending
        if self._stderr:
            self.errors.append(printable(self._stderr))
        self.lines.put(None)

    def closed(self) -> TransportClosed:
        return TransportClosed(f"the program on the device {self.ending}", self.stderr_tail())


class RemoteTransport(Transport):
    """A device that is told what to do by shell commands.

    A subclass supplies `run`, `put`, `pull`, `spawn` and `close`, and calls `open_folder` once it is connected. `reconnect`
    is for links that can be made anew; push then tries once more after an error that is `transient`.
    """

    root = ""  # the edgekit folder on the device: absolute, known after `open_folder`

    @abstractmethod
    def run(self, command: str, deadline_s: float, data: bytes = b"") -> tuple[int, bytes, bytes]:
        """Run a line of POSIX sh with `data` as its stdin; its exit code, stdout and stderr.

        Raises TransportTimeout past the deadline, TransportClosed when the link ends.
        """

    @abstractmethod
    def put(self, local: Path, remote: str) -> None:
        """Send one file whole to an absolute path whose folder exists. Raises DeviceError."""

    def reconnect(self) -> None:
        """Make the link anew after a transient error. Raises ConnectError."""

    def in_folder(self, command: str) -> str:
        """A command as it runs in the edgekit folder, its messages in plain English."""
        return f"cd {shlex.quote(self.root)} && LC_ALL=C && export LC_ALL && {{ {command}; }}"

    def ask(self, command: str, what: str, more_s: float = 0) -> bytes:
        """The stdout of a command that runs in the edgekit folder, with so much `more` time than one that moves no data.

        Raises DeviceError when it fails at `what`.
        """
        code, out, err = self.run(self.in_folder(command), COMMAND_S + more_s)
        if code:
            raise failed(what, code, err)
        return out

    def open_folder(self, place: str) -> None:
        """Make the edgekit folder, for this user alone; `place` is its path as sh reads it. Raises ConnectError."""
        command = f'd={place}; umask 077; mkdir -p "$d" && chmod 700 "$d" && cd "$d" && pwd -P'
        code, out, err = self.run(f"LC_ALL=C; export LC_ALL; {command}", COMMAND_S)
        lines = os.fsdecode(out).splitlines()
        if code or not lines or not lines[-1].startswith("/"):
            error = failed("making the edgekit folder", code, err)
            raise ConnectError(error.message, error.hint)
        if len(lines) > 1:
            said = printable(out.splitlines()[0])[:60]
            message = f"{self.device.name} prints '{said}' before the output of every command"
            hint = "its user's start-up files (~/.bashrc, ~/.profile ...) must print nothing where there is no terminal"
            raise ConnectError(message, f"{hint}: `ssh HOST true` is silent then")
        self.root = lines[-1]

    def push(self, local: Path, remote: str) -> None:
        target = PurePosixPath(remote)
        holder = target.parent / f".push-{secrets.token_hex(6)}"
        try:
            self._push(local, target, holder)
        except DeviceError as error:
            if not error.transient:
                raise
            before = self.identity
            self.reconnect()
            check_same(self.device.name, before, self.identity)
            self.ask(f"rm -rf {quoted(holder)}", "tidying up")
            self._push(local, target, holder)

    def _push(self, local: Path, target: PurePosixPath, holder: PurePosixPath) -> None:
        found = self._look(target, holder)
        if is_whole(local, target, found):
            return
        if found:
            self.ask(f"mkdir -p {quoted(holder)}", f"sending {local.name}")
        try:
            if local.is_dir():
                self._send_folder(local, holder, target)
            else:
                self._send_file(local, holder, target)
            self._move(local, holder, target, damaged=bool(found))
        except DeviceError as error:
            if not error.transient and not isinstance(error, TransportTimeout):
                with contextlib.suppress(DeviceError):
                    self.ask(f"rm -rf {quoted(holder)}", "tidying up")
            raise

    def _look(self, target: PurePosixPath, holder: PurePosixPath) -> bytes:
        """Size and name of all that lies at `target`, one a line; makes `holder` when nothing does.

        What pushes of yesterday left behind goes too.
        """
        old = f"find {quoted(holder.parent)} -name '.push-*' -prune -mtime +0 -exec rm -rf {{}} +"
        there = f"echo there; find {quoted(target)} ! -type d -exec stat -c '%s %n' {{}} +"
        absent = f"mkdir -p {quoted(holder)} && {old}"
        return self.ask(f"if [ -e {quoted(target)} ]; then {there}; else {absent}; fi", f"looking for {target}")

    def _send_file(self, local: Path, holder: PurePosixPath, target: PurePosixPath) -> None:
        there = holder / target.name
        self.put(local, f"{self.root}/{there}")
        mode = local.stat().st_mode & 0o755 | 0o600
        self.ask(f"{arrived(there, local.stat().st_size)} && chmod {mode:o} {quoted(there)}", f"sending {local.name}")

    def _send_folder(self, local: Path, holder: PurePosixPath, target: PurePosixPath) -> None:
        """Send a folder as one tar archive and unpack it in `holder`, under the name that it will have."""
        archive = holder / ".tar"
        with tempfile.NamedTemporaryFile(prefix="edgekit-", suffix=".tar") as file:
            with disk_errors("a tar archive of what the device needs"):
                pack(local, target.name, file)
            size = file.tell()
            self.put(Path(file.name), f"{self.root}/{archive}")
        unpack = f"tar xf {quoted(archive)} -C {quoted(holder)} && rm {quoted(archive)}"
        self.ask(f"{arrived(archive, size)} && {unpack}", f"unpacking {local.name}", size / UNPACK_BYTES_PER_S)

    def _move(self, local: Path, holder: PurePosixPath, target: PurePosixPath, damaged: bool) -> None:
        """Give what was sent whole its name, in one step; what is `damaged` there goes."""
        name, here, parent = quoted(target), quoted(holder), quoted(target.parent)
        away = f"mv {name} {quoted(holder / '.damaged')} && " if damaged else ""
        try:
            self.ask(f"{away}mv -f {quoted(holder / target.name)} {parent}/ && rm -rf {here}", f"sending {local.name}")
        except DeviceError:
            # Another process may have sent the same folder first: a folder never takes the place of one.
            if not is_whole(local, target, self._look(target, holder)):
                raise
            self.ask(f"rm -rf {here}", "tidying up")


def quoted(path: PurePosixPath) -> str:
    """A path of the edgekit folder as a word of sh that no command takes for an option."""
    return shlex.quote(f"./{path}")


def arrived(path: PurePosixPath, size: int) -> str:
    """A command of sh that fails, and says so, when a file is not as long as what was sent."""
    return f"{{ [ \"$(stat -c %s {quoted(path)})\" = {size} ] || {{ echo 'it arrived cut short' >&2; false; }}; }}"


def is_whole(local: Path, target: PurePosixPath, found: bytes) -> bool:
    """Whether `found`, what lies at `target` on the device, has each file of `local` (a file or a folder) with its size."""
    files = [path for path in local.rglob("*") if path.is_symlink() or not path.is_dir()] if local.is_dir() else [local]
    lines = b"\n" + found
    # Nothing is parsed: a name may have line ends in it.
    return bool(found) and all(
        b"\n%d %s\n" % (path.lstat().st_size, os.fsencode(f"./{target / path.relative_to(local)}")) in lines
        for path in files
    )


def pack(local: Path, name: str, out: IO[bytes]) -> None:
    """Write a folder as a tar archive in which it is called `name`; nobody in particular owns what is in it."""

    def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mtime = int(member.mtime)
        return member

    # Neither toybox nor busybox reads every pax archive; all three tars read GNU's.
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        archive.add(local, name, filter=anonymous)
    out.flush()


def failed(what: str, code: int, err: bytes) -> DeviceError:
    """The error of a command that ended with `code`: its last words, and what to do about those that are known."""
    words = [printable(line) for line in err.splitlines() if line.strip()]
    said = words[-1] if words else f"the command ended with code {code}"
    hint = next((remedy for known, remedy in REMEDIES.items() if any(known in line for line in words)), "")
    return DeviceError(f"{what} failed on the device: {said}", hint)
