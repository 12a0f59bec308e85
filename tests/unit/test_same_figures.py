"""One made-up run in every form of a report: each figure is the same number with the same unit, wherever it is told.

The machine forms (JSON, CSV, JUnit, data frame, TensorBoard, MLflow) tell all figures as they are, under names that tell the unit;
those for people (Markdown, the page, the terminal) tell some of them, rounded, with the unit beside them.
"""

from __future__ import annotations

import copy
import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import made_up
import pytest

from edgekit.report import Report, Reports, forms, html, mlflow, table, tensorboard
from edgekit.report.columns import COLUMNS, SHOWN, Column

FIGURES = {column.name: column for column in COLUMNS if column.number}
# How many of the unit that a column is kept in one of a unit that people read is.
SCALES = {
    "ns": {"ns": 1.0, "us": 1e3, "ms": 1e6, "s": 1e9},
    "B": {"B": 1.0, "kB": 1e3, "MB": 1e6, "MiB": 2.0**20},
    "count": {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9},
    "1": {"": 1.0, "%": 0.01},
    "dB": {"dB": 1.0},
    "mJ": {"uJ": 1e-3, "mJ": 1.0, "J": 1e3},
    "mW": {"mW": 1.0},
    "s": {"s": 1.0},
}
# How names tell units. A bare name is a count or a pure number.
ENDINGS = {"ns": "_ns", "B": "_bytes", "dB": "_db", "mW": "_mw"}
# What the terminal calls a figure: columns with a unit below the heading.
HEADINGS = {
    "accuracy": "accuracy", "agree": "agreement", "SQNR": "sqnr_db", "file": "file_bytes", "load": "load_peak_bytes",
    "run": "run_peak_bytes", "delta": "delta_bytes", "instr.": "instructions", "emul.": "p50_ns", "estimated": "estimate_ns",
    "energy": "mj_per_inference", "p50": "p50_ns", "p90": "p90_ns", "p95": "p95_ns", "p99": "p99_ns", "first": "first_ns",
    "loading": "load_ns", "interval": "p50_half_width",
}  # fmt: skip
ON_REAL_DEVICES = {
    "p50_half_width",
    "p90_ns",
    "p95_ns",
    "p99_ns",
    "first_ns",
    "load_ns",
}  # the terminal leaves an emulator's to the page
Told = dict[str, tuple[float, str]]  # by column's name: a number and its unit


def figure(column: Column, place: int, cell: int) -> float:
    """A figure that no other column or cell has."""
    number = 100 * place + 7 * cell + 3
    if column.unit == "1":
        return number / 10_007
    if column.unit in ("dB", "mJ", "mW", "s"):
        return number / 97
    return number * {"ns": 104_729, "B": 15_485, "count": 1}[column.unit]


def filled(cell: dict[str, Any], number: int, emulated: bool) -> dict[str, Any]:
    """A cell with a figure in every column."""
    for place, column in enumerate(FIGURES.values()):
        inside = cell
        for key in column.path[:-1]:
            inside = inside.setdefault(key, {})
        inside[column.path[-1]] = figure(column, place, number)
    cell["latency"] |= {"emulated": emulated, "conclusive": True}
    cell["accuracy"] |= {"metric": "top1"}
    cell["artifact"] |= {"sha256": "5" * 64}
    cell["instructions"] |= {"samples": 3}
    cell["estimate"] |= {"error": 0.1, "method": "made up", "sources": ["nobody"]}
    cell["energy"] |= {"method": "made up", "seconds": 1.0, "calls": 1}
    cell["operators"] |= {
        "operators": [],
        "runs": 1,
        "total_ns": 10,
        "unprofiled_share": 0.1,
        "runtime_profiler": "made up",
    }
    cell["operators"] |= {"resolution_ns": 1, "parameters": 1}
    windows = [{"start_s": 0.0, "end_s": 1.0, "calls": 1, "p50_ns": cell["sustained"]["start_ns"]}]
    end = cell["sustained"]["steady_ns"]
    cell["sustained"] |= {"asked_s": 60.0, "ran_s": 60.0, "calls": 1, "end_ns": end, "windows": windows}
    cell["threads"], cell["batch"] = 1 + number, 1 + number
    cell["id"] = f"net/{cell['precision']}/{cell['runtime']}@board+threads={1 + number}"
    return cell


