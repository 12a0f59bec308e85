"""Advice on made-up runs: the pick, what a relaxed limit buys, why cells fall out, emulated devices, each finding at its edge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_up import EMULATED, cell, failed, report

from edgekit import advice, baseline, findings, limits
from edgekit.errors import UserError

FLOAT = cell(p50_ms=(29.0, 30.0, 31.0), peak_mb=60.0, top1=(995, 1000), size=8000)
INT8 = cell("int8", p50_ms=(9.5, 10.0, 10.5), peak_mb=30.0, top1=(990, 1000), size=2000)
FAST = cell("int8", "onnxruntime", p50_ms=(4.9, 5.0, 5.1), peak_mb=90.0, top1=(990, 1000), size=2000)


def advise(budget: str, *cells: dict[str, Any], **more: Any) -> advice.Advice:
    """Advice on these cells."""
    return advice.advise(report(*cells, **more), limits.budget(budget) if budget else [])


def test_it_picks_the_fastest_that_keeps_the_budget() -> None:
    found = advise("p50<=20ms, peak<=64MB, top1>=0.98", FLOAT, INT8, FAST)
    assert found.pick is not None and found.pick.cell["precision"] == "int8"
    assert found.pick.figures == {"p50": 10e6, "peak": 30e6, "size": 2000, "top1": 0.99}
    assert found.why == "the only one"
    told = {choice.id: [reason.says for reason in choice.against] for choice in found.out}
    assert told[FLOAT["id"]] == ["p50 30 ms (29 ms to 31 ms), the limit is <= 20 ms"]
    assert told[FAST["id"]] == ["peak 90 MB, the limit is <= 64 MB"]


def test_a_relaxed_limit_says_what_it_buys() -> None:
    found = advise("p50<=20ms, peak<=64MB, top1>=0.98", FLOAT, INT8, FAST)
    assert [(str(one.limit), one.choice.id, one.buys) for one in found.relaxed] == [
        ("p50 <= 20 ms", FLOAT["id"], ["top1 0.995 instead of 0.99"]),
        ("peak <= 64 MB", FAST["id"], ["p50 5 ms instead of 10 ms"]),
    ]
    # A cell that is better in nothing buys nothing.
    worse = cell("int8_io", p50_ms=(39.0, 40.0, 41.0), peak_mb=40.0, top1=(990, 1000), size=2000)
    assert [one.choice.id for one in advise("p50<=20ms", INT8, worse).relaxed] == []


def test_without_a_pick_each_limit_alone_is_tried() -> None:
    found = advise("p50<=7ms, peak<=64MB", INT8, FAST)
    assert found.pick is None and found.why == advice.NOTHING
    assert [(str(one.limit), one.choice.id) for one in found.relaxed] == [
        ("p50 <= 7 ms", INT8["id"]),
        ("peak <= 64 MB", FAST["id"]),
    ]
    found = advise("p50<=1ms, peak<=1MB, top1>=0.992", INT8, FLOAT)
    assert found.relaxed == []
    assert [len(choice.against) for choice in found.out] == [3, 3]


def test_of_cells_about_as_fast_it_takes_the_more_accurate() -> None:
    as_fast = cell("fp16", p50_ms=(10.4, 10.8, 11.2), peak_mb=50.0, top1=(995, 1000))
    found = advise("", INT8, as_fast)
    assert found.pick is not None and found.pick.id == as_fast["id"]
    assert "2 of 2 are about as fast" in found.why
    slower = cell("fp16", p50_ms=(10.6, 10.8, 11.2), peak_mb=50.0, top1=(995, 1000))
    assert advise("", INT8, slower).pick.id == INT8["id"]  # type: ignore[union-attr]


def test_one_that_only_perhaps_keeps_the_budget_is_taken_last_and_said_to_be() -> None:
    unsure = cell("int8", p50_ms=(5.0, 6.0, 7.0), top1=(985, 1000))
    found = advise("top1>=0.98", unsure)
    assert found.pick is not None and found.why.startswith(advice.UNSURE) and "which is not surely >= 0.98" in found.why
    assert found.out == []
    sure = cell(p50_ms=(50.0, 60.0, 70.0), top1=(999, 1000))
    found = advise("top1>=0.98", unsure, sure)
    assert found.pick is not None and found.pick.id == sure["id"]
    assert [choice.id for choice in found.out] == [unsure["id"]]


def test_an_emulators_latency_is_none_and_the_estimate_is_labelled() -> None:
    estimate = {"latency_ns": 8_000_000, "low_ns": 7_000_000, "high_ns": 9_000_000, "error": 0.1}
    with_one = cell(p50_ms=300.0, emulated=True, estimate=estimate, total=9)
    without = cell("int8", p50_ms=1.0, emulated=True, estimate={"refused": "no figure is published for int8"}, total=9)
    found = advise("p50<=10ms", with_one, without, device=EMULATED)
    assert found.pick is not None and found.pick.id == with_one["id"]
    assert found.pick.reasons[0].estimated and found.pick.reasons[0].says.startswith("estimated p50 8 ms")
    assert "p50" not in found.pick.figures and found.pick.figures["estimate"] == 8e6
    (said,) = found.out[0].against
    assert said.status == "unknown"
    assert said.says.startswith("p50 cannot be judged: its latency is the emulator's")
    assert said.says.endswith("not estimated: no figure is published for int8")
    only = advise("p95<=10ms", with_one, device=EMULATED)
    assert only.pick is None and only.out[0].against[0].status == "unknown"


def test_without_any_time_it_is_told_how_it_chose() -> None:
    found = advise("", cell(total=9, top1=(9, 10), peak_mb=9.0), cell("int8", total=1, top1=(9, 10), peak_mb=3.0))
    assert found.pick is not None and found.pick.cell["precision"] == "int8"
    assert found.why.startswith("no time is known")


def test_cells_without_figures_are_told_with_their_reason() -> None:
    found = advise("", INT8, failed("fp32"), failed("fp16", "unsupported"))
    assert sorted(found.broken.values()) == [
        "failed: the process died of SIGILL",
        "unsupported: the process died of SIGILL",
    ]
    early = advise("", INT8, plan={"cells": [INT8["id"], "net/fp16/tflite@board+threads=1"]})
    assert early.broken == {"net/fp16/tflite@board+threads=1": "not measured: the run ended early or goes on"}
    with pytest.raises(UserError, match="a-run has no cell"):
        advise("")
    form = found.to_json()
    assert form["pick"] == INT8["id"] and form["budget"] == [] and len(form["broken"]) == 2


def kinds(*cells: dict[str, Any]) -> list[str]:
    """The kinds of the findings of these cells."""
    return [found.kind for found in findings.findings(cells)]


@pytest.mark.parametrize(
    ("p50_ms", "kind"),
    [
        ((10.4, 10.5, 10.6), []),
        ((10.41, 10.51, 10.61), ["slower-than-fp32"]),
        ((9.0, 10.6, 12.0), []),
        (10.9, []),  # one launch: another may differ by some percent
        (11.1, ["slower-than-fp32"]),
    ],
)
def test_int8_that_is_slower_than_fp32(p50_ms: Any, kind: list[str]) -> None:
    base = cell(p50_ms=(9.9, 10.0, 10.1))
    assert kinds(base, cell("int8", p50_ms=p50_ms)) == kind
    assert kinds(base, cell("int8_dynamic", p50_ms=p50_ms)) == ["dynamic-hurts" for _ in kind]
    assert kinds(base, cell("int8", "onnxruntime", p50_ms=p50_ms)) == []  # fp32 of another runtime
    assert kinds(cell(p50_ms=1.0, emulated=True), cell("int8", p50_ms=9.0, emulated=True)) == []


def test_the_finding_names_its_figures() -> None:
    (found,) = findings.findings([cell(p50_ms=(9.9, 10.0, 10.1)), cell("int8", p50_ms=(14.9, 15.0, 15.1))])
    assert found.figure == 1.5
    ids = [f"net/{precision}/tflite@board+threads=2+batch=4" for precision in ("fp32", "int8")]
    (also,) = findings.findings(
        [cell(threads=2, p50_ms=10.0, id=ids[0]), cell("int8", threads=2, p50_ms=15.0, id=ids[1])]
    )
    assert also.says.startswith("int8 takes 1.50x the time of fp32 in tflite threads=2 batch=4 (15 ms")
    assert found.says == "int8 takes 1.50x the time of fp32 in tflite (15 ms, fp32 10 ms): it bought size, not speed"


def test_quantization_that_costs_accuracy_for_sure() -> None:
    base = cell(top1=(950, 1000))
    assert kinds(base, cell("int8", top1=(700, 1000))) == ["less-accurate"]
    assert kinds(base, cell("int8_dynamic", top1=(700, 1000))) == ["dynamic-hurts"]
    assert kinds(base, cell("int8", top1=(945, 1000))) == []
    assert kinds(cell(top1=(700, 1000)), cell("int8", top1=(950, 1000))) == []
    paired = cell("int8", top1=(935, 1000))
    for p, kind in ((0.049, ["less-accurate"]), (0.05, [])):
        paired["accuracy"]["paired"] = {"only_reference_right": 16, "only_this_right": 1, "p": p}
        assert kinds(base, paired) == kind


def test_a_delegate_that_fell_back() -> None:
    partial = cell(artifact={"sha256": "5", "size_bytes": 9, "details": {"delegated_share": 0.75}})
    partial["warnings"] = [{"code": "partial-delegation", "message": "3 of 4 operators run on the fast backend"}]
    (found,) = findings.findings([partial])
    assert (found.kind, found.figure) == ("fell-back", 0.75) and "3 of 4 operators" in found.says
    none = cell(
        warnings=[{"code": "no-delegate", "message": "no operator runs there"}, {"code": "busy", "message": "-"}]
    )
    assert [(one.kind, one.figure) for one in findings.findings([none])] == [("fell-back", 0.0)]


@pytest.mark.parametrize(
    ("four", "pays"),
    [((8.9, 9.0, 9.1), True), ((9.2, 9.2, 9.2), False), ((11.0, 11.0, 11.0), False), ((8.0, 9.5, 10.0), True)],
)
def test_threads_that_do_not_pay(four: Any, pays: bool) -> None:
    one = cell(p50_ms=(10.0, 10.0, 10.0))
    assert kinds(one, cell(threads=4, p50_ms=four)) == ([] if pays else ["threads-do-not-pay"])


def test_threads_are_compared_with_the_next_fewer() -> None:
    times = {1: (9.9, 10.0, 10.1), 2: (5.05, 5.1, 5.15), 4: (4.95, 5.0, 5.05)}
    found = findings.findings([cell(threads=count, p50_ms=times[count]) for count in (4, 1, 2)])
    assert [one.id for one in found] == ["net/fp32/tflite@board+threads=4"]
    assert found[0].says.startswith("tflite fp32: 5 ms with 4 threads, 5.1 ms with 2, 2.0 % faster")
    once = [cell(threads=2, p50_ms=5.1), cell(threads=4, p50_ms=5.0), cell(threads=8, p50_ms=5.2)]
    assert [one.id for one in findings.findings(once)] == ["net/fp32/tflite@board+threads=8"]


def test_whether_more_of_an_own_metric_is_better_nobody_knows() -> None:
    def judged(precision: str, error: float, peak_mb: float) -> dict[str, Any]:
        own = {"metric": "my.py:error", "value": error, "interval": [error, error], "total": 9}
        return cell(precision, p50_ms=(9.0, 10.0, 11.0), accuracy=own, peak_mb=peak_mb)

    small, large = judged("fp32", 0.1, 1.0), judged("int8", 0.9, 2.0)
    found = advise("", small, large)
    assert found.pick is not None and found.pick.id == small["id"]
    assert found.why == "2 of 2 are about as fast: of these the one with the least memory"
    for one, agreement in ((small, 0.7), (large, 0.8)):
        one["fidelity"] = {"agreement": agreement}
    found = advise("", small, large)
    assert found.pick is not None and found.pick.id == large["id"] and "the best by agreement" in found.why
    (bought,) = advise("peak<=1.5MB", small, large).relaxed
    assert bought.buys == ["agreement 0.8 instead of 0.7"]


def test_of_an_error_less_is_better() -> None:
    small, large = (
        cell(precision, p50_ms=10.0, accuracy={"metric": "mae", "value": error, "interval": [error, error], "total": 9})
        for precision, error in (("fp32", 0.1), ("int8", 0.9))
    )
    found = advise("", small, large)
    assert found.pick is not None and found.pick.id == small["id"]
    (bought,) = advise("mae>=0.5", small, large).relaxed
    assert bought.buys == ["mae 0.1 instead of 0.9"]


def test_an_accuracy_is_not_held_against_an_agreement() -> None:
    judged, agreeing = cell(p50_ms=10.0, peak_mb=1.0), cell("int8", p50_ms=10.0, peak_mb=2.0)
    judged["accuracy"] = {"metric": "mae", "value": 0.1, "interval": [0.0, 0.2], "total": 9}
    agreeing["fidelity"] = {"agreement": 0.2}
    found = advise("", judged, agreeing)
    assert found.pick is not None and found.pick.id == judged["id"]


def test_a_figure_whose_whole_interval_breaks_the_limit_is_no_perhaps() -> None:
    odd = cell(p50_ms=5.0, accuracy={"metric": "top1", "value": 0.99, "interval": [0.5, 0.6], "total": 9})
    assert advise("top1>=0.98", odd).pick is None


def test_a_faster_cell_within_the_noise_buys_nothing() -> None:
    base = cell("int8", p50_ms=(8.0, 10.0, 12.0), peak_mb=1.0)
    assert advise("peak<=2MB", base, cell(p50_ms=9.5, peak_mb=9.0)).relaxed == []
    assert len(advise("peak<=2MB", base, cell(p50_ms=7.5, peak_mb=9.0)).relaxed) == 1


def test_advice_on_a_saved_baseline(tmp_path: Path) -> None:
    baseline.save(report(FLOAT, INT8), tmp_path / "b.json")
    found = advice.advise(baseline.read(str(tmp_path / "b.json"), tmp_path), [])
    assert found.pick is not None and found.pick.id == INT8["id"]
