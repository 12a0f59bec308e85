"""An emulated ARM board, user tier: each program of the device runs under user-mode QEMU, with the board's /proc and /sys."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit.cache import cache_dir, digest, entry
from edgekit.errors import SetupError
from edgekit.transports import Channel, ProcessChannel
from edgekit.transports._folder import FolderTransport
from edgekit.types import Device

# The environment lies on the stack of every program, and its size decides how data there is aligned: with the user's own,
# instruction counts would differ from shell to shell by some hundredths of a percent.
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
QEMU = {"aarch64": "qemu-aarch64", "armv7": "qemu-arm"}


def board_files(emulation: Mapping[str, Any]) -> dict[str, str]:
    """What the guest must find in /proc, /sys and /etc, relative path -> text.

    cpuinfo-based runtimes choose kernels by /proc/cpuinfo and the CPU topology, and crash without them: they would
    read this host's. The rest is what the report shows of the board.
    """
    info = emulation["cpuinfo"]
    cores = int(emulation["cores"])
    block = (
        f"processor\t: {{core}}\nBogoMIPS\t: {info['bogomips']}\nFeatures\t: {info['features']}\n"
        f"CPU implementer\t: {info['implementer']}\nCPU architecture: {info['architecture']}\nCPU variant\t: {info['variant']}\n"
        f"CPU part\t: {info['part']}\nCPU revision\t: {info['revision']}\n\n"
    )
    listed = f"0-{cores - 1}\n" if cores > 1 else "0\n"
    total_kb = int(emulation["memory_mb"]) * 1024
    free_kb = total_kb * 3 // 4
    files = {
        "proc/cpuinfo": "".join(block.format(core=core) for core in range(cores))
        + f"Model\t\t: {emulation['model']}\n",
        "proc/meminfo": f"MemTotal:       {total_kb} kB\nMemFree:        {free_kb} kB\nMemAvailable:   {free_kb} kB\n",
        "proc/device-tree/model": emulation["model"] + "\0",
        "etc/os-release": f'PRETTY_NAME="{emulation["os"]}"\n',
    }
    for name in ("online", "possible", "present"):
        files[f"sys/devices/system/cpu/{name}"] = listed
    frequency = f"{emulation['frequency_khz']}\n"
    for core in range(cores):
        base = f"sys/devices/system/cpu/cpu{core}/cpufreq"
        files[f"{base}/scaling_governor"] = emulation["governor"] + "\n"
        files[f"{base}/scaling_cur_freq"] = files[f"{base}/cpuinfo_max_freq"] = frequency
    return files


class Emulator(FolderTransport):
    """Programs run under user-mode QEMU. The agent's children also load the plug-in that counts guest instructions."""

    shared = False  # every run has a board of its own, and its counts do not depend on what else runs here

    def __init__(self, device: Device, counter: Path) -> None:
        super().__init__(device)
        assert device.emulation is not None
        self.emulation = device.emulation
        qemu = shutil.which(QEMU[device.arch])
        if not qemu:
            raise SetupError(f"the emulator {QEMU[device.arch]} is not installed", "apt-get install qemu-user")
        self.qemu = qemu
        self.counter = counter
        self.sysroot = self._sysroot()

    def _sysroot(self) -> Path:
        files = board_files(self.emulation)
        path = cache_dir() / "sysroots" / digest(files)[:16]
        with entry(path) as temporary:
            if temporary:
                for name, text in files.items():
                    (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                    (temporary / name).write_text(text)
        return path

    def _emulator(self, *options: str) -> list[str]:
        release = ["-r", str(self.emulation["kernel"])] if "kernel" in self.emulation else []
        return [self.qemu, "-cpu", str(self.emulation["cpu"]), *release, "-L", str(self.sysroot), *options]

    def bare(self, argv: Sequence[str]) -> list[str]:
        """The host's argv that runs `argv` on the board with nothing counted."""
        return [*self._emulator(), *argv]

    def spawn(self, argv: Sequence[str]) -> Channel:
        return ProcessChannel(self.bare(argv), self.root, ENVIRONMENT)

    def command(self, argv: Sequence[str]) -> list[str]:
        # The seed decides what the guest's getrandom gives, and with it how Python and the runtimes lie in memory.
        return [*self._emulator("-seed", "1", "-plugin", f"{self.counter},memory=on"), *argv]


def connect(device: Device, counter: Path | None) -> Emulator:
    """The transport for a profile with transport = "emulator"; `counter` is the compiled plug-in."""
    assert counter is not None
    return Emulator(device, counter)


def look(device: Device) -> tuple[bool, str]:
    """Whether it can be emulated now, and in a few words what it lacks."""
    name = QEMU[device.arch]
    return (True, "ready") if shutil.which(name) else (False, f"lacks {name}: apt-get install qemu-user")
