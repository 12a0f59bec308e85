"""The terminal's table: as recorded at three widths, no figure cut short, its marks right, hostile words inert."""

from __future__ import annotations

import io
import itertools
import re
from pathlib import Path
from typing import Any

import made_up
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from edgekit import caveats
from edgekit.report import Report, Reports, choice, table
from edgekit.types import Json, to_json

GOLDEN = Path(__file__).parents[1] / "golden" / "table"
ESCAPE = re.compile(r"\x1b\[[\d;]*m")


def report(
    *cells: Json, device: dict[str, Any] = made_up.LOCAL, warnings: tuple[Any, ...] = (), **header: Any
) -> Report:
    """A run of these cells."""
    plan = {"name": "net", "model": "net"}
    return Report(
        "20260101-000000-net-board-abcd", Path("results/20260101-000000-net-board-abcd"), 1,
        {"device": dict(device), "plan": plan, **header}, list(cells), [to_json(one) for one in warnings],
    )  # fmt: skip


def shown(made: Report | Reports, width: int = 100, **console: Any) -> str:
    """The terminal form; plain but for what the console is given."""
    target = io.StringIO()
    table.show(made, Console(width=width, file=target, highlight=False, **{"color_system": None, **console}))
    return target.getvalue()


def rows(text: str) -> list[list[str]]:
    """The words of the table's rows, heading and units left out."""
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if line.split()[:1] == ["runtime"]) + 2
    return [
        line.split()
        for line in lines[start:]
        if re.search(r" (fp32|int8|int8_dynamic|p\d+) ", f"{line} ") and ":" not in line
    ]


def timed(
    precision: str, runtime: str, threads: int, p50_ms: float, size: int, right: int, *weak: Any, **more: Any
) -> Json:
    """A cell of a real device with everything that can be measured."""
    cell = made_up.cell(
        precision, runtime, threads, p50_ms=(0.99 * p50_ms, p50_ms, 1.01 * p50_ms), top1=(right, 540), size=size,
        peak_mb=more.pop("peak_mb", 40.0), warnings=[to_json(one) for one in weak],
    )  # fmt: skip
    ns = p50_ms * 1e6
    cell["latency"] |= {
        "half_width": 0.01, "conclusive": more.pop("conclusive", True), "first_ns": 9 * ns, "load_ns": 3e6,
        "p90_ns": 1.1 * ns, "p95_ns": 1.2 * ns, "p99_ns": 1.4 * ns,
    }  # fmt: skip
    cell["memory"] |= {"load_peak_bytes": 30 << 20, "delta_bytes": 5 << 20}
    cell["fidelity"] = {"sqnr_db": 36.4 if precision == "int8" else 132.0, "agreement": 1.0}
    return {**cell, **more}


def everything() -> Report:
    """A run on a board with good, bad, weak, failed and unsupported cells."""
    slower = [caveats.caveat("slower-than-fp32", precision="int8", ratio=ratio) for ratio in (1.21, 2.5)]
    busy = [caveats.caveat("busy", share=share) for share in (0.12, 0.31, 0.2, 0.25, 0.15)]
    return report(
        timed("fp32", "tflite", 1, 6.9, 42_000, 537, busy[0]),
        timed("fp32", "tflite", 4, 2.031, 42_000, 537, busy[1], conclusive=False),
        timed("int8", "tflite", 1, 1.61, 25_100, 535, peak_mb=17.0),
        timed("int8", "tflite", 4, 0.9, 25_100, 535, busy[2]),
        timed("fp32", "onnxruntime", 1, 8.76, 39_000, 537),
        timed("int8", "onnxruntime", 1, 10.6, 25_200, 536, slower[0], busy[3]),
        timed("fp32", "onnxruntime", 4, 4.76, 39_000, 537),
        timed("int8", "onnxruntime", 4, 11.9, 25_200, 536, slower[1], busy[4]),
        made_up.failed("fp32", runtime="executorch", threads=1),
        made_up.failed("int8", "unsupported", runtime="executorch", threads=4),
        warnings=(caveats.caveat("unfinished", done=10, total=12),),
    )


@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_terminal_form_is_as_recorded(width: int) -> None:
    assert shown(everything(), width) == (GOLDEN / f"{width}.txt").read_text("utf-8")


def test_in_colour_it_is_as_recorded_and_the_same_words() -> None:
    text = shown(everything(), 100, color_system="standard", force_terminal=True)
    assert text == (GOLDEN / "100-colour.txt").read_bytes().decode()
    assert ESCAPE.sub("", text) == shown(everything(), 100)


