"""The gate's policy: what a file may say, each limit on made-up runs, what an inconclusive one counts as, and --init."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_up import EMULATED, LOCAL, cell, failed, kept, report

from edgekit import baseline, judge, policy
from edgekit.errors import UserError


def rules(text: str) -> policy.Policy:
    """A policy from its text."""
    import tomllib

    return policy.of(tomllib.loads(text))


@pytest.fixture
def held(tmp_path: Path) -> Any:
    """held(policy, now, baseline=None) -> what the gate says of two reports in files."""

    def check(text: str, now: Any, before: Any = None) -> judge.Judged:
        earlier = kept(before, tmp_path / "before.json") if before else None
        return judge.check(kept(now, tmp_path / "now.json"), rules(text), earlier)

    return check


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "it limits nothing"),
        ("[limits]\n", "it limits nothing"),
        ('[limit]\np50_ms = "<= 1"', r"unknown key 'limit' \(did you mean 'limits'"),
        ('[limits]\np59_ms = "<= 1"', r"unknown metric 'p59'"),
        ("[limits]\np50_ms = 20", r"\[limits\] p50_ms = 20 does not say which way"),
        ('[limits]\np50_ms = ["<= 20", "<= 30"]', "limits p50 twice in one direction"),
        ('[limits]\np50_ms = "<= 20"\np50 = "<= 30 ms"', "limits p50 twice in one direction"),
        ('limits = "p50<=20ms"', "limits is no table"),
        ('[cells]\n"*/int8/*" = "p50<=20ms"', "is no table"),
        ('inconclusive = "maybe"\n[limits]\ntop1 = ">= 0.9"', "inconclusive = 'maybe' is not known"),
    ],
)
def test_a_policy_that_is_wrong_says_where(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        rules(text)


def test_a_policy_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no policy"):
        policy.read(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("[limits")
    with pytest.raises(UserError, match="cannot read"):
        policy.read(tmp_path / "bad.toml")
    (tmp_path / "bad.toml").write_text('[limits]\npeek = "<= 1 MB"')
    with pytest.raises(UserError, match=r"bad.toml: unknown metric 'peek'"):
        policy.read(tmp_path / "bad.toml")


def test_passes_and_fails_with_their_figures(held: Any) -> None:
    now = report(cell(p50_ms=(18.0, 19.0, 20.0), peak_mb=64.0, top1=(990, 1000)))
    found = held('[limits]\np50_ms = "<= 20"\npeak_mb = "<= 64"\ntop1 = ">= 0.97"', now)
    assert found.status == "pass" and len(found.rows) == 3
    found = held('[limits]\np50_ms = "<= 17.99"\npeak_mb = "< 64"', now)
    assert [row.status for row in found.rows] == ["fail", "fail"]
    assert found.rows[0].why == "19 ms (18 ms to 20 ms), the limit is <= 17.99 ms"
    assert found.to_json()["cells"][0]["figure"] == {"value": 19e6, "low": 18e6, "high": 20e6, "known": True}


@pytest.mark.parametrize(("word", "status"), [("fail", "fail"), ("warn", "warn"), ("pass", "pass")])
def test_the_policy_says_what_inconclusive_counts_as(word: str, status: str, held: Any) -> None:
    text = f'inconclusive = "{word}"\n[limits]\np50_ms = "<= 19"'
    found = held(text, report(cell(p50_ms=(18.0, 19.0, 20.0))))
    assert found.rows[0].status == "inconclusive"
    assert found.status == status
    assert held(text, report(cell(p50_ms=(19.5, 20.0, 21.0)))).status == "fail"


def test_a_pattern_takes_the_place_of_a_general_limit(held: Any) -> None:
    text = '[limits]\np50_ms = "<= 20"\n[cells."*/int8/tflite@*"]\np50_ms = "<= 5"\ntop1 = ">= 0.5"'
    found = held(text, report(cell(p50_ms=10.0), cell("int8", p50_ms=10.0, top1=(9, 10))))
    told = [(row.id.split("/")[1], row.limit.metric, row.status) for row in found.rows]
    assert told == [("fp32", "p50", "pass"), ("int8", "p50", "fail"), ("int8", "top1", "pass")]
    with pytest.raises(UserError, match=r'"\*/int4/\*" fits no cell'):
        held('[cells."*/int4/*"]\np50_ms = "<= 5"', report(cell(p50_ms=10.0)))


def test_a_limit_that_no_cell_can_be_judged_by_is_an_error(held: Any) -> None:
    emulated = report(cell(p50_ms=3.0, emulated=True, total=9), device=EMULATED)
    with pytest.raises(UserError, match=r"no cell can be judged by p50 <= 20 ms: its latency is the emulator's"):
        held('[limits]\np50_ms = "<= 20"\ninstructions = "<= 10"', emulated)
    with pytest.raises(UserError, match=r"by p99 <= 20 ms: p99 takes 300 samples"):
        held('[limits]\np99_ms = "<= 20"', report(cell(p50_ms=3.0)))
    with pytest.raises(UserError, match=r"by mae <= 1: it was judged by top1"):
        held('[limits]\nmae = "<= 1"', report(cell(top1=(9, 10))))
    with pytest.raises(UserError, match=r"has no cell"):
        held('[limits]\nmae = "<= 1"', report())


def test_a_failed_cell_fails_and_one_without_the_figure_is_inconclusive(held: Any) -> None:
    found = held('[limits]\np50_ms = "<= 20"', report(cell(p50_ms=3.0), failed(), cell("fp16", peak_mb=1.0)))
    assert [row.status for row in found.rows] == ["pass", "fail", "inconclusive"]
    assert found.rows[1].why == "failed: the process died of SIGILL"
    assert found.rows[2].why == "it has no p50"
    assert found.status == "fail"
    assert held('[limits]\np50_ms = "<= 20"', report(failed())).status == "fail"


@pytest.mark.parametrize(
    ("total", "status"), [(1_010_000, "pass"), (1_010_001, "fail"), (990_000, "pass"), (1_000_000, "pass")]
)
def test_instructions_against_the_baseline_at_the_edge(total: int, status: str, held: Any) -> None:
    before = report(cell(total=1_000_000, emulated=True), device=EMULATED)
    found = held('[limits]\ninstructions = "<= +1%"', report(cell(total=total), device=EMULATED), before)
    assert found.rows[0].status == status
    assert found.rows[0].figure.value == pytest.approx(total / 1e6)


def test_against_a_baseline_with_intervals(held: Any) -> None:
    before = report(cell(p50_ms=(9.9, 10.0, 10.1), top1=(190, 200)), run="before")
    now = report(cell(p50_ms=(10.4, 10.5, 10.6), top1=(189, 200)))
    text = '[limits]\np50 = "<= +{}%"\ntop1 = ">= -{} pp"'
    assert [row.status for row in held(text.format(8, 0.5), now, before).rows] == ["pass", "pass"]
    found = held(text.format(5, 0.4), now, before)
    assert [row.status for row in found.rows] == ["inconclusive", "fail"]
    assert found.rows[1].why == "0.95 -> 0.945: -0.005, the limit is >= -0.4 pp"
    assert [row.status for row in held(text.format(2, 0.5), now, before).rows] == ["fail", "pass"]


def test_a_limit_against_a_baseline_needs_one(held: Any) -> None:
    with pytest.raises(UserError, match=r"instructions <= \+1 % is against a baseline"):
        held('[limits]\ninstructions = "<= +1%"', report(cell(total=1)))


def test_cells_that_the_run_has_no_longer_fail(held: Any) -> None:
    before = report(cell(total=9), cell("int8", total=9), run="before")
    found = held('[limits]\ninstructions = "<= +1%"', report(cell(total=9)), before)
    assert [(row.status, row.why) for row in found.rows] == [("pass", ""), ("fail", "it is not in a-run")]
    unsupported = report(cell(total=9), failed("int8", "unsupported"))
    assert held('[limits]\ninstructions = "<= +1%"', unsupported, before).rows[1].status == "fail"
    found = held('[limits]\ninstructions = "<= +1%"', before, report(cell(total=9)))
    assert found.rows[1].why == "the baseline has no such cell"
    assert "not in a-run: net/int8" in found.notes[0]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"device": {**LOCAL, "name": "other"}}, "device.name: board in before, other in a-run"),
        ({"data": {"sha256": {"x": "c" * 64, "y": "b" * 64}}}, "data.x: aaaaaaaaaaaa in before, cccccccccccc"),
        ({"judged_by": {"metric": "top5", "reference": None}}, "metric: top1 in before, top5 in a-run"),
        ({"protocol": 2}, "the agent's protocol: 1 in before, 2 in a-run"),
        ({"plan": {"effort": {"warmup_s": 0.0}}}, r"plan.effort.warmup_s: 0.5 in before, 0.0 in a-run"),
        ({"cells": [cell(total=9, threads=4)]}, r"threads: \[1\] in before, \[4\] in a-run"),
        ({"cells": [cell(total=9, runtime_version="3")]}, "the version of tflite: 2.3.0 in before, 3 in a-run"),
        ({"cells": [cell(total=9, governor="powersave")]}, "governor: performance in before, powersave in a-run"),
        ({"cells": [cell(total=9, system={"cores": 2})]}, "system.cores: 4 in before, 2 in a-run"),
        ({"cells": [cell(total=9, system={"cpu": {"part": "b"}})]}, "system.cpu.part: a in before, b in a-run"),
        ({"cells": [cell(total=9, top1=(9, 10))]}, "inputs judged on: 20 in before, 10 in a-run"),
    ],
)
def test_runs_that_are_not_alike_are_refused_by_the_key_that_differs(changes: Any, named: str, held: Any) -> None:
    whole = cell(total=9, top1=(19, 20), governor="performance", system={"cores": 4, "cpu": {"part": "a"}})
    before = report(whole, run="before", protocol=1, judged_by={"metric": "top1", "reference": None})
    with pytest.raises(UserError, match=named):
        held('[limits]\ninstructions = "<= +1%"', report(whole) | changes, before)


def test_another_model_and_edgekit_are_notes(held: Any) -> None:
    other = cell(total=9, model="net2", id="net2/fp32/tflite@board+threads=1")
    found = held(
        '[limits]\ninstructions = "<= +1%"', report(other, edgekit="0.2.0"), report(cell(total=9), run="before")
    )
    assert found.status == "pass"
    assert found.notes == [
        "another model: net in before, net2 in a-run",
        "another edgekit: 0.1.0 in before, 0.2.0 in a-run",
    ]


def test_a_policy_made_from_a_run_passes_on_it_and_fails_on_a_slower_one(held: Any) -> None:
    odd = cell("int8", p50_ms=(0.0011, 0.0012, 0.0013), id='net[1]/int8/"tflite*"@board+threads=1', total=3)
    now = report(cell(p50_ms=(18.0, 19.0, 20.0), peak_mb=64.0, top1=(990, 1000), size=9999, total=123), odd)
    text = policy.written(now)
    found = held(text, now)
    assert found.status == "pass"
    assert sorted({row.limit.metric for row in found.rows}) == ["instructions", "p50", "peak", "size", "top1"]
    assert {row.id for row in found.rows} == {one["id"] for one in now["cells"]}
    now["cells"][0]["latency"] |= {"p50_ns": 23_000_000, "low_ns": 22_500_000, "high_ns": 24_000_000}
    assert [row.limit.metric for row in held(text, now).failed] == ["p50"]
    with pytest.raises(UserError, match="has no figure to make a limit of"):
        policy.written(report(failed()))


def test_a_saved_baseline_keeps_every_figure_and_drops_the_rest(tmp_path: Path) -> None:
    whole = cell(p50_ms=(18.0, 19.0, 20.0), each_ms=[18.0, 20.0], peak_mb=64.0, top1=(99, 100), size=999, total=123)
    whole |= {"operators": {"operators": []}, "system": {"cores": 4, "kernel": "6.6"}}
    form = report(whole, failed())
    baseline.save(form, tmp_path / "b.json")
    read = baseline.read(str(tmp_path / "b.json"), tmp_path)
    kept_cell = read["cells"][0]
    assert {key: kept_cell[key] for key in ("latency", "memory", "accuracy", "instructions")} == {
        key: whole[key] for key in ("latency", "memory", "accuracy", "instructions")
    }
    assert kept_cell["artifact"] == {"sha256": "5" * 64, "size_bytes": 999}
    assert kept_cell["system"] == {"cores": 4} and not {"operators", "warnings"} & set(kept_cell)
    baseline.check_alike(read, form)
    with pytest.raises(UserError, match="there is no folder"):
        baseline.save(form, tmp_path / "none" / "b.json")


@pytest.mark.parametrize(
    "damage",
    [{"latency": 5}, {"latency": {"emulated": False, "p50_ns": "5"}}, {"status": None}, {"accuracy": {"value": 1.0}},
     {"memory": {"run_peak_bytes": None}}, {"system": 4}, {"threads": None}, {"warnings": 5, "model": None}],
)  # fmt: skip
def test_a_damaged_baseline_is_refused(damage: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"now.json is damaged"):
        baseline.read(kept(report(cell(**damage)), tmp_path / "now.json"), tmp_path)
