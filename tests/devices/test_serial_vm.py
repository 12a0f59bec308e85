"""The main job over the serial console of a booted VM: a real kernel, a real getty, a real login, ARM code under QEMU."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import ROOT
from lab.answers import answers, questions

from edgekit import config, plugins, session, userland
from edgekit.transports import serial
from edgekit.transports._login import LOGIN, PASSWORD_VARIABLE
from edgekit.transports._port import Port
from edgekit.types import Device
from edgekit.userland import vm

pytestmark = [pytest.mark.emulated, pytest.mark.runtimes]
RUNTIMES = ("tflite", "onnxruntime", "executorch")
PROFILE = """
description = "the serial console of a VM"
arch = "aarch64"
transport = "serial"
runtimes = {runtimes}
[connection]
tty = "{tty}"
login = "{user}"
[emulation]
cpu = "cortex-a72"
cores = 4
memory_mb = 1024
"""


def say(text: str) -> None:
    """Nobody listens."""


@pytest.fixture(scope="module")
def machine() -> Iterator[vm.Machine]:
    """One VM for all tests here. Two userlands are there beforehand, sent by SSH: over the console they take minutes."""
    image = vm.image(say)
    with vm.boot(image) as found:
        folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"edgekit-serial-vm-{os.getpid()}"
        folder.write_text(f"[127.0.0.1]:{found.ssh_port} {image.host_key}\n")
        place = {"host": "127.0.0.1", "port": found.ssh_port, "user": vm.USER, "identity": str(image.identity)}
        link = plugins.load("transport", "ssh").Ssh(Device("vm", "", "aarch64", "ssh", (), place), folder)
        try:
            for runtime in RUNTIMES:
                land = userland.bundle("aarch64", runtime, say)
                assert land.root
                link.push(land.root, f"userland/{land.key[:16]}")
        finally:
            link.close()
            folder.unlink()
        yield found


@pytest.fixture
def device(machine: vm.Machine, monkeypatch: pytest.MonkeyPatch) -> Device:
    """Its console as a device."""
    monkeypatch.setenv(PASSWORD_VARIABLE, vm.PASSWORD)
    place = {"tty": f"socket://127.0.0.1:{machine.console}", "login": vm.USER}
    return Device("vm-console", "", "aarch64", "serial", RUNTIMES, place)


def test_the_main_job(machine: vm.Machine, tmp_path: Path) -> None:
    profile = tmp_path / "vm_console.toml"
    tty = f"socket://127.0.0.1:{machine.console}"
    profile.write_text(PROFILE.format(runtimes=json.dumps(RUNTIMES), tty=tty, user=vm.USER))
    argv = ["profile", "digits_cnn", "--device", str(profile), "--json", "--output", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), PASSWORD_VARIABLE: vm.PASSWORD}
    done = subprocess.run(
        [sys.executable, "-m", "edgekit", *argv], capture_output=True, text=True, timeout=540, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report: dict[str, Any] = json.loads(done.stdout)
    assert len(report["cells"]) == 6
    for cell in report["cells"]:
        assert cell["error"] is None
        assert cell["latency"]["emulated"]
        assert cell["accuracy"]["total"] == 540 and cell["accuracy"]["correct"] >= 530
        assert cell["fidelity"]["sqnr_db"] > (100 if cell["precision"] == "fp32" else 25)
        assert cell["memory"]["method"] == "VmHWM"
    assert is_given_back(machine)


def test_outputs_are_those_of_the_emulated_board_bit_by_bit(device: Device, tmp_path: Path) -> None:
    asked = {runtime: questions(runtime, folder_of(tmp_path, runtime)) for runtime in RUNTIMES}
    transport = serial.connect(device, None)
    try:
        for runtime in RUNTIMES:
            with session.Session.open(config.device("pi4"), runtime, say) as live:
                emulator = answers(live, runtime, asked[runtime], tmp_path)
            live = session.Session.over(transport, device, runtime, say)
            live.owns_transport = False
            with live:
                assert answers(live, runtime, asked[runtime], tmp_path) == emulator, runtime
    finally:
        transport.close()


def test_the_doctor_and_a_profile_of_the_boards_own_words(machine: vm.Machine, config_folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), PASSWORD_VARIABLE: vm.PASSWORD}
    place = ["--port", f"socket://127.0.0.1:{machine.console}", "--login", vm.USER]

    def edgekit(*argv: str) -> subprocess.CompletedProcess[str]:
        argv = (sys.executable, "-m", "edgekit", *argv)
        return subprocess.run(argv, capture_output=True, text=True, timeout=300, env=environment)

    added = edgekit("devices", "add", "my-board", *place)
    assert added.returncode == 0, added.stderr[-3000:]
    written = tomllib.loads((config_folder / "devices.toml").read_text("utf-8"))["my-board"]
    assert (written["arch"], written["transport"], written["limits"]) == ("aarch64", "serial", {"threads": 4})
    assert written["connection"] == {"tty": place[1], "login": vm.USER}
    assert "4x Cortex-A72" in written["hardware"]["cpu"]
    looked = edgekit("doctor", "--device", "my-board", "--json")
    assert looked.returncode == 0, looked.stdout[-3000:] + looked.stderr[-3000:]
    seen = {finding["what"]: finding["seen"] for finding in json.loads(looked.stdout)}
    assert seen["shell"] == "aarch64, the profile says aarch64"
    assert {f"{runtime} on my-board" for runtime in RUNTIMES} <= set(seen)
    assert is_given_back(machine)


def folder_of(parent: Path, name: str) -> Path:
    """A folder of that name."""
    (parent / name).mkdir()
    return parent / name


def is_given_back(machine: vm.Machine) -> bool:
    """Whether the console shows a login prompt again, and takes a name in lines with an echo."""
    with Port(f"socket://127.0.0.1:{machine.console}", 115200) as port:
        port.type(b"\r")
        text, deadline = b"", time.monotonic() + 15
        while not LOGIN.search(text) and time.monotonic() < deadline:
            text += port.wait(1)
        return bool(LOGIN.search(text))


def test_files_are_the_same_on_both_ends_and_what_is_there_is_not_sent_again(device: Device, tmp_path: Path) -> None:
    data = random.Random(1).randbytes(60_000)
    (tmp_path / "data").write_bytes(data)
    transport = serial.connect(device, None)
    try:
        transport.push(tmp_path / "data", "blobs/data")
        sent = transport.console.link.turn
        transport.push(tmp_path / "data", "blobs/data")
        assert transport.console.link.turn - sent < 5  # of the 120 pieces that it was at first
        transport.pull("blobs/data", tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == data
        channel = transport.spawn(["/bin/sh", "-c", "sha256sum blobs/data; stat -c %a ."])
        assert channel.read_line(20).split()[0].decode() == hashlib.sha256(data).hexdigest()
        assert channel.read_line(20).strip() == b"700"
    finally:
        transport.close()


def test_a_killed_host_leaves_a_console_that_the_next_one_can_use(machine: vm.Machine, device: Device) -> None:
    code = f"""
import time
from edgekit.transports import serial
from edgekit.types import Device
serial.connect(Device("x", "", "aarch64", "serial", (), {dict(device.connection)!r}), None)
print("up", flush=True)
time.sleep(1000)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment) as host:
        assert host.stdout and host.stdout.readline() == b"up\n"
        host.kill()
    started = time.monotonic()
    serial.connect(device, None).close()  # the session that was left behind gives way
    assert time.monotonic() - started < 30
    assert is_given_back(machine)