@pytest.fixture(scope="module", params=[False, True], ids=["real", "emulated"])
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Three cells with every figure there is, on a real device and on an emulated one."""
    emulated: bool = request.param
    device = made_up.EMULATED if emulated else made_up.LOCAL
    cells = [
        filled(made_up.cell(precision, runtime), number, emulated)
        for number, (precision, runtime) in enumerate([("fp32", "tflite"), ("int8", "tflite"), ("int8", "onnxruntime")])
    ]
    path = tmp_path_factory.mktemp("run") / "20260101-000000-net-board-abcd"
    path.mkdir()
    form = made_up.report(*cells, run=path.name, device=device)
    header = {**form, "device": {**form["device"], "runtimes": ["tflite"]}, "started": "2026-01-01T00:00:00Z"}
    plan = {
        "model": "net",
        "name": "net",
        "device": "board",
        "runtimes": ["tflite"],
        "precisions": ["fp32"],
        "threads": [1],
    }
    header["plan"] = {**form["plan"], **plan, "cells": [cell["id"] for cell in cells]}
    (path / "run.json").write_text(json.dumps({key: value for key, value in header.items() if key != "cells"}), "utf-8")
    lines = [{"id": cell["id"], "status": "ok", "cell": {}, "error": None, "warnings": []} for cell in cells]
    (path / "measurements.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines), "utf-8")
    found = Report(path.name, path, 1, header, copy.deepcopy(cells), [], None)
    jsonschema.validate(found.to_json(), forms.schema("report"))
    return found


# ---- the machine forms: by cell, the number under each name ----


def from_json(report: Report, _: Path) -> dict[str, dict[str, float]]:
    cells = json.loads(forms.as_json(report))["cells"]
    return {cell["id"]: {name: column.of(cell) for name, column in FIGURES.items()} for cell in cells}


def from_csv(report: Report, _: Path) -> dict[str, dict[str, float]]:
    rows = csv.DictReader(io.StringIO(forms.as_csv(report)))
    return {row["id"]: {name: json.loads(row[name]) for name in FIGURES} for row in rows}


def from_junit(report: Report, _: Path) -> dict[str, dict[str, float]]:
    cases = ElementTree.fromstring(forms.as_junit(report)).iter("testcase")
    return {
        case.attrib["name"]: {one.attrib["name"]: json.loads(one.attrib["value"]) for one in case.iter("property")}
        for case in cases
    }


def from_frame(report: Report, _: Path) -> dict[str, dict[str, float]]:
    frame = report.to_dataframe().set_index("id")
    assert frame.attrs["units"] == {name: column.unit for name, column in FIGURES.items()}
    return {name: {column: float(row[column]) for column in FIGURES} for name, row in frame.iterrows()}


def from_tensorboard(report: Report, folder: Path) -> dict[str, dict[str, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    told = {}
    for cell, place in zip(report.cells, tensorboard.write(report, folder), strict=True):
        reader = EventAccumulator(str(place)).Reload()
        told[cell["id"]] = {tag: reader.Scalars(tag)[0].value for tag in reader.Tags()["scalars"]}
    return told


def from_mlflow(report: Report, folder: Path) -> dict[str, dict[str, float]]:
    from mlflow import MlflowClient

    made = mlflow.log(report, folder.as_uri())
    client = MlflowClient(tracking_uri=folder.as_uri())
    return {run.info.run_name: run.data.metrics for run in map(client.get_run, made)}


MACHINE: dict[str, Callable[[Report, Path], dict[str, dict[str, float]]]] = {
    "json": from_json, "csv": from_csv, "junit": from_junit, "frame": from_frame,
    "tensorboard": from_tensorboard, "mlflow": from_mlflow,
}  # fmt: skip
HEAVY = {"tensorboard", "mlflow"}
KEPT = {"tensorboard": 1e-6}  # TensorBoard keeps 32 bits of a figure


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.runtimes] if name in HEAVY else []) for name in MACHINE]
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_machine_forms_tell_every_figure_as_it_is(
    report: Report, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name_of, value in {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_ALLOW_FILE_STORE": "true"}.items():
        monkeypatch.setenv(name_of, value)
    told = MACHINE[name](report, tmp_path)
    assert list(told) == [cell["id"] for cell in report.cells]
    for cell in report.cells:
        assert told[cell["id"]].keys() >= FIGURES.keys()
        for column in FIGURES.values():
            found = told[cell["id"]][column.name]
            assert found == pytest.approx(column.of(cell), rel=KEPT.get(name, 0), abs=0), (column.name, cell["id"])


@pytest.mark.parametrize("column", FIGURES.values(), ids=FIGURES)
def test_a_name_tells_its_unit(column: Column) -> None:
    for unit, ending in ENDINGS.items():
        assert column.name.endswith(ending) == (column.unit == unit)
    assert column.name.endswith("_s") == (column.unit == "s") or column.unit == "count"
    assert column.name.startswith("mj_") == (column.unit == "mJ")
    assert column.unit in SCALES


# ---- the forms for people: by cell, number and unit ----


def apart(text: str) -> tuple[float, str]:
    """16.1 MiB as its number and its unit; an interval's half without its sign."""
    found = re.fullmatch(r"\N{PLUS-MINUS SIGN}?(-?[\d,.]+)\s?(\D*)", text)
    assert found, f"'{text}' is not a number with a unit"
    return float(found[1].replace(",", "")), found[2]


