"""The page of a run without a browser: its size, its figures, what is left out, the command; test_page.py opens it."""

from __future__ import annotations

import html.parser
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import page as made
import pytest

from edgekit import cli, store
from edgekit.report import Report, chart_rows, charts, columns, reproduce
from edgekit.report import html as report_html


class Reader(html.parser.HTMLParser):
    """The cells of the table, the data of the charts, and every address that the page names."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.table: list[str] = []
        self.data: Any = None
        self.addresses: list[str] = []
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        told = dict(attributes)
        self.inside = "data" if told.get("id") == "data" else tag
        self.addresses += [str(told[key]) for key in ("src", "href") if key in told]

    def handle_data(self, data: str) -> None:
        if self.inside == "td":
            self.table.append(data.strip())
        elif self.inside == "data":
            self.data = json.loads(data)
        self.inside = "" if self.inside == "data" else self.inside


def written(folder: Path, lines: list[dict[str, Any]], **more: Any) -> tuple[Report, str]:
    report = Report.load(made.write(folder, lines, **more))
    return report, report_html.write(report).read_text("utf-8")


def chart(text: str, name: str) -> list[dict[str, Any]]:
    """The rows of a chart; none where there is no such chart."""
    found: list[list[dict[str, Any]]] = [one["rows"] for one in Reader(text).data["charts"] if one["id"] == name]
    return found[0] if found else []


@pytest.mark.slow
def test_two_hundred_cells_are_less_than_three_megabytes_and_name_no_address(tmp_path: Path) -> None:
    _, text = written(tmp_path, [made.line(number) for number in range(200)])
    assert len(text.encode()) < 3_000_000
    assert Reader(text).addresses == []


def test_the_table_has_the_figures_of_every_other_form(tmp_path: Path) -> None:
    report, text = written(tmp_path, [made.line(number) for number in range(3)])
    shown = Reader(text).table
    for name in ("p50_ns", "p95_ns", "instructions", "accuracy", "file_bytes", "run_peak_bytes", "mj_per_inference"):
        (column,) = (one for one in columns.COLUMNS if one.name == name)
        for cell in report.cells:
            assert column.text(cell) in shown, name


def test_the_charts_have_the_figures_of_the_machine_form(tmp_path: Path) -> None:
    report, text = written(tmp_path, [made.line(number) for number in range(4)])
    latency = sorted(row["value"] for row in chart(text, "latency"))
    assert latency == sorted(cell["latency"]["p50_ns"] / 1e9 for cell in report.cells)
    for row in chart(text, "latency"):
        assert row["low"] <= row["value"] <= row["high"]
    by_cell: dict[str, int] = {}
    for row in chart(text, "instructions"):
        by_cell[row["label"]] = by_cell.get(row["label"], 0) + row["value"]
    assert sorted(by_cell.values()) == [1000] * 4, "the classes that the fake counts add up to its total"
    assert [row["value"] for row in chart(text, "memory")][:2] == [30.0, 31.0]
    assert {row["launch"] for row in chart(text, "launches")} == set(range(1, 7))


def test_what_was_not_measured_has_no_chart(tmp_path: Path) -> None:
    line = made.line(1)
    for key in ("operators", "sustained", "energy", "accuracy", "fidelity", "memory"):
        del line[key]
    _, text = written(tmp_path, [line])
    assert [one["id"] for one in Reader(text).data["charts"]] == ["latency", "instructions", "launches"]


def test_an_emulated_latency_is_never_the_boards(tmp_path: Path) -> None:
    _, text = written(tmp_path, [made.line(1)], emulated=True)
    assert chart(text, "emulated") and not chart(text, "latency")
    assert "p50 (emulated)" in text


def test_more_cells_than_can_be_drawn_are_in_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "CHARTED", 4)
    report, text = written(tmp_path, [made.line(number, samples=5) for number in range(9)])
    drawn = {row["label"] for row in chart(text, "latency")}
    assert len(drawn) == 4
    assert "5 more are in the table only" in text
    assert text.count('<th scope="row"') == len(report.cells) == 9


def test_the_lines_of_a_run_are_looked_at_one_at_a_time() -> None:
    alive = 0

    class Line(dict[str, Any]):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def lines() -> Iterator[dict[str, Any]]:
        nonlocal alive
        for number in range(20):
            alive += 1
            assert alive <= 2
            yield Line(made.line(number, samples=5))

    places = {made.line(number, samples=5)["id"]: number for number in range(20)}
    assert len(list(chart_rows.launches(lines(), places))) == 20 * 6


def test_quantiles_are_per_call(tmp_path: Path) -> None:
    launch = {"samples_ns": [1000, 2000, 3000, 4000, 5000], "batch": 10}
    line = {"id": "a", "status": "ok", "launches": [launch, {"samples_ns": [], "batch": 1}]}
    (row,) = chart_rows.launches([line], {"a": 3})
    assert (row["i"], row["p25"], row["p50"], row["p75"], row["median"]) == (3, 2e-7, 3e-7, 4e-7, "300 ns")


def test_a_page_that_cannot_be_written_does_not_end_the_run(tmp_path: Path) -> None:
    run = store.Run.load(made.write(tmp_path, [made.line(1)]))
    (run.path / report_html.NAME).mkdir()
    told: list[str] = []
    report_html.leave(run, told.append)
    assert len(told) == 1 and "report.html could not be written" in told[0]


@pytest.mark.parametrize(
    "args",
    [
        ["net", "--device", "board", "--runtime", "tflite,onnxruntime", "--precision", "fp32,int8", "--threads", "1,4"],
        ["my net.tflite", "--device", "b", "--batch", "1,8", "--input", "1x3x8x8", "--data", "a b", "--samples", "9", "--trust"],
        ["net", "--device", "b", "--gate", "--operators", "--energy", "--sustained", "90", "--host", "pi@there", "--port", "22"],
        ["net", "--device", "b", "--launches", "3", "--calls", "7", "--metric", "top5", "--power-meter", "/dev/ttyUSB0"],
    ],
)  # fmt: skip
def test_the_command_asks_for_what_was_asked_for(args: list[str]) -> None:
    asked = cli.parse(["profile", *args])
    fixed = asked.launches is not None or asked.calls is not None
    plan = {
        "model": asked.model, "device": asked.device, "runtimes": list(asked.runtime or ("tflite",)),
        "precisions": list(asked.precision or ("fp32",)), "threads": list(asked.threads or (1,)), "samples": asked.samples,
        "batches": list(asked.batch or ()), "inputs": asked.input, "data": asked.data, "metric": asked.metric,
        "trust": asked.trust, "level": "gate" if asked.gate else None, "operators": asked.operators,
        "energy": asked.energy, "power_meter": asked.power_meter, "sustained_s": asked.sustained,
        "connection": {"host": "pi@there", "port": 22} if asked.host else {},
        "effort": {"target": 0.0 if fixed else 0.02, "launches": asked.launches or 6, "calls": asked.calls, "max_seconds": 60.0},
    }  # fmt: skip
    again = cli.parse(shlex.split(reproduce.command({"plan": plan}))[1:])
    for name, value in vars(asked).items():
        if value and name not in ("run", "max_seconds"):
            assert getattr(again, name) == value, name
    assert again.max_seconds == 60.0


def test_an_accuracy_has_its_interval_and_an_axis_room(tmp_path: Path) -> None:
    report, text = written(tmp_path, [made.line(1)])
    (row,) = chart(text, "quality")
    assert [row["low"], row["high"]] == report.cells[0]["accuracy"]["interval"]
    assert charts.limits([0.5, 0.7]) == (pytest.approx(0.48), pytest.approx(0.72))
    assert charts.limits([0.99, 0.99])[1] == pytest.approx(0.9999) and charts.limits([0.995])[1] == 1.0
    assert charts.limits([30.0]) == (pytest.approx(29.7), pytest.approx(30.3))


def test_operators_of_an_emulated_device_are_told_by_their_instructions(tmp_path: Path) -> None:
    line = made.line(1)
    profile = line["operators"] | {"emulated": True, "total_instructions": 1000}
    for index, one in enumerate(
        profile["operators"]
    ):  # the dearest by the emulator's time is the cheapest by its count
        one |= {"ns": 1000 * (index + 1), "share": 0.9 if index == 13 else 0.005, "instructions": 120 - 8 * index}
    _, text = written(tmp_path, [line | {"operators": profile}], emulated=True)
    rows = chart(text, "operators")
    assert [row["value"] for row in rows][:3] == [0.12, 0.112, 0.104]
    assert rows[0]["cost"] == "120 instructions"
    shares = {row["part"]: row["value"] for row in chart(text, "delegation")}
    assert shares["runtime"] == pytest.approx(sum(120 - 8 * index for index in range(0, 14, 3)) / 1000)
    assert sum(shares.values()) == pytest.approx(1)
    assert "shares of the instructions of one profiled inference" in text
    uncounted = {key: value for key, value in profile.items() if key != "total_instructions"}
    _, text = written(tmp_path / "vm", [line | {"operators": uncounted}], emulated=True)
    assert "the emulator&#39;s and not the board&#39;s" in text


def test_words_without_end_do_not_make_a_page_without_end(tmp_path: Path) -> None:
    name = "n" * 10_000
    lines = [made.line(number, name, launches=2, samples=5) for number in range(100)]
    for number, line in enumerate(lines):
        line["warnings"] = [{"code": "busy", "message": f"{number} {name}"}]
    failed = [made.failed(name + str(number)) for number in range(50)]
    _, text = written(tmp_path, [*lines, *failed], name=name)
    assert len(text.encode()) < 3_000_000
    assert "90 more such figures are in measurements.jsonl" in text


def test_cells_have_different_names_on_a_page_however_long_these_are(tmp_path: Path) -> None:
    lines = [made.line(6) | {"id": "n" * 5000 + str(number)} for number in range(3)]
    _, text = written(tmp_path, lines)
    assert len({row["label"] for row in chart(text, "latency")}) == 3


def test_a_batch_of_one_is_one_in_the_table(tmp_path: Path) -> None:
    lines = [made.line(number) for number in range(3)]
    lines[2]["cell"]["options"] = [["batch", "8"]]
    report = Report.load(made.write(tmp_path, lines))
    shown = [one for one in report_html.columns(report) if one[0] == "batch"]
    found = report_html.rows(report.cells, shown, {cell["id"]: "" for cell in report.cells}, set(), set())
    assert [row["values"] for row in found] == [[("1", 1)], [("1", 1)], [("8", 8)]]


def test_a_table_with_too_many_cells_has_those_that_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_html, "LISTED", 3)
    cells = [{"id": name} for name in "abcdef"]
    assert [cell["id"] for cell in report_html.listed(cells, {"f", "c"})] == ["a", "c", "f"]
    assert report_html.listed(cells[:3], {"c"}) == cells[:3]


def test_a_page_says_how_many_sustained_runs_it_does_not_draw(tmp_path: Path) -> None:
    _, text = written(tmp_path, [made.line(number) for number in range(9)])
    assert "The 8 cells of the best steady state are drawn, of 9." in text
    _, text = written(tmp_path / "few", [made.line(number) for number in range(8)])
    assert "best steady state are drawn" not in text


def test_a_name_that_is_no_text_is_written_too(tmp_path: Path) -> None:
    _, text = written(tmp_path, [made.line(1, "net\udcff")], name="net\udcff")
    assert "net? on board" in text


def test_why_there_is_no_estimate_is_said(tmp_path: Path) -> None:
    report = Report.load(made.write(tmp_path, [made.line(1)], emulated=True))
    (cell,) = report.cells
    cell["estimate"] = {"refused": "no figures of this board <are> published"}
    text = report_html.render(report, [])
    assert "not estimated: no figures of this board &lt;are&gt; published" in text
