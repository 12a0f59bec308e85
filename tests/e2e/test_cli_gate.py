"""gate with a policy, compare and advise as commands, on runs of the fake runtime."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from harness import FAKE_BOARD, FAKE_DEVICE, FAKE_MODEL, CommandLine

QUIET = ("--device", FAKE_DEVICE, "--quiet", "--launches", "2")


@pytest.fixture(scope="module")
def made(shared_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results with one run: 1.2 ms, 190 of 200 right."""
    folder = tmp_path_factory.mktemp("made")
    ran = CommandLine(folder).start("profile", FAKE_MODEL, *QUIET, EDGEKIT_CACHE_DIR=str(shared_cache)).end()
    assert ran.rc == 0, ran.stderr
    return folder / "results"


@pytest.fixture
def run(cli: CommandLine, made: Path) -> CommandLine:
    """A command line in a folder with that run."""
    shutil.copytree(made, cli.cwd / "results")
    return cli


def profiled(run: CommandLine, *args: Any) -> tuple[str, str]:
    """Profile; the names of the run that was there and of the new one, which may be of the same second."""
    (earlier,) = (path.name for path in (run.cwd / "results").iterdir())
    ran = run("profile", *args)
    assert ran.rc == 0, ran.stderr
    (new,) = {path.name for path in (run.cwd / "results").iterdir()} - {earlier}
    return earlier, new


def test_from_a_run_to_a_failing_gate_on_a_slower_model(run: CommandLine, recipe: Any) -> None:
    ran = run("gate", "--init")
    assert ran.rc == 0, ran.stderr
    assert run("gate", "--init").rc == 2  # it is there already
    ran = run("gate", "--policy", "policy.toml")
    assert ran.rc == 0 and "passed: 10 limits" in ran.stdout, ran.stdout + ran.stderr
    ran = run("gate", "last", "--save", "baseline.json")
    assert ran.rc == 0, ran.stderr
    (run.cwd / "relative.toml").write_text(
        '[limits]\np50 = "<= +10%"\ntop1 = ">= -0.5 pp"\n[cells."*/int8/*"]\np50 = "<= +30%"\n'
    )
    _, slower = profiled(run, recipe("slower", latency_ns=1_440_000), *QUIET)
    against = ("gate", slower, "--policy", "relative.toml", "--baseline", "baseline.json")
    ran = run(*against)
    assert ran.rc == 1, ran.stdout + ran.stderr
    assert "FAIL: slower/fp32/fake@fake+threads=1: p50: 1.2 ms -> 1.44 ms: +20.00 %" in ran.stdout
    assert "the limit is <= +10 %" in ran.stdout and "FAILED: 1 of 4 limits" in ran.stdout
    assert "note: another model: fake_identity in" in ran.stdout
    ran = run(*against, "--json")
    assert ran.rc == 1 and ran.json["status"] == "fail"
    assert [row["status"] for row in ran.json["cells"]] == ["fail", "pass", "pass", "pass"]


def test_the_whole_baseline_and_the_gate_on_counts_read_one_another(run: CommandLine) -> None:
    assert run("gate", "--save", "baseline.json").rc == 0
    assert run("gate", "last", "--baseline", "baseline.json").rc == 0
    ran = run("compare", "baseline.json", "last", "--json")
    assert ran.rc == 0, ran.stderr
    assert {row["verdict"] for row in ran.json["cells"] if row["metric"] in ("p50", "instructions", "top1")} == {
        "equal"
    }


def test_an_inconclusive_limit_counts_as_the_policy_says(run: CommandLine) -> None:
    for word, rc in (("fail", 1), ("warn", 0), ("pass", 0)):
        (run.cwd / "policy.toml").write_text(f'inconclusive = "{word}"\n[limits]\ntop1 = ">= 0.95"\n')
        ran = run("gate", "--policy", "policy.toml")
        assert ran.rc == rc, ran.stdout
        assert f"2 of 2 limits are inconclusive, which the policy lets count as '{word}'" in ran.stderr


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        ('[limits]\np59_ms = "<= 20"', "policy.toml: unknown metric 'p59'"),
        ('[limits]\np99_ms = "<= 20"', "no cell can be judged by p99 <= 20 ms"),
        ('[limits]\np50_ms = "<= +2%"', "is no unit of p50|against a baseline"),
        ('[cells."*/fp16/*"]\np50_ms = "<= 2"', 'the pattern "*/fp16/*" fits no cell'),
    ],
)
def test_a_gate_that_cannot_judge_is_no_pass(policy: str, says: str, run: CommandLine) -> None:
    (run.cwd / "policy.toml").write_text(policy)
    ran = run("gate", "--policy", "policy.toml")
    assert ran.rc == 2, ran.stdout
    assert any(part in ran.stderr for part in says.split("|")), ran.stderr


