"""The gate's policy: what a file may say, each limit on made-up runs, what an inconclusive one counts as, and --init."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_up import EMULATED, LOCAL, cell, failed, kept, report

from edgekit import baseline, gate, judge, policy
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
        ('[limits]\ntop1 = ">= 0.9"\np59_ms = []', r"\[limits\] p59_ms = \[\] limits nothing"),
        ('[limits]\ntop1 = ">= 0.9"\n[cells."*"]', r'\[cells."\*"\] limits nothing'),
        ("[limits]\ntop1 = 1979-05-27", r"top1 = \"1979-05-27\" does not say which way"),
        ("[limits]\ntop1 = true", "top1 = true does not say which way .for instance p95_ms"),
        ("[limits]\ntop1 = nan", "top1 = NaN does not say which way .for instance p95_ms"),
        ('[limits.p50_ms]\nmost = "<= 1"', "does not say which way"),
        ('missing = ["pass"]\n[limits]\ntop1 = ">= 0.9"', r"missing = \['pass'\] is not known"),
        ('mising = "pass"\n[limits]\ntop1 = ">= 0.9"', r"unknown key 'mising' \(did you mean 'missing'"),
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


def test_a_failed_cell_fails_and_one_without_the_figure_is_missing(held: Any) -> None:
    found = held('[limits]\np50_ms = "<= 20"', report(cell(p50_ms=3.0), failed(), cell("fp16", peak_mb=1.0)))
    assert [row.status for row in found.rows] == ["pass", "fail", "missing"]
    assert found.rows[1].why == "failed: the process died of SIGILL"
    assert found.rows[2].why == "it has no p50"
    assert found.status == "fail"
    assert held('[limits]\np50_ms = "<= 20"', report(failed())).status == "fail"


def test_what_a_failed_cell_found_out_before_it_failed_passes_nothing(held: Any) -> None:
    text = '[limits]\nsize = "<= 1 MB"'
    found = held(text, report(cell(size=9), failed(size=9)))
    assert [row.status for row in found.rows] == ["pass", "fail"]
    before = report(failed("fp32", size=9), run="before")
    with pytest.raises(UserError, match=r"by size <= \+1 %: the baseline: failed: the process died of SIGILL"):
        held('[limits]\nsize = "<= +1%"', report(cell(size=9)), before)


@pytest.mark.parametrize(("word", "status"), [("fail", "fail"), ("warn", "warn"), ("pass", "pass")])
def test_the_policy_says_what_a_missing_figure_counts_as(word: str, status: str, held: Any) -> None:
    now = report(cell(p50_ms=3.0), cell("int8", peak_mb=1.0))
    assert held(f'missing = "{word}"\n[limits]\np50_ms = "<= 20"', now).status == status
    assert held('inconclusive = "pass"\n[limits]\np50_ms = "<= 20"', now).status == "fail"


def test_a_cell_that_the_runtime_cannot_do_is_skipped_unless_it_could_before(held: Any) -> None:
    text, now = '[limits]\npeak_mb = "<= 20"', report(cell(peak_mb=3.0), failed(status="unsupported"))
    found = held(text, now)
    assert [row.status for row in found.rows] == ["pass", "skip"] and found.status == "pass"
    assert held(text, now, report(cell(peak_mb=3.0), cell("int8", peak_mb=3.0), run="before")).status == "fail"
    with pytest.raises(UserError, match="no cell can be judged by peak <= 20 MB: unsupported"):
        held(text, report(failed(status="unsupported")))
    with pytest.raises(UserError, match="no cell can be judged by peak <= 2 MB"):
        held(text + '\n[cells."*/int8/*"]\npeak_mb = "<= 2"', now)


def test_a_run_that_ended_early_fails(held: Any) -> None:
    ids = [f"net/{precision}/tflite@board+threads=1" for precision in ("fp32", "int8")]
    now = report(cell(p50_ms=3.0), plan={"effort": {}, "cells": ids})
    found = held('[limits]\np50_ms = "<= 20"', now)
    assert [(row.id, row.status) for row in found.rows] == [(ids[0], "pass"), (ids[1], "fail")]
    assert found.rows[1].why.startswith("it was to be measured and was not")
    assert held('[cells."*/int8/*"]\np50_ms = "<= 20"', now).status == "fail"
    assert held('[cells."*/fp32/*"]\np50_ms = "<= 20"', now).status == "pass"


def test_a_limit_on_the_wrong_side_is_a_note(held: Any) -> None:
    now = report(cell(p50_ms=3.0, top1=(9, 10)))
    found = held('[limits]\np50_ms = ">= 2"\ntop1 = "<= 99%"', now)
    assert found.notes == [
        "p50 >= 2 ms is no limit on what is worse: of p50 less is better",
        "top1 <= 99 % is no limit on what is worse: of top1 more is better",
    ]
    assert held('[limits]\np50_ms = [">= 2", "<= 4"]', now).notes == []


def test_a_run_against_itself_is_said(held: Any) -> None:
    now = report(cell(total=9))
    assert held('[limits]\ninstructions = "<= +1%"', now, now).notes == ["a-run is held against itself"]


def test_a_pattern_that_fits_no_cell_names_the_nearest(held: Any) -> None:
    many = [cell(precision, runtime, p50_ms=1.0) for precision in ("fp32", "int8") for runtime in "abcdef"]
    with pytest.raises(UserError, match=r"fits no cell \(the nearest is net/int8/c@board\+threads=1\)"):
        held('[cells."net/int8/c@bord*"]\np50_ms = "<= 2"', report(*many))
    with pytest.raises(UserError, match=r"the cells: .* and 4 more\)"):
        held('[cells."x"]\np50_ms = "<= 2"', report(*many))


def test_an_absolute_and_a_relative_limit_stand_beside_one_another(held: Any) -> None:
    text = '[limits]\ninstructions = ["<= 1200", "<= +10%", "<= +50"]'
    before = report(cell(total=1000), run="before")
    for total, told in ((1040, "ppp"), (1060, "ppf"), (1150, "pff"), (1250, "fff")):
        found = held(text, report(cell(total=total)), before)
        assert [row.status[0] for row in found.rows] == list(told)
    text += '\n[cells."*fp32*"]\ninstructions = "<= 1300"'
    assert [row.status for row in held(text, report(cell(total=1250)), before).rows] == ["pass"]


def test_a_failure_counts_for_more_than_a_warning(held: Any) -> None:
    text = 'inconclusive = "warn"\n[limits]\np50_ms = "<= 19"'
    assert held(text, report(cell(p50_ms=(18.0, 19.0, 20.0)), cell("int8", p50_ms=30.0))).status == "fail"


def test_a_pattern_leaves_the_other_direction_alone(held: Any) -> None:
    text = '[limits]\np50_ms = ["> 1", "<= 20"]\n[cells."*"]\np50_ms = "<= 5"'
    found = held(text, report(cell(p50_ms=3.0)))
    assert [row.limit.text for row in found.rows] == ["> 1 ms", "<= 5 ms"]


def test_the_last_pattern_goes_first(held: Any) -> None:
    text = '[cells."*fp32*"]\np50_ms = "<= 1"\n[cells."*"]\np50_ms = "<= 5"'
    assert [row.limit.text for row in held(text, report(cell(p50_ms=3.0))).rows] == ["<= 5 ms"]


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


@pytest.mark.parametrize("error", [1e-5, 0.0371, 0.9, 41.5, 1234567.8, 0.0])
def test_a_policy_made_from_an_error_is_about_as_strict_as_it_is_small(error: float, held: Any) -> None:
    def judged(value: float) -> Any:
        return report(cell(accuracy={"metric": "mae", "value": value, "interval": [value, value], "total": 9}))

    text = policy.written(judged(error))
    assert held(text, judged(error)).status == "pass"
    assert held(text, judged(1.1 * error + 1e-9)).status == "fail"


@pytest.mark.parametrize("name", ["net\x7f", 'n"e\\t', "n\u00e9t \U0001f600", "net\udce9", "n[a-z]?*"])
def test_a_policy_can_be_made_of_any_name(name: str, held: Any, tmp_path: Path) -> None:
    now = report(cell(total=3, id=f"{name}/fp32/tflite@board+threads=1"), run=f"{name}\nx")
    baseline.write(tmp_path / "policy.toml", "the policy", policy.written(now))
    rules = policy.read(tmp_path / "policy.toml")
    assert [limit.metric for limit in rules.of(now["cells"][0]["id"])] == ["instructions"]
    assert not rules.of("met/fp32/tflite@board+threads=1")


def test_no_limit_is_made_that_nothing_breaks(held: Any) -> None:
    now = report(cell(total=3, top1=(0, 10)))
    text = policy.written(now)
    assert "top1 =" not in text.partition("[cells")[2]
    assert held(text, now).status == "pass"


def test_a_policy_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_bytes(b'\xef\xbb\xbf[limits]\ntop1 = ">= 0.9"')
    assert len(policy.read(tmp_path / "p.toml").limits) == 1


def test_a_saved_baseline_keeps_every_figure_and_drops_the_rest(tmp_path: Path) -> None:
    whole = cell(p50_ms=(18.0, 19.0, 20.0), each_ms=[18.0, 20.0], peak_mb=64.0, top1=(99, 100), size=999, total=123)
    whole |= {"operators": {"operators": []}, "system": {"cores": 4, "kernel": "6.6"}}
    secret = {"connection": {"host": "board.example"}}
    form = report(whole, failed(), device={**LOCAL, **secret})
    form["data"]["source"] = "somewhere/board.example"
    baseline.save(form, tmp_path / "b.json")
    assert "board.example" not in (tmp_path / "b.json").read_text()
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
     {"latency": {**cell(p50_ms=1.0)["latency"], "p50_ns": float("nan")}},
     {"latency": {**cell(p50_ms=1.0)["latency"], "p50_ns": float("inf")}},
     {"latency": {**cell(p50_ms=1.0)["latency"], "p50_ns": True}},
     {"latency": {**cell(p50_ms=(1.0, 2.0, 3.0))["latency"], "low_ns": 9e9}},
     {"status": "failed", "error": "it broke"}, {"energy": {"method": 5}},
     {"memory": {"run_peak_bytes": None}}, {"system": 4}, {"threads": None}, {"warnings": 5, "model": None}],
)  # fmt: skip
def test_a_damaged_baseline_is_refused(damage: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"now.json is damaged|cannot read .*now.json: (NaN|Infinity) is no number"):
        baseline.read(kept(report(cell(**damage)), tmp_path / "now.json"), tmp_path)


@pytest.mark.parametrize(
    "damage", [{"noise": {"relative": "much"}}, {"noise": 5}, {"plan": {"cells": 5}}, {"plan": []}]
)
def test_a_damaged_head_of_a_baseline_is_refused(damage: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"now.json is damaged"):
        baseline.read(kept(report(cell(total=1), **damage), tmp_path / "now.json"), tmp_path)


def test_a_baseline_with_a_cell_twice_is_refused(tmp_path: Path) -> None:
    twice = report(cell(total=1), cell(total=2))
    for read in (baseline.read, gate.read):
        with pytest.raises(UserError, match=r"now.json is damaged: a cell is there twice"):
            read(kept(twice, tmp_path / "now.json"), tmp_path)
