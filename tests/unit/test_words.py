"""Figures as people read them: with a unit each, in one unit for a column, and cells in few words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import made_up
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.inert import cut, printable
from edgekit.report import Report, Reports, words


@pytest.mark.parametrize(("share", "text"), [(0.0, "0.0 %"), (0.0994, "9.9 %"), (0.0996, "10 %"), (0.5, "50 %")])
def test_percents(share: float, text: str) -> None:
    assert words.percent(share) == text


@pytest.mark.parametrize(
    ("ns", "text"),
    [(0, "0 ns"), (999, "999 ns"), (1_234, "1.23 us"), (1_200_000, "1.2 ms"), (59_900_000_000, "59.9 s"), (999_999, "1 ms")],
)  # fmt: skip
def test_durations(ns: int, text: str) -> None:
    assert words.duration(ns) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (999, "999"), (123_456, "123.5 k"), (12_345_678, "12.35 M"), (2e9, "2 G")]
)
def test_counts(number: float, text: str) -> None:
    assert words.count(number) == text


@pytest.mark.parametrize(
    ("number", "text"), [(400, "400 B"), (41_234, "41 kB"), (999_600, "1 MB"), (4_210_000, "4.21 MB")]
)
def test_sizes(number: float, text: str) -> None:
    assert words.size(number) == text


@pytest.mark.parametrize(
    ("values", "base", "unit", "texts"),
    [
        ([6_900_000, 1_610_000, 120_400_000], "ns", "ms", ["6.90", "1.61", "120"]),
        ([900_000, 8_000_000], "ns", "ms", ["0.900", "8.00"]),
        ([999_600, 999_600], "ns", "ms", ["1.00", "1.00"]),
        ([25_000, 4_210_000], "B", "kB", ["25", "4210"]),
        ([1_200_000, 4_210_000], "B", "MB", ["1.20", "4.21"]),
        ([41_000, 123_400_000], "B", "", ["41 kB", "123 MB"]),
        ([1_000, 9_000_000_000], "ns", "", ["1.00 us", "9.00 s"]),
        ([359_700, None, 1_234_500], "count", "M", ["0.3597", "", "1.234"]),
        ([0, 12], "count", "", ["0", "12"]),
        ([None, 0], "ns", "ns", ["", "0"]),
        ([12.5, 0.2], "mJ", "mJ", ["12.5", "0.200"]),
    ],
)  # fmt: skip
def test_a_column_has_one_unit_where_its_figures_allow_one(
    values: list[float | None], base: str, unit: str, texts: list[str]
) -> None:
    assert words.together(values, base) == (unit, texts)


@given(
    st.lists(st.one_of(st.none(), st.integers(0, 10**13)), min_size=1, max_size=8), st.sampled_from(sorted(words.UNITS))
)
def test_in_whatever_unit_a_figure_is_what_it_was(values: list[int | None], base: str) -> None:
    scales = {name: scale for name, scale, _ in words.UNITS[base]}
    unit, texts = words.together(values, base)
    for value, text in zip(values, texts, strict=True):
        if value is None:
            assert text == ""
            continue
        number, _, alone = text.partition(" ")
        scale = scales[alone or unit]
        decimals = len(number.partition(".")[2])
        assert abs(float(number) * scale - value) <= 0.5001 * scale * 10.0**-decimals
        if value and not alone and any(values):
            assert float(number) > 0, "nothing becomes a zero"


def many(*cells: dict[str, Any]) -> Reports:
    header = {"device": made_up.LOCAL, "plan": {}}
    return Reports([Report("r", Path("r"), 1, header, list(cells), [])], {})


def test_cells_in_few_words() -> None:
    cells = [
        made_up.cell(p, r, t)
        for p in ("fp32", "int8") for r in ("tflite", "onnxruntime") for t in (1, 4)
    ]  # fmt: skip
    found = many(*cells)
    assert words.those(cells, cells, found) == "all 8 cells"
    assert words.those(cells[:1], cells[:1], found) == "tflite fp32 x1"
    assert words.those(cells[:2], cells, found) == "tflite fp32 x1, tflite fp32 x4"
    assert words.those(cells[4:], cells, found) == "all int8 cells"
    assert words.those([c for c in cells if c["runtime"] == "tflite"], cells, found) == "all tflite cells"
    assert words.those(cells[::2], cells, found) == "all cells of threads 1"
    assert words.those(cells[:5], cells, found) == "5 of 8 cells"


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("größe 測定", "größe 測定"), ("a\x1b[31mb", "a?[31mb"), ("a\tb\nc", "a b c"), ("\u202egnp.exe", "?gnp.exe"),
        ("\x9b31m\x07\r", "?31m??"), ("\ud800", "?"),
    ],
)  # fmt: skip
def test_words_of_others_move_and_colour_nothing(text: str, safe: str) -> None:
    assert printable(text) == safe


def test_a_long_name_is_cut_and_says_so() -> None:
    assert cut("x" * 10_000, 10) == "xxxxxxxx.."
    assert cut("short", 10) == "short"
    assert cut("測定" * 5, 9) == "測定測.."
