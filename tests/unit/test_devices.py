"""Devices as they are looked at, asked what they are, and examined by the doctor."""

from __future__ import annotations

import dataclasses
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import FAKE_DEVICE, CommandLine

from edgekit import config, devices, doctor, plugins, session, userland
from edgekit.cli import parse
from edgekit.errors import AgentError, ConnectError, UserError
from edgekit.transports import Transport, local
from edgekit.types import Device

DEVICE = config.device(str(FAKE_DEVICE))
PI4 = {
    "machine": "aarch64",
    "kernel": "6.6.31+rpt-rpi-v8",
    "model": 'Raspberry Pi 4 Model B Rev 1.4 "ü"',
    "cpu": {"cpu_implementer": "0x41", "cpu_part": "0xd08", "parts": {"0xd08": 4}, "features": ["asimd", "fp"]},
    "cores": 4,
    "memory_bytes": 3_976_000_000,
}


def silent(text: str) -> None:
    """Progress that nobody reads."""


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Device]]:
    """This machine in the place of whatever is behind a link, with a Pi's greeting; the devices that were connected to."""
    asked: list[Device] = []

    def connect(device: Device, say: Callable[[str], None]) -> Transport:
        asked.append(device)
        return local.Local(DEVICE)

    real = session.greet

    def greet(channel: Any) -> Any:
        return {**real(channel), "system": dict(PI4)}

    monkeypatch.setattr(session, "connect", connect)
    monkeypatch.setattr(session, "greet", greet)
    monkeypatch.setattr(userland, "bundle", lambda arch, runtime, say: userland.native("fake", say))
    monkeypatch.setattr(local.Local, "seamless", False)
    yield asked


def test_a_device_is_added_by_asking_it(
    board: list[Device], config_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "uname", lambda transport, deadline_s: "aarch64")
    device, place = devices.add("my-pi", {"host": "pi@192.0.2.7:2222"}, silent)
    assert place == config_folder / "devices.toml"
    assert (device.name, device.arch, device.transport, device.emulated) == ("my-pi", "aarch64", "ssh", False)
    assert dict(device.connection) == {"host": "192.0.2.7", "user": "pi", "port": 2222}
    assert device.runtimes == ("tflite", "onnxruntime", "executorch")
    assert device.optional_runtimes == ("tflite_runtime",)
    assert device.hardware == {"cpu": "4x Cortex-A72 (asimd, fp)", "memory": "4.0 GB"}
    assert device.limits == {"threads": 4}
    assert device.description == 'Raspberry Pi 4 Model B Rev 1.4 "ü"'
    before = place.read_text("utf-8")
    devices.add("second", {"tty": "/dev/ttyUSB0", "baud": 9600}, silent)
    assert place.read_text("utf-8").startswith(before)
    assert set(tomllib.loads(place.read_text("utf-8"))) == {"my-pi", "second"}
    assert board[-1].connection == {"tty": "/dev/ttyUSB0", "baud": 9600}


@pytest.mark.parametrize(
    ("machine", "arch", "first"), [("armv7l", "armv7", "tflite_runtime"), ("x86_64", "x86_64", "tflite")]
)
def test_the_runtimes_are_those_that_its_architecture_has(
    board: list[Device], monkeypatch: pytest.MonkeyPatch, machine: str, arch: str, first: str
) -> None:
    monkeypatch.setattr(devices, "uname", lambda transport, deadline_s: machine)
    device, _ = devices.add("other", {"host": "board"}, silent)
    assert (device.arch, device.runtimes[0]) == (arch, first)


@pytest.mark.parametrize(
    ("name", "connection", "words"),
    [
        ("pi4", {"host": "x"}, "there is a device 'pi4' already"),
        ("../pi", {"host": "x"}, "'../pi' is no name for a device"),
        ("mine", {}, "a new device has one place"),
        ("mine", {"host": "x", "tty": "y"}, "a new device has one place"),
        ("mine", {"host": "a b"}, "the command line: 'a b' is not"),
        ("mine", {"host": "x"}, "mine is 'mips', for which there is no userland"),
    ],
)
def test_what_cannot_be_added(
    board: list[Device], config_folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, connection: Any, words: str
) -> None:
    monkeypatch.setattr(devices, "uname", lambda transport, deadline_s: "mips")
    with pytest.raises(UserError) as caught:
        devices.add(name, connection, silent)
    assert caught.value.message.startswith(words)
    assert not (config_folder / "devices.toml").exists()


