"""Push to a device that is told what to do by shell commands: over the shells that devices have, with a link that fails."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from harness import FAKE_DEVICE

from edgekit import config
from edgekit.errors import ConnectError, DeviceError, TransportClosed, TransportTimeout
from edgekit.transports import Channel
from edgekit.transports._remote import LINE_LIMIT, FedChannel, RemoteTransport, failed

NASTY = "a b'\"$(touch hacked)`touch hacked`;*\n-ä\u200b"
SHELLS = {"sh": ["sh"], "busybox": ["busybox", "sh"], "mksh": ["mksh"]}


class Shell(RemoteTransport):
    """A device that is a folder of this machine behind a shell. `cut` is after how many commands and files its link ends."""

    def __init__(self, home: Path, shell: str = "sh") -> None:
        super().__init__(config.device(str(FAKE_DEVICE)))
        self.shell, self.cut, self.links = SHELLS[shell], -1, 0
        self.sent: list[str] = []
        self.commands: list[str] = []
        self.home = home
        self.reconnect()

    def reconnect(self) -> None:
        self.links += 1
        self.open_folder(f"{self.home}/.edgekit")

    def count(self) -> None:
        self.cut -= 1
        if self.cut == -1:
            raise TransportClosed("the link was lost", transient=True)

    def run(self, command: str, deadline_s: float, data: bytes = b"") -> tuple[int, bytes, bytes]:
        self.count()
        self.commands.append(command)
        done = subprocess.run([*self.shell, "-c", command], input=data, capture_output=True, timeout=deadline_s)
        return done.returncode, done.stdout, done.stderr

    def put(self, local: Path, remote: str) -> None:
        self.count()
        self.sent.append(remote)
        shutil.copyfile(local, remote)

    def pull(self, remote: str, local: Path) -> None:
        raise NotImplementedError

    def spawn(self, argv: Sequence[str]) -> Channel:
        raise NotImplementedError

    def close(self) -> None:
        pass


@pytest.fixture(params=SHELLS)
def device(request: pytest.FixtureRequest, tmp_path: Path) -> Shell:
    """A device with nothing on it, by the shell it has."""
    if not shutil.which(SHELLS[request.param][0]):
        pytest.skip(f"apt-get install {request.param}")
    return Shell(tmp_path / "home", request.param)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder to push: a program, a link, names that a shell would take for commands."""
    made = tmp_path / NASTY
    (made / "lib" / NASTY).mkdir(parents=True)
    (made / "lib" / NASTY / "one.so").write_text("one")
    (made / "lib/link.so").symlink_to(f"{NASTY}/one.so")
    (made / "run").write_text("#!/bin/sh\necho ran\n")
    (made / "run").chmod(0o755)
    return made


def left(folder: Path) -> list[str]:
    """What lies in a folder, hidden things included."""
    return sorted(path.name for path in folder.iterdir())


def test_the_folder_on_the_device_is_for_its_user_alone(device: Shell) -> None:
    assert device.root == str(device.home / ".edgekit")
    assert Path(device.root).stat().st_mode & 0o777 == 0o700


def test_a_folder_arrives_whole_and_its_names_are_not_run(device: Shell, folder: Path) -> None:
    device.push(folder, f"userland/{NASTY}")
    there = Path(device.root) / "userland" / NASTY
    assert (there / "lib/link.so").read_text() == "one"
    assert subprocess.run([there / "run"], capture_output=True, check=True).stdout == b"ran\n"
    assert left(there.parent) == [NASTY]
    assert not [*device.home.rglob("hacked"), *Path.cwd().glob("hacked")]


def test_a_file_arrives_whole_and_can_be_run(device: Shell, folder: Path) -> None:
    device.push(folder / "run", f"blobs/{NASTY}")
    there = Path(device.root) / "blobs" / NASTY
    assert subprocess.run([there], capture_output=True, check=True).stdout == b"ran\n"
    assert left(there.parent) == [NASTY]


@pytest.mark.parametrize("name", ["run", "."])
def test_what_is_there_costs_one_command_and_no_data(device: Shell, folder: Path, name: str) -> None:
    device.push(folder / name, "userland/key")
    device.sent, device.commands = [], []
    device.push(folder / name, "userland/key")
    assert (device.sent, len(device.commands)) == ([], 1)


@pytest.mark.parametrize("damage", ["cut", "gone", "empty", "file"])
def test_what_is_damaged_there_is_sent_again(device: Shell, folder: Path, damage: str) -> None:
    there = Path(device.root) / "userland/key"
    device.push(folder, "userland/key")
    if damage == "cut":
        (there / "run").write_text("#!")
    elif damage == "gone":
        (there / "lib/link.so").unlink()
    else:
        shutil.rmtree(there)
        there.mkdir() if damage == "empty" else there.write_text("a file")
    device.push(folder, "userland/key")
    assert (there / "lib/link.so").read_text() == "one"
    assert left(there.parent) == ["key"]


