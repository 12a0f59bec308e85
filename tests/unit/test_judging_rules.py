"""What holds of any limit, policy and budget: made-up runs with figures that hypothesis chooses."""

from __future__ import annotations

import tomllib
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from made_up import cell, report

from edgekit import advice, figures, judge, limits, policy
from edgekit.errors import UserError
from edgekit.figures import METRICS, Figure
from edgekit.limits import Limit

RANK = {"fail": 0, "inconclusive": 1, "pass": 2}
NUMBERS = st.decimals("0", "1e6", places=3, allow_nan=False)


@st.composite
def written_limits(draw: st.DrawFn) -> tuple[str, str]:
    """A metric and a limit on it as somebody may write it."""
    name = draw(st.sampled_from(sorted(METRICS)))
    units = list(limits.UNITS[METRICS[name].kind])
    sign = draw(st.sampled_from(["", "+", "-"]))
    unit = draw(st.sampled_from([*units, "%"] if sign else units))
    unit = draw(st.sampled_from([unit, unit.upper(), unit.lower()]))
    space = draw(st.sampled_from(["", " ", "  "]))
    return name, space.join([draw(st.sampled_from(sorted(limits.OPERATORS))), sign, str(draw(NUMBERS)), unit])


@given(written_limits())
def test_a_limit_reads_as_it_is_printed(written: tuple[str, str]) -> None:
    try:
        limit = limits.parse(*written)
    except UserError:
        assume(False)
    name, _, text = str(limit).partition(" ")
    assert limits.parse(name, text) == limit
    bare = written[1].rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ% ")
    unit = written[1].strip()[len(bare) :].strip()
    if unit and unit != "%":  # which is no unit of most metrics, and yet of the change of all
        assert limits.parse(f"{name}_{unit}", bare) == limit
    assert limits.parse(name.upper(), text.upper()).value == limit.value


@st.composite
def spread(draw: st.DrawFn, least: float = 1.0, most: float = 1e9) -> Figure:
    """A figure with an interval around it."""
    low, value, high = sorted(draw(st.floats(least, most)) for _ in range(3))
    return Figure(value, low, high)


@given(st.sampled_from(["p50", "top1", "sqnr", "size"]), st.booleans(), st.floats(1.0, 1e9), spread(), st.floats(1, 10))
def test_a_better_figure_never_turns_a_pass_to_a_fail(
    name: str, strict: bool, value: float, figure: Figure, by: float
) -> None:
    lower = METRICS[name].lower
    limit = Limit(name, ("<" if lower else ">") + ("" if strict else "="), value, "", "")
    factor = 1 / by if lower else by
    better = Figure(figure.value * factor, figure.low * factor, figure.high * factor)
    assert RANK[limit.judge(better)] >= RANK[limit.judge(figure)]
    narrower = Figure(figure.value, figure.value, figure.value)
    assert limit.judge(figure) in ("inconclusive", limit.judge(narrower))


