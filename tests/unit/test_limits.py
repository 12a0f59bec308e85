"""Limits as people write them, each judged at its edge; the figures they are about, and the ratio of two."""

from __future__ import annotations

import math

import numpy as np
import pytest
from made_up import cell

from edgekit import figures, limits
from edgekit.errors import UserError
from edgekit.figures import Figure


@pytest.mark.parametrize(
    ("name", "text", "metric", "value", "against"),
    [
        ("p95_ms", "<= 20", "p95", 20e6, ""),
        ("p95", "<=20ms", "p95", 20e6, ""),
        ("p95_ms", "<= 20 ms", "p95", 20e6, ""),
        ("P50", "< 1.5 S", "p50", 1.5e9, ""),
        ("peak_mb", "<= 64", "peak", 64e6, ""),
        ("peak", "<=64MB", "peak", 64e6, ""),
        ("load_peak_mib", "<= 1", "load_peak", 1048576, ""),
        ("top1", ">= 0.57", "top1", 0.57, ""),
        ("top1", ">=57%", "top1", 0.57, ""),
        ("top1", ">= -0.5 pp", "top1", -0.005, "difference"),
        ("instructions", "<= +1%", "instructions", 1.01, "ratio"),
        ("p95_ms", "<= +5%", "p95", 1.05, "ratio"),
        ("top1_%", ">= -1", "top1", 0.99, "ratio"),
        ("top1_%", ">= 97", "top1", 0.97, ""),
        ("top1_pp", ">= -1", "top1", -0.01, "difference"),
        ("instructions", "<= 3.5M", "instructions", 3.5e6, ""),
        ("p50", "<= +2 ms", "p50", 2e6, "difference"),
        ("p50", "<= -10 %", "p50", 0.9, "ratio"),
        ("energy_mj", "<= 1e1", "energy", 10.0, ""),
        ("sqnr_db", "> 30", "sqnr", 30.0, ""),
        ("mae", "<= 0.1", "mae", 0.1, ""),
        ("p50", "<= 500 \u00b5s", "p50", 5e5, ""),
        ("p50", "<= 500\u03bcs", "p50", 5e5, ""),
        ("p50", "<= 1e4 ms", "p50", 1e10, ""),
    ],
)
def test_a_limit_in_any_form(name: str, text: str, metric: str, value: float, against: str) -> None:
    found = limits.parse(name, text)
    assert (found.metric, found.value, found.against) == (metric, value, against)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("p59_ms", "<= 20", r"unknown metric 'p59' \(did you mean 'p\d\d'"),
        ("peek", "<= 20MB", r"unknown metric 'peek' \(did you mean 'peak'"),
        ("top_1", ">= 0.9", r"unknown metric 'top_1' \(did you mean 'top1'"),
        ("p95", "<= 20", "p95 needs a unit.*ns, us, ms, s"),
        ("p95_mb", "<= 20", "p95 is not told in 'mb'"),
        ("p95", "<= 20 MB", "'mb' is no unit of p95"),
        ("p95_ms", "<= 20 us", "both ms and us"),
        ("p95_ms", "20", "is not a limit"),
        ("p95_ms", "= 20", "is not a limit"),
        ("p95_ms", "<= twenty", "is not a limit"),
        ("p95_ms", "<= nan", "is not a limit"),
        ("peak", "<= 5 %", "a percentage of what"),
        ("top1", ">= 0.5 pp", "without a sign"),
        ("p95_ms", "<= 1e400", "is not a limit"),
        ("p95_ms", "<= 1e-99999999999999999999", "is not a limit"),
        ("instructions", "<= " + 400 * "9", "is not a limit"),
        ("top1", ">= 97", "'>= 97' is no share .*between 0 and 1"),
        ("top1", ">= 101%", "is no share"),
        ("top1", ">= -0.5", "is a share or points"),
        ("top1", ">= -100 pp", "is no share"),
        ("agreement", ">= 0", "cannot be broken"),
        ("top1", "<= 100%", "cannot be broken"),
        ("p50_ms", ">= 0", "cannot be broken"),
        ("size", ">= -100 %", "no figure can fall by 100 %"),
    ],
)
def test_what_is_no_limit_is_said(name: str, text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        limits.parse(name, text)


def test_a_budget_is_the_same_limits_in_a_line() -> None:
    found = limits.budget("p50<=20ms, peak <= 64MB,top1>=0.98")
    assert [str(limit) for limit in found] == ["p50 <= 20 ms", "peak <= 64 MB", "top1 >= 0.98"]
    for text, says in (
        ("", "'' is not a limit"),
        ("p50<=20ms,", "'' is not a limit"),
        ("p50=20ms", "is not a limit"),
        ("p50<=20ms,p50<=30ms", "p50 is limited twice"),
        ("p50<=+1%", "against a baseline"),
    ):
        with pytest.raises(UserError, match=says):
            limits.budget(text)
    assert len(limits.budget("p50>=1ms,p50<=2ms")) == 2


@pytest.mark.parametrize(
    ("text", "low", "high", "status"),
    [
        ("<= 20", 19.0, 20.0, "pass"),
        ("<= 20", 20.0, 20.000001, "inconclusive"),
        ("<= 20", 20.000001, 21.0, "fail"),
        ("< 20", 19.0, 20.0, "inconclusive"),
        ("< 20", 20.0, 21.0, "fail"),
        (">= 20", 20.0, 21.0, "pass"),
        (">= 20", 19.999999, 20.0, "inconclusive"),
        (">= 20", 19.0, 19.999999, "fail"),
        ("> 20", 20.0, 20.0, "fail"),
    ],
)
def test_a_limit_at_its_edge(text: str, low: float, high: float, status: str) -> None:
    assert limits.parse("p50_ms", text).judge(Figure(low * 1e6, low * 1e6, high * 1e6)) == status


def test_a_figure_that_is_not_there_says_why() -> None:
    assert figures.of(cell(p50_ms=3.0, emulated=True), "p50") is None
    assert figures.why_not(cell(p50_ms=3.0, emulated=True), "p95") == figures.EMULATED
    assert figures.why_not(cell(p50_ms=3.0), "p99") == "p99 takes 300 samples, and it has 300: raise --calls"
    batched = cell(p50_ms=0.1)
    batched["latency"]["batch"] = 12
    assert "12 calls per sample" in figures.why_not(batched, "p95")
    assert figures.why_not(cell(top1=(9, 10)), "mae") == "it was judged by top1"
    assert figures.why_not(cell(estimate={"refused": "no figure is published"}), "estimate") == "no figure is published"


def test_the_ratio_is_bootstrapped_from_launches() -> None:
    base = cell(p50_ms=(9.9, 10.0, 10.1), each_ms=[10.0, 10.1, 9.9, 10.05, 9.95, 10.0, 10.02])
    new = cell(p50_ms=(10.4, 10.5, 10.6), each_ms=[10.5, 10.6, 10.4, 10.55, 10.45, 10.5, 10.52])
    found = figures.ratio_of(base, new, "p50")
    assert found is not None and found.known and found.value == pytest.approx(1.05)
    assert 1.03 < found.low < 1.05 < found.high < 1.07
    assert figures.ratio_of(base, new, "p50") == found  # the same samples give the same answer
    for one in (base, new):
        del one["latency"]["each_launch"]
    wider = figures.ratio_of(base, new, "p50")
    assert wider is not None and (wider.low, wider.high) == (10.4 / 10.1, 10.6 / 9.9)
    assert figures.ratio_of(cell(total=0), cell(total=5), "instructions") is None
    assert figures.ratio_of(cell(instructions={"total": 9, "spread": 1.0}), cell(total=5), "instructions") is None


def test_what_only_one_of_the_two_is_known_to_is_not_lost() -> None:
    new = cell(p50_ms=(5.0, 10.0, 15.0))
    assert figures.ratio_of(cell(p50_ms=10.0), new, "p50") == Figure(1.0, 0.5, 1.5, known=False)
    assert figures.ratio_of(new, cell(p50_ms=15.0), "p50") == Figure(1.5, 1.0, 3.0, known=False)
    assert figures.difference_of(cell(p50_ms=10.0), new, "p50") == Figure(0, -5e6, 5e6, known=False)


def test_a_single_odd_call_decides_nothing_about_counts() -> None:
    counts = {"total": 1000, "spread": 0.5, "decile_spread": 0.001}
    assert figures.of(cell(instructions=counts), "instructions") == Figure(1000, 999, 1001)
    assert figures.of(cell(instructions={"total": 1000, "spread": 0.01}), "instructions") == Figure(1000, 990, 1010)


def test_nothing_and_nothing_are_equal() -> None:
    none = cell(memory={"delta_bytes": 0})
    assert figures.ratio_of(none, none, "delta") == Figure.exact(1.0)
    assert figures.ratio_of(none, cell(memory={"delta_bytes": 1}), "delta") is None
    assert figures.ratio_of(cell(memory={"delta_bytes": -1}), none, "delta") is None


@pytest.mark.parametrize(
    ("name", "text", "value", "shown"),
    [
        ("p50_ms", "<= 20", 20_000_001, "20,000,001 ns"),
        ("p50_ms", "<= 20", 20_000_000, "20 ms"),
        ("p50_ms", "<= 20", 21_000_000, "21 ms"),
        ("p50_ms", "<= 17.99", 18_000_000, "18 ms"),
        ("peak_mb", "<= 64", 64_000_100, "64,000,100 B"),
        ("top1", ">= 97%", 0.96999, "0.96999"),
        ("instructions", "<= +1%", 1.010001, "+1.0001 %"),
        ("p50", "<= +2 ms", 2_000_100, "+2,000,100 ns"),
    ],
)
def test_a_figure_just_beyond_its_limit_does_not_read_like_it(name: str, text: str, value: float, shown: str) -> None:
    assert limits.shown(limits.parse(name, text), Figure.exact(value)) == shown


@pytest.mark.parametrize("count", [3, 7])
def test_the_interval_of_a_ratio_holds_it_as_often_as_it_says(count: int) -> None:
    """200 pairs of runs whose launches differ by 3 % (log-normal), NEW truly 1.1 times BASE; 2.5 standard errors below 95 %."""
    rng = np.random.default_rng(count)
    held = 0
    for _ in range(200):
        ends = figures.between(np.exp(rng.normal(0, 0.03, count)), 1.1 * np.exp(rng.normal(0, 0.03, count)))
        assert ends is not None
        held += ends[0] <= 1.1 <= ends[1]
    assert held / 200 >= 0.95 - 2.5 * math.sqrt(0.95 * 0.05 / 200)


def test_no_interval_of_a_single_launch() -> None:
    assert figures.between([1.0], [1.0, 2.0]) is None
    assert figures.between([1.0, 1.0], [2.0, 2.0]) == (2.0, 2.0)


def test_a_difference_on_the_same_inputs_is_exact() -> None:
    found = figures.difference_of(cell(top1=(190, 200)), cell(top1=(189, 200)), "top1")
    assert found is not None and not found.known and found.value == pytest.approx(-0.005)
    spread = figures.difference_of(cell(p50_ms=(9.0, 10.0, 11.0)), cell(p50_ms=(10.0, 11.0, 12.0)), "p50")
    assert spread == Figure(1e6, -1e6, 3e6)
