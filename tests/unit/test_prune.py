"""What prune takes away: runs with edgekit's own files alone, never through a link, and never one that is being written."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
from harness import CommandLine
from test_history import days, made

from edgekit import history, places, store
from edgekit.history import History

pytestmark = pytest.mark.usefixtures("cold_cache")


def told(folder: Path) -> list[str]:
    """Everything below a folder, links as links."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("name", ["latest", "20270101-000000-latest", "0"])
@pytest.mark.parametrize("absolute", [True, False])
def test_a_link_to_a_run_is_not_another_run(tmp_path: Path, name: str, absolute: bool) -> None:
    path = made(tmp_path, 1)
    (tmp_path / name).symlink_to(path if absolute else path.name)
    with History([tmp_path]) as known:
        assert [run["path"] for run in known.runs()] == [str(path)]
        assert known.prunable(1, 0) == []
    assert list(store.all_runs(tmp_path)) == [path] == [store.find(tmp_path, "last")]
    assert history.remove(tmp_path / name) == "it is a link" == history.kept_because(tmp_path / name)
    assert store.Run.load(path).lines and (tmp_path / name).is_symlink()
    assert store.find(tmp_path, str(tmp_path / name)) == tmp_path / name, "by its path it is still found"


def test_links_that_lead_nowhere_or_to_a_file_are_no_runs(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    path = made(folder, 1)
    (folder / "gone").symlink_to(tmp_path / "results" / "nothing")
    (folder / "file").symlink_to(path / store.LINES)
    (folder / "loop").symlink_to(folder / "loop")
    before = told(folder)
    with History([folder]) as known:
        assert [run["path"] for run in known.runs()] == [str(path)]
    for name in ("gone", "file", "loop"):
        assert history.remove(folder / name) == "it is a link"
    assert told(folder) == before


def test_a_results_folder_that_is_reached_on_two_ways_is_one(tmp_path: Path) -> None:
    path = made(tmp_path / "results", 1)
    (tmp_path / "other").symlink_to(tmp_path / "results")
    places.note(tmp_path / "other")
    with History([tmp_path / "other", tmp_path / "results", tmp_path / "results" / ".." / "other"]) as known:
        assert [run["path"] for run in known.runs()] == [str(path)]
        assert known.prunable(1, 0) == []


def test_results_inside_a_run_are_not_taken_with_it(tmp_path: Path) -> None:
    outer = [made(tmp_path, day) for day in (1, 2)]
    inner = made(outer[0] / "results", 3)
    with History([tmp_path, inner.parent]) as known:
        assert days(known.runs()) == [1, 2, 3] and days(known.prunable(1, 0)) == [1, 2]
    assert history.remove(outer[0]) == "it has files that are not edgekit's: results"
    assert store.Run.load(inner).lines and store.Run.load(outer[0]).lines


def test_a_copy_with_hard_links_outlives_its_original(tmp_path: Path) -> None:
    first, copy = made(tmp_path, 1), tmp_path / "20260102-000000-copy"
    copy.mkdir()
    for name in (store.HEADER, store.LINES):
        os.link(first / name, copy / name)
    with History([tmp_path]) as known:
        (chosen,) = known.prunable(1, 0)
    assert history.remove(Path(chosen["path"])) == ""
    (left,) = store.all_runs(tmp_path)
    assert len(store.Run.load(left).lines) == 1


@pytest.mark.parametrize("name", ["report.html", ".report.html-x1", "measurements.jsonl", "run.json", ".git"])
@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_only_plain_files_are_edgekits(tmp_path: Path, name: str, kind: str) -> None:
    path = made(tmp_path / "results", 1)
    (path / name).unlink(missing_ok=True)
    mine = tmp_path / "mine.txt"
    mine.write_text("mine", "utf-8")
    if kind == "folder":
        (path / name).mkdir()
        (path / name / "mine.txt").write_text("mine", "utf-8")
    elif kind == "link":
        (path / name).symlink_to(mine)
    else:
        os.mkfifo(path / name)
    before = told(tmp_path)
    why = f"it has files that are not edgekit's: {name}"
    assert history.kept_because(path) == why == history.remove(path)
    assert told(tmp_path) == before


def test_what_comes_into_a_run_at_the_last_moment_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made(tmp_path, 1)
    rename = Path.rename

    def slow(this: Path, target: Path) -> Path:
        if this == path:
            (path / "notes.txt").write_text("mine", "utf-8")
        return rename(this, target)

    monkeypatch.setattr(Path, "rename", slow)
    assert history.remove(path) == "it has files that are not edgekit's: notes.txt"
    assert (path / "notes.txt").read_text("utf-8") == "mine" and store.Run.load(path).lines


def test_a_run_that_cannot_be_opened_is_left_and_the_others_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, other = made(tmp_path, 1), made(tmp_path, 2)
    really = os.open

    def closed(name: str | Path, *given: int) -> int:
        if Path(name) == path:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return really(name, *given)

    monkeypatch.setattr(os, "open", closed)
    why = "it cannot be deleted: Permission denied"
    assert history.kept_because(path) == why == history.remove(path)
    assert history.kept_because(other) == "" == history.remove(other)
    assert list(store.all_runs(tmp_path)) == [path]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may delete anything")
def test_a_run_in_a_folder_that_may_not_be_written_is_left(tmp_path: Path) -> None:
    path = made(tmp_path / "results", 1)
    path.parent.chmod(0o500)
    try:
        assert history.kept_because(path) == "it cannot be deleted: Permission denied" == history.remove(path)
    finally:
        path.parent.chmod(0o700)
    assert store.Run.load(path).lines


@pytest.mark.parametrize("call", ["rename", "unlink", "rmdir"])
def test_a_disk_that_refuses_leaves_the_run_whole_or_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = made(tmp_path, 1)
    really = getattr(Path, call)

    def refused(this: Path, *given: Path) -> None:
        if this == path or this.name.startswith(".pruned") or this.name == store.HEADER:
            if call == "rename" and this != path:
                return really(this, *given)
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return really(this, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Path, call, refused)
        assert history.remove(path) == "it cannot be deleted: Read-only file system"
    if call == "rmdir":
        assert not path.exists() and list(store.all_runs(tmp_path)) == []
    else:
        assert store.Run.load(path).lines and told(tmp_path) == told(path.parent)


def test_a_mount_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made(tmp_path, 1)
    monkeypatch.setattr(Path, "is_mount", lambda this: this == path)
    assert history.kept_because(path) == "something is mounted there" == history.remove(path)
    assert store.Run.load(path).lines


def test_looking_at_a_run_does_not_change_it(tmp_path: Path) -> None:
    path = made(tmp_path, 1)
    assert history.kept_because(path) == ""
    with store.Run.load(path).claimed():
        assert history.kept_because(path) == "it is being written"
    (path / "notes.txt").write_text("mine", "utf-8")
    assert "notes.txt" in history.kept_because(path)
    shutil.rmtree(path)
    assert history.kept_because(path) == "it cannot be deleted: No such file or directory" == history.remove(path)


@pytest.mark.parametrize("started", [5, None, True, "yesterday", "2026-13-01T00:00:00Z", "", ["2026"], {}])
def test_a_run_that_does_not_tell_its_age_never_goes_and_stops_nobody(tmp_path: Path, started: object) -> None:
    assert history.age_of({"started": started}) == history.age_of({}) == float("inf")
    odd = made(tmp_path, 2)
    header = store.read_header(odd)
    (odd / store.HEADER).write_text(store.json.dumps({**header, "started": started}), "utf-8")
    for day in (1, 3, 4):
        made(tmp_path, day)
    with History([tmp_path]) as known:
        assert days(known.prunable(1, 0)) == [1, 3]
        assert len(known.runs()) == 4


def test_the_dry_run_says_what_would_be_left(cli: CommandLine, tmp_path: Path, cold_cache: Path) -> None:
    paths = [made(tmp_path / "results", day) for day in (1, 2, 3, 4)]
    (paths[1] / "notes.txt").write_text("mine", "utf-8")
    (tmp_path / "results" / "latest").symlink_to(paths[3])
    environment = {"EDGEKIT_CACHE_DIR": str(cold_cache)}
    prune = ("prune", "--keep", "1", "-o", str(tmp_path / "results"), "--json")
    dry = cli(*prune, "--dry-run", **environment).json
    with store.Run.load(paths[2]).claimed():
        busy = cli(*prune, "--dry-run", **environment).json
    done = cli(*prune, "--yes", **environment).json
    left = {str(paths[1]): "it has files that are not edgekit's: notes.txt"}
    assert dry == {"dry_run": True, "runs": [str(paths[0]), str(paths[2])], "left": left}
    assert busy["left"] == {**left, str(paths[2]): "it is being written"}
    assert done == {**dry, "dry_run": False}
    assert sorted(store.all_runs(tmp_path / "results")) == [paths[1], paths[3]]