def digit(text: str) -> float:
    """What one of the last digit shown is."""
    found = re.match(r"\D?[\d,]+(?:\.(\d+))?", text)
    assert found, text
    return 10.0 ** -len(found[1] or "")


@dataclass
class Shown:
    """A table for people: its headings with units, if any, and its rows."""

    columns: list[str]
    rows: list[list[str]]
    units: list[str] = field(default_factory=list)


def from_markdown(report: Report) -> Shown:
    rows = [line for line in forms.as_markdown(report).splitlines() if line.startswith("| ")]
    split = [[text.strip() for text in row.strip("|").split("|")][1:] for row in rows if not row.startswith("| ---")]
    return Shown([column.name for column in COLUMNS if column.name in SHOWN], split[1:])


class Cells(HTMLParser):
    """The table of the page: texts and sort keys."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.text, self.key = False, "", ""
        self.rows: list[list[tuple[str, str]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        held = dict(attrs)
        if tag == "section":
            self.inside = held.get("id") == "cells"
        if self.inside and tag == "tr":
            self.rows.append([])
        if self.inside and tag in ("td", "th"):
            self.text, self.key = "", held.get("data-key") or ""

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_endtag(self, tag: str) -> None:
        if self.inside and tag in ("td", "th"):
            self.rows[-1].append((self.text.strip(), self.key))


def page_of(report: Report) -> list[list[tuple[str, str]]]:
    """The rows of the page's table, the headings first."""
    reader = Cells()
    reader.feed(html.render(report, []))
    return reader.rows


def from_page(report: Report) -> Shown:
    heads, *rows = page_of(report)
    names = [column.name for _, column in html.columns(report)]
    assert [text for text, _ in heads[1:-1]] == [heading for heading, _ in html.columns(report)]
    for row, cell in zip(rows, report.cells, strict=True):
        for (_, key), name in zip(row[1:-1], names, strict=True):
            assert json.loads(key) == next(c for c in COLUMNS if c.name == name).of(cell), name  # what a click sorts by
    return Shown(names, [[text for text, _ in row[1:-1]] for row in rows])


