"""This machine: the same agent as a child process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgekit.transports import Channel, ProcessChannel
from edgekit.transports._folder import FolderTransport
from edgekit.types import Device


class Local(FolderTransport):
    """Programs run natively."""

    def spawn(self, argv: Sequence[str]) -> Channel:
        return ProcessChannel(argv, self.root)


def connect(device: Device, counter: Path | None) -> Local:
    """The transport for a profile with transport = "local"."""
    return Local(device)


def look(device: Device) -> tuple[bool, str]:
    """Whether it answers now, and in a few words how."""
    return True, "ready"
