"""The one definition of memory, held against a program that takes known amounts: here, on the emulated Pi 4, in the VM."""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Agent, write_fake_model

from edgekit import config
from edgekit.agent import weigh
from edgekit.session import Session

MEBI = 1 << 20
ROWS = 2
# MiB. While it loads 60, then 40 + 16 of a mapped file, and 24 more in each inference.
TAKES = {"load_mib": 60, "keep_mib": 40, "run_mib": 24, "hold_s": 0.4}
MAPPED_MIB = 16
EXPECTED = {
    "load_peak_bytes": 60,
    "loaded_bytes": 56,
    "run_peak_bytes": 80,
    "delta_bytes": 80,
    "pss_peak_bytes": 80,
    "anonymous_peak_bytes": 64,
}
Weighed = Callable[[dict[str, Any]], dict[str, Any]]


def check(weighed: Weighed, map_as: str, tolerance_mib: float) -> dict[str, Any]:
    """The figures of a model that takes known amounts, less those of one that takes nothing, are these amounts."""
    nothing, something = weighed({}), weighed({**TAKES, "map": map_as})
    for key, mebibytes in EXPECTED.items():
        grown = (something[key] - nothing[key]) / MEBI
        assert abs(grown - mebibytes) < tolerance_mib, (key, grown)
    assert something["delta_bytes"] == something["run_peak_bytes"] - something["baseline_bytes"]
    assert something["anonymous_peak_bytes"] <= something["pss_peak_bytes"] <= something["run_peak_bytes"]
    return something


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    (tmp_path / "input").write_bytes(struct.pack(f"<{10 * ROWS}f", *range(10 * ROWS)))
    (tmp_path / "mapped").write_bytes(bytes(MAPPED_MIB * MEBI))
    with contextlib.closing(Agent(tmp_path)) as live:
        yield live


def asked(folder: Path, **model: Any) -> dict[str, Any]:
    """A request to run the fake model on all rows."""
    name = write_fake_model(folder / "model.fake", **model)
    return {"runtime": "fake", "model": name, "input": "input", "output": "output", "deadline_s": 60}