def from_terminal(report: Report) -> Shown:
    """The table cut at the right edges of its headings; behind a figure may stand a mark."""
    from rich.console import Console

    target = io.StringIO()
    table.show(report, Console(width=400, file=target, highlight=False, color_system=None))
    lines = target.getvalue().splitlines()
    start = next(number for number, line in enumerate(lines) if "runtime" in line and "precision" in line)
    ends = [(found[0], found.end()) for found in re.finditer(r"\S+(?: \S+)*", lines[start])]
    size = max(map(len, lines[start : start + 2 + len(report.cells)]))
    cut = [line.ljust(size) for line in lines[start + 1 : start + 2 + len(report.cells)]]
    texts = []
    for line in cut:
        begin, parts = 0, []
        for number, (_, end) in enumerate(ends):
            after = end + 1 if number else len(re.match(r".*?precision|.*", lines[start])[0])  # type: ignore[index]
            parts.append(line[begin:end].strip(" *?") if number else "")
            begin = after
        texts.append(parts)
    kept = [number for number, (heading, _) in enumerate(ends) if heading in HEADINGS]
    told = Shown(
        [HEADINGS[ends[number][0]] for number in kept], [[row[number] for number in kept] for row in texts[1:]]
    )
    told.units = [texts[0][number] for number in kept]
    return told


PEOPLE = {"markdown": from_markdown, "page": from_page, "terminal": from_terminal}


@pytest.mark.parametrize("name", PEOPLE)
def test_forms_for_people_tell_the_same_figures(report: Report, name: str) -> None:
    shown = PEOPLE[name](report)
    emulated = report.header["device"]["emulated"]
    expected: Iterator[str] = {
        "markdown": iter(SHOWN),
        "page": iter(html.SHOWN),
        "terminal": (one for one in HEADINGS.values() if not (emulated and one in ON_REAL_DEVICES)),
    }[name]
    assert set(shown.columns) == set(expected)
    assert len(shown.rows) == len(report.cells)
    for row, cell in zip(shown.rows, report.cells, strict=True):
        for place, (text, column) in enumerate(zip(row, shown.columns, strict=True)):
            number, unit = apart(text)
            unit = unit or (shown.units[place].split()[-1] if shown.units and shown.units[place] else "")
            known = FIGURES[column]
            assert unit in SCALES[known.unit], (column, text, unit)
            scale = SCALES[known.unit][unit]
            assert abs(number * scale - known.of(cell)) <= 0.5001 * digit(text) * scale, (
                column,
                text,
                unit,
                known.of(cell),
            )
            assert known.of(cell) == 0 or abs(number * scale / known.of(cell) - 1) < 0.05, (
                column,
                text,
            )  # enough digits


# chart, part -> the column that a bar is of, and what one of the column's unit is on the axis: seconds, MiB, joules
BARS = {
    ("latency", ""): ("p50_ns", 1e-9), ("emulated", ""): ("p50_ns", 1e-9), ("estimate", ""): ("estimate_ns", 1e-9),
    ("quality", ""): ("accuracy", 1.0), ("energy", ""): ("mj_per_inference", 1e-3),
    ("memory", "load peak"): ("load_peak_bytes", 2.0**-20), ("memory", "run peak"): ("run_peak_bytes", 2.0**-20),
}  # fmt: skip


def test_the_charts_of_the_page_draw_the_same_figures(report: Report) -> None:
    names = {name: cell for cell in report.cells for name in [html.short_names(Reports([report], {}))[cell["id"]]]}
    page = html.render(report, [])
    found = re.search(r'<script[^>]*type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL)
    assert found
    drawn = set()
    for chart in json.loads(found[1])["charts"]:
        for row in chart["rows"]:
            bar = (chart["id"], row.get("part", ""))
            if bar not in BARS:
                continue
            name, scale = BARS[bar]
            value = FIGURES[name].of(names[row["label"]])
            assert row["value"] == pytest.approx(value * scale, rel=1e-12), bar
            text = row["text"].partition(" \N{PLUS-MINUS SIGN}")[0]
            number, unit = apart(text)
            one = SCALES[FIGURES[name].unit][unit]
            assert abs(number * one - value) <= 0.5001 * digit(text) * one, (bar, text)
            drawn.add(bar)
    time = "emulated" if report.header["device"]["emulated"] else "latency"
    assert drawn == {bar for bar in BARS if bar[0] not in {"latency", "emulated"} - {time}}


def test_the_table_of_the_page_is_as_recorded() -> None:
    golden = Path(__file__).parents[1] / "golden" / "forms"
    told = [" | ".join(text for text, _ in row) for row in page_of(Report.load(golden / "run"))]
    assert told == (golden / "report.html.txt").read_text("utf-8").splitlines()
