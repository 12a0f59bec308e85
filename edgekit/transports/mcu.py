"""A microcontroller on a serial port: the agent runs on this machine and speaks to it (agent/runtimes/mlperf_tiny.py)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from edgekit.transports import Channel, ProcessChannel
from edgekit.transports._folder import FolderTransport
from edgekit.transports._port import look, place_of
from edgekit.types import Device, Json

PORT, BAUD = "EDGEKIT_MCU_PORT", "EDGEKIT_MCU_BAUD"  # where the runtime looks
EXAMPLE = "/dev/ttyACM0"

__all__ = ["Microcontroller", "connect", "look"]


class Microcontroller(FolderTransport):
    """Files stay here; every process of the agent opens the port for itself, one after the other."""

    def spawn(self, argv: Sequence[str]) -> Channel:
        place, baud = place_of(self.device, EXAMPLE)
        return ProcessChannel(argv, self.root, {**os.environ, PORT: place, BAUD: str(baud)})

    def facts(self) -> Json:
        """Nothing of what the agent tells of its machine is the microcontroller's."""
        unknown = dict.fromkeys(("kernel", "os", "page_bytes", "memory_bytes"))
        return {
            **unknown,
            "machine": "microcontroller",
            "model": self.device.hardware.get("soc"),
            "cpu": {},
            "cores": 1,
        }


def connect(device: Device, counter: Path | None) -> Microcontroller:
    """The transport for a profile with transport = "mcu"."""
    place_of(device, EXAMPLE)
    return Microcontroller(device)