def test_an_android_emulator_that_is_added_stays_one(board: list[Device], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "uname", lambda transport, deadline_s: "x86_64")
    assert devices.add("avd", {"serial": "emulator-5554"}, silent)[0].emulated
    assert not devices.add("phone", {"serial": "R58M12ABCDE"}, silent)[0].emulated
    with pytest.raises(UserError, match="transport id"):
        devices.add("other", {"serial": "transport:3"}, silent)


def test_what_a_device_says_does_nothing_to_a_terminal(
    board: list[Device], config_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PI4, "model", "\x1b]0;owned\x07Pi \udc80\n4")
    monkeypatch.setattr(devices, "uname", lambda transport, deadline_s: "aarch64")
    device, place = devices.add("odd", {"host": "x"}, silent)
    assert device.description == "?]0;owned?Pi ??4"
    assert tomllib.loads(place.read_text("utf-8"))["odd"]["description"] == device.description


def test_a_profile_that_could_not_be_read_is_not_written(
    board: list[Device], config_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "uname", lambda transport, deadline_s: "aarch64")
    monkeypatch.setitem(PI4, "cores", -4)
    with pytest.raises(UserError, match=r"'limits\.threads' must be at least 1"):
        devices.add("odd", {"host": "x"}, silent)
    assert not (config_folder / "devices.toml").exists()


def test_a_program_on_the_device_tells_its_machine(board: list[Device]) -> None:
    assert devices.machine_of(config.bare("mine", "ssh", {"host": "x"}), silent) in devices.MACHINES


