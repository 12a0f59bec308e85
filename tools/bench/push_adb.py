"""Bench: a push over adb beside `adb push`, by turns in one run; a second push; connecting and greeting.

.venv/bin/python tools/bench/push_adb.py [--rounds 5] [--megabytes 100]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from side_by_side import pushes

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from lab import phone  # noqa: E402

from edgekit.session import Session  # noqa: E402
from edgekit.transports.adb import Adb  # noqa: E402
from edgekit.types import Device  # noqa: E402

GREET_LIMIT_S = 1.0


def compare(link: Adb, folder: Path, rounds: int, megabytes: int) -> bool:
    """Our push and adb's own of the same new content; whether the limits are kept."""
    import adbutils

    source = folder / "content"
    argv = [adbutils.adb_path(), "-s", link.listed.serial, "push", str(source), f"{link.root}/content"]

    return pushes(
        f"{megabytes} MB",
        rounds,
        source,
        megabytes,
        push=lambda: link.push(source, "blobs/content"),
        clear=lambda: link.run(f"rm -rf {link.root}/blobs {link.root}/content", 60),
        adb_push=lambda: subprocess.run(argv, check=True, capture_output=True),
    )


def greet(device: Device, rounds: int) -> bool:
    """Connecting, and starting the agent, once the bundle is there."""

    def once() -> float:
        start = time.perf_counter()
        with Session.open(device, "tflite", lambda _: None):
            return time.perf_counter() - start

    once()
    median = statistics.median(once() for _ in range(rounds))
    print(f"connect and greet: {median:.2f} s (limit {GREET_LIMIT_S:g} s)")
    return median <= GREET_LIMIT_S


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=100)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgekit-") as name:
        folder = Path(name)
        with phone.server(folder) as environment, phone.phone(folder) as one:
            os.environ.update(environment)
            device = Device("android", "", "aarch64", "adb", ("tflite",), {"serial": one.serial})
            kept = [compare(Adb(device), folder, chosen.rounds, chosen.megabytes), greet(device, chosen.rounds)]
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
