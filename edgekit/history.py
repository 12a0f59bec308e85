"""All runs on this machine: an index of them in the cache, made from their files, and how a cell's figures went over time."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import secrets
import sqlite3
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgekit import changes, places, store
from edgekit.cache import cache_dir, disk_errors
from edgekit.errors import EdgekitError, SetupError, UserError, unknown
from edgekit.report import Report
from edgekit.types import Json

# History: 1 first form. An index of another version is made anew.
VERSION = 1
BUSY_S = 30.0
LONGEST = 200  # points of one series, the newest, in which changes are looked for
FILES = {store.HEADER, store.LINES, "report.html"}  # what edgekit puts into a run's folder, and prune takes away
YOUNG_S = 3600.0  # a run without a cell may just have begun
RUN = ("path", "stamp", "run", "started", "model", "device", "emulated", "planned", "done", "failed", "damage")
CELL = (
    "path", "place", "id", "model", "device", "precision", "runtime", "threads", "status", "emulated", "p50_ns", "low_ns",
    "high_ns", "half_width", "instructions", "spread", "run_peak_bytes", "accuracy", "artifact", "version",
)  # fmt: skip


class History:
    """The index, brought up to date with the files when it is opened. Use as a context manager."""

    def __init__(self, folders: Iterable[Path] = ()) -> None:
        """Look at the noted results folders and at these. Raises SetupError when the cache cannot be written."""
        self.file = cache_dir() / "history" / "index.sqlite"
        folders = tuple(map(places.real, folders))
        for folder in folders:
            if any(True for _ in stamps(folder)):
                places.note(folder)
        self.folders = list(dict.fromkeys([*folders, *places.noted()]))
        try:
            self.base = self._opened()
            self._update()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
                raise SetupError("the index of the runs is in use by another process", "try again") from error
            self.close()
            with disk_errors("the index of the runs"):
                self.file.unlink(missing_ok=True)
                Path(f"{self.file}-journal").unlink(missing_ok=True)
            self.base = self._opened()
            self._update()

    def __enter__(self) -> History:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the index."""
        with contextlib.suppress(AttributeError):
            self.base.close()

    def _opened(self) -> sqlite3.Connection:
        """The index, empty where there was none or another version's."""
        with disk_errors("the index of the runs"):
            self.file.parent.mkdir(parents=True, exist_ok=True)
        self.base = sqlite3.connect(self.file, timeout=BUSY_S, isolation_level=None)
        self.base.row_factory = sqlite3.Row
        there = {row[0] for row in self.base.execute("SELECT name FROM sqlite_master")}
        if self.base.execute("PRAGMA user_version").fetchone()[0] != VERSION or not {"runs", "cells"} <= there:
            with self._writing():
                self.base.execute("DROP TABLE IF EXISTS runs")
                self.base.execute("DROP TABLE IF EXISTS cells")
                self.base.execute(f"CREATE TABLE runs ({', '.join(RUN)}, PRIMARY KEY (path))")
                self.base.execute(f"CREATE TABLE cells ({', '.join(CELL)}, PRIMARY KEY (path, place))")
                self.base.execute("CREATE INDEX series ON cells (model, device)")
                self.base.execute(f"PRAGMA user_version = {VERSION}")
        return self.base

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction: all of it or nothing, also after a crash."""
        self.base.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self.base.in_transaction:
                self.base.execute("ROLLBACK")
            raise
        self.base.execute("COMMIT")

    def _update(self) -> None:
        """Read what is new or changed since the last time, and drop what has gone."""
        known = {row["path"]: row["stamp"] for row in self.base.execute("SELECT path, stamp FROM runs")}
        there = {str(path): stamp for folder in self.folders for path, stamp in stamps(folder)}
        stale = [path for path, stamp in known.items() if there.get(path) != stamp]
        fresh = [path for path, stamp in there.items() if known.get(path) != stamp]
        if not stale and not fresh:
            return
        with self._writing():
            for table in ("cells", "runs"):
                self.base.executemany(f"DELETE FROM {table} WHERE path = ?", [(path,) for path in (*stale, *fresh)])
            for path in fresh:
                run, cells = rows_of(Path(path), there[path])
                self.base.execute(f"INSERT INTO runs VALUES ({', '.join('?' * len(RUN))})", run)
                self.base.executemany(f"INSERT INTO cells VALUES ({', '.join('?' * len(CELL))})", cells)

    def runs(self, model: str | None = None, device: str | None = None) -> list[Json]:
        """The runs, oldest first: the columns RUN but for the stamp; `damage` says why one cannot be read."""
        found = self.base.execute(
            "SELECT * FROM runs WHERE model IS ifnull(?, model) AND device IS ifnull(?, device) ORDER BY started, run",
            (model, device),
        )
        return [{key: row[key] for key in RUN if key != "stamp" and row[key] is not None} for row in found]

    def find(self, name: str, folder: Path) -> Path:
        """A run's folder: in `folder` as store.find has it, else anywhere by its name or the beginning of it. Raises UserError."""
        try:
            return store.find(folder, name)
        except UserError as error:
            if not name or "names" in error.message:
                raise
            runs = self.runs()
            if name == "last" and runs:
                return Path(runs[-1]["path"])
            found = [run for run in runs if run["run"] == name] or [run for run in runs if run["run"].startswith(name)]
            if len(found) > 1:
                told = ", ".join(run["path"] for run in found[:5])
                raise UserError(f"'{name}' names {len(found)} runs", told) from error
            if not found:
                hint = "edgekit runs lists those of this machine"
                raise UserError(f"there is no run '{name}' in {folder} nor elsewhere", hint) from error
            return Path(found[0]["path"])

    def series(self, model: str, device: str | None = None) -> list[Series]:
        """The measurements of a model's cells, each cell's oldest first. Raises UserError for a model or device without any."""
        for noun, value in (("model", model), ("device", device)):
            known = {row[0] for row in self.base.execute(f"SELECT DISTINCT {noun} FROM cells")}
            if value is not None and value not in known:
                raise unknown(f"{noun} in the history", value, known)
        found = self.base.execute(
            "SELECT cells.*, runs.run, runs.started FROM cells JOIN runs USING (path)"
            " WHERE cells.model = ? AND cells.device = ifnull(?, cells.device) ORDER BY id, started, run, place",
            (model, device),
        )
        gathered: dict[str, list[Json]] = {}
        for row in found:
            gathered.setdefault(row["id"], []).append({key: row[key] for key in row.keys() if row[key] is not None})  # noqa: SIM118
        return [Series.of(name, points) for name, points in gathered.items()]

    def prunable(
        self, keep: int, older_than_s: float, model: str | None = None, device: str | None = None
    ) -> list[Json]:
        """The runs that may go, oldest first: older than that, and every cell of them has `keep` newer measurements.

        The newest measurement of a cell never goes, nor the newest that is ok: `keep` counts as at least 1.
        """
        newer: dict[str, int] = {}
        good: set[str] = set()
        cells: dict[str, list[sqlite3.Row]] = {}
        for row in self.base.execute("SELECT path, id, status FROM cells"):
            cells.setdefault(row["path"], []).append(row)
        chosen = []
        now = time.time()
        for run in reversed(self.runs()):
            age_s = now - age_of(run)
            if age_s == -math.inf:  # nobody knows what it is newer than
                continue
            own = cells.get(run["path"], [])
            needed = any(newer.get(row["id"], 0) < max(1, keep) for row in own)
            needed = needed or any(row["status"] == "ok" and row["id"] not in good for row in own)
            for row in {row["id"]: row for row in own}.values():
                newer[row["id"]] = newer.get(row["id"], 0) + 1
                good |= {row["id"]} if row["status"] == "ok" else set()
            wanted = all(want in (None, run.get(key)) for key, want in (("model", model), ("device", device)))
            if (
                wanted
                and not needed
                and "damage" not in run
                and age_s >= (older_than_s if own else max(YOUNG_S, older_than_s))
            ):
                chosen.append(run)
        return chosen[::-1]


