"""Bench: a warm `edgekit profile --device pi4` beside the bare emulated runs of the same work.

    .venv/bin/python tools/bench/warm_profile.py [--rounds 3]

Bare = per cell one qemu process that loads the model, runs every held-out input once, and then as many calls as the
profile times; no agent, no protocol, no host side, no memory pass, no instruction counter.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from side_by_side import by_turns, show

from edgekit import config, convert, data, plan, session, sources
from edgekit.session import Session

BARE = """
import sys
sys.path.insert(0, sys.argv[1])
import importlib
runtime = importlib.import_module("edgekit_agent.runtimes." + sys.argv[2])
loaded = runtime.load(sys.argv[3], {"threads": 1, "libraries": {"runtime": sys.argv[4]}})
size, calls = int(sys.argv[6]), int(sys.argv[7])
with open(sys.argv[5], "rb") as source:
    data = source.read(size)
    while data:
        loaded.set_input(0, data)
        loaded.run()
        loaded.output(0)
        data = source.read(size)
for _ in range(calls):
    loaded.run()
"""


def bare_commands(model_name: str, device_name: str, folder: Path) -> list[tuple[list[str], Path]]:
    """Per cell the argv of its bare run, and the folder to run it in."""
    device, model = config.device(device_name), sources.load(model_name)
    inputs = data.load(model)
    effort = plan.Effort.of(device, {})
    calls = 1 + effort.warmup_calls + effort.launches * effort.calls
    commands = []
    for cell in plan.expand(model, device, plan.Request(model_name, device_name)):
        artifact = convert.artifact(model, cell.format, cell.precision)
        encoded = data.encode(inputs.x, artifact.inputs, [spec.layout for spec in model.inputs])
        source = folder / f"{cell.runtime}-{cell.precision}.bin"
        source.write_bytes(encoded)
        size = source.stat().st_size // inputs.count
        with Session.open(device, cell.runtime, lambda _: None) as live:
            python = [*live.python, "-I", "-S", "-c", BARE, str(session.agent_file()), cell.runtime]
            argv = [*python, str(artifact.path), live.libraries["runtime"], str(source), str(size), str(calls)]
            commands.append((live.transport.bare(argv), live.transport.root))
    return commands


def main() -> int:
    """Run both by turns and print them side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def profile() -> None:
            argv = [
                sys.executable,
                "-m",
                "edgekit",
                "profile",
                "--device",
                "pi4",
                "--json",
                "--quiet",
                "-o",
                str(folder),
            ]
            report = json.loads(subprocess.run(argv, check=True, stdout=subprocess.PIPE).stdout)
            assert all(cell["status"] == "ok" for cell in report["cells"])

        profile()  # fills the caches
        commands = bare_commands("digits_cnn", "pi4", folder)

        def bare() -> None:
            for argv, where in commands:
                subprocess.run(argv, cwd=where, check=True)

        figures = by_turns(rounds, profile=profile, bare=bare)
    ratio = show("warm `edgekit profile --device pi4`, seconds", figures, "s", 1.5)
    return 0 if ratio <= 1.5 and sorted(figures["profile"])[rounds // 2] <= 60 else 1


if __name__ == "__main__":
    sys.exit(main())
