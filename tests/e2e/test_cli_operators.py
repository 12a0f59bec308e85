"""`--operators` and `--require-full-delegation` end to end with the fake runtime."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import FAKE_DEVICE, CommandLine
from rich.console import Console

import edgekit
from edgekit.report import table

pytestmark = pytest.mark.timeout(90)
OPERATORS = [
    {"name": "Convolution (NHWC, F32) IGEMM", "delegate": "XNNPACK", "ns": 600_000},
    {"name": "PAD", "place": 1, "ns": 300_000},
]
PARTLY = {"delegate": "XNNPACK", "fully_accelerated": False}
ONE = ("--device", FAKE_DEVICE, "--precision", "fp32", "--launches", "1", "--quiet")


def test_operators_are_a_part_of_the_report(cli: CommandLine, recipe: Callable[..., Path]) -> None:
    path = recipe("operators", operators=OPERATORS, delegation=PARTLY)
    ran = cli("profile", path, *ONE, "--operators", "--json")
    assert ran.rc == 0, ran.stderr
    (cell,) = ran.json["cells"]
    found = cell["operators"]
    assert [(one["name"], one.get("delegate"), one["ns"]) for one in found["operators"]] == [
        ("Convolution (NHWC, F32) IGEMM", "XNNPACK", 600_000),
        ("PAD", None, 300_000),
    ]
    assert (found["runtime_profiler"], found["total_ns"], found["emulated"]) == ("fake profiler", 900_000, False)
    # The fake clock's jitter goes through five steps; the quicker half are two of them and half of the third.
    assert found["plain_ns"] == found["profiled_ns"] == round(1_200_000 * (1 - (0.02 * 20 + 0.01 * 20) / 50))
    assert found["overhead"] == 1
    said = {one["code"]: one["message"] for one in cell["warnings"]}
    assert "operators outside the fast backend take 33% of the time: PAD" in said["fallen-back"]
    text = io.StringIO()
    table.show(edgekit.load_report("last", cli.cwd / "results"), Console(file=text, width=100))
    assert "operators of fake fp32: fake profiler" in text.getvalue()
    assert "  33.3%    300 us                    runtime   PAD" in text.getvalue()


def test_nobody_who_did_not_ask_gets_operators(cli: CommandLine, recipe: Callable[..., Path]) -> None:
    ran = cli("profile", recipe("operators", operators=OPERATORS, delegation=PARTLY), *ONE, "--json")
    assert ran.rc == 0
    assert "operators" not in ran.json["cells"][0]
    assert "fallen-back" not in {one["code"] for one in ran.json["cells"][0]["warnings"]}


def test_a_fallback_fails_the_cell_where_none_is_allowed(cli: CommandLine, recipe: Callable[..., Path]) -> None:
    path = recipe("operators", operators=OPERATORS, delegation=PARTLY)
    ran = cli("profile", path, *ONE, "--require-full-delegation", "--json")
    assert ran.rc == 4
    (cell,) = ran.json["cells"]
    assert (cell["status"], cell["error"]["kind"]) == ("failed", "delegation")
    assert "1 fell back (PAD)" in cell["error"]["message"]
    assert "operators" not in cell


@pytest.mark.slow
def test_a_cell_that_is_wholly_delegated_passes(cli: CommandLine, recipe: Callable[..., Path]) -> None:
    path = recipe("whole", operators=OPERATORS, delegation={**PARTLY, "fully_accelerated": True})
    ran = cli("profile", path, *ONE, "--require-full-delegation", "--json")
    assert ran.rc == 0, ran.stderr


@pytest.mark.slow
def test_a_runtime_without_a_fast_backend_has_nothing_to_require(cli: CommandLine, recipe: Callable[..., Path]) -> None:
    ran = cli("profile", recipe("plain", operators=OPERATORS), *ONE, "--require-full-delegation", "--json")
    assert ran.rc == 0
    assert "nothing-to-delegate" in {one["code"] for one in ran.json["cells"][0]["warnings"]}


@pytest.mark.slow
@pytest.mark.parametrize(("told", "why"), [([], "reports no operators"), ([{"name": "x"}], "KeyError: 'ns'")])
def test_a_profiler_that_fails_leaves_the_other_figures(
    cli: CommandLine, recipe: Callable[..., Path], told: list[dict[str, str]], why: str
) -> None:
    ran = cli("profile", recipe("mute", operators=told), *ONE, "--operators", "--json")
    assert ran.rc == 0
    (cell,) = ran.json["cells"]
    assert "operators" not in cell and cell["latency"]["p50_ns"] == 1_200_000
    said = {one["code"]: one["message"] for one in cell["warnings"]}
    assert why in said["no-operators"]