@dataclass(frozen=True)
class Series:
    """The measurements of one cell, oldest first (the columns CELL, "run" and "started"), and where its figures changed.

    `metric` is what is followed: "instructions" of an emulated device that counts them, else "p50_ns". `marks` are the
    changes by the index of the measurement with which they begin: "change" (relative) and "with" (what else is new there).
    """

    id: str
    metric: str
    points: list[Json]
    marks: dict[int, Json]

    @classmethod
    def of(cls, name: str, points: list[Json]) -> Series:
        """The series of a cell."""
        counted = any("instructions" in point for point in points)
        metric = "instructions" if counted and points[-1].get("emulated") else "p50_ns"
        with_figure = [index for index, point in enumerate(points) if point.get(metric)][-LONGEST:]
        width = "spread" if metric == "instructions" else "half_width"
        values = [changes.Point(points[index][metric], points[index].get(width, 0.0)) for index in with_figure]
        find = changes.of_counts if metric == "instructions" else changes.of_times
        marks: dict[int, Json] = {}
        for change in find(values):
            before, after = points[with_figure[change.index - 1]], points[with_figure[change.index]]
            new = [what for what in ("artifact", "version") if before.get(what) != after.get(what)]
            marks[with_figure[change.index]] = {"change": round(change.ratio, 6), "with": new}
        return cls(name, metric, points, marks)

    def to_json(self) -> Json:
        """The machine form: "id", "metric", "points"; a point at which the level changed has "change" and "with"."""
        points = [{**point, **self.marks.get(index, {})} for index, point in enumerate(self.points)]
        return {"id": self.id, "metric": self.metric, "points": points}


