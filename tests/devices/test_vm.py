"""The virtual machine: a real kernel with a real limit of memory, booted without privileges, gone with whoever started it."""

from __future__ import annotations

import json
import lzma
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import ROOT, wait_gone
from lab.answers import answers, questions

from edgekit import config, session
from edgekit.errors import ConnectError, DeviceError, SetupError, UserError
from edgekit.transports.vm import VirtualMachine
from edgekit.types import Device
from edgekit.userland import vm, vm_image

PROFILE = (ROOT / "device_profiles" / "pi4-vm.toml").read_text("utf-8")
SPREAD = ROOT / "tests" / "lab" / "spread.py"
CELLS = {(runtime, precision) for runtime in ("tflite", "onnxruntime", "executorch") for precision in ("fp32", "int8")}


def silent(text: str) -> None:
    """Progress that nobody reads."""


def small(folder: Path, memory_mb: int) -> Path:
    """The profile of a VM with less memory."""
    path = folder / f"vm{memory_mb}.toml"
    path.write_text(PROFILE.replace("memory_mb = 3792", f"memory_mb = {memory_mb}"), "utf-8")
    return path


def profile(folder: Path, *arguments: object) -> tuple[int, dict[str, Any]]:
    """The command as a user runs it: its exit code and its report."""
    argv = [sys.executable, "-m", "edgekit", "profile", *map(str, arguments), "--json", "--output", str(folder)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=580)
    assert done.returncode in (0, 4), done.stderr[-3000:]
    return done.returncode, json.loads(done.stdout)


# ---- what can be told without a VM ----


def test_without_qemu_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    with pytest.raises(SetupError) as caught:
        vm.boot(vm.Image(tmp_path))
    assert caught.value.hint == "apt-get install qemu-system-arm"


