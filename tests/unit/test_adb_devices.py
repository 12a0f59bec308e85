"""Which device adb means, and each of its states: against a scripted adb server with this machine behind it."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.fake_adb import ONE, FakeAdb, at_hand, device, hurry

from edgekit.errors import ConnectError, DeviceError, TransportClosed
from edgekit.transports import _adb, adb
from edgekit.transports._adb import Listed
from edgekit.transports.adb import Adb


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAdb]:
    """An adb server with one device, whose folder is here; a real one is never started or asked."""
    with at_hand(tmp_path, monkeypatch) as started:
        yield started


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines that a test can wait for."""
    hurry(monkeypatch)


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
