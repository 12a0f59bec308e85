"""The adb transport against a scripted adb server with this machine behind it: which device, each state, each fault in time."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import fake_request, fake_session, wait_gone, wait_until
from lab.fake_adb import ONE, FakeAdb
from lab.middle import Fault, Middle

from edgekit import session
from edgekit.errors import AgentError, ConnectError, DeviceError, ProtocolError, TransportClosed, TransportTimeout
from edgekit.session import Session
from edgekit.transports import _adb, adb
from edgekit.transports._adb import Listed
from edgekit.transports.adb import Adb, AdbChannel
from edgekit.types import Device

NASTY = "a b'\"$(touch hacked)`touch hacked`;*\n-ä"


def device(serial: str = "", arch: str = platform.machine()) -> Device:
    """A profile."""
    return Device("phone", "", arch, "adb", ("fake",), {"serial": serial} if serial else {})


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAdb]:
    """An adb server with one device, whose folder is here; a real one is never started or asked."""
    monkeypatch.setattr(adb, "PLACE", f"{tmp_path}/phone/edgekit")
    monkeypatch.setattr(_adb, "SETTLE_S", 0.1)
    monkeypatch.setattr(_adb, "AGAIN_S", 0.01)
    monkeypatch.setenv("ADBUTILS_ADB_PATH", "/bin/false")
    monkeypatch.delenv("ANDROID_SERIAL", raising=False)
    monkeypatch.delenv("ANDROID_ADB_SERVER_HOST", raising=False)
    with FakeAdb() as started:
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(started.port))
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
    monkeypatch.setattr(_adb, "STALL_S", 0.3)
    monkeypatch.setattr(_adb, "SERVER_S", 0.5)
    monkeypatch.setattr(adb, "COMMAND_S", 1.0)
    monkeypatch.setattr(adb, "GOODBYE_S", 0.1)
    monkeypatch.setattr(session, "GRACE_S", 0.2)
    monkeypatch.setattr("edgekit.transports._remote.COMMAND_S", 1.0)


# ---- which device ----


def test_the_list_is_read_as_adb_writes_it() -> None:
    text = (
        "emulator-5554          device product:sdk_gphone64_x86_64 model:sdk device:emu64xa transport_id:3\n"
        "192.0.2.7:5555         offline transport_id:11\n"
        "0123456789ABCDEF       no permissions (missing udev rules? user is in the plugdev group); "
        "see [http://developer.android.com/tools/device.html] usb:1-2 transport_id:4\n"
        "(no serial number)     unauthorized usb:1-3 transport_id:5\n\n"
    )
    assert _adb.parse_list(text) == [
        Listed("emulator-5554", "device", 3),
        Listed("192.0.2.7:5555", "offline", 11),
        Listed("0123456789ABCDEF", "no permissions", 4),
        Listed("(no serial number)", "unauthorized", 5),
    ]


@pytest.mark.parametrize(
    ("state", "words", "remedy"),
    [
        ("unauthorized", "does not allow this computer to debug it", "accept 'Allow USB debugging\\?'"),
        ("authorizing", "is still being asked for its permission", "unlock it"),
        ("offline", "is there and does not answer", "adb reconnect offline"),
        ("connecting", "is not connected yet", "plug it in again"),
        ("no permissions (missing udev rules?)", "may not be opened by this user", "android-sdk-platform-tools-common"),
        ("recovery", "is in recovery mode", "adb reboot"),
        ("sideload", "waits for a package", "adb reboot"),
        ("rescue", "is in rescue mode", "adb reboot"),
        ("bootloader", "is in its bootloader", "fastboot reboot"),
        ("detached", "is detached", "adb attach"),
        ("host", "answers as a computer", "the phone's own port"),
        ("melting", "is in the state 'melting'", "USB debugging"),
    ],
)
def test_each_state_has_its_sentence(server: FakeAdb, state: str, words: str, remedy: str) -> None:
    server.listing = f"R58M1                  {state} usb:1-1 transport_id:1\n"
    with pytest.raises(ConnectError, match=f"the Android device R58M1 {words}") as caught:
        Adb(device())
    assert caught.match(remedy)
    assert adb.look(device()) == (False, caught.value.message)


def test_every_state_that_may_pass_is_known() -> None:
    assert set(_adb.PASSING) <= set(_adb.STATES)


def test_several_devices_are_listed_and_one_is_chosen_by_its_serial(
    server: FakeAdb, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.listing = ONE + "emulator-5554 device transport_id:2\nR58M2 unauthorized transport_id:3\n"
    with pytest.raises(ConnectError, match=r"3 Android devices are connected: R58M1 .*emulator-5554 .*R58M2") as caught:
        Adb(device())
    assert "--serial" in caught.value.hint
    assert Adb(device("R58M1")).listed.number == 1
    assert Adb(device("transport:2")).listed.serial == "emulator-5554"
    assert Adb(device("emulator-*")).listed.number == 2
    assert adb.look(device("emulator-*")) == (True, "answers as emulator-5554")
    with pytest.raises(ConnectError, match="2 Android devices are connected"):
        Adb(device("R58M*"))
    with pytest.raises(ConnectError, match="no Android device 'R99' is connected") as caught:
        Adb(device("R99"))
    assert "R58M1" in caught.value.hint
    monkeypatch.setenv("ANDROID_SERIAL", "R58M1")
    assert Adb(device()).listed.number == 1


def test_two_devices_with_the_same_serial_are_told_apart_by_number(server: FakeAdb) -> None:
    server.listing = ONE + ONE.replace("usb:1-1", "usb:1-2").replace("transport_id:1", "transport_id:7")
    with pytest.raises(ConnectError, match=r"2 Android devices have the serial R58M1: .*transport:7") as caught:
        Adb(device("R58M1"))
    assert "transport:N" in caught.value.hint
    assert Adb(device("transport:7")).listed.number == 7
    assert "host:transport-id:7" in server.requests


def test_no_device_says_what_to_switch_on(server: FakeAdb) -> None:
    server.listing = ""
    with pytest.raises(ConnectError, match="no Android device is connected") as caught:
        Adb(device())
    assert "USB debugging" in caught.value.hint


def test_a_device_that_comes_a_moment_later_is_waited_for(server: FakeAdb) -> None:
    server.listing = ONE.replace("\tdevice", "\toffline")
    answer = server._answer

    def later(request: str) -> str | None:
        if server.requests.count("host:devices-l") > 3:
            server.listing = ONE
        return answer(request)

    server._answer = later  # type: ignore[method-assign]
    assert Adb(device()).listed.state == "device"


def test_a_device_in_the_network_is_called_once_and_what_adb_says_is_told(server: FakeAdb) -> None:
    with pytest.raises(ConnectError, match=r"there is no adb at 192\.0\.2\.7:5555: .*Connection refused"):
        Adb(device("192.0.2.7:5555"))
    assert server.requests.count("host:connect:192.0.2.7:5555") == 1


def test_a_server_that_does_not_start_is_told(server: FakeAdb) -> None:
    server.stop()
    with pytest.raises(ConnectError, match="the adb server does not start"):
        Adb(device())
    assert adb.look(device()) == (False, "not looked for: no adb server runs (adb start-server)")


def test_a_look_at_a_server_that_says_nothing_ends_in_time(
    server: FakeAdb, middle: Middle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adb, "LOOK_S", 0.2)
    middle.fault = Fault("stall", 0, "down", times=9)
    start = time.monotonic()
    assert not adb.look(device())[0]
    assert time.monotonic() - start < _adb.SERVER_S / 2
    assert adb.LOOK_S <= 1, "twice that is what a look may take"


def test_another_device_that_takes_the_place_of_the_first_gets_nothing(server: FakeAdb, tmp_path: Path) -> None:
    """Without a serial the only one there is is meant: after a lost link that may be another."""
    phone = Adb(device())
    (tmp_path / "file").write_text("content")
    server.refusal = "device 'R58M1' not found"
    answer, looks = server._answer, len(server.requests) + 2

    def swapped(request: str) -> str | None:
        if len(server.requests) > looks:
            server.refusal, server.listing = (
                "",
                ONE.replace("R58M1", "R58M2").replace("transport_id:1", "transport_id:2"),
            )
        return answer(request)

    server._answer = swapped  # type: ignore[method-assign]
    with pytest.raises(DeviceError, match="another device than before answers as phone"):
        phone.push(tmp_path / "file", "blobs/file")
    assert not (tmp_path / "phone/edgekit/blobs/file").exists()
    assert "R58M" not in phone.identity, "serials are personal"
    assert phone.identity == Adb(device("R58M2")).identity


def test_the_wrong_architecture_is_told_before_anything_is_sent(server: FakeAdb) -> None:
    other = "aarch64" if platform.machine() == "x86_64" else "x86_64"
    with pytest.raises(ConnectError, match=f"is {platform.machine()}, the profile says {other}"):
        Adb(device(arch=other))
    assert "sync:" not in server.requests


def test_a_device_of_before_android_7_is_refused(server: FakeAdb) -> None:
    server.features = "cmd"
    with pytest.raises(ConnectError, match="too old"):
        Adb(device())


@pytest.mark.parametrize("said", ["device 'R58M1' not found", "device offline", "device unauthorized.", "closed"])
def test_a_device_that_goes_away_is_a_closed_link(server: FakeAdb, said: str) -> None:
    phone = Adb(device())
    server.refusal = said
    with pytest.raises(TransportClosed, match=said.rstrip(".")) as caught:
        phone.run("true", 5)
    assert caught.value.transient
    with pytest.raises(ConnectError, match="cannot start the agent"):
        phone.spawn(["true"])


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


def test_a_program_that_does_not_end_by_itself_is_ended(server: FakeAdb, impatient: None) -> None:
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
