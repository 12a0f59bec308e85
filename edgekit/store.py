"""Runs on disk: run.json once, measurements.jsonl one line per cell, flushed and fsynced as soon as it exists."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import re
import secrets
import time
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from edgekit import places
from edgekit.cache import disk_errors, write_text
from edgekit.errors import UserError
from edgekit.types import Json, Measurement, to_json

# History: 1 first form.
SCHEMA = 1
HEADER, LINES = "run.json", "measurements.jsonl"


def no_number(word: str) -> float:
    """NaN and Infinity, which Python's JSON has and nobody else's. Raises ValueError."""
    raise ValueError(f"{word} is no number")


DECODER = json.JSONDecoder(parse_constant=no_number)


def new_run_id(model: str, device: str) -> str:
    """A name that sorts by time and does not collide."""
    name = re.sub(r"[^a-zA-Z0-9_-]+", "-", f"{model}-{device}")
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{name}-{secrets.token_hex(2)}"


class Run:
    """A run's folder. `lines` are the measurements in it, as plain JSON, in the order they were made; they stay on the disk."""

    def __init__(self, path: Path, header: Json, lines: Kept, torn: bool = False) -> None:
        self.path = path
        self.header = header
        self.lines = lines
        self.torn = torn
        self.stale = False  # lines on the disk that are no longer here
        self.size = 0  # bytes of measurements.jsonl as it was read or written

    @classmethod
    def create(cls, parent: Path, header: Json) -> Run:
        """Make a folder of its own, with a number after its name where that is taken, and write run.json."""
        name = str(header["run"])
        with disk_errors(HEADER):
            parent.mkdir(parents=True, exist_ok=True)
            for number in itertools.count(1):
                named = {"schema": SCHEMA, **header, "run": name if number == 1 else f"{name}-{number}"}
                text = json.dumps(named, indent=1, allow_nan=False)
                path = parent / named["run"]
                with contextlib.suppress(FileExistsError):
                    path.mkdir()
                    break
        write_text(path / HEADER, text + "\n")
        places.note(parent)
        return cls(path, named, Kept(path / LINES))

    @classmethod
    def load(cls, path: Path) -> Run:
        """Read a run. A torn last line (a crash in the middle of writing) is dropped and noted. Raises UserError."""
        header = read_header(path)
        size = size_of(path / LINES)
        lines = Lines(path / LINES)
        run = cls(
            path, header, Kept(path / LINES, ((start, str(line["id"])) for start, line in lines.placed())), lines.torn
        )
        run.size = size
        return run

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """No other process writes this run meanwhile. Raises UserError when one does, or did since it was read."""
        handle = os.open(self.path, os.O_RDONLY)
        try:
            if not claim(handle):
                raise UserError(f"another edgekit is writing the run {self.path.name}", "wait for its end")
            if size_of(self.path / LINES) != self.size:
                raise UserError(f"another edgekit went on with the run {self.path.name} meanwhile", "resume it again")
            yield
        finally:
            os.close(handle)

    def append(self, measurement: Measurement) -> Json:
        """Add a measurement; it is on the disk when this returns. Lines that are torn or were dropped leave it before."""
        line: Json = to_json(measurement)
        line["id"] = measurement.cell.id
        data = json.dumps(line, allow_nan=False).encode() + b"\n"  # NaN is no JSON, and here a bug of ours
        target = self.path / LINES
        with disk_errors("the measurement"):
            if self.torn or self.stale:
                self.lines.rewrite()
                self.torn = self.stale = False
            # Unbuffered: a buffer that a full disk refused would be written again by truncate() and close().
            with target.open("ab", buffering=0) as stream:
                start = stream.tell()
                try:
                    while data:
                        data = data[stream.write(data) :]
                    os.fsync(stream.fileno())
                    self.size = stream.tell()
                except OSError:
                    stream.truncate(start)
                    raise
        self.lines.add(start, line["id"])
        return line

    def forget_lost(self) -> None:
        """Drop the cells that were lost with the device or its link, or interrupted: they are measured again."""
        lost = [(line.get("error") or {}).get("kind") in ("device", "interrupted") for line in self.lines]
        self.stale = self.stale or any(lost)
        self.lines.drop(lost)

    def done(self) -> set[str]:
        """The ids of the cells that have a line."""
        return set(self.lines.ids)