def full(emulated: bool, total: int = 12_345_678_901) -> Report:
    """The widest report there is: long names, large figures, every column."""
    cells = [
        timed(precision, runtime, 1, 123.456789 + number, size, 538)
        for number, (runtime, precision, size) in enumerate(
            (r, p, s)
            for r in ("tflite", "onnxruntime", "executorch")
            for p, s in (("fp32", 423_400_000), ("int8", 123_400_000), ("int8_dynamic", 123_400_000))
        )
    ]
    for cell in cells if emulated else ():
        cell["latency"] = {**cell["latency"], "emulated": True}
        cell["instructions"] = {"total": total, "spread": 0.0}
    return report(*cells, device=made_up.EMULATED if emulated else made_up.LOCAL)


@pytest.mark.parametrize("width", [60, 80, 100, 140, 300])
@pytest.mark.parametrize("emulated", [True, False])
def test_no_line_is_wider_than_the_terminal_and_no_figure_is_cut_short(width: int, emulated: bool) -> None:
    text = shown(full(emulated), width)
    body = [line for line in text.splitlines() if not line.startswith("results: ")]  # a path can be copied whole
    assert max(map(cell_len, body)) <= width
    found = rows(text)
    assert len(found) == 9
    for row in found:
        assert "99.6" in row
        assert ("12.35" in row) if emulated else any(word.startswith("±1.0") for word in row)
    if width >= 100:
        assert all("538/540" in row and re.search(r" 1[23]\d\b", " ".join(row)) for row in found)
    assert ("no room for: " in text) == (width < 100)


def test_columns_go_in_their_order_and_wide_terminals_have_more() -> None:
    seen: list[set[str]] = []
    for width in range(200, 40, -1):
        lines = shown(full(False), width).splitlines()
        seen.append(set(next(line.split() for line in lines if line.split()[:1] == ["runtime"])))
    for wider, narrower in itertools.pairwise(seen):
        assert narrower <= wider
    gone = [sorted(wider - narrower) for wider, narrower in itertools.pairwise(seen) if wider != narrower]
    order = [name for names in gone for name in names]
    assert (
        order.index("loading") < order.index("p99") < order.index("right") < order.index("agree") < order.index("file")
    )
    assert {"p90", "p95", "p99", "first", "loading", "delta"} <= seen[0]
    assert {"runtime", "precision", "accuracy", "p50", "interval"} <= seen[-1]


def test_units_stand_in_the_heading_and_points_below_one_another() -> None:
    lines = shown(everything()).splitlines()
    heads, units = lines[1], lines[2]
    at = heads.index("p50") + len("p50")
    assert units[at - 2 : at] == "ms" and units.split().count("ms") == 1
    points = {line.rindex(".", 0, at) for line in lines[3:11]}
    assert len(points) == 1


def test_an_interval_that_is_too_wide_has_a_question_mark_and_a_legend() -> None:
    text = shown(everything())
    (row,) = [row for row in rows(text) if "2.03" in row or "2.03*" in row]
    assert row[-1] == "±1.0 %?".split()[-1]
    assert "? a wider interval than was asked for" in text
    assert "?" not in shown(full(False)), "all are as narrow as was asked for"
    assert "±" not in shown(full(True)), "an emulator's time has no error bar"


def test_columns_that_nothing_fills_are_left_out() -> None:
    text = shown(report(made_up.cell(p50_ms=2.0), made_up.cell("int8", p50_ms=1.0)))
    heads = text.splitlines()[1].split()
    assert heads == ["runtime", "precision", "p50", "loading"] or heads == [
        "runtime",
        "precision",
        "p50",
        "first",
        "loading",
    ]
    assert "1 thread in every runtime" in text
    text = shown(report(made_up.cell(p50_ms=2.0), made_up.cell(threads=4, p50_ms=1.0)))
    assert "threads" in text.splitlines()[1] and "1 thread in" not in text


def test_emulated_latency_is_marked_as_such_and_never_the_best() -> None:
    emulated, real = shown(full(True)), shown(full(False))
    assert "emul." in emulated.splitlines()[1] and "p50" not in emulated.splitlines()[1]
    assert "p50" in real.splitlines()[1] and "emul." not in real
    column = [row[-1] for row in rows(emulated)]
    assert len(set(column)) > 1 and not any("*" in figure for figure in column)


def test_the_failed_say_so_in_the_table_and_why_below() -> None:
    text = shown(everything())
    found = {tuple(row[1:4]): row[0] for row in rows(text) if row[0] in "x-"}
    assert found == {("executorch", "fp32", "1"): "x", ("executorch", "int8", "4"): "-"}
    assert "FAILED: executorch fp32 x1: the process died of SIGILL" in text
    assert "unsupported: executorch int8 x4: " in text
    long = made_up.cell("int8", status="failed", error={"message": "no " * 999, "hint": "first\nlast words"})
    text = shown(report(made_up.cell(p50_ms=1), long), 80)
    assert max(map(cell_len, text.splitlines())) <= 80 and ".." in text and len(text.splitlines()) < 20


