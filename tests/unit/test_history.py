"""The index of all runs: what is on the disk is in it, whatever happened to the index; pruning keeps the newest."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from harness import FAKE_BOARD, FAKE_MODEL, ROOT, CommandLine

from edgekit import cache, history, places, store
from edgekit.errors import SetupError, UserError
from edgekit.history import History
from edgekit.types import Cell, Measurement

pytestmark = pytest.mark.usefixtures("cold_cache")


def launches(p50_ns: int) -> tuple[dict[str, Any], ...]:
    """Two launches around this median."""
    return tuple(
        {"samples_ns": [p50_ns + shift] * 30, "batch": 1, "first_ns": 1, "load_ns": 1, "version": "2.3"}
        for shift in (0, 10)
    )


def made(
    folder: Path,
    day: int,
    p50_ns: int = 1_000_000,
    status: str = "ok",
    model: str = "m",
    cells: tuple[str, ...] = ("fp32",),
) -> Path:
    """A run of that day of January 2026 on the disk."""
    header = {
        "run": f"202601{day:02}-000000-{model}-d-abcd",
        "started": f"2026-01-{day:02}T00:00:00Z",
        "device": {"name": "d", "emulated": False},
        "plan": {"name": model, "model": model, "cells": list(cells), "effort": {}},
    }
    run = store.Run.create(folder, header)
    for precision in cells:
        error = None if status == "ok" else {"kind": "crashed", "message": "no"}
        cell = Cell(model, "fake", precision, "fake", "d")
        run.append(Measurement(cell, status, error, launches=launches(p50_ns)))  # type: ignore[arg-type]
    return run.path


def days(runs: list[dict[str, Any]]) -> list[int]:
    """Of which days these runs are."""
    return [int(run["run"][6:8]) for run in runs]


def test_runs_are_listed_by_time_wherever_they_lie(tmp_path: Path) -> None:
    made(tmp_path / "b", 2)
    made(tmp_path / "a", 1)
    made(tmp_path / "b", 3, model="other")
    with History() as known:
        assert days(known.runs()) == [1, 2, 3]
        assert days(known.runs("m")) == [1, 2]
        assert days(known.runs(device="none")) == []
        run = known.runs()[0]
    assert run["path"] == str(tmp_path / "a" / run["run"])
    assert {key: run[key] for key in ("model", "device", "planned", "done", "failed")} == {
        "model": "m", "device": "d", "planned": 1, "done": 1, "failed": 0,
    }  # fmt: skip


def test_the_index_follows_the_files(tmp_path: Path) -> None:
    path = made(tmp_path, 1)
    with History() as known:
        (series,) = known.series("m")
        assert [point["p50_ns"] for point in series.points] == [1_000_005]
    store.Run.load(path).append(Measurement(Cell("m", "fake", "int8", "fake", "d"), "ok", launches=launches(7)))
    with History() as known:
        assert len(known.series("m")) == 2
    shutil.rmtree(path)
    with History() as known:
        assert known.runs() == []
        with pytest.raises(UserError, match="unknown model in the history 'm'"):
            known.series("m")


@pytest.mark.parametrize("damage", [b"", b"no database at all" * 100, None, "tables", "half"])
def test_a_lost_or_damaged_index_is_made_anew(tmp_path: Path, damage: object) -> None:
    made(tmp_path, 1)
    made(tmp_path, 2)
    with History() as known:
        before = known.runs(), [one.to_json() for one in known.series("m")]
        file = known.file
    if damage is None:
        file.unlink()
    elif damage == "tables":
        with sqlite3.connect(file) as base:
            base.execute("DROP TABLE cells")
        base.close()
    elif damage == "half":
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
    else:
        assert isinstance(damage, bytes)
        file.write_bytes(damage)
    with History() as known:
        assert (known.runs(), [one.to_json() for one in known.series("m")]) == before


def test_a_lost_cache_loses_no_run_in_the_folder_that_is_asked_for(tmp_path: Path, cold_cache: Path) -> None:
    made(tmp_path / "results", 1)
    shutil.rmtree(cold_cache)
    with History([tmp_path / "results"]) as known:
        assert days(known.runs()) == [1]
    with History() as known:
        assert days(known.runs()) == [1], "it was noted"


def test_an_index_of_another_version_is_made_anew(tmp_path: Path) -> None:
    made(tmp_path, 1)
    with History() as known:
        file = known.file
    with sqlite3.connect(file) as base:
        base.execute("PRAGMA user_version = 99")
        base.execute("DROP TABLE runs")
        base.execute("CREATE TABLE runs (other)")
    base.close()
    with History() as known:
        assert days(known.runs()) == [1]


def test_an_index_in_use_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path, 1)
    with History() as known:
        file = known.file
    made(tmp_path, 2)
    monkeypatch.setattr(history, "BUSY_S", 0.01)
    holder = sqlite3.connect(file)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(SetupError, match="in use by another process"):
        History()
    holder.close()
    with History() as known:
        assert days(known.runs()) == [1, 2]


def test_a_damaged_run_is_listed_with_what_is_wrong(tmp_path: Path) -> None:
    made(tmp_path, 1)
    (made(tmp_path, 2) / "run.json").write_text("{", "utf-8")
    third = made(tmp_path, 3)
    (third / "measurements.jsonl").write_text('{"id": "x", "cell": {}, "status": "ok"}\n', "utf-8")
    with History() as known:
        found = {run["run"][6:8]: run.get("damage", "") for run in known.runs()}
        assert "cannot read" in found["02"] and "is damaged: it lacks 'model'" in found["03"] and not found["01"]
        assert len(known.series("m")) == 1


def test_a_change_is_marked_with_what_is_new(tmp_path: Path) -> None:
    for day in range(1, 13):
        made(tmp_path, day, 1_000_000 if day < 7 else 1_300_000)
    with History() as known:
        (series,) = known.series("m", "d")
    assert series.metric == "p50_ns"
    assert list(series.marks) == [6]
    assert series.marks[6]["change"] == pytest.approx(0.3, abs=0.001)
    assert [("change" in point) for point in series.to_json()["points"]] == [False] * 6 + [True] + [False] * 5


def test_runs_are_found_by_name_anywhere(tmp_path: Path) -> None:
    first, second = made(tmp_path / "a", 1), made(tmp_path / "b", 2)
    with History() as known:
        assert known.find(first.name, tmp_path / "b") == first
        assert known.find("20260101", tmp_path / "none") == first
        assert known.find("last", tmp_path / "none") == second
        assert known.find("last", tmp_path / "a") == first, "the folder that is asked for comes first"
        with pytest.raises(UserError, match="names 2 runs"):
            known.find("202601", tmp_path / "none")
        with pytest.raises(UserError, match="nor elsewhere"):
            known.find("2027", tmp_path / "none")


def test_pruning_keeps_the_newest_of_every_cell_and_the_newest_that_is_ok(tmp_path: Path) -> None:
    for day in range(1, 6):
        made(tmp_path, day)
    made(tmp_path, 6, status="failed")
    with History() as known:
        assert days(known.prunable(1, 0)) == [1, 2, 3, 4], "5 is the newest that is ok, 6 the newest"
        assert days(known.prunable(3, 0)) == [1, 2, 3]
        assert days(known.prunable(0, 0)) == [1, 2, 3, 4]
        assert known.prunable(9, 0) == []
        assert known.prunable(1, 0, model="other") == [] == known.prunable(1, 0, device="other")


def test_a_run_with_the_only_measurement_of_some_cell_stays(tmp_path: Path) -> None:
    made(tmp_path, 1, cells=("fp32", "int8"))
    for day in (2, 3):
        made(tmp_path, day)
    with History() as known:
        assert days(known.prunable(1, 0)) == [2]


def test_pruning_by_age(tmp_path: Path) -> None:
    old = time.time() - history.age_of({"started": "2026-01-02T00:00:00Z"})
    for day in (1, 2, 3):
        made(tmp_path, day)
    with History() as known:
        assert days(known.prunable(1, old + 3600)) == [1]
        assert days(known.prunable(1, old - 3600)) == [1, 2]
        assert known.prunable(1, old + 1e6) == []


def test_an_empty_run_goes_when_it_is_not_young(tmp_path: Path) -> None:
    made(tmp_path, 1, cells=())
    header = {"run": "young", "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    store.Run.create(tmp_path, {**header, "device": {"name": "d", "emulated": False}, "plan": {"cells": []}})
    with History() as known:
        assert days(known.prunable(1, 0)) == [1]


def test_what_is_not_ours_or_being_written_is_left(tmp_path: Path) -> None:
    path = made(tmp_path, 1)
    (path / "notes.txt").write_text("mine", "utf-8")
    assert "notes.txt" in history.remove(path)
    (path / "notes.txt").unlink()
    (path / ".report.html-x1").write_text("half", "utf-8")
    with store.Run.load(path).claimed():
        assert history.remove(path) == "it is being written"
    assert store.Run.load(path).lines
    assert history.remove(path) == ""
    assert list(tmp_path.glob("*20260101*")) == []


def test_places_are_noted_once_and_forgotten_when_they_are_gone(tmp_path: Path) -> None:
    for _ in range(2):
        places.note(tmp_path / "a b\n\N{SNOWMAN}")
        places.note(tmp_path)
    assert places.noted() == [tmp_path / "a b\n\N{SNOWMAN}", tmp_path]
    with places.file().open("ab") as stream:
        stream.write(b'"/torn')
    places.note(tmp_path / "c")
    assert places.noted() == [tmp_path / "a b\n\N{SNOWMAN}", tmp_path, tmp_path / "c"]
    history.forget_gone()
    assert places.noted() == [tmp_path]


def test_a_run_is_made_although_its_place_cannot_be_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("", "utf-8")
    monkeypatch.setenv("EDGEKIT_CACHE_DIR", str(blocked))
    assert store.Run.load(made(tmp_path / "results", 1)).lines
    with pytest.raises(SetupError, match="cannot write the index"):
        History()


@pytest.mark.slow
def test_many_processes_bring_the_index_up_to_date_at_once(tmp_path: Path) -> None:
    for day in range(1, 21):
        made(tmp_path, day)
    ask = "print(len(known.runs()), len(known.series('m')[0].points))"
    code = f"from edgekit.history import History\nwith History() as known: {ask}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "EDGEKIT_CACHE_DIR": str(cache.cache_dir())}
    command = [sys.executable, "-c", code]
    started = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[0].split() for process in started] == [["20", "20"]] * 3


@pytest.mark.parametrize("start", ["warm", pytest.param("fresh", marks=[pytest.mark.fresh, pytest.mark.slow])])
def test_the_commands(start: str, cli: CommandLine, tmp_path: Path, cold_cache: Path) -> None:
    """profile -> runs -> history -> show -> prune, each in a process of its own."""
    environment = {"EDGEKIT_CACHE_DIR": str(cold_cache)}
    for _ in range(2):
        done = cli("profile", FAKE_MODEL, "--device", FAKE_BOARD, "-p", "fp32", "-o", "elsewhere", "-q", **environment)
        assert done.rc == 0, done.stderr
    runs = cli("runs", "--json", **environment).json
    assert [run["done"] for run in runs] == [1, 1]
    assert {Path(run["path"]).parent.name for run in runs} == {"elsewhere"}
    assert runs[1]["run"] in cli("runs", **environment).stdout
    told = cli("history", "fake_identity", "--device", "fake_board", **environment).stdout
    assert told.startswith("fake_identity/fp32/fake@fake_board+threads=1\n  when")
    assert told.count("123.5 k instructions") == 2
    (series,) = cli("history", "fake_identity", "--json", "--last", "1", **environment).json
    assert series["metric"] == "instructions" and [point["run"] for point in series["points"]] == [runs[1]["run"]]
    failed = cli("history", "fake_identiti", **environment)
    assert failed.rc == 2 and "did you mean 'fake_identity'" in failed.stderr
    assert cli("history", "fake_identity", "--cell", "int4", **environment).rc == 2
    shown = cli("show", runs[0]["run"], "--json", **environment).json
    assert shown["run"] == runs[0]["run"]
    assert "fake_identity on fake_board" in cli("show", "last", **environment).stdout
    assert cli("prune", **environment).rc == 2
    assert runs[0]["run"] in cli("prune", "--keep", "1", "--dry-run", **environment).stdout
    refused = cli("prune", "--keep", "1", **environment)
    assert refused.rc == 2 and "--yes" in refused.stderr
    assert len(cli("runs", "--json", **environment).json) == 2
    gone = cli("prune", "--keep", "1", "--yes", "--json", **environment).json
    assert gone == {"dry_run": False, "runs": [runs[0]["path"]], "left": {}}
    assert [run["run"] for run in cli("runs", "--json", **environment).json] == [runs[1]["run"]]
