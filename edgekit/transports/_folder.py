"""Base of the transports whose device lives in a folder of this machine: push and pull are links and copies."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

from edgekit.cache import devices_dir, disk_errors
from edgekit.errors import DeviceError
from edgekit.transports import Transport
from edgekit.types import Device


def link_or_copy(source: str, target: str) -> None:
    """A hard link where the file system allows it, else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def is_whole(local: Path, there: Path) -> bool:
    """Whether each file of `local` (a file or a folder) lies at `there` with its size."""
    files = [path for path in local.rglob("*") if not path.is_dir()] if local.is_dir() else [local]
    try:
        return there.exists() and all(
            (there / path.relative_to(local)).lstat().st_size == path.lstat().st_size for path in files
        )
    except OSError:
        return False


class FolderTransport(Transport):
    """Push and pull for a device that shares this machine's disk; subclasses supply spawn."""

    seamless = True  # pipes

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self.root = devices_dir() / device.name
        with disk_errors("the device's folder"):
            self.root.mkdir(parents=True, exist_ok=True)

    def push(self, local: Path, remote: str) -> None:
        target = self.root / remote
        if is_whole(local, target):
            return
        with disk_errors(f"{local.name} to the device"):
            target.parent.mkdir(parents=True, exist_ok=True)
            holder = Path(tempfile.mkdtemp(prefix=".push-", dir=target.parent))
            try:
                temporary = holder / target.name
                if local.is_dir():
                    shutil.copytree(local, temporary, symlinks=True, copy_function=link_or_copy)
                else:
                    shutil.copy2(local, temporary)
                if target.is_dir():
                    target.rename(holder / "damaged")
                temporary.rename(target)
            except OSError as error:
                # ENOTEMPTY, EEXIST: another process pushed the same content first
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not is_whole(local, target):
                    raise
            finally:
                shutil.rmtree(holder, ignore_errors=True)

    def pull(self, remote: str, local: Path) -> None:
        source = self.root / remote
        if not source.is_file():
            raise DeviceError(f"the device has no file {remote}")
        with disk_errors(local.name):
            shutil.copy2(source, local)

    def close(self) -> None:
        """Nothing is held between programs."""
