"""An Android-like device that runs a real adbd in a namespace of this machine, and an adb server of the test's own."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgekit import config
from edgekit.transports.emulator import board_files

from . import adbd, namespace
from .namespace import NamespaceDevice, wait_for_port
from .sshd import free_port

SHELL_UID = 2000


@dataclass
class Phone:
    """A running device: `serial` as adb names it, `root` where its / lies here."""

    serial: str
    port: int
    root: Path
    machine: NamespaceDevice


def board(place: Path, folder: Path) -> dict[str, Path]:
    """Give the device the cores of a Cortex-A72 board in /sys; returns what is to be mounted over its /proc."""
    emulation = config.device("pi4").emulation
    assert emulation is not None
    files = board_files(emulation)
    for name, text in files.items():
        if name.startswith("sys/"):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_text(text)
    (folder / "cpuinfo").write_text(files["proc/cpuinfo"])
    return {"/proc/cpuinfo": folder / "cpuinfo"}


@contextlib.contextmanager
def phone(folder: Path, arch: str = "aarch64", scratch: dict[str, int] | None = None) -> Iterator[Phone]:
    """A device with adbd as its first program, under uid 2000 where the host's user may hand out users."""
    namespace.require()
    place, port = folder / "android", free_port()
    shutil.copytree(adbd.root(arch), place, symlinks=True)
    seen = board(place, folder) if arch == "aarch64" else {"/sys": Path("/sys")}
    home = place / "data" / "local" / "tmp"
    home.chmod(0o771)
    if os.geteuid() == 0:
        os.chown(home, SHELL_UID, SHELL_UID)
    machine = NamespaceDevice(
        place,
        ["/system/bin/adbd"],
        folder / "adbd.log",
        binds=seen,
        scratch=scratch,
        uid=SHELL_UID,
        environment={"PATH": "/system/bin", "HOME": "/", "ADBD_PORT": str(port)},
    )
    with machine:
        wait_for_port(port, machine)
        yield Phone(f"127.0.0.1:{port}", port, place, machine)


@contextlib.contextmanager
def server(folder: Path) -> Iterator[dict[str, str]]:
    """The environment of an adb server that is nobody else's; it is stopped in the end, whoever started it."""
    environment = {
        "ANDROID_ADB_SERVER_PORT": str(free_port()),
        "ANDROID_USER_HOME": str(folder),
        "TMPDIR": str(folder),
    }
    adb(environment, "start-server")
    try:
        yield environment
    finally:
        adb(environment, "kill-server")


def adb(environment: Mapping[str, str], *arguments: str) -> None:
    """A command of the adb client, with nobody listening: a server that it starts would keep a pipe open."""
    import adbutils

    nowhere = subprocess.DEVNULL
    argv, environment = [adbutils.adb_path(), *arguments], {**os.environ, **environment}
    subprocess.run(argv, env=environment, stdin=nowhere, stdout=nowhere, stderr=nowhere, timeout=30)
