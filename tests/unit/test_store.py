"""Runs on disk: what was appended is there, what was torn is noted, what is damaged or of another time is refused."""

from __future__ import annotations

import errno
import json
import os
import resource
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgekit import store
from edgekit.errors import SetupError, UserError
from edgekit.types import Caveat, Cell, Measurement

HEADER: dict[str, Any] = {"run": "20260101-000000-m-d-abcd", "device": {"emulated": False}, "plan": {"cells": []}}


def measurement(precision: str, **more: Any) -> Measurement:
    """One line to append."""
    return Measurement(Cell("m", "fake", precision, "fake", "d"), "ok", **more)


@pytest.fixture
def run(tmp_path: Path) -> store.Run:
    """A run with one cell in it."""
    made = store.Run.create(tmp_path, HEADER)
    made.append(measurement("fp32", launches=({"samples_ns": [1, 2, 3]},)))
    return made


def lines_of(run: store.Run) -> list[str]:
    """The file as it is on disk."""
    return (run.path / "measurements.jsonl").read_text("utf-8").splitlines(keepends=True)


def test_what_was_appended_is_on_the_disk_and_loads_again(run: store.Run) -> None:
    run.append(measurement("int8", warnings=(Caveat("no-labels", "no"),), accuracy=None))
    loaded = store.Run.load(run.path)
    assert loaded.header == {"schema": store.SCHEMA, **HEADER}
    assert loaded.lines == run.lines
    assert not loaded.torn
    assert loaded.done() == {"m/fp32/fake@d+threads=1", "m/int8/fake@d+threads=1"}
    assert loaded.lines[0]["launches"] == [{"samples_ns": [1, 2, 3]}]
    assert loaded.lines[1]["warnings"] == [{"code": "no-labels", "message": "no"}]
    assert "accuracy" not in loaded.lines[1], "absent means not measured"
    assert all(line.endswith("}\n") for line in lines_of(run))


def test_a_line_is_synced_before_append_returns(run: store.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []

    def fsync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(os, "fsync", fsync)
    run.append(measurement("int8"))
    assert synced == [(run.path / "measurements.jsonl").stat().st_size]


def test_the_header_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SetupError, match=r"cannot write run\.json.*No space left") as caught:
        store.Run.create(tmp_path, HEADER)
    assert "--output" in caught.value.hint
    assert not list((tmp_path / str(HEADER["run"])).iterdir())


@pytest.mark.parametrize("torn", [b'{"id": "x", "cell"', b"{", b'{"id": "x"}\xff', b'{"id": "x"', b'{"broken\n'])
def test_a_torn_last_line_is_noted_and_cut_off_by_the_next(run: store.Run, torn: bytes) -> None:
    with (run.path / "measurements.jsonl").open("ab") as stream:
        stream.write(torn)
    loaded = store.Run.load(run.path)
    assert loaded.torn
    assert loaded.done() == {"m/fp32/fake@d+threads=1"}
    loaded.append(measurement("int8"))
    again = store.Run.load(run.path)
    assert not again.torn
    assert [line["cell"]["precision"] for line in again.lines] == ["fp32", "int8"]


def test_cells_that_were_lost_with_the_device_are_done_again(run: store.Run) -> None:
    cell = measurement("int8").cell
    for kind in ("device", "crashed"):
        run.append(Measurement(cell, "failed", error={"kind": kind, "message": "no"}))
    loaded = store.Run.load(run.path)
    loaded.forget_lost()
    assert [line.get("error", {}).get("kind") for line in loaded.lines] == [None, "crashed"]
    assert len(lines_of(run)) == 3, "nothing is gone before something takes its place"
    loaded.append(measurement("fp16"))
    again = store.Run.load(run.path)
    assert [line["cell"]["precision"] for line in again.lines] == ["fp32", "int8", "fp16"]
    assert not again.torn


def test_a_last_line_that_only_lacks_its_end_counts_as_torn(run: store.Run) -> None:
    """It may be a part of a longer one that happens to be JSON: measured again is better than half believed."""
    with (run.path / "measurements.jsonl").open("a") as stream:
        stream.write(json.dumps({"id": "whole"}))
    loaded = store.Run.load(run.path)
    assert loaded.torn
    assert "whole" not in loaded.done()


def test_damage_elsewhere_is_named_with_its_line(run: store.Run) -> None:
    run.append(measurement("int8"))
    text = lines_of(run)
    (run.path / "measurements.jsonl").write_text(text[0] + "garbage\n" + text[1], "utf-8")
    with pytest.raises(UserError, match=r"measurements\.jsonl:2: not JSON"):
        store.Run.load(run.path)


