"""--sustained and --energy by the real command line: on the fake clock, cut half-way, refused, and once with a real runtime."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import threading
import tty
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import FAKE_BOARD, FAKE_DEVICE, FAKE_MODEL, CommandLine

from edgekit import load_report

pytestmark = pytest.mark.timeout(120)
SHORT = ("--precision", "fp32", "--launches", "1", "--calls", "3", "--samples", "5")


def only_line(cli: CommandLine) -> Any:
    """The one measurement of the one run."""
    (path,) = (cli.cwd / "results").glob("*/measurements.jsonl")
    (line,) = path.read_text("utf-8").splitlines()
    return json.loads(line)


def test_a_device_that_slows_down_is_shown_with_both_its_speeds(cli: CommandLine, recipe: Callable[..., Path]) -> None:
    model = recipe("hot", slow_after_calls=20_000, slow_factor=1.5)
    ran = cli("profile", model.name, "-d", FAKE_DEVICE, *SHORT, "--sustained", "2m", "--energy")
    assert ran.rc == 0, ran.stderr
    assert "sustained for 2 min, by steady state:" in ran.stdout
    assert "  1  fake fp32  1.8 ms from " in ran.stdout
    assert "1.2 ms at the start (+50.0 %)" in ran.stdout
    assert "it runs 50% slower from" in ran.stdout
    assert "sustained, for 2 min" in ran.stderr
    told = only_line(cli)["sustained"]
    assert (told["asked_s"], told["start_ns"], told["steady_ns"], told["slowdown"]) == (120, 1_200_000, 1_800_000, 1.5)
    assert told["steady_from_s"] == pytest.approx(24, abs=6)
    assert len(told["windows"]) == pytest.approx(120, abs=3)
    (cell,) = load_report("last", cli.cwd / "results").cells
    assert cell["sustained"] == told


@pytest.mark.slow
@pytest.mark.parametrize("how", ["Ctrl-C", "killed"])
def test_what_came_of_a_run_that_is_cut_is_kept_until_it_is_resumed(
    cli: CommandLine, recipe: Callable[..., Path], how: str
) -> None:
    """Each call takes 2 ms of real time, so that two seconds of the fake clock are more than three of ours."""
    model = recipe("slow", memory={"hold_s": 0.002})
    command = cli.start("profile", model.name, "-d", FAKE_DEVICE, *SHORT, "--sustained", "2s", "--json")
    command.until("left, 1.0")
    if how == "Ctrl-C":
        command.ctrl_c()
    else:
        others = set(cli.running()) - {command.process.pid}
        for number in (signal.SIGSTOP, signal.SIGKILL):  # stopped first: none has time to tell of the end of another
            for pid in others:
                os.kill(pid, number)
    ran = command.end()
    assert ran.rc == (130 if how == "Ctrl-C" else 4), ran.stderr
    line = only_line(cli)
    assert (line["status"], line["error"]["kind"]) == ("failed", "interrupted" if how == "Ctrl-C" else "device")
    assert line["sustained"]["cut"] is True
    assert 1 <= len(line["sustained"]["windows"]) < 19
    assert line["launches"], "and what was measured before"
    assert ran.json["cells"][0]["sustained"] == line["sustained"]
    if how == "killed":
        return
    again = cli("profile", "--resume", "last", model.name, "-d", FAKE_DEVICE, "--json")
    assert again.rc == 0, again.stderr
    assert "cut" not in again.json["cells"][0]["sustained"]
    assert len(again.json["cells"]) == 1


def test_emulated_devices_are_refused_at_once(cli: CommandLine) -> None:
    for options in (("--sustained", "30m"), ("--energy",)):
        ran = cli("profile", FAKE_MODEL, "-d", FAKE_BOARD, *options)
        assert ran.rc == 2
        assert "fake_board is emulated" in ran.stderr
    assert not (cli.cwd / "results").exists()


def test_a_power_meter_that_is_not_there_is_known_before_anything_is_done(cli: CommandLine) -> None:
    ran = cli("profile", FAKE_MODEL, "-d", FAKE_DEVICE, "--power-meter", "/dev/ttyNONE")
    assert ran.rc == 3
    assert "there is no /dev/ttyNONE" in ran.stderr
    assert not (cli.cwd / "results").exists()


@pytest.fixture
def meter() -> Iterator[str]:
    """A meter on a pseudo-terminal that shows 5 V and 400 mA fifty times a second."""
    master, slave = pty.openpty()
    tty.setraw(slave)
    os.set_blocking(master, False)
    ended = threading.Event()

    def talk() -> None:
        while not ended.wait(0.02):
            with contextlib.suppress(BlockingIOError):  # nobody listens
                os.write(master, b'{"voltage_v": 5.0, "current_ma": 400}\n')

    thread = threading.Thread(target=talk)
    thread.start()
    yield os.ttyname(slave)
    ended.set()
    thread.join()
    os.close(master)
    os.close(slave)


@pytest.mark.runtimes
@pytest.mark.timeout(600)
def test_litert_for_three_seconds_with_a_power_meter(cli: CommandLine, meter: str) -> None:
    """A meter that shows 2 W throughout: 2 mJ for each millisecond of an inference, and none above idle."""
    options = ("--runtime", "tflite", "--precision", "fp32", "--quick", "--samples", "20")
    ran = cli(
        "profile",
        "digits_cnn",
        "-d",
        "local",
        *options,
        "--sustained",
        "3s",
        "--power-meter",
        meter,
        "--json",
        "--wait",
    )
    assert ran.rc == 0, ran.stderr
    (cell,) = ran.json["cells"]
    run = cell["sustained"]
    assert run["ran_s"] == pytest.approx(3, abs=0.5)
    assert len(run["windows"]) == pytest.approx(20, abs=2)
    assert run["calls"] == sum(window["calls"] for window in run["windows"])
    assert all(window["calls"] > 0 and window["p50_ns"] > 0 for window in run["windows"])
    assert run["timer"] in ("native", "python") and run["evidence"]["own_cores"] > 0
    energy = cell["energy"]
    assert energy["method"] == f"power meter ({meter})"
    assert energy["active_mw"] == pytest.approx(2000, rel=0.001)
    assert energy["idle_mw"] == pytest.approx(2000, rel=0.001)
    assert energy["mj_per_inference"] == pytest.approx(2000 * energy["seconds"] / energy["calls"], rel=0.001)
    assert energy["noisy"] is True
    assert "energy-within-noise" in [warning["code"] for warning in cell["warnings"]]
