"""What stands below the table: a line for each reason of failing cells, and one for each named weakness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import made_up
import pytest

from edgekit import caveats
from edgekit.caveats import Weakness
from edgekit.report import Report, Reports, remarks
from edgekit.types import to_json


def reports(*cells: dict[str, Any], warnings: tuple[Any, ...] = (), **device: Any) -> Reports:
    """One run with these cells."""
    header = {"device": {**made_up.LOCAL, **device}, "plan": {"name": "net", "model": "net"}}
    return Reports([Report("r", Path("r"), 1, header, list(cells), [to_json(one) for one in warnings])], {})


def weak(precision: str, *found: Any, **more: Any) -> dict[str, Any]:
    """A cell with these caveats."""
    return made_up.cell(precision, **more, warnings=[to_json(one) for one in found])


def test_one_line_for_a_weakness_with_the_range_of_its_figures_and_the_advice_once() -> None:
    ratios = {"int8": 1.5, "fp16": 1.06, "bf16": 12.3}
    cells = [weak(p, caveats.caveat("slower-than-fp32", precision=p, ratio=r)) for p, r in ratios.items()]
    (line,) = remarks.weaknesses(reports(made_up.cell(), *cells))
    assert line == (
        "weak: tflite int8, tflite fp16, tflite bf16: int8/fp16/bf16 takes 1.06 to 12.30x the time of fp32 in this runtime: "
        "it bought size, not speed: try another precision or runtime"
    )


def test_figures_with_a_unit_keep_it() -> None:
    shares = (0.5, 0.123, 0.02)
    cells = [weak(f"p{n}", caveats.caveat("busy", share=share)) for n, share in enumerate(shares)]
    (line,) = remarks.weaknesses(reports(*cells))
    assert line.startswith("weak: all 3 cells: other programs used 2% to 50% of the cores' time meanwhile")


def test_what_is_alike_everywhere_is_said_as_it_is() -> None:
    found = (caveats.caveat("no-labels"),)
    (line,) = remarks.weaknesses(reports(*(weak(p, *found) for p in ("fp32", "int8"))))
    assert line == f"weak: both cells: {found[0].message}"
    (line,) = remarks.weaknesses(reports(weak("fp32", *found)))
    assert line == f"weak: {found[0].message}", "a single cell needs no name"
    (line,) = remarks.weaknesses(reports(made_up.cell(), warnings=found))
    assert line == f"weak: {found[0].message}", "the whole run"


def test_where_all_cells_of_a_kind_are_weak_the_kind_is_named() -> None:
    found = caveats.caveat("on-battery")
    cells = [made_up.cell(runtime=f"r{n}") for n in range(4)]
    cells += [weak("int8", found, runtime=f"r{n}") for n in range(4)]
    (line,) = remarks.weaknesses(reports(*cells))
    assert line.startswith("weak: all int8 cells: the machine runs on its battery")
    (line,) = remarks.weaknesses(reports(*cells, weak("fp16", found)))
    assert line.startswith("weak: 5 of 9 cells: ")


def test_long_words_in_which_cells_differ_are_counted() -> None:
    names = ["CONV_2D of the first layer and all after it", "RESHAPE of the first layer and all after it"]
    cells = [weak(f"p{n}", caveats.caveat("fallen-back", share=0.2 + n / 10, names=x)) for n, x in enumerate(names)]
    (line,) = remarks.weaknesses(reports(made_up.cell(), *cells))
    assert "take 20% to 30% of the time: CONV_2D of the first layer and all after it (elsewhere 1 other)" in line


def test_facts_of_their_own_and_words_of_another_version_are_never_merged() -> None:
    notes = [{"code": "opened", "message": m} for m in ("the batch is 1", "the layout is NCHW")]
    old = [{"code": "busy", "message": m} for m in ("it was 3 busy", "it was 4 busy")]
    unknown = [{"code": "not-a-code", "message": "x 1"}]
    lines = remarks.weaknesses(reports(made_up.cell(warnings=[*notes, *old, *unknown])))
    assert lines == [f"weak: {one['message']}" for one in (*notes, *old, *unknown)]


@pytest.mark.parametrize("weakness", list(Weakness), ids=lambda weakness: weakness.code)
def test_every_sentence_is_known_again_and_merges_with_itself(weakness: Weakness) -> None:
    class Figures(dict[str, Any]):
        def __missing__(self, name: str) -> float:
            return 0.25

    class Others(Figures):
        def __missing__(self, name: str) -> float:
            return 0.75

    sentence = f"{weakness.says}: {weakness.advice}" if weakness.advice else weakness.says
    messages = [sentence.format_map(figures) for figures in (Figures(), Others())]
    if weakness.says == "{what}":
        assert [remarks.kind_of(weakness.code, message) for message in messages] == messages
        return
    assert {remarks.kind_of(weakness.code, message) for message in messages} == {""}
    merged = remarks.merged(weakness.code, list(dict.fromkeys(messages)))
    assert (merged == messages[0]) == ("{" not in sentence)
    assert weakness.advice.partition("{")[0] in merged and "{" not in merged


def test_cells_that_fail_alike_share_a_line_and_failures_come_first() -> None:
    cells = [
        made_up.failed(status="unsupported", runtime="executorch"), made_up.failed(), made_up.failed("fp16"), made_up.cell(),
    ]  # fmt: skip
    assert remarks.failures(reports(*cells)) == [
        "FAILED: tflite int8, tflite fp16: the process died of SIGILL",
        "unsupported: executorch int8: the process died of SIGILL",
    ]


def test_a_thousand_reasons_are_counted() -> None:
    cells = [made_up.cell(f"p{n}", status="failed", error={"message": f"no {n}"}) for n in range(1000)]
    lines = remarks.failures(reports(*cells))
    assert len(lines) == remarks.MOST + 1
    assert lines[-1] == f"FAILED: {1000 - remarks.MOST} more cells, for {1000 - remarks.MOST} other reasons"
