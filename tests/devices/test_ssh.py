"""The main job over SSH: a Raspberry Pi in a namespace, ARM programs all of them, with dropbear; nothing is installed there."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Command, wait_until
from lab import sshd
from lab.middle import Middle

from edgekit import cache
from edgekit.errors import DeviceError
from edgekit.transports.ssh import Ssh
from edgekit.types import Device

pytestmark = [pytest.mark.emulated, pytest.mark.runtimes]
RUNTIMES = ("tflite", "onnxruntime", "executorch")
FEW = ("--samples", "30", "--launches", "1", "--max-seconds", "1")


@pytest.fixture(scope="module")
def pi(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sshd.Server]:
    """The Pi, turned on once for all tests here."""
    with sshd.pi(tmp_path_factory.mktemp("pi") / "device") as server:
        yield server


@pytest.fixture(scope="module")
def home(pi: sshd.Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home folder of a user who has been there before and calls it `board`."""
    folder = tmp_path_factory.mktemp("home")
    befriend(folder, pi, pi.port)
    return folder


def befriend(home: Path, server: sshd.Server, port: int) -> None:
    """What ~/.ssh of that user says."""
    (home / ".ssh").mkdir(exist_ok=True)
    (home / ".ssh/known_hosts").write_text(f"board {server.host_key}\n")
    (home / ".ssh/config").write_text(
        f"Host board\n HostName 127.0.0.1\n Port {port}\n User {server.user}\n"
        f" IdentityFile {server.identity}\n HostKeyAlias board\n"
    )


def edgekit(home: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The command as that user runs it."""
    environment = {**os.environ, "EDGEKIT_CACHE_DIR": str(cache.cache_dir()), "HOME": str(home)}
    argv = [sys.executable, "-m", "edgekit", *map(str, arguments)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=900, env=environment, cwd=home)


def cells(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    """The cells of a run that went well, by what was measured."""
    assert done.returncode == 0, done.stderr[-3000:]
    return cells_of(done.stdout)


def cells_of(report: str) -> dict[str, dict[str, Any]]:
    """The cells of a report in its machine form."""
    return {f"{cell['runtime']} {cell['precision']}": cell for cell in json.loads(report)["cells"]}


@pytest.fixture(scope="module")
def profile(pi: sshd.Server, home: Path) -> dict[str, dict[str, Any]]:
    """The main job on the Pi, shared by the tests below."""
    return cells(edgekit(home, "profile", "--device", "pi4", "--host", "board", "--json", *FEW))


def test_all_six_cells_are_measured(profile: dict[str, dict[str, Any]]) -> None:
    assert set(profile) == {f"{runtime} {precision}" for runtime in RUNTIMES for precision in ("fp32", "int8")}
    assert [cell["error"] for cell in profile.values()] == [None] * 6
    for cell in profile.values():
        assert not cell.get("instructions")
        assert cell["accuracy"]["correct"] >= 29


def test_outputs_are_those_of_a_child_process(profile: dict[str, dict[str, Any]], home: Path) -> None:
    alone = cells(edgekit(home, "profile", "--device", "pi4", "--json", *FEW))
    for name, cell in alone.items():
        # Doubles over all outputs: a single bit of a single output would change them.
        assert cell["fidelity"] == profile[name]["fidelity"], name
        assert cell["artifact"]["sha256"] == profile[name]["artifact"]["sha256"]


def test_nothing_is_left_running_and_no_half_push(pi: sshd.Server, profile: dict[str, dict[str, Any]]) -> None:
    with contextlib.closing(link(pi)) as device:
        wait_until(lambda: b"agent-" not in device.run("ps -o args", 10)[1].replace(b"ps -o args", b""))
        assert device.run(f"find {device.root} -name '.push-*' -o -name 'output-*'", 10)[1] == b""


def link(server: sshd.Server, port: int = 0) -> Ssh:
    """The transport by itself."""
    connection = {
        "host": "127.0.0.1",
        "port": server.port,
        "user": server.user,
        "identity": str(server.identity),
    }
    known_hosts = server.trust(server.identity.parent / "known_hosts")
    if port:
        connection["port"] = port
        known_hosts.write_text(f"[127.0.0.1]:{port} {server.host_key}\n")
    return Ssh(Device("pi4", "", "aarch64", "ssh", (), connection), known_hosts)


def test_a_link_that_is_cut_loses_no_finished_cell_and_resume_completes_the_run(
    pi: sshd.Server, tmp_path: Path, profile: dict[str, dict[str, Any]]
) -> None:
    with Middle(pi.port) as middle:
        befriend(tmp_path, pi, middle.port)
        environment = {"EDGEKIT_CACHE_DIR": str(cache.cache_dir()), "HOME": str(tmp_path)}
        small = ("profile", "--device", "pi4", "--host", "board", "--json", "--runtime", "tflite", *FEW)
        command = Command(tmp_path, environment, small)
        command.until("digits_cnn/int8/tflite@pi4+threads=1: measuring")
        middle.cut()
        ran = command.end()
        assert ran.stdout, (ran.rc, ran.stderr)
        first = cells_of(ran.stdout)
        assert first["tflite fp32"]["error"] is None
        assert first["tflite int8"]["error"]["kind"] == "device"
        again = cells(edgekit(tmp_path, "profile", "--resume", "last", "--json"))
    assert [cell["error"] for cell in again.values()] == [None, None]
    assert again["tflite fp32"] == first["tflite fp32"]
    assert again["tflite int8"]["fidelity"] == profile["tflite int8"]["fidelity"]


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(os.urandom(3 << 20))
    (tmp_path / "many").mkdir()
    for number in range(3):
        (tmp_path / "many" / str(number)).write_bytes(os.urandom(1 << 20))
    with sshd.pi(tmp_path / "device", disk_bytes=2 << 20) as server, contextlib.closing(link(server)) as device:
        for name in ("big", "many"):
            with pytest.raises(DeviceError, match="No space left on device") as caught:
                device.push(tmp_path / name, f"blobs/{name}")
            assert "free some space" in caught.value.hint
        assert device.run(f"ls -A {device.root}/blobs", 10)[1] == b""


def test_a_reboot_is_a_lost_link_and_the_next_one_finds_all_that_was_pushed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    with sshd.pi(tmp_path / "device") as server:
        device = link(server)
        device.push(tmp_path / "file", "blobs/file")
        channel = device.spawn(["cat"])
        server.stop()
        with pytest.raises(DeviceError, match="out of reach: the link was lost"):
            channel.read_line(20)
        server.start()
        before = (server.home / ".edgekit/blobs/file").stat().st_mtime_ns
        device.reconnect()
        device.push(tmp_path / "file", "blobs/file")
        assert (server.home / ".edgekit/blobs/file").stat().st_mtime_ns == before
        channel.close()
        device.close()