@given(
    st.lists(st.floats(1.0, 1e3), min_size=1, max_size=8),
    st.lists(st.floats(1.0, 1e3), min_size=1, max_size=8),
    st.floats(1, 3),
    st.sampled_from(["<= +5 %", "<= +50 ms", "<= -10 %"]),
)
def test_a_better_run_never_turns_a_pass_against_a_baseline_to_a_fail(
    was: list[float], has: list[float], by: float, text: str
) -> None:
    def timed(each: list[float]) -> dict[str, Any]:
        ordered = sorted(each)
        return cell(p50_ms=(ordered[0], ordered[len(each) // 2], ordered[-1]), each_ms=each)

    limit = limits.parse("p50", text)
    before, now, faster = timed(was), timed(has), timed([value / by for value in has])
    told = [judge.row_of(one, before, limit).status for one in (now, faster)]
    assert RANK[told[1]] >= RANK[told[0]]


@st.composite
def runs(draw: st.DrawFn) -> dict[str, Any]:
    """A run of a few cells, some without some figures, some of an emulator."""
    emulated = draw(st.booleans())
    cells = []
    for precision in draw(st.lists(st.sampled_from(["fp32", "fp16", "int8", "int8_io"]), min_size=1, unique=True)):
        figure = draw(spread(1.0, 100.0))
        estimate = {
            "latency_ns": figure.value * 1e6, "low_ns": figure.low * 1e6, "high_ns": figure.high * 1e6,
        }  # fmt: skip
        more = {"estimate": estimate} if emulated and draw(st.booleans()) else {}
        cells.append(
            cell(
                precision,
                p50_ms=draw(st.sampled_from([None, figure.value, (figure.low, figure.value, figure.high)])),
                emulated=emulated,
                peak_mb=draw(st.sampled_from([None, 10.0, 60.0, 70.0])),
                top1=draw(st.sampled_from([None, (90, 100), (99, 100), (990, 1000)])),
                total=draw(st.integers(1000, 10**9)),
                size=draw(st.integers(1, 10**9)),
                **more,
            )
        )
    return report(*cells)


@given(
    runs(), st.sampled_from(["p50<=20ms", "p50<=50ms, peak<=64MB", "peak<=64MB,top1>=0.95", "p95<=1s", "top1>=0.985"])
)
def test_what_is_advised_keeps_the_budget(run: dict[str, Any], budget: str) -> None:
    found = advice.advise(run, limits.budget(budget))
    keeping = [
        one["id"]
        for one in run["cells"]
        if all(reason.figure and reason.status == "pass" for reason in advice.reasons(one, found.budget))
    ]
    assert {choice.id for choice in found.fits} == set(keeping)
    if found.pick is None:
        assert not keeping
        return
    assert found.pick.id in keeping or (not keeping and found.why.startswith(advice.UNSURE))
    for limit in found.budget:
        figure = figures.of(found.pick.cell, limit.metric)
        if figure is None:
            assert limit.metric == "p50" and found.pick.cell["latency"]["emulated"]
            figure = figures.of(found.pick.cell, "estimate")
        assert figure is not None and limit.judge(Figure.exact(figure.value)) == "pass"
    for one in found.relaxed:
        others = [reason for reason in one.choice.reasons if reason.limit is not one.limit]
        assert all(reason.status == "pass" for reason in others) and one.buys


@given(runs(), st.floats(1.35, 10))
def test_a_policy_made_from_a_run_passes_on_it_and_fails_on_a_worse_one(run: dict[str, Any], by: float) -> None:
    rules = policy.of(tomllib.loads(policy.written(run)))
    for one in run["cells"]:
        for limit in rules.of(one["id"]):
            assert judge.row_of(one, None, limit).status == "pass"
            found = figures.of(one, limit.metric)
            assert found is not None
            worse = by if METRICS[limit.metric].lower else 1 / by
            assert limit.judge(Figure(found.value * worse, found.high * worse, found.high * worse)) == "fail"


@pytest.mark.parametrize(("launches", "deviation", "slower"), [(6, 0.01, "fail"), (6, 0.03, None), (3, 0.03, None)])
def test_chance_alone_fails_no_run(launches: int, deviation: float, slower: str | None) -> None:
    """60 pairs of runs of the same file, log-normal: none fails <= +5 %; of 10 % more time none passes, and all fail with little
    noise."""
    rng = np.random.default_rng(launches)
    limit = limits.parse("p50", "<= +5 %")
    for _ in range(60):
        each = [10 * np.exp(rng.normal(0, deviation, launches)) for _ in range(2)]
        before, same, worse = (cell(p50_ms=10.0, each_ms=list(values)) for values in (*each, 1.1 * each[1]))
        assert judge.row_of(same, before, limit).status != "fail"
        said = judge.row_of(worse, before, limit).status
        assert said == slower if slower else said != "pass"
