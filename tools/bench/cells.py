"""Bench: what the harness itself costs: a run of a thousand cells of the fake runtime, milliseconds per cell and its memory.

.venv/bin/python tools/bench/cells.py [--cells 1000] [--launches 1]
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

from edgekit import profile

LIMIT_MS = 20.0
GROWTH_LIMIT = 1_000  # bytes of resident memory per cell: its id, and where its line begins in the file
MODEL = Path(__file__).parents[2] / "tests" / "fakes" / "models" / "fake_identity.py"
DEVICE = """\
description = "the fake runtime on this machine"
arch = "host"
transport = "local"
runtimes = ["fake"]

[limits]
launches = {launches}
warmup_calls = 1
warmup_s = 0.0
calls = 5
"""


def resident_bytes() -> int:
    """This process's memory now."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text("ascii").splitlines())
    return int(fields["VmRSS"].split()[0]) * 1024


def cpu_s() -> tuple[float, float]:
    """CPU time so far: of this process, and of those that it has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return used[0].ru_utime + used[0].ru_stime, used[1].ru_utime + used[1].ru_stime


class Watch:
    """Notes when each cell begins, and the memory then."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.resident: list[int] = []
        self.before = (0.0, 0.0)

    def say(self, text: str) -> None:
        """Receives the progress of the run."""
        if text.startswith("cell "):
            self.before = self.before if self.seconds else cpu_s()
            self.seconds.append(time.perf_counter())
            self.resident.append(resident_bytes())


def main() -> int:
    """Run the cells and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument("--launches", type=int, default=1)
    args = parser.parse_args()
    watch = Watch()
    with tempfile.TemporaryDirectory() as name:
        device = Path(name) / "cells.toml"
        device.write_text(DEVICE.format(launches=args.launches), "utf-8")
        threads = range(1, args.cells + 1)
        report = profile(
            MODEL, device, precisions="fp32", threads=threads, output=Path(name) / "results", say=watch.say
        )
        finished = time.perf_counter()
    assert len(report.cells) == args.cells and not report.failed
    each_ms = 1e3 * (finished - watch.seconds[0]) / args.cells
    half, last = watch.resident[args.cells // 2], watch.resident[-1]
    growth = (last - half) / (args.cells - args.cells // 2)
    here, there = (1e3 * (after - before) / args.cells for before, after in zip(watch.before, cpu_s(), strict=True))
    print(f"{args.cells} cells of {args.launches} launches: {each_ms:.1f} ms per cell   (must hold: <= {LIMIT_MS:g})")
    print(f"CPU time: {here:.1f} ms per cell here, {there:.1f} ms in the agent and the processes it starts")
    print(
        f"resident: {half / 1e6:.1f} MB at cell {args.cells // 2 + 1}, {last / 1e6:.1f} MB at the last: "
        f"{growth / 1e3:.1f} kB per cell   (must hold: <= {GROWTH_LIMIT / 1e3:g})"
    )
    return 0 if each_ms <= LIMIT_MS and growth <= GROWTH_LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