@pytest.mark.parametrize(
    "damage",
    [
        "5\n", "[]\n", '{"no": "id"}\n', '{"id": 5, "cell": {}, "status": "ok"}\n',
        '{"id": "x", "cell": [], "status": "ok"}\n', '{"id": "x", "cell": {}, "status": "ok", "error": "no"}\n',
        '{"id": "x", "cell": {}, "status": "ok", "value": NaN}\n',
    ],
)  # fmt: skip
def test_a_line_that_is_no_measurement_is_damage_too(run: store.Run, damage: str) -> None:
    text = lines_of(run)
    (run.path / "measurements.jsonl").write_text(text[0] + damage + text[0], "utf-8")
    with pytest.raises(UserError, match=r"measurements\.jsonl:2"):
        store.Run.load(run.path)


def test_a_run_without_measurements_is_empty(tmp_path: Path) -> None:
    loaded = store.Run.load(store.Run.create(tmp_path, HEADER).path)
    assert loaded.lines == []
    assert not loaded.torn


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"schema": 99}', "has schema 99, this edgekit reads"),
        ("{}", "has schema None"),
        ('{"schema": 1}', "is damaged: it has no plan"),
        ('{"schema": 1, "plan": {}, "device": [], "run": "x"}', "is damaged: it has no device"),
        ('{"schema": 1, "plan": {}, "device": {}, "run": 5}', "is damaged: it has no run"),
        ('{"schema": 1, "plan": NaN}', "NaN is no number"),
        ("[]", "has schema None"),
        ("{", "cannot read"),
        ("", "cannot read"),
    ],
)
def test_what_is_no_run_of_ours_is_refused(run: store.Run, text: str, words: str) -> None:
    (run.path / "run.json").write_text(text, "utf-8")
    with pytest.raises(UserError, match=words):
        store.Run.load(run.path)
    with pytest.raises(UserError, match="is not a run"):
        store.Run.load(run.path.parent)