@pytest.mark.parametrize(
    "name",
    ["[red]x[/red]", "[/]", "[bold", "[link=http://x]y[/link]", ":warning:", "{0}", "%s", "\N{BLACK STAR}", "測定器"],
)
def test_names_are_shown_as_they_are(name: str) -> None:
    line = made_up.cell(name, name, p50_ms=1.0, warnings=[{"code": "no-labels", "message": name}])
    bad = made_up.cell("int8", status="failed", error={"message": name, "hint": name})
    made = report(line, bad, device={**made_up.LOCAL, "name": name, "description": name})
    made.header["plan"]["name"] = name
    assert shown(made, 200).count(name) >= 8


@pytest.mark.parametrize("evil", ["\x1b[2J", "\x1b]0;x\x07", "\r\b", "\x9b31m", "a\nb", "\u202e", "\x00", "x" * 10_000])
def test_no_name_moves_colours_or_floods_the_terminal(evil: str) -> None:
    line = made_up.cell(evil, evil, p50_ms=1.0, warnings=[{"code": evil, "message": evil}])
    line["accuracy"] = {"metric": evil, "value": 0.5}
    bad = made_up.cell("int8", status="failed", error={"message": evil, "hint": evil})
    made = report(line, bad, device={**made_up.LOCAL, "name": evil, "description": evil}, data={"stated": [evil]})
    made.header["plan"]["name"] = evil
    for width in (80, 160):
        text = shown(made, width)
        assert all(mark.isprintable() or mark == "\n" for mark in text)
        assert max(map(cell_len, text.splitlines())) <= width and len(text.splitlines()) < 60


def test_an_encoding_without_stars_gets_other_marks() -> None:
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, "ascii", write_through=True) as stream:
        table.show(everything(), Console(width=100, file=stream, color_system=None))
        text = raw.getvalue().decode("ascii")
    assert ">o tflite       int8" in text and "~1.0 %" in text and "> to take: " in text
    assert [len(line) for line in text.splitlines()] == [len(line) for line in shown(everything()).splitlines()]


def test_several_devices_and_models_are_one_table_with_marks_of_their_own() -> None:
    def of(model: str, device: str, *ms: float) -> list[Json]:
        places = {"model": model, "device": device}
        cells = [timed(f"p{n}", "tflite", 1, one, 1000 * n, 500) for n, one in enumerate(ms, 1)]
        return [{**cell, **places, "id": f"{model}/{cell['precision']}/tflite@{device}"} for cell in cells]

    first = report(
        *of("net", "board", 3.0, 1.0), *of("other", "board", 7.0, 9.0), device={**made_up.LOCAL, "name": "board"}
    )
    second = report(*of("net", "phone", 0.3, 0.1), device={**made_up.LOCAL, "name": "phone"})
    lines = shown(Reports([first, second], {}), 140).splitlines()
    heads = next(line for line in lines if "runtime" in line and "precision" in line)
    assert heads.split()[:4] == ["device", "model", "runtime", "precision"]
    picked = [line.split()[1:5:3] for line in lines if line.startswith(table.PICK) and "tflite" in line]
    assert picked == [["board", "p2"], ["board", "p1"], ["phone", "p2"]]
    assert sum(re.search(r"\d\*", line.rpartition("540")[2]) is not None for line in lines) >= 3


def test_where_devices_are_judged_otherwise_each_legend_names_its_own() -> None:
    counted = [
        timed(p, "tflite", 1, 3.0, 1000, 500, instructions={"total": 5, "spread": 0.0}) for p in ("fp32", "int8")
    ]
    for cell in counted:
        cell["latency"] = {**cell["latency"], "emulated": True}
    real = [timed(p, "tflite", 1, 3.0, 1000, 500) for p in ("fp32", "int8")]
    text = shown(Reports([report(*counted, device=made_up.EMULATED), report(*real)], {}), 200)
    assert f"{table.PICK} to take (pi4): fewest instructions" in text and f"{table.PICK} to take (board): " in text
    assert f"{table.FRONT} the Pareto set (pi4): no other of its precision is as good in instructions," in text
    assert f"{table.FRONT} the Pareto set (board): no other is as good in latency," in text
    assert text.count("±1.0 %") == 2 and "emul." in text, "neither stands in the other's column"


def figures() -> st.SearchStrategy[list[tuple[float, int, int, str]]]:
    """Cells as (median in ms, right answers, bytes, precision): few values, so that many are alike."""
    medians, sizes = st.sampled_from([1.0, 1.015, 2.0, 3.0]), st.sampled_from([1000, 2000, 3000])
    one = st.tuples(medians, st.integers(530, 540), sizes, st.sampled_from(["fp32", "int8"]))
    return st.lists(one, min_size=2, max_size=9)


def beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """As good in everything, and better in something; less is better."""
    return all(a <= b for a, b in zip(one, other, strict=True)) and one != other


@given(figures(), st.booleans())
def test_the_marks_are_the_pareto_set_the_pick_and_the_best_figures(
    found: list[tuple[float, int, int, str]], emulated: bool
) -> None:
    cells = []
    for number, (ms, right, size, precision) in enumerate(found):
        cell = timed(precision, f"r{number}", 1, ms, size, right)
        if emulated:
            cell["latency"] = {**cell["latency"], "emulated": True}
            cell["instructions"] = {"total": round(ms * 1000), "spread": 0.0}
        cells.append(cell)
    text = shown(report(*cells, device=made_up.EMULATED if emulated else made_up.LOCAL), 200)
    lines = [line for line in text.splitlines() if re.search(r"\br\d ", line) and ":" not in line]
    assert len(lines) == len(cells)
    judged = [(ms, -right, size) for ms, right, size, _ in found]
    for number, line in enumerate(lines):
        among = [n for n in range(len(found)) if not emulated or found[n][3] == found[number][3]]
        member = not any(beats(judged[other], judged[number]) for other in among)
        assert (line[1] == table.FRONT) == member
    assert [n for n, line in enumerate(lines) if line[0] == table.PICK] == sorted(
        cells.index(cell) for cell, _ in choice.pick(cells)
    )
    heads = text.splitlines()[1]
    end = heads.index("file") + len("file")
    least = min(size for _, _, size, _ in found)
    alike = len({size for _, _, size, _ in found}) == 1
    assert [line[end] == "*" for line in lines] == [size == least and not alike for _, _, size, _ in found]
    if not emulated:
        end = heads.index("p50") + len("p50")
        marked = [re.match(r"[\d.]*\*", line[end - 5 :].lstrip()) is not None for line in lines]
        fast = min(ms for ms, *_ in found)
        near = [0.99 * ms <= 1.01 * fast for ms, *_ in found]
        assert marked == ([False] * len(near) if all(near) else near)


def test_figures_that_read_alike_are_marked_alike() -> None:
    sizes = {"a": 25_100, "b": 25_200, "c": 99_000}
    text = shown(report(*(timed("fp32", name, 1, 1.0, size, 500) for name, size in sizes.items())))
    assert ["25*" in row for row in rows(text)] == [True, True, False]
    del sizes["c"]
    text = shown(report(*(timed("fp32", name, 1, 1.0, size, 500) for name, size in sizes.items())))
    assert ["25" in row for row in rows(text)] == [True, True], "all read alike, so none is the best"


def test_of_ten_thousand_cells_the_pareto_set_and_the_cheapest_are_shown() -> None:
    cells = [timed(f"p{n}", "tflite", 1, 100.0 - n / 200, 1000 + n % 7, 500) for n in range(10_000)]
    cells[0]["artifact"]["size_bytes"] = 1  # the slowest of all, and the smallest
    cells[4] |= {"status": "failed", "error": {"message": "no"}, "energy": {"mj_per_inference": 1.0}}
    text = shown(report(*cells))
    lines = text.splitlines()
    found = rows(text)
    assert len(found) == table.ROWS and len(lines) < table.ROWS + 30
    front = [row[0] in (table.PICK + table.FRONT, table.FRONT) for row in found]
    assert front[0] and front == sorted(front, reverse=True) and 1 < sum(front) < 10, "the Pareto set comes first"
    numbers = [int(re.search(r"p(\d+)", " ".join(row))[1]) for row in found]  # type: ignore[index]
    assert 0 in numbers[: sum(front)]
    assert numbers[sum(front) :] == sorted(numbers[sum(front) :], reverse=True), "and then the fastest"
    assert f"{10_000 - table.ROWS:,} more cells are not shown" in text and "--format csv has all" in text
    assert "FAILED: tflite p4: no" in text


def test_where_nothing_tells_the_cost_nothing_is_marked() -> None:
    text = shown(report(made_up.cell(p50_ms=2.0, emulated=True), made_up.cell("int8", p50_ms=1.0, emulated=True)))
    assert table.PICK not in text and table.FRONT not in text and "to take" not in text
    assert table.PICK not in shown(report(made_up.cell(p50_ms=2.0))), "one cell is no choice"


def test_a_run_without_a_cell_says_where_it_is() -> None:
    lines = shown(report()).splitlines()
    assert lines == [
        "net on board: a board",
        "results: results/20260101-000000-net-board-abcd/run.json, measurements.jsonl",
    ]
