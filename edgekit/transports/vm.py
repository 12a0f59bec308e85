"""A virtual ARM machine with a real kernel: booted for one connection, reached by SSH on this machine's loopback, gone with it."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgekit import plugins
from edgekit.cache import disk_errors
from edgekit.transports import Channel, Transport
from edgekit.types import Device
from edgekit.userland import vm


class VirtualMachine(Transport):
    """Nobody else uses it, and nothing on it outlives it. All is the SSH link's; only switching on and off is done here."""

    shared = False

    def __init__(self, device: Device, image: vm.Image) -> None:
        super().__init__(device)
        assert device.emulation is not None
        about = device.emulation
        with contextlib.ExitStack() as made:
            with disk_errors("temporary files"):
                folder = Path(made.enter_context(tempfile.TemporaryDirectory(prefix="edgekit-")))
            size = int(about["memory_mb"]), int(about["cores"])
            self.machine = made.enter_context(vm.boot(image, *size, str(about["cpu"])))
            known_hosts = folder / "known_hosts"
            with disk_errors("temporary files"):
                known_hosts.write_text(f"[127.0.0.1]:{self.machine.ssh_port} {image.host_key}\n", encoding="ascii")
            self.link: Transport = plugins.load("transport", "ssh").Ssh(self._inside(), known_hosts)
            self.made = made.pop_all()

    def _inside(self) -> Device:
        """The machine as a device that SSH reaches."""
        machine = self.machine
        identity = str(machine.image.identity)
        connection = {"host": "127.0.0.1", "port": machine.ssh_port, "user": vm.USER, "identity": identity}
        return dataclasses.replace(self.device, connection=connection)

    def push(self, local: Path, remote: str) -> None:
        self.link.push(local, remote)

    def pull(self, remote: str, local: Path) -> None:
        self.link.pull(remote, local)

    def spawn(self, argv: Sequence[str]) -> Channel:
        return self.link.spawn(argv)

    def close(self) -> None:
        self.link.close()
        self.made.close()


def connect(device: Device, image: Path | None) -> VirtualMachine:
    """The transport for a profile with transport = "vm"; `image` is the folder of the image that it boots."""
    assert image is not None
    return VirtualMachine(device, vm.Image(image))


def look(device: Device) -> tuple[bool, str]:
    """Whether it can be booted now, and in a few words what it lacks."""
    name = "qemu-system-aarch64"
    return (True, "ready to boot") if shutil.which(name) else (False, f"lacks {name}: apt-get install qemu-system-arm")
