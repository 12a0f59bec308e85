"""A microcontroller on a serial port: the agent runs on this machine and speaks to it (agent/runtimes/mlperf_tiny.py)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from edgekit.errors import EdgekitError, UserError
from edgekit.transports import Channel, ProcessChannel
from edgekit.transports._folder import FolderTransport
from edgekit.transports._port import Port
from edgekit.types import Device, Json

PORT, BAUD = "EDGEKIT_MCU_PORT", "EDGEKIT_MCU_BAUD"  # where the runtime looks


class Microcontroller(FolderTransport):
    """Files stay here; every process of the agent opens the port for itself, one after the other."""

    def spawn(self, argv: Sequence[str]) -> Channel:
        place, baud = place_of(self.device)
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


def place_of(device: Device) -> tuple[str, int]:
    """The port it is on, and its speed. Raises UserError when nobody has said."""
    place = device.connection.get("tty")
    if not place:
        message = f"it is not known on which port {device.name} is"
        raise UserError(message, "--port /dev/ttyACM0, or tty = in [connection] of its profile")
    return str(place), int(device.connection.get("baud", 115200))


def connect(device: Device, counter: Path | None) -> Microcontroller:
    """The transport for a profile with transport = "mcu"."""
    place_of(device)
    return Microcontroller(device)


def look(device: Device) -> tuple[bool, str]:
    """Whether its port can be opened now, and in a few words what is lacking. Nothing is sent."""
    if not device.connection.get("tty"):
        return False, "lacks a port: --port, or devices.toml"
    try:
        Port(*place_of(device)).close()
    except EdgekitError as error:
        return False, error.message
    return True, "its port is there; not asked who is on it"
