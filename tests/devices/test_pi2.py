"""A 32-bit Raspberry Pi: tflite_runtime in an armv7 userland under QEMU, totals counted, the guest's memory exact."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import tiny_models

from edgekit import config, plugins, session, stats, userland

pytestmark = pytest.mark.emulated
MEBI = 1 << 20
EFFORT = {"warmup_calls": 2, "warmup_s": 0, "calls": 5, "min_calls": 3, "max_seconds": 20}

MEMORY = """
import json, mmap, sys
sys.path.append(sys.argv[1])
from agent import plugin
def ask():
    return plugin.guest_memory(True)
ask()
rows = [ask()]
area = mmap.mmap(-1, 50 << 20)
rows.append(ask())
for place in range(0, 50 << 20, 4096):
    area[place] = 1
rows.append(ask())
area.close()
rows.append(ask())
rows.append(ask())
print(json.dumps(rows))
"""


def silent(text: str) -> None:
    """Progress that nobody reads."""


@pytest.fixture(scope="module")
def land() -> userland.Userland:
    return userland.bundle("armv7", "tflite_runtime", silent)


@pytest.mark.runtimes
def test_tflite_runtime_answers_and_is_counted(tmp_path: Path) -> None:
    model = tiny_models.make(tmp_path, "tflite_runtime")["tflite_runtime"]
    encoded = tmp_path / "input.bin"
    encoded.write_bytes(tiny_models.pack(tiny_models.SAMPLE))
    device = config.device("pi2")
    with session.Session.open(device, "tflite_runtime", silent) as live:
        assert live.greeting["system"]["machine"] == "armv7l"
        assert live.greeting["system"]["model"] == "Raspberry Pi 2 Model B Rev 1.1"
        request = {
            "runtime": "tflite_runtime",
            "model": live.push(model),
            "threads": 1,
            "libraries": live.libraries,
            "input": live.push(encoded),
            "emulated": True,
            "counters": True,
        }
        reply = live.fetch("predict", {**request, "keep": True}, 120, tmp_path / "output.bin")
        found = live.call("measure", {**request, **EFFORT, "continue": True}, 120)
    assert (tmp_path / "output.bin").read_bytes() == tiny_models.pack(tiny_models.answer(tiny_models.SAMPLE))
    assert reply["memory"]["method"].startswith("guest")
    assert 10 * MEBI < reply["memory"]["baseline_bytes"] <= reply["memory"]["run_peak_bytes"] < 40 * MEBI
    assert found["timer"] == "in-process"
    assert found["delegation"] == {"delegate": None, "fully_accelerated": False}
    counts = stats.instructions([found])
    assert counts is not None
    assert set(counts) == {
        "total",
        "spread",
        "decile_spread",
        "samples",
    }  # the classes of 32-bit instructions are not told apart
    assert 500 < counts["total"] < 50_000
    assert len(found["counter_overhead"]) == 1


def test_memory_peak_is_exact_though_the_memory_is_gone(land: userland.Userland, tmp_path: Path) -> None:
    assert land.root is not None
    board = plugins.load("transport", "emulator").connect(config.device("pi2"), userland.counter_plugin(silent))
    (tmp_path / "guest.py").write_text(MEMORY)
    agent = Path(session.__file__).parent
    python = [part.replace("{root}", str(land.root)) for part in land.python]
    argv = board.command([*python, "-I", "-S", str(tmp_path / "guest.py"), str(agent)])
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    before, untouched, touched, gone, after = json.loads(done.stdout)
    resident, _, anonymous, *_ = before
    assert anonymous < resident < 20 * MEBI  # the guest alone: QEMU's own 25 MB are not in it
    assert untouched[1] - resident < MEBI
    assert 50 * MEBI <= touched[0] - resident < 51 * MEBI
    assert 50 * MEBI <= gone[1] - resident < 51 * MEBI
    assert gone[0] - resident < MEBI
    assert after[1] - resident < MEBI


def test_bundle_is_complete_and_small(land: userland.Userland) -> None:
    assert land.root is not None
    manifest = json.loads((land.root / "manifest.json").read_text())
    assert manifest["total_bytes"] < 30e6
    assert manifest["versions"]["runtime"] == "2.14.0"
    assert set(land.libraries) == {"runtime"}  # no timing loop: its arguments are 64-bit