class Kept(Sequence[Json]):
    """The measurements of a run that grows: in memory is where each begins in the file, and the id of its cell.

    Raises UserError when a line is no longer there as it was.
    """

    def __init__(self, path: Path, placed: Iterable[tuple[int, str]] = ()) -> None:
        self.path = path
        self.starts = array("Q")
        self.ids: list[str] = []
        for start, name in placed:
            self.add(start, name)

    def add(self, start: int, name: str) -> None:
        """The line of the cell `name` begins at that byte."""
        self.starts.append(start)
        self.ids.append(name)

    def drop(self, lost: Sequence[bool]) -> None:
        """Forget the lines that are lost; they stay in the file until `rewrite`."""
        kept = [(start, name) for start, name, gone in zip(self.starts, self.ids, lost, strict=True) if not gone]
        self.starts, self.ids = array("Q", [start for start, _ in kept]), [name for _, name in kept]

    def rewrite(self) -> None:
        """Make the file anew of these lines alone. Raises SetupError."""
        rows = [json.dumps(line) + "\n" for line in self]
        write_text(self.path, "".join(rows))
        self.starts = array("Q", itertools.accumulate((len(row.encode()) for row in rows[:-1]), initial=0))[: len(rows)]

    def __len__(self) -> int:
        return len(self.starts)

    def _at(self, starts: Iterable[int]) -> Iterator[Json]:
        try:
            with contextlib.ExitStack() as stack:
                stream = None
                for start in starts:
                    stream = stream or stack.enter_context(self.path.open("rb"))
                    stream.seek(start)
                    yield dict(json.loads(stream.readline()))
        except (OSError, ValueError) as error:
            raise UserError(f"{self.path} was changed by somebody else meanwhile: {error}", "resume the run") from error

    def __iter__(self) -> Iterator[Json]:
        return self._at(self.starts)

    @overload
    def __getitem__(self, place: int) -> Json: ...
    @overload
    def __getitem__(self, place: slice) -> list[Json]: ...
    def __getitem__(self, place: int | slice) -> Json | list[Json]:
        if isinstance(place, slice):
            return list(self._at(self.starts[place]))
        return next(self._at([self.starts[place]]))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(one == two for one, two in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # it grows


class Lines:
    """The measurements in a file, read anew whenever they are gone through, one in memory at a time.

    After that `torn` says whether the last one was. Raises UserError, while it is gone through, for damage elsewhere.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.torn = False

    def __iter__(self) -> Iterator[Json]:
        return (line for _, line in self.placed())

    def placed(self) -> Iterator[tuple[int, Json]]:
        """Each measurement with the byte of the file at which it begins."""
        self.torn = False
        start = 0
        try:
            stream = self.path.open("rb")
        except FileNotFoundError:
            return
        except OSError as error:
            raise UserError(f"cannot read {self.path}: {error.strerror}") from error
        with stream:
            for number, row in enumerate(stream, 1):
                if not row.endswith(b"\n"):  # it may be a part of a longer one that happens to be JSON
                    self.torn = True
                    return
                try:
                    line = DECODER.decode(row.decode("utf-8", "replace"))
                except (ValueError, RecursionError) as error:
                    if isinstance(error, json.JSONDecodeError) and not stream.read(1):
                        self.torn = True
                        return
                    message = f"{self.path}:{number}: not JSON: {error}"
                    raise UserError(message, "restore the file, or remove that line") from error
                if not is_measurement(line):
                    message = f"{self.path}:{number}: not a measurement"
                    raise UserError(message, "restore the file, or remove that line")
                yield start, line
                start += len(row)


def is_measurement(line: object) -> bool:
    """Whether it is what a run is found and gone on by: a cell with its name, its status, and its error where there is one."""
    if not isinstance(line, dict) or not all(isinstance(line.get(key), str) for key in ("id", "status")):
        return False
    return isinstance(line.get("cell"), dict) and isinstance(line.get("error"), (dict, type(None)))


@dataclass(frozen=True)
class Stored:
    """A run on the disk that is read and not gone on with; its raw samples are not kept in memory."""

    path: Path
    header: Json
    lines: Lines

    @classmethod
    def open(cls, path: Path) -> Stored:
        """Read run.json. Raises UserError."""
        return cls(path, read_header(path), Lines(path / LINES))

    @property
    def torn(self) -> bool:
        """Whether the last line was torn; known when the lines have been gone through."""
        return self.lines.torn


def read_header(path: Path) -> Json:
    """run.json of a run's folder. Raises UserError."""
    try:
        header = DECODER.decode((path / HEADER).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"'{path}' is not a run: it has no run.json", "runs lie in results/") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path / HEADER}: {error}") from error
    if not isinstance(header, dict) or header.get("schema") != SCHEMA:
        found = header.get("schema") if isinstance(header, dict) else None
        raise UserError(f"'{path}' has schema {found}, this edgekit reads {SCHEMA}", "use the edgekit that wrote it")
    for key, kind in (("plan", dict), ("device", dict), ("run", str)):
        if not isinstance(header.get(key), kind):
            raise UserError(f"{path / HEADER} is damaged: it has no {key}", "restore the file, or run anew")
    return header


