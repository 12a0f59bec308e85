"""How fast the serial link is: over the console of a VM, and over a simulated line of 115200 baud with and without noise.

PYTHONPATH=tests python tools/bench/serial_line.py [KILOBYTES]
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
from pathlib import Path

from edgekit.transports import serial
from edgekit.transports._login import PASSWORD_VARIABLE
from edgekit.types import Device
from edgekit.userland import vm

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))


def on_paper(rate: float, size: int) -> float:
    """kB/s one way on a line of 115200 baud that hits this share of the bytes; 11.5 is all that it carries."""
    from unit.test_serial_frames import World, noise

    world, data = World(noise(rate)), random.Random(1).randbytes(size)
    world.ends["host"].send(data)
    assert world.run(lambda: world.got["device"] == data, 1e5)
    return size / world.now / 1e3


def over_a_console(size: int) -> None:
    """Push, push again, pull and round trips over the console of a VM."""
    os.environ[PASSWORD_VARIABLE] = vm.PASSWORD
    with vm.boot(vm.image(print)) as machine, tempfile.TemporaryDirectory() as name:
        place = {"tty": f"socket://127.0.0.1:{machine.console}", "login": vm.USER}
        data = Path(name) / "data"
        data.write_bytes(random.Random(1).randbytes(size))
        started = time.monotonic()
        link = serial.connect(Device("vm", "", "aarch64", "serial", (), place), None)
        print(f"login and start  {time.monotonic() - started:6.2f} s")
        for what in ("push", "push again", "pull"):
            started = time.monotonic()
            if what == "pull":
                link.pull("blobs/data", Path(name) / "back")
            else:
                link.push(data, "blobs/data")
            spent = time.monotonic() - started
            print(f"{what:16s} {spent:6.2f} s  {size / spent / 1e3:8.1f} kB/s")
        assert (Path(name) / "back").read_bytes() == data.read_bytes()
        channel = link.spawn(["/bin/cat"])
        started = time.monotonic()
        for _ in range(20):
            channel.write(b"hello\n")
            channel.read_line(10)
        print(f"round trip       {(time.monotonic() - started) / 20 * 1e3:6.1f} ms")
        link.close()


if __name__ == "__main__":
    kilobytes = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    for share in (0.0, 1e-5, 1e-4, 1e-3, 4e-3):
        print(f"115200 baud, {share:7.5f} of the bytes hit: {on_paper(share, 30_000):5.1f} kB/s")
    over_a_console(kilobytes * 1000)
