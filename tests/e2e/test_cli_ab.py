"""`edgekit ab` and `edgekit calibrate` end to end with the fake runtime: the real command line, agent and files; no clock."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import FAKE_BOARD, FAKE_DEVICE, FAKE_MODEL, CommandLine

import edgekit
from edgekit import abtest, calibration, cli_compare, noise, plan, ratio
from edgekit.errors import UserError
from edgekit.types import to_json

pytestmark = pytest.mark.timeout(120)
ON_FAKE = ("--device", FAKE_DEVICE)
KEYS = {
    "schema", "run", "device", "metric", "verdict", "why", "ratio", "interval", "pairs", "threshold", "confirmed", "noise",
    "old", "new", "sessions", "warnings",
}  # fmt: skip


def kept(cli: CommandLine, name: str = "ab") -> tuple[Any, list[Any]]:
    """The one result on the disk: its summary, and the lines of what was measured."""
    (folder,) = (cli.cwd / "results").iterdir()
    lines = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    return json.loads((folder / f"{name}.json").read_text()), lines


@pytest.mark.fresh
def test_a_slower_model_is_a_confirmed_regression_and_exits_1(cli: CommandLine, recipe: Callable[..., Path]) -> None:
    slower = recipe("slower", latency_ns=1_260_000)
    ran = cli("ab", FAKE_MODEL, slower, *ON_FAKE, "--json")
    assert ran.rc == 1, ran.stderr
    found = ran.json
    assert set(found) == KEYS
    assert (found["verdict"], found["confirmed"], found["metric"]) == ("regression", True, "latency")
    assert found["ratio"] == pytest.approx(1.05, abs=0.002)
    assert found["interval"][0] <= found["ratio"] <= found["interval"][1]
    assert found["pairs"] == 2 * ratio.LEAST_PAIRS == sum(one["pairs"] for one in found["sessions"])
    assert [one["verdict"] for one in found["sessions"]] == ["regression"] * 2
    assert (found["threshold"], found["noise"]) == (0.03, None)
    assert (found["old"]["p50_ns"], found["new"]["p50_ns"]) == (1_200_000, 1_260_000)
    assert found["new"]["accuracy"]["correct"] == 190, "both are verified before anything is timed"
    whole, lines = kept(cli)
    assert {key: whole[key] for key in KEYS} == found
    assert set(whole["plan"]) == {"old", "new"}
    blocks = [line for line in lines if "block" in line]
    starts = [line for line in lines if "starts" in line]
    assert [(line["session"], line["pair"]) for line in starts] == [(s, p) for s in (1, 2) for p in range(1, 6)]
    assert {tuple(line["order"]) for line in blocks} == {("old", "new"), ("new", "old")}
    logs = [
        [
            ratio.log_ratio(line["old_ns"], line["new_ns"])
            for line in blocks
            if (line["session"], line["pair"]) == (start["session"], start["pair"]) and line["block"] > 0
        ]
        for start in starts
    ]
    assert ratio.estimate(logs).ratio == found["ratio"], "what is kept says the same as the verdict"


@pytest.mark.slow
def test_the_same_model_in_two_precisions_and_thread_counts_is_equal_here(cli: CommandLine) -> None:
    ran = cli("ab", FAKE_MODEL, *ON_FAKE, "--precision", "fp32,int8", "--threads", "1,2", "--quiet")
    assert (ran.rc, ran.stderr) == (0, "")
    assert (
        "OLD fake_identity/fp32/fake@fake+threads=1\nNEW fake_identity/int8/fake@fake+threads=2\nequal: 1.2 ms"
        in ran.stdout
    )
    assert "nobody has measured this device's noise: edgekit calibrate --device fake" in ran.stdout
    whole, _ = kept(cli)
    assert (whole["verdict"], whole["confirmed"], whole["pairs"]) == ("equal", None, ratio.LEAST_PAIRS)


def test_too_little_time_is_inconclusive_and_exits_4(cli: CommandLine) -> None:
    ran = cli("ab", FAKE_MODEL, *ON_FAKE, "--max-seconds", "0.001", "--json", "--quiet")
    assert ran.rc == 4
    found = ran.json
    assert (found["verdict"], found["ratio"], found["interval"], found["pairs"]) == ("inconclusive", None, None, 1)
    assert "only 1 of at least 5 process pairs in 0.001 s: raise --max-seconds" in found["why"]


def test_an_emulated_device_compares_counts_and_never_its_time(cli: CommandLine, recipe: Callable[..., Path]) -> None:
    more = recipe("more", instructions=125_000, latency_ns=600_000)  # half the time, which must not count
    ran = cli("ab", FAKE_MODEL, more, "--device", FAKE_BOARD, "--json", "--quiet")
    assert ran.rc == 1
    found = ran.json
    assert (found["metric"], found["verdict"], found["confirmed"]) == ("instructions", "regression", True)
    assert found["ratio"] == pytest.approx(125_000 / 123_456)
    assert found["threshold"] == 0.01
    assert "p50_ns" not in found["old"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "why"),
    [(("--precision", "fp32,int8"), "across precisions"), (("--threads", "1,2"), "across thread counts")],
)
def test_counts_decide_nothing_across_precisions_and_threads(
    options: tuple[str, str], why: str, cli: CommandLine
) -> None:
    ran = cli("ab", FAKE_MODEL, "--device", FAKE_BOARD, *options, "--json", "--quiet")
    assert ran.rc == 4
    assert (ran.json["verdict"], ran.json["ratio"]) == ("inconclusive", None)
    assert why in ran.json["why"]
    assert ran.json["old"]["instructions"]["total"] == 123_456


@pytest.mark.slow
def test_without_counts_an_emulated_device_has_no_verdict(cli: CommandLine, recipe: Callable[..., Path]) -> None:
    ran = cli("ab", recipe("uncounted", instructions=None), "--device", FAKE_BOARD, "--quiet")
    assert ran.rc == 4
    assert "why: nothing counts instructions there" in ran.stdout


@pytest.mark.slow
def test_a_wrong_side_is_named_and_nothing_is_timed(cli: CommandLine, recipe: Callable[..., Path]) -> None:
    ran = cli("ab", FAKE_MODEL, recipe("wrong", fault="wrong"), *ON_FAKE, "--quiet")
    assert ran.rc == 4
    assert "NEW: the outputs are wrong" in ran.stderr
    assert not (cli.cwd / "results").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--precision", "fp32,int8,fp16"), "is not one value, or two as OLD,NEW"),
        (("--threads", "1,0"), "is not one whole number of at least 1"),
        (("--runtime", "all"), "--runtime all is for profile"),
        (("--precision", "fp33"), "unknown precision 'fp33'"),
        (("--max-seconds", "never"), "is not a duration"),
    ],
)
def test_what_is_no_comparison_is_said_at_once(options: tuple[str, str], says: str, cli: CommandLine) -> None:
    ran = cli("ab", FAKE_MODEL, *ON_FAKE, *options)
    assert ran.rc == 2
    assert says in ran.stderr


def test_ctrl_c_keeps_what_was_measured_and_leaves_nothing_running(cli: CommandLine) -> None:
    command = cli.start("ab", FAKE_MODEL, *ON_FAKE)
    command.until("session 1, process pair 2")
    command.ctrl_c()
    ran = command.end()
    assert ran.rc == 130
    assert "is kept in" in ran.stderr
    whole, lines = kept(cli)
    assert "verdict" not in whole
    assert any(line.get("pair") == 1 and "block" in line for line in lines)


@pytest.mark.slow
def test_a_device_in_use_is_not_measured(cli: CommandLine) -> None:
    command = cli.start("ab", FAKE_MODEL, *ON_FAKE)
    command.until("session 1")
    other = CommandLine(cli.cwd)("calibrate", FAKE_MODEL, *ON_FAKE)
    command.process.send_signal(signal.SIGINT)
    command.end()
    assert other.rc == 3
    assert "is in use" in other.stderr


@pytest.fixture
def noises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the noise of this machine is remembered during one test."""
    monkeypatch.setattr(noise, "cache_dir", lambda: tmp_path)
    return tmp_path / "noise"