def claim(handle: int) -> bool:
    """Lock an open folder or file for this process until it is closed; False when another process has it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def size_of(path: Path) -> int:
    """Bytes of a file, 0 when there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def find(parent: Path, name: str) -> Path:
    """A run's folder by path, by name, or by an unambiguous beginning of its name; `last` is the newest."""
    if not name:
        raise UserError("the name of a run is empty", "give its name, the beginning of it, or last")
    direct = Path(name)
    if (direct / "run.json").is_file():
        return direct
    runs = sorted(all_runs(parent), key=_begun)
    if name == "last" and runs:
        return runs[-1]
    found = [run for run in runs if run.name == name] or [run for run in runs if run.name.startswith(name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"'{name}' names {len(found)} runs", ", ".join(run.name for run in found[:5]))
    raise UserError(
        f"there is no run '{name}' in {parent}", f"newest: {runs[-1].name}" if runs else "no run is there yet"
    )


def _begun(run: Path) -> tuple[str, int, str]:
    """By the second in its name, or by when its header was written where the name tells no time.

    Of runs begun in the same second, the one written last comes last.
    """
    try:
        written = (run / HEADER).stat().st_mtime_ns
    except OSError:  # it went meanwhile
        written = 0
    told = re.match(r"\d{8}-\d{6}", run.name)
    return told[0] if told else time.strftime("%Y%m%d-%H%M%S", time.gmtime(written // 10**9)), written, run.name


def all_runs(parent: Path) -> Iterator[Path]:
    """The run folders in a results folder. A link to one of them is not another, and hidden ones are on their way out."""
    if parent.is_dir():
        folders = (path.parent for path in parent.glob("*/run.json"))
        yield from (path for path in folders if not path.name.startswith(".") and not path.is_symlink())


def git_state(folder: Path) -> dict[str, Any]:
    """Commit and cleanness of the working directory, empty outside a checkout or without git."""
    import subprocess

    try:
        ask = ["git", "-C", str(folder), "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
        text = subprocess.run(ask, capture_output=True, text=True, timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    commit = re.search(r"# branch.oid (\w+)", text)
    changed = any(not line.startswith("#") for line in text.splitlines())
    return {"commit": commit.group(1), "changed": changed} if commit else {}
