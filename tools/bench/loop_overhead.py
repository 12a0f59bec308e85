"""Bench: the agent's median for a native local LiteRT model beside a bare C-API invoke loop and LiteRT's own litert-benchmark,
by turns in one run.

.venv/bin/python tools/bench/loop_overhead.py [--rounds 9]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from side_by_side import by_turns, litert_benchmark, show

from edgekit import config, convert, data, sources
from edgekit.session import Session

LIMITS = {"digits_mlp": 1.05, "mobilenet_v2": 1.02}
OWN_LIMIT = 1.0  # not above what litert-benchmark reports


def compare(name: str, rounds: int, samples: int, bare_program: Path, folder: Path) -> bool:
    """Measure one model in three ways; are the limits kept?"""
    model = sources.load(name)
    artifact = convert.artifact(model, "tflite", "fp32")
    source = folder / f"{name}.bin"
    source.write_bytes(
        data.encode((data.load(model).x[0][:1],), artifact.inputs, [spec.layout for spec in model.inputs])
    )
    with Session.open(config.device("local"), "tflite", lambda _: None) as live:
        request = {
            "runtime": "tflite", "model": live.push(artifact.path), "input": live.push(source), "threads": 1,
            "libraries": live.libraries, "warmup_calls": 5, "warmup_s": 0.5, "calls": samples, "min_calls": samples,
            "max_seconds": 60,
        }  # fmt: skip
        batch = live.call("measure", request, 300)["batch"]

        def agent() -> float:
            answer = live.call("measure", request, 300)
            assert answer["timer"] == "native"
            return statistics.median(answer["samples_ns"]) / answer["batch"] / 1e3

        def bare() -> float:
            argv = [bare_program, live.libraries["runtime"], artifact.path, str(samples), str(batch)]
            return float(subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout) / 1e3

        def own() -> float:
            return litert_benchmark(artifact.path) * 1e3

        figures = by_turns(rounds, agent=agent, bare=bare, own=own)
    title = f"{name} fp32, LiteRT on this machine, 1 thread, batches of {batch}"
    overhead = show(title, figures, "us", LIMITS[name])
    ratio = statistics.median(figures["agent"]) / statistics.median(figures["own"])
    print(f"  agent / litert-benchmark = {ratio:.3f}   (must hold: <= {OWN_LIMIT:g})")
    return overhead <= LIMITS[name] and ratio <= OWN_LIMIT


def main() -> int:
    """Compile the bare loop and compare both models."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program = folder / "bare_litert"
        source = Path(__file__).with_name("bare_litert.c")
        subprocess.run(["gcc", "-std=gnu11", "-O2", "-w", "-o", program, source, "-ldl"], check=True)
        kept = [
            compare(model, rounds, samples, program, folder)
            for model, samples in (("digits_mlp", 200), ("mobilenet_v2", 40))
        ]
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