def test_calibrate_remembers_the_noise_and_an_ab_test_goes_by_it(
    noises: Path, recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(calibration, "PAIRS", 10)
    request = plan.Request(str(FAKE_MODEL), str(FAKE_DEVICE), output=tmp_path / "runs")
    found = calibration.run(request, lambda _: None)
    assert (found.noise.pairs, found.threshold) == (10, 0.03)
    assert 0 <= found.noise.relative < 1e-6, "the fake clock repeats itself"
    assert json.loads((found.path / "calibration.json").read_text())["noise"] == to_json(found.noise)
    (place,) = noises.iterdir()
    place.write_text(json.dumps({**json.loads(place.read_text()), "relative": 0.04}))
    compared = edgekit.ab(FAKE_MODEL, recipe("slower", latency_ns=1_260_000), FAKE_DEVICE, output=tmp_path / "runs")
    assert (compared.verdict, compared.threshold) == ("equal", 0.08)
    assert f"threshold: 8 %, with an A/A noise of 4 % (calibrated {found.noise.date})" in cli_compare.lines(compared)


def test_calibrate_wants_time_and_a_device_whose_time_counts(cli: CommandLine, noises: Path) -> None:
    request = plan.Request(str(FAKE_MODEL), str(FAKE_DEVICE), output=cli.cwd / "results")
    with pytest.raises(UserError, match=r"1 process pairs in 0\.001 s are too few"):
        calibration.run(request, lambda _: None, 0.001)
    assert not noises.exists()
    ran = cli("calibrate", FAKE_MODEL, "--device", FAKE_BOARD)
    assert ran.rc == 2
    assert "is emulated" in ran.stderr
    several = cli("calibrate", FAKE_MODEL, *ON_FAKE, "--threads", "1,4")
    assert several.rc == 2, "one artifact with itself has no second number of threads, and none is left out silently"
    assert "'1,4' is not a whole number" in several.stderr


@pytest.mark.slow
def test_the_api_gives_the_same_as_an_object(tmp_path: Path, recipe: Callable[..., Path]) -> None:
    faster = recipe("faster", latency_ns=1_000_000)
    found = edgekit.ab(FAKE_MODEL, faster, FAKE_DEVICE, precisions=("fp32", "int8"), output=tmp_path / "runs")
    assert isinstance(found, abtest.Comparison)
    assert (found.verdict, found.new["precision"]) == ("improvement", "int8")
    assert json.loads((found.path / "ab.json").read_text())["ratio"] == found.ratio
    assert any("improvement: 1.2 ms -> 1 ms: NEW takes 0.833" in line for line in cli_compare.lines(found))
    with pytest.raises(UserError, match="max-seconds must be a positive number"):
        edgekit.ab(FAKE_MODEL, device=FAKE_DEVICE, max_seconds=0, output=tmp_path / "runs")