def test_a_file_takes_the_place_of_a_folder(device: Shell, folder: Path) -> None:
    (Path(device.root) / "blobs/key").mkdir(parents=True)
    device.push(folder / "run", "blobs/key")
    assert (Path(device.root) / "blobs/key").read_bytes() == (folder / "run").read_bytes()
    assert left(Path(device.root) / "blobs") == ["key"]


@pytest.mark.parametrize("name", ["run", "."])
def test_a_push_that_is_cut_anywhere_never_looks_whole_and_is_done_once_more(
    tmp_path: Path, folder: Path, name: str
) -> None:
    for after in range(5):
        device = Shell(tmp_path / f"home{after}")
        device.cut = after
        device.push(folder / name, "userland/key")
        device.push(folder / name, "userland/key")
        there = Path(device.root) / "userland/key"
        assert (there if name == "run" else there / "run").read_bytes() == (folder / "run").read_bytes()
        if device.links == 1:  # the cut came after all was done
            assert after > 2
        assert not list(there.parent.glob(".push-*/key")), after


def test_a_link_that_is_cut_twice_is_an_error(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = Shell(tmp_path / "home")

    def lost(local: Path, remote: str) -> None:
        raise TransportClosed("the link was lost", transient=True)

    monkeypatch.setattr(device, "put", lost)
    with pytest.raises(TransportClosed):
        device.push(folder, "userland/key")
    assert device.links == 2
    assert not (Path(device.root) / "userland/key").exists()


def test_a_file_that_arrives_cut_short_is_an_error_and_goes(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Shell(tmp_path / "home")
    monkeypatch.setattr(device, "put", lambda local, remote: Path(remote).write_bytes(local.read_bytes()[:3]))
    for name in ("run", "."):
        with pytest.raises(DeviceError, match="it arrived cut short"):
            device.push(folder / name, "userland/key")
    assert left(Path(device.root) / "userland") == []


def test_whoever_pushes_the_same_folder_second_is_content(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, quick = Shell(tmp_path / "home"), Shell(tmp_path / "home")

    def put(local: Path, remote: str) -> None:
        quick.push(folder, "userland/key")
        shutil.copyfile(local, remote)

    monkeypatch.setattr(slow, "put", put)
    slow.push(folder, "userland/key")
    there = Path(slow.root) / "userland"
    assert left(there) == ["key"] and "key" not in left(there / "key")


def test_what_pushes_of_yesterday_left_goes(tmp_path: Path, folder: Path) -> None:
    device = Shell(tmp_path / "home")
    old, new = (Path(device.root) / f"userland/.push-{name}" for name in ("old", "new"))
    for path in (old, new):
        (path / "lib").mkdir(parents=True)
    os.utime(old, (0, 0))
    device.push(folder, "userland/key")
    assert left(old.parent) == [new.name, "key"]


def test_a_folder_that_cannot_be_made_is_a_connect_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConnectError, match=r"making the edgekit folder failed on the device: .*(directory|exists)"):
        Shell(tmp_path / "file")


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        (b"cat: write error: No space left on device\n", "free some space"),
        (b"mkdir: can't create directory 'x': Permission denied\n", "able to write"),
        (b"mkdir: x: Read-only file system\n\n", "writable"),
        (b"sh: tar: not found\n", "toybox or busybox"),
        (b"", ""),
    ],
)
def test_the_devices_words_become_one_sentence_with_what_to_do(said: bytes, hint: str) -> None:
    error = failed("sending x", 3, b"a banner\x1b[31m\n" * bool(said) + said)
    assert error.message.startswith("sending x failed on the device: ") and "\x1b" not in error.message
    assert hint in error.hint and bool(hint) == bool(error.hint)


class Fed(FedChannel):
    """A channel to which a test gives what a program would have written."""

    def write(self, data: bytes) -> None:
        raise self.closed()

    def close(self) -> None:
        pass


def test_a_channel_gives_lines_then_the_end_with_the_last_words() -> None:
    channel = Fed()
    for part in (b"on", b"e\ntwo\nthr", b"ee"):
        channel.feed(part)
    channel.feed_error(b"bad \x1b[2J\nwor")
    channel.feed_error(b"se")
    assert [channel.read_line(1), channel.read_line(1)] == [b"one\n", b"two\n"]
    with pytest.raises(TransportTimeout, match=r"said nothing for 0\.01 s"):
        channel.read_line(0.01)
    channel.finish("ended with code 3")
    for _ in range(2):
        with pytest.raises(TransportClosed, match="the program on the device ended with code 3") as caught:
            channel.read_line(1)
        assert caught.value.hint == "bad ?[2J\nworse"


def test_a_line_without_an_end_does_not_fill_the_memory() -> None:
    channel = Fed()
    with pytest.raises(ValueError, match="4 MiB"):
        channel.feed(b"x" * (LINE_LIMIT + 1))
