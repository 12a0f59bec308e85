"""Runs in which anything may stand: every reader gives an answer or an EdgekitError, and never anything else."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rich.console
from harness import CommandLine
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgekit import advice, baseline, comparison, gate, history, judge, limits, policy, store
from edgekit.errors import EdgekitError, UserError
from edgekit.report import Report, Reports, damage, forms, html, table
from edgekit.types import Json

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "run-schema-1"
ODD = [None, 5, "x", [], {}, [1], {"": 1}, True, -1, 0, 10**400, 1e308, "\ud800", float("nan"), float("inf")]
RULES = policy.of({"limits": {"instructions": "<= +1%", "p50": "<= 5 ms", "top1": ">= -1 pp", "size": "<= 1 MB"}})
WHOLE = {
    "header": json.loads((GOLDEN / "run.json").read_text("utf-8")),
    "lines": [json.loads(line) for line in (GOLDEN / "measurements.jsonl").read_text("utf-8").splitlines()[:2]],
}


def places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The place of everything in a JSON document, of lists the first two."""
    items = value.items() if isinstance(value, dict) else list(enumerate(value))[:2] if isinstance(value, list) else ()
    return [place, *(below for key, one in items for below in places(one, (*place, key)))]


PLACES = [place for place in places(WHOLE) if len(place) > 1 and place[:2] != ("lines", 1)]


def written(folder: Path, whole: Any) -> Path:
    """A run's folder with that in its files; a line that is not there is none."""
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(whole["header"]), "utf-8")
    (folder / "measurements.jsonl").write_text("".join(json.dumps(line) + "\n" for line in whole["lines"]), "utf-8")
    return folder


def changed(place: tuple[Any, ...], value: Any, gone: bool) -> Any:
    """WHOLE with another value in that place, or without it."""
    whole: Any = copy.deepcopy(WHOLE)
    inner = whole
    for key in place[:-1]:
        inner = inner[key]
    if gone:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return whole


def read_by_all(path: Path, whole: Path, page: bool = False) -> None:
    """Every reader of a run's files once; only an EdgekitError may come of it, and the machine form is JSON."""
    with contextlib.suppress(EdgekitError):
        report = Report.load(path)
        json.dumps(report.to_json(), allow_nan=False)
        for form in forms.FORMS.values():
            form(report)
        table.show(Reports([report], {}), rich.console.Console(file=io.StringIO(), width=100))
        if page:
            html.render(report, store.Lines(path / store.LINES))
    run, cells = history.rows_of(path, "stamp")
    for row in (run, *cells):
        for value in row:
            history.check_kept(value)
    history.age_of({"started": run[history.RUN.index("started")]})
    with contextlib.suppress(EdgekitError):
        store.Run.load(path).forget_lost()
    hold: list[Callable[[str, str], Any]] = [
        comparison.compare,
        gate.check,
        lambda one, two: judge.check(one, RULES, two),
    ]
    for do in hold:
        for one, two in ((str(path), str(whole)), (str(whole), str(path))):
            with contextlib.suppress(EdgekitError):
                json.dumps(do(one, two).to_json(), allow_nan=False)
    with contextlib.suppress(EdgekitError):
        read = baseline.read(str(path), path.parent)
        json.dumps(advice.advise(read, limits.budget("p50<=20ms, top1>=0.6")).to_json(), allow_nan=False)
        policy.written(read)


