"""The adb transport against a scripted adb server with this machine behind it: commands, files, each fault in time."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import fake_request, fake_session, wait_gone, wait_until
from lab.fake_adb import ONE, FakeAdb, at_hand, device, hurry
from lab.middle import Fault, Middle

from edgekit.errors import AgentError, ConnectError, DeviceError, ProtocolError, TransportClosed, TransportTimeout
from edgekit.session import Session
from edgekit.transports import _adb, adb
from edgekit.transports.adb import Adb, AdbChannel

NASTY = "a b'\"$(touch hacked)`touch hacked`;*\n-ä"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAdb]:
    """An adb server with one device, whose folder is here; a real one is never started or asked."""
    with at_hand(tmp_path, monkeypatch) as started:
        yield started


@pytest.fixture
def middle(server: FakeAdb, monkeypatch: pytest.MonkeyPatch) -> Iterator[Middle]:
    """Somebody between us and the server."""
    with Middle(server.port) as between:
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(between.port))
        yield between


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines that a test can wait for."""
    hurry(monkeypatch)


# ---- commands and files ----


def test_commands_have_their_input_exit_code_and_both_outputs(server: FakeAdb) -> None:
    phone, much = Adb(device()), os.urandom(1 << 20)
    assert phone.run("cat; echo no >&2; exit 3", 10, much) == (3, much, b"no\n")
    assert phone.run("kill -9 $$", 10)[0] == 137
    assert phone.run("exit 0", 10, much)[0] == 0
    with pytest.raises(TransportTimeout, match=r"did not answer within 0\.2 s"):
        phone.run("sleep 1", 0.2)


def test_the_folder_is_for_this_user_alone(server: FakeAdb, tmp_path: Path) -> None:
    assert Adb(device()).root == f"{tmp_path}/phone/edgekit"
    assert (tmp_path / "phone/edgekit").stat().st_mode & 0o777 == 0o700


def test_names_go_through_unharmed_and_unexecuted(server: FakeAdb, tmp_path: Path) -> None:
    phone = Adb(device())
    (tmp_path / NASTY).mkdir()
    (tmp_path / NASTY / NASTY).write_text("content")
    phone.push(tmp_path / NASTY, f"userland/{NASTY}")
    phone.push(tmp_path / NASTY / NASTY, f"blobs/{NASTY}")
    for remote in (f"userland/{NASTY}/{NASTY}", f"blobs/{NASTY}"):
        phone.pull(remote, tmp_path / "back")
        assert (tmp_path / "back").read_text() == "content"
    channel = phone.spawn(["printf", "%s|", NASTY, "\n"])
    assert b"".join(channel.read_line(10) for _ in range(2)) == f"{NASTY}|\n".encode()
    channel.close()
    assert not list(tmp_path.rglob("hacked"))


def test_the_same_content_is_sent_once(server: FakeAdb, tmp_path: Path) -> None:
    phone = Adb(device())
    (tmp_path / "file").write_bytes(os.urandom(200_000))
    for _ in range(2):
        phone.push(tmp_path / "file", "blobs/file")
        assert (tmp_path / "phone/edgekit/blobs/file").stat().st_size == 200_000
    assert server.requests.count("sync:") == 3  # looked, sent, looked
    (tmp_path / "phone/edgekit/blobs/file").write_bytes(b"cut short")
    phone.push(tmp_path / "file", "blobs/file")
    assert (tmp_path / "phone/edgekit/blobs/file").read_bytes() == (tmp_path / "file").read_bytes()


@pytest.mark.parametrize("features", ["shell_v2,stat_v2", "shell_v2"])
def test_folders_and_programs_arrive_as_they_are(server: FakeAdb, tmp_path: Path, features: str) -> None:
    server.features = features
    phone = Adb(device())
    (tmp_path / "folder/bin").mkdir(parents=True)
    (tmp_path / "folder/bin/run").write_text("#!/bin/sh\necho ran\n")
    (tmp_path / "folder/bin/run").chmod(0o755)
    (tmp_path / "folder/link").symlink_to("bin/run")
    for _ in range(2):
        phone.push(tmp_path / "folder", "userland/folder")
        phone.push(tmp_path / "folder/bin/run", "agents/run")
        assert phone.ask("./userland/folder/link && ./agents/run", "running it") == b"ran\nran\n"
    assert not list((tmp_path / "phone").rglob(".push-*"))


