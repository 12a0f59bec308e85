"""What is picked and what is on the front: by time on a real device, by counts of one precision under emulation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from edgekit.report import choice


def cell(name: str, ns: int | None = None, value: float | None = None, size: int = 100, **more: Any) -> dict[str, Any]:
    """A measured cell; `more` are `half` (of the interval of its latency), `spread` (of its accuracy) and whole keys."""
    half, spread, total = more.pop("half", 0), more.pop("spread", None), more.pop("instructions", None)
    found: dict[str, Any] = {"id": name, "status": "ok", "precision": "fp32", "artifact": {"size_bytes": size}}
    if ns is not None:
        latency = {"p50_ns": ns, "low_ns": ns - half, "high_ns": ns + half, "emulated": total is not None}
        found["latency"] = latency
    if total is not None:
        found["instructions"] = {"total": total}
    if value is not None:
        bounds = {} if spread is None else {"interval": [value - spread, value + spread]}
        found["accuracy"] = {"metric": "top1", "value": value, **bounds}
    return {**found, **more}


def members(*cells: dict[str, Any]) -> set[str]:
    axes = (choice.cost(cells), choice.quality(cells), choice.SIZE)
    return choice.front(cells, [axis for axis in axes if axis is not None])


def picked(*cells: dict[str, Any]) -> list[str]:
    return [str(one["id"]) for one, _ in choice.pick(cells)]


def test_the_front_has_what_nothing_beats() -> None:
    fast, good, small = cell("fast", 10, 0.8), cell("good", 20, 0.9), cell("small", 30, 0.7, 50)
    beaten = cell("beaten", 20, 0.85, 100)
    assert members(fast, good, small, beaten) == {"fast", "good", "small"}


def test_cells_alike_are_both_on_the_front_and_one_without_a_figure_is_not() -> None:
    assert members(cell("a", 10, 0.8), cell("b", 10, 0.8), cell("c", 9)) == {"a", "b"}


def test_a_failed_cell_is_neither_on_the_front_nor_picked() -> None:
    bad = {**cell("bad", 1, 1.0), "status": "failed"}
    assert members(bad, cell("ok", 10, 0.8)) == {"ok"}
    assert picked(bad, cell("ok", 10, 0.8)) == ["ok"]


def test_the_fastest_of_those_within_the_interval_of_the_best_accuracy() -> None:
    cells = (
        cell("best", 30, 0.95, spread=0.02),
        cell("near", 10, 0.93, spread=0.02),
        cell("worse", 5, 0.92, spread=0.02),
    )
    assert picked(*cells) == ["near"]


def test_without_an_interval_only_the_best_accuracy_counts() -> None:
    assert picked(cell("best", 30, 0.95), cell("near", 10, 0.949)) == ["best"]


def test_of_those_as_fast_the_smallest() -> None:
    assert picked(cell("a", 100, 0.9, 300, half=5), cell("b", 104, 0.9, 200, half=5)) == ["b"]
    assert picked(cell("a", 100, 0.9, 300, half=1), cell("b", 104, 0.9, 200, half=1)) == ["a"]


def test_instructions_are_compared_within_a_precision_only() -> None:
    cells = (
        cell("float", 9, 0.9, instructions=100), cell("slow float", 9, 0.9, instructions=200),
        cell("int8", 9, 0.9, instructions=150, precision="int8"),
    )  # fmt: skip
    axis = choice.cost(cells)
    assert axis is not None and axis.of is choice.INSTRUCTIONS.of and axis.within == ("precision",)
    assert picked(*cells) == ["float", "int8"]
    assert members(*cells) == {"float", "int8"}


def test_a_call_with_more_inputs_is_not_held_against_one_with_fewer() -> None:
    cells = (cell("one", 10, 0.9), cell("one more", 12, 0.9), cell("four", 30, 0.9, batch=4))
    assert picked(*cells) == ["one", "four"]
    assert members(*cells) == {"one", "four"}
    axis = choice.cost(cells)
    assert axis is not None and axis.within == ("batch",)
    counted = [cell(name, 9, 0.9, instructions=n, batch=b) for name, n, b in (("x", 100, 1), ("y", 380, 4))]
    assert picked(*counted) == ["x", "y"]


def test_under_emulation_an_estimate_that_all_have_decides() -> None:
    cells = [cell(name, 9, 0.9, instructions=100, estimate={"latency_ns": ns}) for name, ns in (("a", 20), ("b", 10))]
    assert choice.cost(cells) == replace(choice.ESTIMATE, within=())
    assert picked(*cells) == ["b"]
    refused = choice.cost([*cells, cell("c", 9, instructions=1, estimate={"refused": "why"})])
    assert refused == replace(choice.INSTRUCTIONS, within=())


def test_nothing_is_picked_where_nothing_tells_the_cost() -> None:
    emulated = {**cell("a", 9, 0.9), "latency": {"p50_ns": 9, "emulated": True}}
    assert choice.cost([emulated]) is None
    assert choice.pick([emulated]) == []


def test_quality_is_accuracy_then_agreement_then_sqnr() -> None:
    both = {"fidelity": {"agreement": 0.9, "sqnr_db": 30.0}}
    titles = [
        choice.quality([cell("a", 1, 0.9, **both)]),
        choice.quality([cell("a", 1, **both)]),
        choice.quality([cell("a", 1, fidelity={"sqnr_db": 30.0})]),
        choice.quality([cell("a", 1)]),
    ]
    assert [axis and axis.title for axis in titles] == [
        "top1 accuracy", "agreement with the float model", "SQNR against the float model, dB", None,
    ]  # fmt: skip


def test_of_an_error_less_is_better_and_of_an_own_metric_nothing_is_known() -> None:
    wrong = [
        cell(name, ns, accuracy={"metric": "mae", "value": value}) for name, ns, value in (("a", 1, 0.5), ("b", 2, 0.1))
    ]
    axis = choice.quality(wrong)
    assert axis is not None and axis.lower
    assert picked(*wrong) == ["b"]
    assert choice.quality([cell("a", 1, accuracy={"metric": "score", "value": 3.0})]) is None