def test_flags_that_do_not_go_together(run: CommandLine) -> None:
    for flags in (
        (),
        ("--init", "--save", "b.json"),
        ("--save", "b.json", "--json"),
        ("--save", "b.json", "--policy", "p.toml"),
        ("--policy", "policy.toml", "--limit", "1%"),
        ("--save", "nowhere/b.json"),
    ):
        ran = run("gate", "last", *flags)
        assert ran.rc == 2 and "Traceback" not in ran.stderr, (flags, ran.stderr)
    assert not (run.cwd / "b.json").exists()


def test_compare_finds_a_slower_model(run: CommandLine, recipe: Any) -> None:
    first, slower = profiled(run, recipe("slower", latency_ns=1_440_000, instructions=100_000), *QUIET)
    ran = run("compare", first, slower)
    assert ran.rc == 1, ran.stderr
    row = next(line for line in ran.stdout.splitlines() if line.startswith("  p50"))
    assert "1.2 ms" in row and "1.44 ms" in row and "1.2 (1.2 to 1.2)" in row and row.endswith("regression")
    assert next(line for line in ran.stdout.splitlines() if line.startswith("  instructions")).endswith("improvement")


def test_compare_refuses_another_device(run: CommandLine) -> None:
    ran = run("compare", *profiled(run, FAKE_MODEL, "--device", FAKE_BOARD, "--quiet"))
    assert ran.rc == 2 and "not alike: device.name: fake in" in ran.stderr, ran.stderr


def test_compare_tells_a_cell_that_is_gone(run: CommandLine) -> None:
    ran = run("compare", *profiled(run, FAKE_MODEL, *QUIET, "-p", "fp32"))
    assert ran.rc == 4 and "GONE: fake_identity/int8/fake@fake+threads=1: it is not in 2" in ran.stdout, ran.stdout


def test_advise_picks_and_explains(run: CommandLine) -> None:
    ran = run("advise", "--budget", "p50<=20ms, peak<=64MB, top1>=0.9")
    assert ran.rc == 0, ran.stderr
    (take,) = (line for line in ran.stdout.splitlines() if line.startswith("take fake_identity/"))
    assert "@fake+threads=1: p50 1.2 ms, peak " in take and take.endswith("top1 0.95, instructions 123,456")
    ran = run("advise", "last", "--budget", "p50<=1ms", "--json")
    assert ran.rc == 1 and ran.json["pick"] is None and len(ran.json["out"]) == 2
    assert run("advise", "--budget", "p59<=1ms").rc == 2


def test_advise_on_an_emulated_device_judges_no_latency(cli: CommandLine) -> None:
    assert cli("profile", FAKE_MODEL, "--device", FAKE_BOARD, "--quiet").rc == 0
    ran = cli("advise", "--budget", "p50<=20ms")
    assert ran.rc == 1 and "p50 cannot be judged: its latency is the emulator's" in ran.stdout, ran.stdout


def test_a_run_that_ended_early_fails_until_it_is_finished(run: CommandLine) -> None:
    (run.cwd / "policy.toml").write_text('[limits]\np50_ms = "<= 20"\n')
    assert run("gate", "--policy", "policy.toml").rc == 0
    (folder,) = (run.cwd / "results").iterdir()
    lines = (folder / "measurements.jsonl").read_text().splitlines(keepends=True)
    (folder / "measurements.jsonl").write_text("".join(lines[:-1]))
    ran = run("gate", "--policy", "policy.toml")
    assert ran.rc == 1 and "int8/fake@fake+threads=1: p50: it was to be measured and was not" in ran.stdout, ran.stdout
    ran = run("gate", "--save", "baseline.json")
    assert ran.rc == 0 and "ended early or goes on, and says nothing of fake_identity/int8" in ran.stderr
    assert "ended early" in run("compare", "baseline.json", "last").stdout
    assert run("profile", FAKE_MODEL, "--resume", folder.name, "--device", FAKE_DEVICE, "--quiet").rc == 0
    assert run("gate", "--policy", "policy.toml").rc == 0