def check(place: tuple[Any, ...], value: Any, gone: bool, page: bool = False) -> None:
    """Every reader on a run with another value in that place, or without it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        read_by_all(written(folder / "odd", changed(place, value, gone)), written(folder / "whole", WHOLE), page)


@pytest.mark.slow
@given(st.sampled_from(PLACES), st.sampled_from(ODD), st.booleans())
@example(("header", "device", "name"), None, True)
@example(("header", "device", "emulated"), None, True)
@example(("header", "plan", "model"), None, True)
@example(("header", "plan", "device"), None, True)
@example(("header", "started"), {}, False)
@example(("header", "schema"), "\ud800", False)
@example(("lines", 0, "accuracy", "interval", 0), 5, False)
@example(("lines", 0, "launches", 0, "evidence"), [], False)
@example(("lines", 0, "environment", "greeting", "system", "cpu"), 5, False)
@example(("lines", 0, "launches", 0, "version"), {}, False)
@settings(max_examples=60)
def test_a_run_with_anything_anywhere(place: tuple[Any, ...], value: Any, gone: bool) -> None:
    check(place, value, gone, page=gone and place[0] == "header")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_place_with_each_odd_value() -> None:
    for index, place in enumerate(PLACES):
        check(place, None, gone=True, page=place[0] == "header" or index % 20 == 0)
        for value in ODD[index % 3 :: 3]:
            check(place, value, gone=False)


def test_the_whole_is_sound(tmp_path: Path) -> None:
    path = written(tmp_path / "run", WHOLE)
    report = Report.load(path)
    assert [cell["status"] for cell in report.cells] == ["ok", "ok"]
    assert gate.check(str(path), str(path)).passed
    assert dict(zip(history.RUN, history.rows_of(path, "")[0], strict=True))["damage"] is None
    read_by_all(path, path, page=True)


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("header", "device", "name"), 5, "run.json is damaged: device.name is 5, not string"),
        (("header", "plan", "cells"), {}, "run.json is damaged: plan.cells is {}, not array"),
        (("lines", 0, "memory", "run_peak_bytes"), "much", "is damaged: memory.run_peak_bytes is 'much', not integer"),
        (("lines", 0, "warnings"), [{"code": "x"}], "is damaged: warnings[0] lacks 'message'"),
        (("lines", 0, "accuracy", "value"), float("inf"), "Infinity is no number"),
        (("lines", 0, "accuracy", "interval"), [0.9, 0.1], "is damaged: accuracy.interval ends before it begins"),
        (("lines", 0, "accuracy", "interval"), [0.9], "is damaged: accuracy.interval has 1 elements"),
        (("lines", 0, "status"), "fine", "is damaged: status is 'fine', not ok or unsupported or failed"),
        (("lines", 0, "cell"), {}, "is damaged: it lacks 'model'"),
        (("lines", 0, "id"), 5, "measurements.jsonl:1: not a measurement"),
        (("lines", 0, "error"), "no", "measurements.jsonl:1: not a measurement"),
    ],
)
def test_it_is_said_what_is_wrong_and_where(tmp_path: Path, place: tuple[Any, ...], value: Any, words: str) -> None:
    path = written(tmp_path / "odd", changed(place, value, False))
    with pytest.raises(UserError) as caught:
        Report.load(path)
    assert words in caught.value.message and str(path) in caught.value.message and caught.value.hint


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "1e999", "1" * 5000, "[" * 100_000])
@pytest.mark.parametrize("last", [True, False])
def test_what_is_no_number_is_named_and_loses_no_line(tmp_path: Path, word: str, last: bool) -> None:
    path = written(tmp_path / "odd", WHOLE)
    rows = (path / "measurements.jsonl").read_text("utf-8").splitlines(keepends=True)
    damaged = rows[last].replace('"model_file_bytes": ', f'"model_file_bytes": {word}, "x": ')
    assert damaged != rows[last]
    text = "".join([*rows[:last], damaged, *rows[last + 1 :]])
    (path / "measurements.jsonl").write_text(text, "utf-8")
    with pytest.raises(UserError, match="measurements") as caught:
        Report.load(path)
    assert "torn" not in caught.value.message
    assert (path / "measurements.jsonl").read_text("utf-8") == text


def test_a_folder_in_the_place_of_a_file(tmp_path: Path) -> None:
    path = written(tmp_path / "odd", WHOLE)
    for name in ("measurements.jsonl", "run.json"):
        (path / name).unlink()
        (path / name).mkdir()
        read_by_all(path, written(tmp_path / f"whole {name}", WHOLE))
        with pytest.raises(UserError, match=r"cannot read.*Is a directory"):
            Report.load(path)


def test_parts_that_are_as_before_are_still_looked_at_when_they_change() -> None:
    checked = damage.Checked(Path("run"))
    cell: Json = Report.load(GOLDEN).cells[0]
    assert checked.cell("a", lambda: cell) is cell is checked.cell("b", lambda: cell)
    with pytest.raises(UserError, match="the measurement of c is damaged: system is 5, not object"):
        checked.cell("c", lambda: {**cell, "system": 5})


@pytest.mark.parametrize("command", ["show", "report", "runs", "compare", "gate", "advise"])
def test_the_commands_end_without_a_traceback(cli: CommandLine, cold_cache: Path, command: str) -> None:
    results = cli.cwd / "results"
    results.mkdir()
    written(results / "20260101-000000-a", WHOLE)
    odd = written(results / "20260102-000000-b", changed(("header", "device", "name"), None, True))
    shutil.copy(GOLDEN / "measurements.jsonl", odd)
    more = {"compare": ("last", "20260101"), "gate": ("last", "--baseline", "20260101"), "runs": ()}.get(
        command, ("last",)
    )
    done = cli(command, *more, EDGEKIT_CACHE_DIR=str(cold_cache))
    if command == "runs":
        assert done.rc == 0 and "cannot be read" in done.stdout
    else:
        assert done.rc == 2 and "run.json is damaged: device lacks 'name'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["nope.json", "kept/nope", "./nope.json"])
def test_a_baseline_that_is_not_there_is_said_to_be_a_missing_file(tmp_path: Path, name: str) -> None:
    run = str(written(tmp_path / "20260101-000000-a", WHOLE))
    for read in (lambda: gate.check(run, name, output=tmp_path), lambda: judge.check(run, RULES, name, tmp_path)):
        with pytest.raises(UserError, match=f"there is no file {name}, and no run of that name") as caught:
            read()
        assert caught.value.hint == f"edgekit gate RUN --save {name} would write it"
    with pytest.raises(UserError, match="there is no run 'nope' in"):
        gate.check(run, "nope", output=tmp_path)
    assert gate.check(run, "20260101", output=tmp_path).passed