def stamps(folder: Path) -> Iterator[tuple[Path, str]]:
    """The runs in a results folder, each with what changes when its files do. A link to a run is not another run."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if not entry.name.startswith(".") and not entry.is_symlink()]
    except OSError:
        return
    for name in names:
        stamp = []
        try:
            f"{folder}/{name}".encode()  # the index keeps no other names
            for file in (store.HEADER, store.LINES):
                with contextlib.suppress(FileNotFoundError):
                    told = os.stat(f"{folder}/{name}/{file}")  # noqa: PTH116 - twice as fast, and there are thousands
                    stamp.append(f"{told.st_size}.{told.st_mtime_ns}.{told.st_ino}")
                if not stamp:
                    break
        except (OSError, UnicodeEncodeError):
            continue
        if stamp:
            yield folder / name, " ".join(stamp)


def rows_of(path: Path, stamp: str) -> tuple[tuple[object, ...], list[tuple[object, ...]]]:
    """A run's row, and the rows of its cells; of a run that cannot be read, what is wrong with it."""
    try:
        report = Report.load(path)
        header = report.header
        run = {
            "started": header.get("started", ""),
            "model": header["plan"].get("name", ""),
            "device": header["device"]["name"],
            "emulated": int(header["device"]["emulated"]),
            "planned": len(header["plan"].get("cells", ())),
            "done": len(report.cells),
            "failed": len(report.failed),
        }
        cells = [cell_row(cell) for cell in report.cells]
        for value in (*run.values(), *(value for row in cells for value in row.values())):
            check_kept(value)
    except (EdgekitError, KeyError, TypeError, ValueError, OverflowError, OSError) as error:
        said = error.message if isinstance(error, EdgekitError) else f"damaged: {type(error).__name__}: {error}"
        run, cells = {"damage": said.encode("utf-8", "replace").decode(), "started": ""}, []
    run |= {"path": str(path), "stamp": stamp, "run": path.name}
    rows = [
        tuple({**row, "path": str(path), "place": place}.get(key) for key in CELL) for place, row in enumerate(cells)
    ]
    return tuple(run.get(key) for key in RUN), rows