def test_without_mke2fs_nothing_is_downloaded(cold_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    monkeypatch.setattr(vm_image.bundles, "base", lambda target, say: cold_cache / "base")
    with pytest.raises(SetupError) as caught:
        vm.image(silent)
    assert caught.value.hint == "apt-get install e2fsprogs"
    assert not any(path.is_dir() for path in (cold_cache / "userland").iterdir())


@pytest.mark.parametrize("key", ["cpu", "cores", "memory_mb"])
def test_a_profile_without_what_a_vm_needs_is_refused(tmp_path: Path, key: str) -> None:
    path = tmp_path / "board.toml"
    lines = PROFILE.split("[emulation]")
    kept = "".join(line for line in lines[1].splitlines(True) if not line.startswith(key))
    path.write_text(lines[0] + "[emulation]" + kept, "utf-8")
    with pytest.raises(UserError, match=rf"board.toml:\d+: the vm needs 'emulation.{key}'"):
        config.device(str(path))


def test_modules_come_after_those_they_need(tmp_path: Path) -> None:
    def module(name: str, *needed: str) -> bytes:
        return b"\x7fELF...\0license=GPL\0depends=" + ",".join(needed).encode() + b"\0name=" + name.encode() + b"\0"

    there = {
        "a/virtio_net.ko": module("virtio_net", "net-failover", "virtio"),
        "b/net_failover.ko.xz": lzma.compress(module("net_failover")),
        "virtio_pci.ko": module("virtio_pci", "virtio", "built_in"),
        "virtio.ko": module("virtio"),
        "virtio-blk.ko": module("virtio_blk", "virtio"),
        "sound.ko": module("sound"),
    }
    for name, content in there.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    found = vm_image.modules(tmp_path)
    assert [name for name, _ in found] == [
        "virtio.ko",
        "virtio_pci.ko",
        "net_failover.ko",
        "virtio_net.ko",
        "virtio_blk.ko",
    ]
    assert all(content.startswith(b"\x7fELF") for _, content in found)


def test_only_the_emulator_counts() -> None:
    pi4, inside, here = config.device("pi4"), config.device("pi4-vm"), config.device("local")
    assert (pi4.emulated, pi4.counted) == (True, True)
    assert (inside.emulated, inside.counted) == (True, False)
    assert (here.emulated, here.counted) == (False, False)


# ---- a VM ----


@pytest.fixture(scope="module")
def image() -> vm.Image:
    """The image; making it is part of the first use."""
    return vm.image(silent)


def log_in(device: Device, image: vm.Image) -> VirtualMachine:
    """A VM that is up, and an SSH link into it."""
    return VirtualMachine(device, image)


@pytest.fixture(scope="module")
def board(image: vm.Image) -> Iterator[VirtualMachine]:
    """One VM for all tests that do it no harm."""
    transport = log_in(config.device("pi4-vm"), image)
    yield transport
    transport.close()
    assert wait_gone(transport.machine.pid)


def said(transport: VirtualMachine, command: str, code: int = 0) -> str:
    """What a command prints in the VM."""
    ended, out, err = transport.link.run(command, 60)  # type: ignore[attr-defined]
    assert ended == code, (command, ended, err)
    return str(out.decode())


@pytest.mark.emulated
def test_it_is_the_machine_of_its_profile(board: VirtualMachine) -> None:
    assert said(board, "nproc; id -un; uname -m").split() == ["4", "pi", "aarch64"]
    assert "0xd08" in said(board, "cat /proc/cpuinfo")
    total_kb = int(said(board, "cat /proc/meminfo").split()[1])
    assert 0.95 * 3792 < total_kb / 1024 < 3792
    seconds = int(said(board, "date +%s"))
    assert abs(seconds - time.time()) < 120


@pytest.mark.emulated
def test_only_the_key_opens_it(board: VirtualMachine) -> None:
    import paramiko

    link = paramiko.Transport(("127.0.0.1", board.machine.ssh_port))
    try:
        link.start_client(timeout=20)
        assert f"{link.get_remote_server_key().get_name()} {link.get_remote_server_key().get_base64()}" == (
            board.machine.image.host_key
        )
        with pytest.raises(paramiko.BadAuthenticationType) as caught:
            link.auth_password(vm.USER, vm.PASSWORD)
        assert caught.value.allowed_types == ["publickey"]
    finally:
        link.close()
    for name in ("identity", "initramfs"):
        assert (board.machine.image.folder / name).stat().st_mode & 0o077 == 0


@pytest.mark.emulated
def test_nobody_else_reaches_it_and_it_reaches_nobody(board: VirtualMachine) -> None:
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        own.listen()
        # 10.0.2.2 is this machine as the VM would see it.
        said(board, f"echo | nc -w 2 10.0.2.2 {own.getsockname()[1]}", code=1)
    listening = Path("/proc/net/tcp").read_text("ascii")
    for port in (board.machine.ssh_port, board.machine.console):
        assert f" 0100007F:{port:04X} " in listening
        assert f" 00000000:{port:04X} " not in listening


@pytest.mark.emulated
def test_its_console_lets_a_user_in(board: VirtualMachine) -> None:
    with socket.create_connection(("127.0.0.1", board.machine.console), 20) as console:
        heard = b""
        for word, answer in ((b"login:", vm.USER), (b"Password:", vm.PASSWORD), (b"$ ", "echo $((6 * 7)); exit")):
            console.sendall(b"\n" if not heard else b"")
            while word not in heard:
                heard += console.recv(4096)
            heard = heard.rpartition(word)[2] + b" "
            console.sendall(answer.encode() + b"\n")
        while b"\r\n42\r\n" not in heard:
            heard += console.recv(4096)


@pytest.mark.emulated
def test_two_of_them_share_nothing(board: VirtualMachine, image: vm.Image, tmp_path: Path) -> None:
    name = "odd $(touch /tmp/oops) 'na\nme' ü.txt"
    (tmp_path / "file").write_bytes(b"mine")
    board.push(tmp_path / "file", f"blobs/{name}")
    other = log_in(config.device(str(small(tmp_path, 256))), image)
    try:
        assert other.machine.ssh_port != board.machine.ssh_port
        with pytest.raises(DeviceError, match="no file"):
            other.pull(f"blobs/{name}", tmp_path / "stolen")
        board.pull(f"blobs/{name}", tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == b"mine"
        said(board, "test -e /tmp/oops", code=1)
    finally:
        other.close()
    assert wait_gone(other.machine.pid)


@pytest.mark.emulated
def test_what_does_not_fit_is_killed_by_the_kernel_and_the_rest_lives_on(image: vm.Image, tmp_path: Path) -> None:
    transport = log_in(config.device(str(small(tmp_path, 256))), image)
    try:
        # Two that would each fit: one alone that is larger than all memory is refused before it is touched.
        hog = 'python3 -c \'a = b"x" * (150 << 20); b = b"y" * (150 << 20)\''
        said(transport, f"(echo 1000 > /proc/self/oom_score_adj; exec {hog})", code=128 + signal.SIGKILL)
        assert any("Out of memory: Killed process" in line for line in transport.machine.log)
        assert said(transport, "echo still here") == "still here\n"
    finally:
        transport.close()


@pytest.mark.emulated
def test_a_vm_that_dies_is_a_lost_link_and_the_next_one_starts_anew(board: VirtualMachine, image: vm.Image) -> None:
    device = config.device("pi4-vm")
    with session.Session.open(device, "tflite", silent) as live:
        assert isinstance(live.transport, VirtualMachine)
        os.kill(live.transport.machine.pid, signal.SIGKILL)
        began = time.monotonic()
        with pytest.raises(DeviceError):
            live.call("probe", {"runtime": "tflite", "libraries": live.libraries}, 30)
        assert time.monotonic() - began < 10
    with session.Session.open(device, "tflite", silent) as live:
        assert live.call("probe", {"runtime": "tflite", "libraries": live.libraries}, 60)["version"]
    assert said(board, "echo unharmed") == "unharmed\n"


@pytest.mark.emulated
def test_it_ends_with_whoever_started_it(image: vm.Image) -> None:
    script = (
        "from edgekit.userland import vm; import os, signal, pathlib, sys\n"
        "machine = vm.boot(vm.Image(pathlib.Path(sys.argv[1])), 256)\n"
        "print(machine.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, image.folder], capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert wait_gone(int(done.stdout))


@pytest.mark.emulated
def test_it_boots_without_privileges(image: vm.Image, tmp_path_factory: pytest.TempPathFactory) -> None:
    # Where this test is not root's, the others have proven it.
    if os.getuid():
        pytest.skip("every other test here is unprivileged already: this one lets root be nobody")
    folder = Path(tmp_path_factory.mktemp("nobody"))
    for parent in (folder, *folder.parents[:-2]):
        parent.chmod(0o755)
    subprocess.run(["cp", "-r", "--sparse=always", image.folder, folder / "image"], check=True)
    subprocess.run(["chown", "-R", "65534:65534", folder], check=True)
    shutil.copytree(ROOT / "edgekit", folder / "edgekit", ignore=shutil.ignore_patterns("__pycache__"))
    script = (
        "from edgekit.userland import vm; import os, pathlib\n"
        "with vm.boot(vm.Image(pathlib.Path('image')), 256) as machine: print(os.getuid(), machine.ssh_port)\n"
    )
    argv = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--no-new-privs", "--inh-caps=-all"]
    python = [os.path.realpath(sys.executable), "-c", script]  # the virtual environment may be in a private place
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "TMPDIR": str(folder)}
    done = subprocess.run([*argv, *python], cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("65534 ")


@pytest.mark.emulated
def test_where_the_kernel_forbids_namespaces_the_others_say_so_and_this_tier_goes_on(image: vm.Image) -> None:
    script = (
        "import pathlib, pytest\n"
        "from lab import namespace\n"
        "from edgekit.userland import vm\n"
        "try: namespace.require()\n"
        "except pytest.skip.Exception as skipped: print(skipped)\n"
        f"with vm.boot(vm.Image(pathlib.Path({str(image.folder)!r})), 256) as machine: print('up', machine.running)\n"
    )
    python = [sys.executable, "-c", script]
    argv = ["unshare", "-Ur", "sh", "-c", 'echo 0 >/proc/sys/user/max_user_namespaces && exec "$@"', "sh", *python]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    if subprocess.run(["unshare", "-Ur", "true"], capture_output=True).returncode:
        argv = python  # it does so here already
    done = subprocess.run(argv, capture_output=True, text=True, timeout=180, env=environment)
    assert done.returncode == 0, done.stderr
    reason, up = done.stdout.splitlines()
    assert reason.startswith("this kernel forbids a device in a user namespace (") and "test_vm.py" in reason
    assert up == "up True"


@pytest.mark.emulated
def test_a_vm_that_does_not_come_up_says_why(image: vm.Image) -> None:
    with pytest.raises(ConnectError, match="the VM ended while it started") as caught:
        vm.boot(image, 1024, cpu="cortex-z99")
    assert "cortex-z99" in caught.value.hint
    with pytest.raises(ConnectError, match=r"the VM did not start within 0.2 s"):
        vm.boot(image, 1024, deadline_s=0.2)


@pytest.mark.emulated
def test_a_port_that_was_taken_meanwhile_is_no_failure(image: vm.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        real, asked = vm.free_ports, []

        def once_taken(count: int) -> list[int]:
            asked.append(count)
            found = real(count)
            return [holder.getsockname()[1], *found[1:]] if len(asked) == 1 else found

        monkeypatch.setattr(vm, "free_ports", once_taken)
        with vm.boot(image, 256) as machine:
            assert machine.running
    assert len(asked) == 2


# ---- measuring in it ----


@pytest.mark.emulated
@pytest.mark.runtimes
def test_all_six_cells_by_the_kernels_own_figures(tmp_path: Path) -> None:
    code, report = profile(tmp_path, "--device", "pi4-vm", "--samples", "60")
    assert code == 0
    assert {(cell["runtime"], cell["precision"]) for cell in report["cells"]} == CELLS
    assert "uncounted-latency" in {warning["code"] for warning in report["warnings"]}
    for cell in report["cells"]:
        assert cell["error"] is None, cell
        assert cell["latency"]["emulated"]
        assert cell["memory"]["method"] == "VmHWM"
        assert 5e6 < cell["memory"]["baseline_bytes"] <= cell["memory"]["load_peak_bytes"] < 80e6, cell["id"]
        assert cell.get("instructions") is None
        assert cell["accuracy"]["total"] == 60
        assert cell["accuracy"]["correct"] > 0.9 * 60


@pytest.mark.emulated
@pytest.mark.runtimes
@pytest.mark.parametrize("runtime", ["tflite", "onnxruntime", "executorch"])
def test_outputs_are_those_of_the_emulated_board_bit_by_bit(
    board: VirtualMachine, tmp_path: Path, runtime: str
) -> None:
    asked = questions(runtime, tmp_path)
    with session.Session.open(config.device("pi4"), runtime, silent) as live:
        emulator = answers(live, runtime, asked, tmp_path)
    live = session.Session.over(board, board.device, runtime, silent)
    live.owns_transport = False
    with live:
        assert answers(live, runtime, asked, tmp_path) == emulator


@pytest.mark.emulated
@pytest.mark.runtimes
def test_what_does_not_fit_is_out_of_memory_and_the_other_cells_finish(tmp_path: Path) -> None:
    arguments = ("--device", small(tmp_path, 256), "--runtime", "tflite,onnxruntime", "--samples", "1")
    code, report = profile(tmp_path, SPREAD, *arguments, "--calls", "2")
    ends = {(cell["runtime"], cell["precision"]): (cell["error"] or {}).get("kind") for cell in report["cells"]}
    assert ends == {
        ("tflite", "fp32"): "out_of_memory",
        ("tflite", "int8"): None,
        ("onnxruntime", "fp32"): "out_of_memory",
        ("onnxruntime", "int8"): None,
    }
    assert code == 4