def test_a_link_that_insists_on_the_right_architecture_is_tried_with_each(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def connect(device: Device, say: Callable[[str], None]) -> Transport:
        tried.append(device.arch)
        raise ConnectError(f"not {device.arch}")

    monkeypatch.setattr(session, "connect", connect)
    with pytest.raises(ConnectError, match="not aarch64"):
        devices.machine_of(config.bare("mine", "adb", {"serial": "x"}), silent)
    assert tried == ["aarch64", "x86_64"]


@pytest.mark.parametrize(
    ("system", "words"),
    [
        ({"cpu": {"parts": {"0xd46": 4, "0xd4d": 4, "0xd4e": 1}}}, "4x Cortex-A510 + 4x Cortex-A715 + 1x Cortex-X3"),
        ({"cpu": {"cpu_part": "0xfff", "parts": {"0xfff": 2}, "features": ["fp"]}}, "2x 0xfff (fp)"),
        ({"cpu": {"cpu_implementer": "0x51", "cpu_part": "0xd08", "parts": {"0xd08": 2}}}, "2x 0xd08"),
        ({"cpu": {"model_name": "A CPU"}, "cores": 2}, "2x A CPU"),
    ],
)
def test_cores_in_words(system: Any, words: str) -> None:
    assert devices.cores_of(system) == words


@pytest.mark.parametrize("text", ['"', "\\", "\x7f\x01", "ü\U0001f600", "$(reboot)", "a\nb", "]", "'"])
def test_whatever_a_device_says_is_a_text_of_the_file(text: str) -> None:
    written = devices.section(
        "board", {"description": text, "runtimes": [text], "connection": {"host": text}, "limits": {}}
    )
    assert tomllib.loads(written) == {"board": {"description": text, "runtimes": [text], "connection": {"host": text}}}


def test_a_look_that_takes_too_long_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow:
        @staticmethod
        def look(device: Device) -> tuple[bool, str]:
            if device.name != "quick":
                over.wait(20)
            return True, "late"

    over = threading.Event()
    monkeypatch.setattr(plugins, "load", lambda kind, name: Slow)
    monkeypatch.setattr(devices, "LOOK_S", 0.2)
    begun = time.monotonic()
    seen = devices.look_at_all([*[DEVICE] * 20, dataclasses.replace(DEVICE, name="quick")])
    assert time.monotonic() - begun < 2  # all of them have LOOK_S together
    over.set()
    assert seen == [*[devices.Look(False, "no answer")] * 20, devices.Look(True, "late")]


def test_an_error_while_looking_is_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        @staticmethod
        def look(device: Device) -> tuple[bool, str]:
            raise ConnectError("the cable is cut")

    monkeypatch.setattr(plugins, "load", lambda kind, name: Refusing)
    assert devices.look(DEVICE) == devices.Look(False, "the cable is cut")


def found(findings: Iterator[doctor.Finding]) -> dict[str, doctor.Finding]:
    """The findings by what was looked at."""
    return {finding.what: finding for finding in findings}


def test_the_doctor_judges_what_makes_figures_unsteady() -> None:
    hot = {"governor": "ondemand", "frequency_khz": 600_000, "temperature_millic": 81_000, "throttled": 0x50005}
    seen = found(doctor.check_steadiness(hot))
    assert seen["governor"].ok and "scaling_governor" in seen["governor"].advice
    assert seen["governor"].seen == "ondemand at 600 MHz"
    assert "let it cool" in seen["temperature"].advice
    assert (seen["throttling"].ok, seen["throttling"].seen) == (False, "under-voltage, throttled")
    past = found(
        doctor.check_steadiness({"governor": "performance", "temperature_millic": 50_000, "throttled": 0x10000})
    )
    assert all(finding.ok for finding in past.values())
    assert [what for what, finding in past.items() if finding.advice] == ["throttling"]
    assert list(found(doctor.check_steadiness({}))) == ["governor"]


@pytest.mark.parametrize(("skew", "words"), [(0, "as here"), (-86400, "24.0 h behind"), (600, "10 min ahead")])
def test_the_doctor_looks_at_the_clock(skew: float, words: str) -> None:
    finding = doctor.check_clock(time.time() + skew + 0.5 * (skew > 0))
    assert finding.ok and finding.seen == words
    assert bool(finding.advice) == bool(skew)


def test_an_instruction_the_cpu_lacks_is_a_diagnosis(monkeypatch: pytest.MonkeyPatch, cold_cache: Path) -> None:
    real = session.Session.call

    def call(self: session.Session, op: str, *args: Any) -> Any:
        if op == "probe":
            raise AgentError(
                "crashed", "the process died of SIGILL: the library uses instructions this CPU does not have"
            )
        return real(self, op, *args)

    monkeypatch.setattr(session.Session, "call", call)
    seen = found(doctor.check_device(DEVICE, silent))
    assert seen["link"].ok and seen["agent"].ok
    finding = seen["fake on fake"]
    assert not finding.ok and "SIGILL" in finding.seen
    assert finding.mend == 'leave "fake" out of its runtimes: its library was built for newer cores'


def test_the_doctor_ends_at_what_cannot_be_gone_past(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(device: Device, say: Callable[[str], None]) -> Transport:
        raise ConnectError("no route to host", "is it switched on?\nlast words")

    monkeypatch.setattr(session, "connect", connect)
    (finding,) = doctor.check_device(DEVICE, silent)
    assert (finding.what, finding.ok, finding.seen) == ("fake answers", False, "no route to host")
    assert finding.mend == "is it switched on?"


@pytest.mark.parametrize(
    ("machine", "arch", "fits", "mend"),
    [
        ("aarch64", "aarch64", True, None),
        ("aarch64", "armv7", True, None),  # its kernel runs both
        ("armv7l", "aarch64", False, 'arch = "armv7" in its profile'),
        ("mips", "aarch64", False, "another system there: aarch64, armv7l, armv8l, x86_64"),
    ],
)
@pytest.mark.parametrize("transport", ["ssh", "serial"])
def test_the_doctor_compares_the_machine_with_the_profile(
    board: list[Device], monkeypatch: pytest.MonkeyPatch, transport: str, machine: str, arch: str, fits: bool, mend: str
) -> None:
    monkeypatch.setattr(devices, "uname", lambda transport, deadline_s: machine)
    device = dataclasses.replace(DEVICE, transport=transport, arch=arch, connection={"tty": "x", "host": "x"})
    shell = found(doctor.check_device(device, silent))["shell"]
    assert (shell.ok, shell.seen) == (fits, f"{machine}, the profile says {arch}")
    assert fits or shell.mend == mend


def test_the_commands(cli: CommandLine, config_folder: Path) -> None:
    shown = cli("devices", "show", "pi4", "--host", "pi@127.0.0.1:9")
    assert shown.rc == 0
    assert "reached by         ssh pi@127.0.0.1" in shown.stdout and "emulat" not in shown.stdout
    config_folder.mkdir(exist_ok=True)
    (config_folder / "devices.toml").write_text(
        '[mine]\ndescription = "m"\narch = "host"\ntransport = "local"\nruntimes = ["fake"]\n'
    )
    listed = cli("devices", EDGEKIT_CONFIG_DIR=str(config_folder))
    assert any(line.split()[:4] == ["mine", "local", "host", "ready"] for line in listed.stdout.splitlines())
    for arguments, words in (
        (("devices", "shwo"), "unknown action 'shwo'"),
        (("devices", "show"), "nobody said which device to show"),
        (("devices", "list", "pi4"), "a list takes neither"),
        (("devices", "add", "x"), "a new device has one place"),
        (("doctor", "--host", "x"), "nobody said what is there"),
        (("doctor", "-d", "pi4", "--port", "22"), "--port 22 is a number"),
        (("profile", "--baud", "fast"), "--baud fast is not a whole number"),
    ):
        with pytest.raises(UserError) as caught:
            args = parse(arguments)
            args.run(args)
        assert words in caught.value.message
