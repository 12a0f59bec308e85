"""The main job over adb: a phone in a namespace that runs AOSP's own adbd under uid 2000, with mksh, toybox and no /lib."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Command, wait_until
from lab import phone
from lab.middle import Fault, Middle

from edgekit import config
from edgekit.errors import DeviceError
from edgekit.transports.adb import Adb
from edgekit.types import Device

pytestmark = [pytest.mark.emulated, pytest.mark.runtimes]
RUNTIMES = ("tflite", "onnxruntime", "executorch")
FEW = ("--samples", "30", "--launches", "1", "--max-seconds", "1")
NASTY = "a b'\"$(touch hacked)`touch hacked`;*\n-ä"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a user with an adb server of his own, which runs."""
    with phone.server(tmp_path_factory.mktemp("host")) as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.delenv("ANDROID_SERIAL", raising=False)
        yield environment


@pytest.fixture(scope="module")
def lab(host: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[phone.Phone]:
    """The phone, turned on once for all tests here."""
    with phone.phone(tmp_path_factory.mktemp("phone")) as one:
        yield one


def link(serial: str, arch: str = "aarch64") -> Adb:
    """The transport by itself."""
    return Adb(Device("android", "", arch, "adb", (), {"serial": serial}))


def edgekit(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The command as that user runs it."""
    argv = [sys.executable, "-m", "edgekit", *map(str, arguments)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=900, cwd=folder)


def cells(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    """The cells of a report, by what was measured."""
    assert done.returncode == 0, done.stderr[-3000:]
    return {f"{cell['runtime']} {cell['precision']}": cell for cell in json.loads(done.stdout)["cells"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the shared run is written."""
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def profile(lab: phone.Phone, folder: Path) -> dict[str, dict[str, Any]]:
    """The main job on the phone, shared by the tests below."""
    return cells(edgekit(folder, "profile", "--device", "android", "--serial", lab.serial, "--json", *FEW))


def test_all_six_cells_are_measured(profile: dict[str, dict[str, Any]]) -> None:
    assert set(profile) == {f"{runtime} {precision}" for runtime in RUNTIMES for precision in ("fp32", "int8")}
    assert [cell["error"] for cell in profile.values()] == [None] * 6
    assert all(cell["accuracy"]["correct"] >= 29 and not cell.get("instructions") for cell in profile.values())


def test_outputs_are_those_of_a_child_process(profile: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    alone = cells(edgekit(tmp_path, "profile", "--device", "pi4", "--json", *FEW))
    for name, cell in alone.items():
        # Doubles over all outputs: a single bit of a single output would change them.
        assert cell["fidelity"] == profile[name]["fidelity"], name
        assert cell["artifact"]["sha256"] == profile[name]["artifact"]["sha256"]


def test_the_record_tells_which_phone_its_battery_and_its_heat(
    profile: dict[str, dict[str, Any]], folder: Path
) -> None:
    lines = next(folder.rglob("measurements.jsonl")).read_text("utf-8").splitlines()
    for line in map(json.loads, lines):
        told = line["environment"]["greeting"]["system"]
        assert (told["os"], told["model"], told["soc"]) == (
            "Android 14 (API 34)",
            "edgekit Lab Phone",
            "QEMU cortex-a72",
        )
        assert told["build"].startswith("edgekit/lab_arm64/")
        found = line["launches"][0]["evidence"]
        for moment in (found["before"], found["after"]):
            assert (moment["battery_percent"], moment["thermal_status"]) == (87, 0)
            assert (moment["temperature_millic"], moment["plugged"]) == (41250, "USB")


def test_the_device_is_as_bare_as_android(lab: phone.Phone) -> None:
    device = link(lab.serial)
    assert device.root == "/data/local/tmp/edgekit"
    asked = "stat -c '%a %u' /data/local/tmp/edgekit; id -u; echo $KSH_VERSION; readlink /system/bin/tar"
    told = device.run(asked, 10)[1].decode().splitlines()
    assert told[:2] == ["700 2000", "2000"]
    assert "MIRBSD KSH" in told[2]
    assert told[3] == "toybox"
    assert device.run("ls -d /lib /usr /tmp; which bash python3", 10)[0] != 0
    assert not [name for name in ("lib", "usr", "tmp") if (lab.root / name).exists()]


def test_nothing_is_left_running_and_no_half_push(lab: phone.Phone, profile: dict[str, dict[str, Any]]) -> None:
    device = link(lab.serial)
    wait_until(lambda: b"edgekit-agent" not in device.run("ps -A -o ARGS | grep -v grep", 10)[1])
    assert device.run(f"find {device.root} -name '.push-*' -o -name 'output-*'", 10)[1] == b""


def test_names_go_through_unharmed_and_unexecuted(lab: phone.Phone, tmp_path: Path) -> None:
    device = link(lab.serial)
    (tmp_path / NASTY).mkdir()
    (tmp_path / NASTY / NASTY).write_text("content")
    device.push(tmp_path / NASTY, f"userland/{NASTY}")
    device.push(tmp_path / NASTY / NASTY, f"blobs/{NASTY}")
    for remote in (f"userland/{NASTY}/{NASTY}", f"blobs/{NASTY}"):
        device.pull(remote, tmp_path / "back")
        assert (tmp_path / "back").read_text() == "content"
    channel = device.spawn(["printf", "%s|", NASTY, "\n"])
    assert b"".join(channel.read_line(10) for _ in range(2)) == f"{NASTY}|\n".encode()
    channel.close()
    assert not list(lab.root.rglob("hacked"))


def test_a_full_disk_is_named_and_leaves_nothing(host: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(os.urandom(3 << 20))
    (tmp_path / "many").mkdir()
    for number in range(3):
        (tmp_path / "many" / str(number)).write_bytes(os.urandom(1 << 20))
    with phone.phone(tmp_path, scratch={"/data/local/tmp": 2 << 20}) as small:
        device = link(small.serial)
        for name in ("big", "many"):
            with pytest.raises(DeviceError, match="No space left on device") as caught:
                device.push(tmp_path / name, f"blobs/{name}")
            assert "free some space" in caught.value.hint
        assert device.run(f"ls -A {device.root}/blobs", 10)[1] == b""


@pytest.mark.parametrize("after", [10_000, 5_000_000])
def test_a_push_that_is_cut_is_done_by_a_second_link_and_else_never_looks_whole(
    lab: phone.Phone, tmp_path: Path, after: int
) -> None:
    content = os.urandom(16 << 20)
    (tmp_path / "file").write_bytes(content)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/file").write_bytes(content[:7_000_000])
    with Middle(lab.port) as middle:
        for name, size in (("file", len(content)), ("folder", 7_000_000)):
            device = link(f"127.0.0.1:{middle.port}")
            middle.fault = Fault("cut", after, times=9)
            remote = f"blobs/{name}-{after}"
            with pytest.raises(DeviceError):
                device.push(tmp_path / name, remote)
            there = lab.root / "data/local/tmp/edgekit" / remote
            wait_until(lambda there=there: not there.exists())
            middle.fault = None
            device.reconnect()
            middle.fault = Fault("cut", after)
            device.push(tmp_path / name, remote)
            assert middle.fault.times == 0
            assert (there if name == "file" else there / "file").read_bytes() == content[:size]


def test_a_reboot_is_a_lost_link_and_the_next_one_finds_all_that_was_pushed(
    host: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("content")
    with phone.phone(tmp_path) as one:
        device = link(one.serial)
        device.push(tmp_path / "file", "blobs/file")
        channel = device.spawn(["cat"])
        one.machine.stop()
        with pytest.raises(DeviceError, match="out of reach: the link to the device was cut"):
            channel.read_line(20)
        channel.close()
        one.machine.start()
        phone.wait_for_port(one.port, one.machine)
        device.push(tmp_path / "file", "blobs/file")  # over a link of its own
        assert one.root.joinpath("data/local/tmp/edgekit/blobs/file").read_text() == "content"
        assert device.run("cat", 10, b"as before")[1] == b"as before"


@pytest.mark.parametrize("fault", ["adb server killed", "link cut", "device restarted"])
def test_a_link_lost_while_measuring_costs_that_cell_alone_and_resume_completes_the_run(
    lab: phone.Phone, host: dict[str, str], tmp_path: Path, fault: str
) -> None:
    with Middle(lab.port) as middle:
        where = ("--serial", f"127.0.0.1:{middle.port}")
        small = ("profile", "--device", "android", *where, "--runtime", "tflite", "--json", *FEW)
        running = Command(tmp_path, {}, small)
        running.until("measuring, launch")
        if fault == "adb server killed":
            phone.adb(host, "kill-server")
        elif fault == "link cut":
            middle.cut()
        else:
            lab.machine.stop()
            lab.machine.start()
            phone.wait_for_port(lab.port, lab.machine)
        first = running.end()
        assert first.rc == 4, first.stderr
        lost, kept = first.json["cells"]
        assert (lost["status"], lost["error"]["kind"], kept["status"]) == ("failed", "device", "ok")
        done = cells(edgekit(tmp_path, "profile", *where, "--resume", "last", "--json"))
    assert [cell["error"] for cell in done.values()] == [None, None]


def test_an_x86_64_image_runs_its_own_bundle(host: dict[str, str], tmp_path: Path) -> None:
    emulator = config.device("android-emulator")
    with phone.phone(tmp_path, emulator.arch) as one:
        with pytest.raises(DeviceError, match="is x86_64, the profile says aarch64"):
            link(one.serial)
        done = cells(edgekit(tmp_path, "profile", "--device", emulator.name, "--serial", one.serial, "--json", *FEW))
    assert [cell["error"] for cell in done.values()] == [None] * 6
    assert all(cell["accuracy"]["correct"] >= 29 and cell["latency"]["emulated"] for cell in done.values())