@pytest.fixture
def room_for() -> Iterator[Any]:
    """room_for(bytes) makes the kernel refuse to let any file grow beyond that: a disk that fills in the middle of a line."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_fills_in_the_middle_of_a_line_leaves_the_file_whole(run: store.Run, room_for: Any) -> None:
    before = lines_of(run)
    path = run.path / "measurements.jsonl"
    room_for(path.stat().st_size + 40)
    with pytest.raises(SetupError, match="cannot write the measurement"):
        run.append(measurement("int8"))
    assert lines_of(run) == before
    assert len(run.lines) == 1
    room_for(resource.RLIM_INFINITY)
    run.append(measurement("int8"))
    assert len(store.Run.load(run.path).lines) == 2


def test_a_disk_that_fails_to_sync_leaves_the_file_whole(run: store.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    before = lines_of(run)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(SetupError, match="No space left on device"):
            run.append(measurement("int8"))
    assert lines_of(run) == before
    assert run.done() == {"m/fp32/fake@d+threads=1"}


def test_runs_are_found_by_path_by_name_by_its_beginning_and_the_last(tmp_path: Path) -> None:
    made = [
        store.Run.create(tmp_path, {**HEADER, "run": name}).path for name in ("20260101-a", "20260102-a", "20260102-b")
    ]
    assert store.find(tmp_path, str(made[0])) == made[0]
    assert store.find(tmp_path, "20260101-a") == made[0]
    assert store.find(tmp_path, "20260101") == made[0]
    assert store.find(tmp_path, "last") == made[2]
    with pytest.raises(UserError, match="names 2 runs") as caught:
        store.find(tmp_path, "20260102")
    assert caught.value.hint == "20260102-a, 20260102-b"
    with pytest.raises(UserError, match="there is no run '2027'") as caught:
        store.find(tmp_path, "2027")
    assert caught.value.hint == "newest: 20260102-b"
    with pytest.raises(UserError, match="no run is there yet"):
        store.find(tmp_path / "nowhere", "last")


def test_of_two_runs_of_one_second_the_last_is_the_one_written_last(tmp_path: Path) -> None:
    names = ["20260102-000000-z-d-1111", "20260102-000000-a-d-2222"]
    paths = [store.Run.create(tmp_path, {**HEADER, "run": name}).path for name in names]
    for place, path in enumerate(paths):
        os.utime(path / "run.json", ns=(10**18 + place, 10**18 + place))
    assert store.find(tmp_path, "last") == paths[1]
    os.utime(paths[0] / "run.json", ns=(10**18 + 2, 10**18 + 2))
    assert store.find(tmp_path, "last") == paths[0]
    store.Run.create(tmp_path, {**HEADER, "run": "20260102-000001-a-d-0000"})
    assert store.find(tmp_path, "last").name == "20260102-000001-a-d-0000", "a later second counts for more"


def test_a_run_with_a_name_of_its_own_is_last_only_when_it_is(tmp_path: Path) -> None:
    run = store.Run.create(tmp_path, {**HEADER, "run": "20260102-000000-a-d-1111"}).path
    own = store.Run.create(tmp_path, {**HEADER, "run": "zero"}).path
    for written, last in ((1767225600, run), (1767398400, own)):  # the first and the third of January 2026
        os.utime(own / "run.json", (written, written))
        assert store.find(tmp_path, "last") == last
    (tmp_path / ".pruned-20270101-000000-x").mkdir()
    (tmp_path / ".pruned-20270101-000000-x" / "run.json").write_text("{}", "utf-8")
    assert store.find(tmp_path, "last") == own, "what is on its way out is no run"


def test_a_full_name_is_found_although_another_begins_alike(tmp_path: Path) -> None:
    made = [store.Run.create(tmp_path, {**HEADER, "run": name}).path for name in ("20260101-a", "20260101-ab")]
    assert store.find(tmp_path, "20260101-a") == made[0]


def test_names_of_runs_are_portable_and_do_not_collide() -> None:
    names = {store.new_run_id("my model/../x", "d e") for _ in range(20)}
    assert len(names) == 20
    assert all(name.split("-", 2)[2].startswith("my-model-x-d-e-") for name in names)


def test_git_state_outside_a_checkout_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert store.git_state(tmp_path) == {}
    monkeypatch.setenv("PATH", "")
    assert store.git_state(tmp_path) == {}


def test_what_is_no_json_is_never_written(run: store.Run, tmp_path: Path) -> None:
    before = (run.path / "measurements.jsonl").read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.append(measurement("int8", accuracy={"value": float("nan")}))
    assert (run.path / "measurements.jsonl").read_bytes() == before and len(run.lines) == 1
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.Run.create(tmp_path, {**HEADER, "run": "other", "limit": float("inf")})
    assert not (tmp_path / "other" / "run.json").exists()


def test_the_lines_of_a_run_are_read_where_they_lie(run: store.Run) -> None:
    for number in range(1, 5):
        run.append(measurement(f"p{number}", launches=({"samples_ns": [number]},), warnings=(Caveat("x", "\u00e9"),)))
    for one in (run, store.Run.load(run.path)):
        whole = [json.loads(line) for line in lines_of(run)]
        assert list(one.lines) == whole == one.lines and len(one.lines) == 5
        assert one.lines[2] == whole[2] and one.lines[-1] == whole[-1]
        assert one.lines[1:4] == whole[1:4] and one.lines[:0] == []
        assert one.lines != whole[:-1] and one.lines != [*whole[:-1], {}] and one.lines != 5
        with pytest.raises(IndexError):
            one.lines[5]


def test_what_was_made_anew_after_a_loss_is_still_found_line_by_line(run: store.Run) -> None:
    lost = {"kind": "device", "message": "no"}
    for name in ("p1", "p2", "p3"):
        run.append(Measurement(measurement(name).cell, "failed", error=lost if name == "p2" else None))
    loaded = store.Run.load(run.path)
    loaded.forget_lost()
    for name in ("p4", "p5"):
        loaded.append(measurement(name))
    assert [line["cell"]["precision"] for line in loaded.lines] == ["fp32", "p1", "p3", "p4", "p5"]
    assert loaded.lines == store.Run.load(run.path).lines
    assert len(lines_of(run)) == 5


def test_a_run_that_lost_every_line_begins_anew(tmp_path: Path) -> None:
    run = store.Run.create(tmp_path, HEADER)
    run.append(Measurement(measurement("p1").cell, "failed", error={"kind": "device", "message": "no"}))
    run.forget_lost()
    assert not run.lines and run.done() == set()
    run.append(measurement("p2"))
    assert [line["cell"]["precision"] for line in run.lines] == ["p2"]
    assert run.lines == store.Run.load(run.path).lines


def test_a_file_that_somebody_else_changed_is_no_traceback(run: store.Run) -> None:
    (run.path / "measurements.jsonl").write_text('"cut', "utf-8")
    with pytest.raises(UserError, match="was changed by somebody else"):
        list(run.lines)
    (run.path / "measurements.jsonl").unlink()
    with pytest.raises(UserError, match="was changed by somebody else"):
        run.lines[0]


@pytest.mark.slow
def test_a_run_needs_no_memory_for_its_samples(run: store.Run) -> None:
    samples = list(range(10**9, 10**9 + 2_000))
    run.append(measurement("p0", launches=({"samples_ns": samples},)))
    tracemalloc.start()
    try:
        for number in range(1, 101):
            run.append(measurement(f"p{number}", launches=({"samples_ns": samples},)))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(run.lines) == 102
    assert kept < 100 * 2_000, "bytes; a hundred lines of 22 kB each are on the disk"