def test_a_full_disk_is_named_and_leaves_nothing(server: FakeAdb, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(os.urandom(3 << 20))
    server.full = 1 << 20
    phone = Adb(device())
    with pytest.raises(DeviceError, match=r"sending file failed on the device: .*No space left") as caught:
        phone.push(tmp_path / "file", "blobs/file")
    assert "free some space" in caught.value.hint
    assert not [path for path in (tmp_path / "phone").rglob("*") if "file" in path.name or ".push" in path.name]


def test_a_folder_that_cannot_be_made_is_a_connect_error(server: FakeAdb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adb, "PLACE", "/proc/edgekit")
    with pytest.raises(ConnectError, match="making the edgekit folder failed on the device: mkdir"):
        Adb(device())


def test_a_file_that_is_not_there_cannot_be_pulled(server: FakeAdb, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="the device has no file nothing"):
        Adb(device()).pull("nothing", tmp_path / "back")
    assert not (tmp_path / "back").exists()


# ---- a link that fails ----


@pytest.mark.parametrize("after", [0, 20, 100, 65_600, 500_000, 5_000_000])
def test_a_push_that_is_cut_once_is_done_by_a_second_link(
    server: FakeAdb, middle: Middle, tmp_path: Path, after: int
) -> None:
    content = os.urandom(1 << 20)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/file").write_bytes(content)
    phone = Adb(device())
    middle.fault = Fault("cut", after)
    phone.push(tmp_path / "folder", "userland/cut")
    assert middle.fault.times == (1 if after == 5_000_000 else 0)
    phone.pull("userland/cut/file", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content
    assert not list((tmp_path / "phone").rglob(".push-*")) or after > 100


@pytest.mark.parametrize("kind", ["cut", "stall", "garbage"])
def test_a_push_that_always_breaks_is_a_link_error_in_time_and_never_looks_whole(
    server: FakeAdb, middle: Middle, tmp_path: Path, kind: str, impatient: None
) -> None:
    (tmp_path / "file").write_bytes(os.urandom(8 << 20))
    phone, start = Adb(device()), time.monotonic()
    middle.fault = Fault(kind, 200_000, times=9)
    with pytest.raises((TransportClosed, TransportTimeout), match="sending file"):
        phone.push(tmp_path / "file", "blobs/file")
    assert time.monotonic() - start < 8
    assert not (tmp_path / "phone/edgekit/blobs/file").exists()


@pytest.mark.parametrize("after", [4, 300_000])
@pytest.mark.parametrize("kind", ["cut", "stall", "garbage"])
def test_a_pull_that_breaks_is_an_error_and_leaves_no_half_file(
    server: FakeAdb, middle: Middle, tmp_path: Path, kind: str, after: int, impatient: None
) -> None:
    phone = Adb(device())
    (tmp_path / "phone/edgekit/file").write_bytes(os.urandom(1 << 20))
    middle.fault = Fault(kind, after, "down")
    start = time.monotonic()
    with pytest.raises(DeviceError):
        phone.pull("file", tmp_path / "back")
    assert time.monotonic() - start < 5
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("after", [0, 60])
@pytest.mark.parametrize("kind", ["stall", "garbage"])
def test_a_server_that_talks_nonsense_or_nothing_ends_in_time(
    server: FakeAdb, middle: Middle, kind: str, after: int, impatient: None
) -> None:
    middle.fault = Fault(kind, after, "down", times=99)
    start = time.monotonic()
    with pytest.raises(DeviceError):
        Adb(device())
    assert time.monotonic() - start < 8


@pytest.mark.parametrize("meanwhile", ["listed and dead", "not listed", "offline"])
def test_a_second_link_waits_until_the_device_is_back(
    server: FakeAdb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    monkeypatch.setattr(_adb, "SETTLE_S", 5.0)
    phone = Adb(device())
    (tmp_path / "file").write_text("content")
    server.refusal = "device offline"
    server.listing = {"listed and dead": ONE, "not listed": "", "offline": ONE.replace("\tdevice", "\toffline")}[
        meanwhile
    ]
    answer, looks = server._answer, len(server.requests) + 6

    def back(request: str) -> str | None:
        if len(server.requests) > looks:
            server.refusal, server.listing = "", ONE.replace("transport_id:1", "transport_id:9")
        return answer(request)

    server._answer = back  # type: ignore[method-assign]
    phone.push(tmp_path / "file", "blobs/file")
    assert phone.listed.number == 9
    assert (tmp_path / "phone/edgekit/blobs/file").read_text() == "content"


def test_a_look_at_a_server_that_says_nothing_ends_in_time(
    server: FakeAdb, middle: Middle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adb, "LOOK_S", 0.2)
    middle.fault = Fault("stall", 0, "down", times=9)
    start = time.monotonic()
    assert not adb.look(device())[0]
    assert time.monotonic() - start < _adb.SERVER_S / 2
    assert adb.LOOK_S <= 1, "twice that is what a look may take"


# ---- the agent ----


@pytest.fixture
def live(middle: Middle, tmp_path: Path) -> Iterator[Session]:
    """The agent of the fake runtime behind the link."""
    opened = fake_session(Adb(device()))
    yield opened
    opened.close()


def agents(folder: Path) -> list[int]:
    """The agent's process and its children, which run on this machine after all."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (place / "cwd").readlink() == folder / "phone/edgekit" and b".pyz" in (place / "cmdline").read_bytes():
                found.append(int(place.name))
    return sorted(found)


@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("kind", ["cut", "stall", "garbage"])
@pytest.mark.parametrize("after", [0, 40])
def test_a_link_that_breaks_within_a_frame_ends_the_call_and_the_agent(
    live: Session, middle: Middle, tmp_path: Path, way: str, kind: str, after: int, impatient: None
) -> None:
    job = fake_request(live, tmp_path, fault="hang")
    running = agents(tmp_path)
    assert running
    middle.fault = Fault(kind, after, way)
    start = time.monotonic()
    with pytest.raises((TransportClosed, TransportTimeout, ProtocolError)):
        live.call("predict" if way == "up" else "hello", job, 0.1)
    assert time.monotonic() - start < 5
    middle.cut()
    assert all(wait_gone(pid) for pid in running)


def test_an_agent_that_is_killed_is_named(live: Session, tmp_path: Path) -> None:
    os.kill(agents(tmp_path)[0], signal.SIGKILL)
    with pytest.raises(TransportClosed, match="the program on the device died of SIGKILL"):
        live.call("hello", {}, 10)


def test_a_killed_server_is_a_lost_link_and_the_next_one_is_found(
    live: Session, server: FakeAdb, tmp_path: Path
) -> None:
    running = agents(tmp_path)
    server.stop()
    with pytest.raises(TransportClosed, match="out of reach: the link to the device was cut"):
        live.call("hello", {}, 10)
    assert all(wait_gone(pid) for pid in running)
    server.start()
    assert Adb(device()).run("echo here", 5)[1] == b"here\n"


def test_the_agents_own_errors_are_no_faults_of_the_link(live: Session, tmp_path: Path) -> None:
    with pytest.raises(AgentError, match="SIG"):
        live.call("predict", {**fake_request(live, tmp_path, fault="crash"), "output": "out"}, 30)
    assert wait_until(lambda: live.call("hello", {}, 10)["runtimes"])


def test_a_program_that_does_not_end_by_itself_is_ended(
    server: FakeAdb, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adb, "GOODBYE_S", 1.0)  # within which another command must be run, on a busy machine too
    channel = Adb(device()).spawn(["sh", "-c", "trap '' TERM HUP INT; echo $$; while :; do sleep 1; done"])
    pid = int(channel.read_line(10))
    channel.close()
    assert wait_gone(pid)


def test_a_program_behind_a_server_that_is_stuck_is_let_go_of_in_time(
    server: FakeAdb, middle: Middle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even while another thread's words do not get through: Ctrl-C waits for this."""
    monkeypatch.setattr(adb, "GOODBYE_S", 0.2)
    phone = Adb(device())
    channel = phone.spawn(["sleep", "60"])
    assert isinstance(channel, AdbChannel)
    wait_until(lambda: channel.group.isdigit())
    middle.fault = Fault("stall", 0, times=99)
    writer = threading.Thread(target=lambda: fill(channel), daemon=True)
    writer.start()
    wait_until(channel.stream.writing.locked)
    start = time.monotonic()
    channel.close()
    assert time.monotonic() - start < 5 < _adb.STALL_S
    writer.join(5)
    assert not writer.is_alive()


def fill(channel: AdbChannel) -> None:
    """Write what nobody takes."""
    with contextlib.suppress(TransportClosed, TransportTimeout):
        channel.write(bytes(64 << 20))


def test_a_program_that_cannot_be_started_says_why(server: FakeAdb) -> None:
    channel = Adb(device()).spawn(["./nothing"])
    with pytest.raises(TransportClosed, match="ended with code 127") as caught:
        channel.read_line(10)
    assert "not found" in caught.value.hint
    channel.close()