def check_kept(value: object) -> None:
    """Raise TypeError, ValueError or OverflowError for what SQLite does not keep: it has no other types, and text is UTF-8."""
    if isinstance(value, str):
        value.encode()
    elif isinstance(value, int):
        value.to_bytes(8, "big", signed=True)
    elif not isinstance(value, (float, type(None))):
        raise TypeError(f"{value!r} is neither text nor a number")


def cell_row(cell: Json) -> Json:
    """What the index keeps of a cell."""
    latency, counts = cell.get("latency", {}), cell.get("instructions", {})
    row = {key: cell[key] for key in ("id", "model", "device", "precision", "runtime", "threads", "status")}
    row |= {key: latency.get(key) for key in ("p50_ns", "low_ns", "high_ns", "half_width", "emulated")}
    row |= {"instructions": counts.get("total"), "spread": counts.get("spread")}
    row["run_peak_bytes"] = cell.get("memory", {}).get("run_peak_bytes")
    row["accuracy"] = cell.get("accuracy", {}).get("value")
    row["artifact"] = cell.get("artifact", {}).get("sha256")
    return row | {"version": cell.get("runtime_version")}


def age_of(run: Json) -> float:
    """When a run started, in seconds since 1970; endlessly late for one that does not tell, so that it is never old."""
    import calendar

    try:
        return float(calendar.timegm(time.strptime(run.get("started", ""), "%Y-%m-%dT%H:%M:%SZ")))
    except (TypeError, ValueError):
        return math.inf


def remove(path: Path) -> str:
    """Delete a run's folder, whole or not at all; why it was left, "" when it is gone.

    Left are a run that is being written, one with anything in it but edgekit's files, and what may not be taken away. A link to
    a run is left, and so is the run it leads to.
    """
    try:
        with claimed(path) as why:
            return why or discard(path)
    except OSError as error:
        return f"it cannot be deleted: {error.strerror}"


def kept_because(path: Path) -> str:
    """Why `remove` would leave a run's folder, as far as can be told without touching it; "" when it would go."""
    try:
        with claimed(path) as why:
            allowed = os.access(path.parent, os.W_OK | os.X_OK) and os.access(path, os.W_OK | os.X_OK)
            return why or ("" if allowed else f"it cannot be deleted: {os.strerror(errno.EACCES)}")
    except OSError as error:
        return f"it cannot be deleted: {error.strerror}"


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[str]:
    """Nobody writes this run meanwhile; why it must be left, else "". Raises OSError."""
    if path.is_symlink():
        yield "it is a link"
        return
    if path.is_mount():
        yield "something is mounted there"
        return
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield others(path) if store.claim(handle) else "it is being written"
    finally:
        os.close(handle)


def others(path: Path) -> str:
    """Which things in a run's folder are not edgekit's, in words; "" for none. Halves of a write that was cut off are its own."""
    halves = tuple(f".{file}-" for file in FILES)
    with os.scandir(path) as entries:
        names = sorted(
            entry.name
            for entry in entries
            if not entry.is_file(follow_symlinks=False) or not (entry.name in FILES or entry.name.startswith(halves))
        )
    return f"it has files that are not edgekit's: {', '.join(names[:3])}" if names else ""


def discard(path: Path) -> str:
    """Delete a folder in which only edgekit's files were; why it was left, "" when it is gone. Raises OSError.

    It gets another name first, so that no half of a run is ever seen, and its own back when something came into it meanwhile.
    """
    away = path.with_name(f".pruned-{path.name}-{secrets.token_hex(4)}")
    path.rename(away)
    why = others(away)
    if why:
        away.rename(path)
        return why
    # run.json first: what is left after a crash is no run any more, and nothing else is taken away than was looked at.
    try:
        for name in sorted((entry.name for entry in away.iterdir()), key=lambda name: name != store.HEADER):
            (away / name).unlink()
        away.rmdir()
    except OSError:
        if (away / store.HEADER).exists():
            away.rename(path)
        raise
    return ""


def forget_gone() -> None:
    """Drop the noted results folders that are no longer there."""
    with disk_errors("the list of results folders"):
        places.keep(Path.is_dir)
