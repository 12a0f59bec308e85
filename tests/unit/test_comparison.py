"""Two made-up runs side by side: the verdict of each metric at its edge, cells that are gone or new, runs that are not alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_up import EMULATED, cell, failed, kept, report

from edgekit import comparison, figures, noise
from edgekit.errors import UserError
from edgekit.types import to_json

TEN = [10.0, 10.01, 9.99, 10.02, 9.98, 10.0]


@pytest.fixture
def side(tmp_path: Path) -> Any:
    """side(base, new) -> the comparison of two reports in files."""

    def compare(base: Any, new: Any) -> comparison.Compared:
        return comparison.compare(kept(base, tmp_path / "base.json"), kept(new, tmp_path / "new.json"))

    return compare


def verdict(found: comparison.Compared, metric: str) -> str:
    """What one metric of the only cell says."""
    (row,) = [row for row in found.rows if row.metric == metric]
    return row.verdict


def timed(factor: float, spread: float = 1.0) -> dict[str, Any]:
    """A report of one cell with six launches around so many times 10 ms."""
    each = [factor * (10 + spread * (value - 10)) for value in TEN]
    return report(cell(p50_ms=(min(each), factor * 10, max(each)), each_ms=each))


@pytest.mark.parametrize(
    ("factor", "spread", "said"),
    [
        (1.0, 1.0, "equal"),
        (1.02, 1.0, "equal"),
        (1.035, 1.0, "regression"),
        (0.96, 1.0, "improvement"),
        (1.0, 100.0, "inconclusive"),
        (1.05, 100.0, "inconclusive"),
    ],
)
def test_the_verdict_in_time(factor: float, spread: float, said: str, side: Any) -> None:
    found = side(timed(1.0, spread), timed(factor, spread))
    assert verdict(found, "p50") == said
    assert bool(next(row for row in found.rows if row.metric == "p50").why) is (said == "inconclusive")
    assert found.threshold == 0.03
    assert [row.metric for row in found.regressions] == (["p50"] if said == "regression" else [])


def test_a_noisy_device_has_a_wider_threshold(side: Any) -> None:
    known = {"noise": to_json(noise.Noise(0.05, "2026-11-23", "board", "net", 24))}
    found = side(timed(1.0) | known, timed(1.08) | known)
    assert found.threshold == 0.1 and verdict(found, "p50") == "equal"


def test_one_launch_says_nothing(side: Any) -> None:
    found = side(report(cell(p50_ms=10.0)), report(cell(p50_ms=20.0)))
    (row,) = [row for row in found.rows if row.metric == "p50"]
    assert (row.verdict, row.why) == ("inconclusive", "no interval: that takes two launches of each")
    assert row.ratio is not None and row.ratio.value == 2.0


@pytest.mark.parametrize(
    ("key", "was", "has", "said"),
    [
        ("total", 1_000_000, 1_010_000, "equal"),
        ("total", 1_000_000, 1_010_001, "regression"),
        ("total", 1_000_000, 980_000, "improvement"),
        ("peak_mb", 100.0, 102.9, "equal"),
        ("peak_mb", 100.0, 103.1, "regression"),
        ("size", 1000, 1009, "equal"),
        ("size", 1000, 980, "improvement"),
        ("top1", (950, 1000), (950, 1000), "equal"),
        ("top1", (950, 1000), (948, 1000), "inconclusive"),
        ("top1", (950, 1000), (900, 1000), "regression"),
        ("top1", (900, 1000), (950, 1000), "improvement"),
    ],
)
def test_the_other_verdicts(key: str, was: Any, has: Any, said: str, side: Any) -> None:
    metric = {"total": "instructions", "peak_mb": "peak"}.get(key, key)
    assert verdict(side(report(cell(**{key: was})), report(cell(**{key: has}))), metric) == said


def test_less_is_better_for_an_error_and_nobody_knows_for_ones_own(side: Any) -> None:
    def judged(metric: str, value: float) -> dict[str, Any]:
        interval = [value - 0.01, value + 0.01]
        return report(cell(accuracy={"metric": metric, "value": value, "interval": interval, "total": 9}))

    assert verdict(side(judged("mae", 0.1), judged("mae", 0.2)), "mae") == "regression"
    assert verdict(side(judged("auc", 0.8), judged("auc", 0.9)), "auc") == "improvement"
    assert verdict(side(judged("my.py:mine", 0.1), judged("my.py:mine", 0.2)), "my.py:mine") == "inconclusive"


@pytest.mark.parametrize(("has", "said"), [(39.5, "equal"), (38.9, "regression"), (41.5, "improvement")])
def test_signal_to_noise(has: float, said: str, side: Any) -> None:
    exact = [report(cell(fidelity={"sqnr_db": value})) for value in (132.0, 60.0, 58.9)]
    assert [verdict(side(exact[0], one), "sqnr") for one in exact] == ["equal", "equal", "regression"]
    assert (
        verdict(side(report(cell(fidelity={"sqnr_db": 40.0})), report(cell(fidelity={"sqnr_db": has}))), "sqnr") == said
    )


def test_emulated_time_is_not_compared(side: Any) -> None:
    emulated = report(cell(p50_ms=3.0, emulated=True, total=9), device=EMULATED)
    found = side(emulated, emulated)
    assert [row.metric for row in found.rows] == ["instructions"]
    assert found.notes == ["a-run is held against itself"]


def test_cells_are_matched_by_what_stands_behind_the_device(side: Any) -> None:
    base, new = (report(cell(total=9, id=f"{name}/fp32/tflite@board+threads=1")) for name in ("net@1+2", "net@3+4"))
    assert verdict(side(base, new), "instructions") == "equal"


def test_cells_that_are_gone_or_new_are_told(side: Any) -> None:
    base = report(cell(total=9), cell("int8", total=9), cell("fp16", total=9), failed("int4"), run="base")
    found = side(base, report(cell(total=9), failed(), cell("bf16", total=9), failed("int2"), run="new"))
    assert [row.id.split("/")[1] for row in found.rows] == ["fp32"]
    assert list(found.gone.values()) == ["failed: the process died of SIGILL", "it is not in new"]
    assert [name.split("/")[1] for name in found.fresh] == ["bf16"]
    assert [note.split("/")[1] for note in found.notes] == ["int2"]
    assert "is not in base, and failed: the process died of SIGILL" in found.notes[0]
    with pytest.raises(UserError, match="share no figure"):
        side(base, report(cell("bf16", total=9)))


def test_a_run_in_which_all_failed_is_no_error_of_the_user(side: Any) -> None:
    found = side(report(cell(total=9), run="base"), report(failed("fp32"), run="new"))
    assert found.rows == [] and list(found.gone.values()) == ["failed: the process died of SIGILL"]


def test_a_figure_that_is_gone_is_said(side: Any) -> None:
    base = report(cell(total=9, peak_mb=1.0), cell("int8", total=9), run="base")
    found = side(base, report(cell(total=9), cell("int8", total=9, peak_mb=1.0), run="new"))
    assert [row.metric for row in found.rows] == ["instructions", "instructions"]
    assert found.notes == ["peak is in base and not in new: net/fp32/tflite@board+threads=1"]


def test_a_run_that_ended_early_is_said(side: Any) -> None:
    planned = [f"net/{precision}/tflite@board+threads=1" for precision in ("fp32", "int8")]
    early = report(cell(total=9), run="new", plan={"cells": planned})
    assert side(report(cell(total=9), run="base"), early).notes == [
        f"new ended early or goes on, and says nothing of {planned[1]}"
    ]


@pytest.mark.parametrize(
    ("was", "has", "named"),
    [
        ({"memory": {"method": "VmHWM", "run_peak_bytes": 9}}, {"memory": {"method": "pages", "run_peak_bytes": 9}},
         "what memory is: VmHWM in base, pages in new"),
        ({"sustained": {"asked_s": 60.0}}, {"sustained": {"asked_s": 1800.0}}, "seconds of the sustained run: 60.0 in base"),
        ({"energy": {"method": "RAPL", "mj_per_inference": 1.0}},
         {"energy": {"method": "power meter (/dev/ttyUSB0)", "mj_per_inference": 2.0}},
         "what tells the energy: RAPL in base, power meter in new"),
    ],
)  # fmt: skip
def test_figures_that_mean_something_else_are_refused(was: Any, has: Any, named: str, side: Any) -> None:
    with pytest.raises(UserError, match=named):
        side(report(cell(total=9, **was), run="base"), report(cell(total=9, **has), run="new"))
    side(report(cell(total=9, **was), run="base"), report(cell(total=9, **was), run="new"))


def test_fidelity_on_other_inputs_is_refused(side: Any) -> None:
    base, new = (
        report(cell(fidelity={"agreement": 0.9}), run=name, plan={"effort": {}, "samples": count})
        for name, count in (("base", None), ("new", 20))
    )
    with pytest.raises(UserError, match=r"plan.samples: all in base, 20 in new"):
        side(base, new)
    side(base, base)


def test_each_cell_is_judged_on_the_inputs_it_was_before(side: Any) -> None:
    base = report(cell(top1=(9, 10)), cell("int8", top1=(9, 20)), run="base")
    with pytest.raises(UserError, match="inputs judged on: 20 in base, 10 in new"):
        side(base, report(cell(top1=(9, 10)), cell("int8", top1=(9, 10)), run="new"))


def test_runs_that_are_not_alike_are_refused(side: Any) -> None:
    with pytest.raises(UserError, match=r"not alike: device.name: board in base, other in new"):
        side(
            report(cell(total=9), run="base"),
            report(cell(total=9), run="new", device={"name": "other", "arch": "aarch64", "transport": "ssh"}),
        )


def test_energy_is_as_sure_as_its_source() -> None:
    known = figures.energy({"energy": {"mj_per_inference": 2.0, "mj_error": 0.5}})
    assert known == figures.Figure(2.0, 1.5, 2.5)
    assert figures.energy({"energy": {"mj_per_inference": 0.1, "mj_error": 0.5}}) == figures.Figure(0.1, 0.0, 0.6)
    assert figures.energy({"energy": {"mj_per_inference": 2.0}}) == figures.Figure.exact(2.0)
    assert figures.energy({"energy": {"absent": "no source"}}) is None
