"""What is expected of a run under way: nothing without a ground for it, then what the cells that are done took."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit import progress
from edgekit.progress import Progress, Step, about, clock, short
from edgekit.types import Cell


def name(number: int) -> str:
    return Cell("net", "tflite", "int8", "tflite", "pi4", number).id


def run(*cells: tuple[float, float, float], total: int = 4) -> tuple[Step, float]:
    """A step after these cells, each as seconds to its verification, to its measuring and to its end; and the time it is."""
    step, now = Step(), 100.0
    for number, (made, verified, measured) in enumerate(cells, 1):
        step.say(f"cell {number} of {total}: {name(number)}", now)
        step.say("converting net to tflite int8", now)
        now += made
        step.say("verifying on pi4: 540 inputs", now)
        now += verified
        step.say(f"{name(number)}: measuring, launch 1 of 6", now)
        now += measured
    return step, now


def test_nothing_is_expected_before_a_cell_is_done() -> None:
    step, now = run()
    assert step.left_s(now) is None
    step, now = run((60, 2, 500))
    assert step.left_s(now) is None
    assert step.told(now) == "cell 1 of 4, tflite int8: measuring, launch 1 of 6"


def test_then_the_others_are_expected_to_take_as_long() -> None:
    step, now = run((60, 2, 8))
    step.say(f"cell 2 of 4: {name(2)}", now)
    assert step.left_s(now) == 30, "what all cells waited for in the first is not expected again"
    assert step.left_s(now + 4) == 26
    assert step.left_s(now + 50) == 20, "a cell that takes longer than the others is expected to end now"
    assert step.told(now) == "cell 2 of 4, about 30 s left, tflite int8 x2"
    step, now = run((60, 2, 8), (1, 2, 17))
    step.say(f"cell 3 of 4: {name(3)}", now)
    assert step.left_s(now) == 30
    step, now = run((60, 2, 8), (0, 0, 10), (0, 0, 10), (0, 0, 30))
    assert step.left_s(now) is None, "nothing is known of how long it goes on"


def test_a_run_that_is_resumed_starts_in_the_middle() -> None:
    step = Step()
    for number, now in ((5, 0.0), (6, 10.0)):
        step.say(f"cell {number} of 6: {name(1)}", now)
        if number == 5:
            step.say("verifying on pi4: 540 inputs", 4.0)
    assert step.left_s(10.0) == 6


@given(st.lists(st.tuples(*[st.floats(0, 1e4)] * 3), max_size=6), st.integers(0, 5), st.floats(0, 1e4))
def test_what_is_expected_is_never_negative_and_only_falls_within_a_cell(
    cells: list[tuple[float, float, float]], more: int, wait: float
) -> None:
    step, now = run(*cells, total=len(cells) + more)
    first, later = step.left_s(now), step.left_s(now + wait)
    assert first is None or first > 0
    assert later is None or (first is not None and later <= first)


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (name(1), "tflite int8"), (name(4), "tflite int8 x4"),
        (Cell("a/b", "onnx", "fp32", "onnxruntime", "my pi", 1, (("batch", "8"),)).id, "onnxruntime fp32 batch 8"),
        ("something else", "something else"),
    ],
)  # fmt: skip
def test_a_cell_in_short(cell: str, text: str) -> None:
    assert short(cell) == text


def test_times_in_words() -> None:
    expected = {0.2: "1 s", 9.5: "10 s", 11: "15 s", 119: "120 s", 121: "3 min", 7199: "120 min", 9000: "2.5 h"}
    for seconds, text in expected.items():
        assert about(seconds) == f"about {text} left"
    assert [clock(seconds) for seconds in (7.9, 725, 3725)] == ["0:07", "12:05", "1:02:05"]


def test_each_device_has_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    shown = Progress(quiet=True)
    for at, text in (
        (0, "pi4: starting the agent on pi4"), (1, f"pi4: cell 1 of 2: {name(1)}"), (2, f"pi5: cell 1 of 2: {name(1)}"),
        (3, "pi4: verifying on pi4: 540 inputs"), (8, f"pi4: cell 2 of 2: {name(4)}"), (9, "pi5: \x1b[2Jverifying"),
        (9, "converting net to tflite int8"),
    ):  # fmt: skip
        now[0] = at
        shown.say(text)
    assert shown.drawn().plain.splitlines() == [
        "0:09  converting net to tflite int8",
        "  pi4: cell 2 of 2, about 4 s left, tflite int8 x4",
        "  pi5: cell 1 of 2, tflite int8: ?[2Jverifying",
    ]
    shown.say("pi5: verifying on pi5: 540 inputs")
    assert shown.drawn().plain.splitlines()[0] == "0:09", "the conversion is over"