def test_known_amounts_on_this_machine(agent: Agent, tmp_path: Path) -> None:
    def weighed(memory: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = agent.call("predict", **asked(tmp_path, memory=memory))["ok"]["memory"]
        return found

    found = check(weighed, "mapped", 1.0)
    assert found["method"] == "VmHWM"
    assert found["sampled"]["anonymous"] >= 3 and found["sampled"]["pss"] >= 3


def test_a_peak_within_an_inference_is_seen_by_the_parent_alone(agent: Agent, tmp_path: Path) -> None:
    """What is there before and after an inference is what the process reads itself; the peak in between is sampled."""
    held = agent.call("predict", **asked(tmp_path, memory={"run_mib": 32, "hold_s": 0.4}))["ok"]["memory"]
    at_once = agent.call("predict", **asked(tmp_path, memory={}))["ok"]["memory"]
    assert abs(held["anonymous_peak_bytes"] - at_once["anonymous_peak_bytes"] - 32 * MEBI) < MEBI
    assert held["loaded_bytes"] - held["baseline_bytes"] < MEBI


def test_memory_is_weighed_over_all_batches_of_one_process(agent: Agent, tmp_path: Path) -> None:
    asking = asked(tmp_path, memory={"keep_mib": 30})
    agent.call("predict", **asking, keep=True)
    again = agent.call("predict", **{**asking, "continue": True})["ok"]["memory"]
    assert again["delta_bytes"] >= 30 * MEBI
    assert again["anonymous_peak_bytes"] >= 30 * MEBI


def test_only_the_process_that_is_verified_is_weighed(agent: Agent, tmp_path: Path) -> None:
    effort = {"warmup_calls": 2, "warmup_s": 0.0, "calls": 5, "min_calls": 3, "max_seconds": 5}
    answer = agent.call("measure", **asked(tmp_path), **effort)["ok"]
    assert "memory" not in answer


def test_pss_shares_a_page_among_those_who_map_it(tmp_path: Path) -> None:
    (tmp_path / "pages").write_bytes(bytes(24 * MEBI))
    code = (
        "import mmap, sys; f = open(sys.argv[1], 'rb'); m = mmap.mmap(f.fileno(), 0, access=1)\n"
        "m[::4096]; print(flush=True); input()"
    )
    argv = [sys.executable, "-S", "-c", code, tmp_path / "pages"]
    with contextlib.ExitStack() as stack:
        pipe = subprocess.PIPE
        both = [stack.enter_context(subprocess.Popen(argv, stdin=pipe, stdout=pipe)) for _ in range(2)]
        for process in both:
            assert process.stdout and process.stdout.readline()
        shared = weigh.maps_bytes(both[0].pid)["Pss"]
        both[1].communicate(b"\n")
        alone = weigh.maps_bytes(both[0].pid)["Pss"]
        both[0].communicate(b"\n")
    assert 12 * MEBI <= alone - shared < 14 * MEBI


def test_an_old_kernel_has_no_sum_but_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    real = weigh.summed
    code = "import sys; area = bytes(8 << 20); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as quiet:  # it does nothing more, so its figures stay
        assert quiet.stdin and quiet.stdout
        quiet.stdout.readline()
        rolled = weigh.maps_bytes(str(quiet.pid))
        monkeypatch.setattr(weigh, "summed", lambda path, names: {} if "rollup" in path else real(path, names))
        parts = weigh.maps_bytes(str(quiet.pid))
        quiet.stdin.close()
    assert rolled.keys() == parts.keys() == {"Rss", "Pss", "Anonymous"}
    # What is shared with others (Pss) is theirs to change.
    assert all(abs(rolled[name] - parts[name]) < (2 * MEBI if name == "Pss" else 65536) for name in rolled)


def test_of_a_process_that_is_gone_nothing_is_told() -> None:
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    assert weigh.status_bytes("RssAnon", str(process.pid)) is None
    assert weigh.maps_bytes(str(process.pid)) == {}


def test_what_a_look_costs_sets_how_soon_the_next_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    now, spent = [100.0], [0.0]
    monkeypatch.setattr(weigh.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(weigh.time, "thread_time", lambda: spent[0])

    def dear(path: str, fields: tuple[str, ...]) -> dict[str, int]:
        spent[0] += 0.1
        return dict.fromkeys(fields, 5)

    monkeypatch.setattr(weigh, "summed", dear)
    weigher = weigh.Weigher(os.getpid())
    assert weigher.due() is None
    weigher.look()
    assert weigher.samples == {"anonymous": 0, "pss": 0}, "not before the baseline"
    assert weigher.takes({"weigh": True}) and not weigher.takes({"phase": "predict"})
    assert weigher.due() == 0.0
    weigher.look()
    weigher.look()
    assert weigher.samples == {"anonymous": 1, "pss": 1}
    now[0] += weigh.PSS_S
    weigher.look()
    assert weigher.samples == {"anonymous": 2, "pss": 2}
    assert weigher.due() == pytest.approx(0.1 / weigh.COST_SHARE)


def on_device(name: str, tmp_path: Path, tolerance_mib: float) -> dict[str, Any]:
    """As check(), in a session of a real device's userland."""
    device = config.device(name)
    (tmp_path / "input").write_bytes(struct.pack(f"<{10 * ROWS}f", *range(10 * ROWS)))
    (tmp_path / "mapped").write_bytes(os.urandom(MAPPED_MIB * MEBI))
    with Session.open(device, "tflite", lambda text: None) as live:
        mapped = live.push(tmp_path / "mapped")
        inputs = live.push(tmp_path / "input")

        def weighed(memory: dict[str, Any]) -> dict[str, Any]:
            asking = {**asked(tmp_path, memory=memory), "input": inputs, "emulated": device.counted}
            asking["model"] = live.push(tmp_path / "model.fake")
            found: dict[str, Any] = live.call("predict", asking, 60)["memory"]
            return found

        return check(weighed, mapped, tolerance_mib)


@pytest.mark.emulated
@pytest.mark.runtimes
def test_known_amounts_on_the_emulated_pi4(tmp_path: Path) -> None:
    found = on_device("pi4", tmp_path, 1.0)
    assert found["method"].startswith("guest")
    assert "sampled" not in found, "the plug-in is exact"


@pytest.mark.emulated
@pytest.mark.runtimes
def test_known_amounts_in_the_virtual_machine(tmp_path: Path) -> None:
    found = on_device("pi4-vm", tmp_path, 1.0)
    assert found["method"] == "VmHWM"
