"""The forms of a report: each as recorded, the same figures in all of them, what is hostile inert; the published schema holds."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import json
import re
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from edgekit.errors import EdgekitError, SetupError
from edgekit.report import Report, Reports, forms, mlflow, tensorboard
from edgekit.report.columns import COLUMNS, SHOWN, numbers

GOLDEN = Path(__file__).parents[1] / "golden"
RUN = GOLDEN / "forms" / "run"
SUFFIX = {"json": "json", "csv": "csv", "markdown": "md", "junit": "xml", "trace": "trace.json"}


@pytest.fixture(scope="module")
def report() -> Report:
    """A run on a board with all kinds of cells and of figures, one cell short of its plan."""
    return Report.load(RUN)


@pytest.mark.parametrize("name", sorted(forms.FORMS))
def test_each_form_is_as_recorded(report: Report, name: str) -> None:
    recorded = (GOLDEN / "forms" / f"report.{SUFFIX[name]}").read_bytes().decode()
    assert forms.FORMS[name](report) == recorded


def test_the_recorded_run_has_every_column_that_a_board_has(report: Report) -> None:
    absent = {column.name for column in COLUMNS if all(column.of(cell) is None for cell in report.cells)}
    counts = {column.name for column in COLUMNS if column.path[0] in ("instructions", "estimate")}
    assert absent == counts | {"batch"}


def test_every_figure_is_the_same_in_every_form(report: Report) -> None:
    by_json = {cell["id"]: numbers(cell) for cell in json.loads(forms.as_json(report))["cells"]}
    by_csv = {row["id"]: row for row in csv.DictReader(io.StringIO(forms.as_csv(report)))}
    by_junit = {
        case.attrib["name"]: {held.attrib["name"]: held.attrib["value"] for held in case.iter("property")}
        for case in ElementTree.fromstring(forms.as_junit(report)).iter("testcase")
    }
    frame = report.to_dataframe().set_index("id")
    assert by_json.keys() == by_csv.keys() == by_junit.keys() == set(frame.index)
    for name, figures in by_json.items():
        for column in COLUMNS:
            if not column.number:
                continue
            figure = figures.get(column.name)
            assert by_csv[name][column.name] == ("" if figure is None else str(figure))
            assert by_junit[name].get(column.name) == (None if figure is None else str(figure))
            held = frame.loc[name, column.name]
            assert (held is None or held != held) if figure is None else held == figure
    assert frame.attrs["units"]["p50_ns"] == "ns" and frame.attrs["units"]["run_peak_bytes"] == "B"
    assert sum(map(len, by_json.values())) > 60


SCALES = {
    "ns": 1,
    "us": 1e3,
    "ms": 1e6,
    "s": 1e9,
    "B": 1,
    "kB": 1e3,
    "MB": 1e6,
    "MiB": 1 << 20,
    "k": 1e3,
    "M": 1e6,
    "%": 0.01,
}


def test_the_markdown_shows_the_same_figures_with_their_units(report: Report) -> None:
    rows = [
        line
        for line in forms.as_markdown(report).splitlines()
        if line.startswith("| ") and not line.startswith("| ---")
    ]
    names = [
        column
        for column in COLUMNS
        if column.name in SHOWN and any(column.of(cell) is not None for cell in report.cells)
    ]
    seen = 0
    for row, cell in zip(rows[1:], report.cells, strict=True):
        texts = [text.strip() for text in row.strip("|").split("|")][1 : 1 + len(names)]
        for column, text in zip(names, texts, strict=True):
            value = column.of(cell)
            assert bool(text) == (value is not None)
            if value is None:
                continue
            found = re.fullmatch(r"(-?[\d.]+)(?: (\S+))?", text)
            assert found, text
            scale = SCALES.get(found[2], 1)
            digit = scale * 10 ** -len(found[1].partition(".")[2])
            assert abs(float(found[1]) * scale - value) <= 0.501 * digit, (column.name, text)
            seen += 1
    assert seen > 20


def test_the_markdown_and_the_terminal_say_figures_alike(report: Report) -> None:
    from rich.console import Console

    from edgekit.report import table

    target = io.StringIO()
    table.show(report, Console(width=200, file=target, highlight=False, color_system=None))
    shown, page = target.getvalue(), forms.as_markdown(report)
    rows = [line for line in shown.splitlines() if re.search(r"(tflite|onnxruntime) +(fp32|int8)", line)]
    for cell, row in zip(report.cells[:3], rows, strict=False):
        for name in ("p50_ns", "file_bytes", "p50_half_width", "run_peak_bytes", "load_peak_bytes"):
            text = next(column for column in COLUMNS if column.name == name).text(cell)
            assert text in page, text
            assert re.search(rf"(?<![\d.]){re.escape(text.split()[0])}(?![\d.])", row), (name, text)


def test_hostile_words_are_inert(report: Report) -> None:
    page = forms.as_markdown(report)
    assert "<script" not in re.sub(r"\\<script", "", page)
    assert "a board \\| with a \\<bar\\> in its name" in page
    failed = next(row for row in csv.DictReader(io.StringIO(forms.as_csv(report))) if row["status"] == "failed")
    assert failed["error"].startswith("'=cmd()<script>")
    failure = ElementTree.fromstring(forms.as_junit(report)).find(".//failure")
    assert failure is not None and failure.attrib["message"].startswith("=cmd()<script>alert('x')</script> | ?[31mred?")
    assert failure.text and "]]> last words?" in failure.text


def test_words_in_markdown_are_no_links_and_call_nobody() -> None:
    assert forms.escaped("see https://x.y/?a&b, WWW.x.y") == r"see https:/\/x.y/?a&amp;b, WWW\.x.y"
    assert forms.escaped("@team root@host ~/.cache") == r"@<!-- -->team root@host \~/.cache"


def hostile(report: Report, name: str) -> Report:
    """The report with this as the name of its run, and in its cells as their id, error and the code of a warning."""
    error = {"kind": "crashed", "message": name, "hint": "", "log_tail": name}
    cells = [
        {
            **cell,
            "id": name,
            "model": name,
            "error": error,
            "status": "failed",
            "warnings": [{"code": name, "message": name}],
        }
        for cell in report.cells
    ]
    return dataclasses.replace(report, run=name, cells=cells)


@pytest.mark.parametrize(
    "name",
    [
        "=1+1",
        "+1",
        "-1",
        "@x",
        "\t=1",
        "\r=1",
        "\n=1",
        "\N{FULLWIDTH EQUALS SIGN}1",
        "\udcff=1",
        "a\x00\ufffe\uffff\x1bb",
    ],
)
def test_no_form_can_be_broken_by_a_name(report: Report, name: str) -> None:
    """No word of a table begins like a formula, XML stays XML, and each form can be written."""
    one = hostile(report, name)
    for form in forms.FORMS.values():
        form(one).encode("utf-8")
    for row in csv.reader(io.StringIO(forms.as_csv(one))):
        assert not [
            word for word in row if word.startswith(tuple("=+-@\t\r\n\N{FULLWIDTH EQUALS SIGN}")) and not number(word)
        ]
    assert len(list(ElementTree.fromstring(forms.as_junit(one)).iter("testcase"))) == len(report.cells)
    page = forms.as_markdown(one)
    assert "\x1b" not in page and "\x00" not in page


def number(word: str) -> bool:
    """Whether a spreadsheet takes this for a number."""
    return re.fullmatch(r"-?\d+(\.\d+)?(e[+-]?\d+)?", word) is not None


def test_a_suite_counts_its_failures_and_what_is_unsupported(report: Report) -> None:
    suite = ElementTree.fromstring(forms.as_junit(report)).find("testsuite")
    assert suite is not None
    assert {key: suite.attrib[key] for key in ("tests", "failures", "errors", "skipped")} == {
        "tests": "5", "failures": "1", "errors": "0", "skipped": "1",
    }  # fmt: skip
    assert len(suite.findall("testcase/failure")) == 1 and len(suite.findall("testcase/skipped")) == 1


def test_a_trace_shows_the_operators_one_after_the_other(report: Report) -> None:
    trace = json.loads(forms.as_trace(report))
    assert trace["displayTimeUnit"] == "ns"
    name, *spans = trace["traceEvents"]
    assert name["ph"] == "M" and name["args"]["name"] == report.cells[0]["id"]
    rows = report.cells[0]["operators"]["operators"]
    assert [(span["name"], round(1000 * span["dur"])) for span in spans] == [(row["type"], row["ns"]) for row in rows]
    assert {span["ph"] for span in spans} == {"X"}
    for before, after in itertools.pairwise(spans):
        assert after["ts"] == pytest.approx(before["ts"] + before["dur"])
    assert [span["cat"] for span in spans] == ["XNNPACK", "XNNPACK", "runtime"]


def test_a_trace_says_whose_time_it_is(report: Report) -> None:
    cell = report.cells[0]
    emulated = {**cell, "operators": {**cell["operators"], "emulated": True}}
    trace = json.loads(forms.as_trace(dataclasses.replace(report, cells=[emulated])))
    assert trace["traceEvents"][0]["args"]["name"] == f"{cell['id']} (times of the emulator)"


def test_several_devices_stand_in_one_form(report: Report) -> None:
    both = Reports([report, Report.load(GOLDEN / "run-schema-1")], {"third": EdgekitError("it did not <answer>")})
    rows = list(csv.DictReader(io.StringIO(forms.as_csv(both))))
    assert [row["run"] for row in rows] == [RUN.name] * 5 + ["run-schema-1"] * 6
    assert len(ElementTree.fromstring(forms.as_junit(both)).findall("testsuite")) == 2
    page = forms.as_markdown(both)
    assert page.count("### ") == 2 and "**third: it did not \\<answer\\>**" in page
    assert len(both.to_dataframe()) == 11


def test_a_step_gets_its_summary_and_nobody_else_does(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(forms.SUMMARY, raising=False)
    forms.step_summary(report)
    page = tmp_path / "summary.md"
    page.write_text("before\n", "utf-8")
    monkeypatch.setenv(forms.SUMMARY, str(page))
    forms.step_summary(report)
    assert page.read_text("utf-8") == "before\n" + forms.as_markdown(report) + "\n"
    monkeypatch.setenv(forms.SUMMARY, str(tmp_path / "no" / "page"))
    with pytest.raises(SetupError, match="cannot write the step summary"):
        forms.step_summary(report)


def test_a_summary_is_never_larger_than_github_shows(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "summary.md"
    monkeypatch.setenv(forms.SUMMARY, str(page))
    many = dataclasses.replace(report, cells=[report.cells[0]] * 20_000)
    assert len(forms.as_markdown(many).encode()) > forms.SUMMARY_BYTES
    forms.step_summary(many)
    text = page.read_bytes()
    assert 0.99 * forms.SUMMARY_BYTES < len(text) <= forms.SUMMARY_BYTES
    assert text.endswith(forms.CUT) and text.removesuffix(forms.CUT).endswith(b" |\n")
    for _ in range(3):
        forms.step_summary(report)
    assert page.read_bytes().startswith(text) and page.stat().st_size <= forms.SUMMARY_BYTES


@pytest.mark.parametrize(
    ("package", "extra"), [("pandas", "pandas"), ("tensorboardX", "tensorboard"), ("mlflow", "mlflow")]
)
def test_what_is_not_installed_is_named_with_its_extra(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    write: dict[str, Callable[[], object]] = {
        "pandas": report.to_dataframe,
        "tensorboardX": lambda: tensorboard.write(report, tmp_path),
        "mlflow": lambda: mlflow.log(report, tmp_path.as_uri()),
    }
    with pytest.raises(SetupError, match=f"{package} is not installed") as caught:
        write[package]()
    assert caught.value.hint == f"pip install 'edgekit[{extra}]'"
    assert not list(tmp_path.rglob("events*"))


def test_the_folders_of_tensorboard_fit_every_file_system_and_are_each_cells_own() -> None:
    usual = "digits_cnn/int8/tflite@pi4+threads=1"
    assert tensorboard.named(usual) == "digits_cnn,int8,tflite@pi4+threads=1"
    names = ["a b/x", "a_b/x", "a\N{SNOWMAN}b/x", "..", "", "/", "x" * 10_000, "x" * 10_001, "\udcff"]
    told = [tensorboard.named(name) for name in names]
    assert len(set(told)) == len(names)
    assert all(re.fullmatch(r"[\w,@+=-][\w.,@+=-]*", one, re.ASCII) and len(one) < 255 for one in told)


@pytest.mark.slow
def test_a_report_does_not_keep_the_samples_in_memory(tmp_path: Path) -> None:
    """What stays is the same however many samples there are, and of the rest one line at a time is there."""
    line = json.loads((RUN / "measurements.jsonl").read_text("utf-8").splitlines()[1])
    used = []
    for samples in (100, 1000):
        folder = tmp_path / str(samples)
        folder.mkdir()
        (folder / "run.json").write_bytes((RUN / "run.json").read_bytes())
        with (folder / "measurements.jsonl").open("w") as stream:
            for number in range(60):
                launches = [
                    {**launch, "samples_ns": [10_000 + i for i in range(samples)]} for launch in line["launches"]
                ]
                stream.write(json.dumps({**line, "id": f"cell {number}", "launches": launches}) + "\n")
        Report.load(folder)  # what is imported and cached on first use is no part of it
        tracemalloc.start()
        made = Report.load(folder)
        used.append(tracemalloc.get_traced_memory())
        tracemalloc.stop()
        assert len(made.cells) == 60
    (few, _), (many, peak) = used
    assert many < 1.1 * few
    assert peak < many + 40 * 3 * 1000 * 8, "60 lines of samples take ten times as much"