def test_a_figure_that_was_not_measured_does_not_pass_silently(run: CommandLine) -> None:
    (folder,) = (run.cwd / "results").iterdir()
    lines = [json.loads(line) for line in (folder / "measurements.jsonl").read_text().splitlines()]
    del lines[1]["memory"]
    (folder / "measurements.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for head, rc, word in (("", 1, "FAIL"), ('inconclusive = "pass"\n', 1, "FAIL"), ('missing = "warn"\n', 0, "WARN")):
        (run.cwd / "policy.toml").write_text(f'{head}[limits]\npeak_mb = "<= 2000"\n')
        ran = run("gate", "--policy", "policy.toml")
        assert ran.rc == rc, ran.stdout
        said = f"{word}: {lines[1]['id']}: peak: it has no peak, the limit is <= 2000 MB (no figure)"
        assert said in ran.stdout, ran.stdout
        assert "1 of 2 limits have no figure, which the policy lets count as" in ran.stderr


def test_a_cell_that_cannot_be_is_skipped(run: CommandLine) -> None:
    _, new = profiled(run, FAKE_MODEL, *QUIET, "-p", "fp32,int16x8")
    (run.cwd / "policy.toml").write_text('[limits]\np50_ms = "<= 20"\nsize_mb = "<= 1"\n')
    ran = run("gate", new, "--policy", "policy.toml")
    assert ran.rc == 0, ran.stdout + ran.stderr
    assert ran.stdout.count("SKIP") == 1 and "passed: 2 limits, 2 skipped" in ran.stdout
    (run.cwd / "policy.toml").write_text('[cells."*/int16x8/*"]\np50_ms = "<= 20"\n')
    ran = run("gate", new, "--policy", "policy.toml")
    assert ran.rc == 2 and "no cell can be judged by p50 <= 20 ms: unsupported" in ran.stderr


def test_a_baseline_of_another_machine_is_refused_by_what_differs(run: CommandLine) -> None:
    assert run("gate", "--save", "baseline.json").rc == 0
    form = json.loads((run.cwd / "baseline.json").read_text())
    for cell in form["cells"]:
        cell["system"]["cores"] += 1
    (run.cwd / "baseline.json").write_text(json.dumps(form))
    (run.cwd / "policy.toml").write_text('[limits]\np50_ms = "<= +5%"\n')
    for command in (
        ("gate", "--policy", "policy.toml", "--baseline", "baseline.json"),
        ("compare", "baseline.json", "last"),
    ):
        ran = run(*command)
        assert ran.rc == 2 and "not alike: system.cores: " in ran.stderr, ran.stderr


@pytest.mark.parametrize(
    "text", ["", "[]", '{"schema": 1, "run": "r", "device": {}, "cells": [{"precision": 5}]}', "NaN"]
)
def test_a_baseline_that_is_none_is_no_traceback(text: str, run: CommandLine) -> None:
    (run.cwd / "bad.json").write_text(text)
    (run.cwd / "policy.toml").write_text('[limits]\np50_ms = "<= 5"\n')
    for command in (
        ("gate", "last", "--baseline", "bad.json"),
        ("gate", "bad.json", "--policy", "policy.toml"),
        ("compare", "bad.json", "last"),
        ("advise", "bad.json"),
    ):
        ran = run(*command)
        assert ran.rc == 2 and "Traceback" not in ran.stderr, ran.stderr


def test_a_name_moves_nothing_on_the_terminal(run: CommandLine) -> None:
    assert run("gate", "--save", "baseline.json").rc == 0
    text = (run.cwd / "baseline.json").read_text().replace("fake_identity", "\\u001b[2Jfake")
    (run.cwd / "baseline.json").write_text(text)
    (run.cwd / "policy.toml").write_text('[limits]\np50_ms = "<= 0.5"\n')
    for command in (
        ("gate", "baseline.json", "--policy", "policy.toml"),
        ("compare", "last", "baseline.json"),
        ("advise", "baseline.json"),
    ):
        ran = run(*command)
        assert ran.rc in (0, 1) and "?[2Jfake/fp32" in ran.stdout and "\x1b" not in ran.stdout, ran.stdout + ran.stderr
