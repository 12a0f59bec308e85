"""The gate on instruction counts: whether a run needs more than its baseline did. Both are read from files; nothing is measured."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from edgekit import store
from edgekit.cache import is_file
from edgekit.errors import UserError
from edgekit.report import Report, damage
from edgekit.types import Json
from edgekit.types import Status as CellStatus

LIMIT = 0.01  # counts of the same file repeat within 0.1 %
# What decides which instructions run, of a device profile.
PROFILE = ("name", "arch", "transport", "emulation")
NAMES = ("id", "model", "precision", "runtime", "status")  # of a cell
TOLD = 6  # differences that a message names
Status = Literal["pass", "fail"]


@dataclass(frozen=True)
class Row:
    """One cell: its instructions before and now (None: there are none), and why it failed."""

    id: str
    baseline: int | None
    now: int | None
    limit: float
    why: str = ""

    @property
    def status(self) -> Status:
        return "fail" if self.why else "pass"

    @property
    def change(self) -> float | None:
        """By what share it grew."""
        return self.now / self.baseline - 1 if self.now is not None and self.baseline else None


@dataclass(frozen=True)
class Gated:
    """All cells of a baseline held against a run. `notes` say what else differs and does not decide."""

    run: str
    baseline: str
    rows: list[Row]
    notes: list[str]

    @property
    def passed(self) -> bool:
        return all(row.status == "pass" for row in self.rows)

    def to_json(self) -> Json:
        """The machine form."""
        cells = [
            {"id": row.id, "metric": "instructions", "status": row.status, "baseline": row.baseline, "now": row.now,
             "change": row.change, "limit": row.limit, "why": row.why}
            for row in self.rows
        ]  # fmt: skip
        return {
            "status": "pass" if self.passed else "fail", "run": self.run, "baseline": self.baseline,
            "cells": cells, "notes": self.notes,
        }  # fmt: skip


def check(now: str, baseline: str, limit: float = LIMIT, output: Path = Path("results")) -> Gated:
    """Hold a run against its baseline, each a run below `output` (by name or path) or what `profile --json` printed into a file.

    A cell fails when it needs more instructions than `limit` allows, or when it is missing or has none now. Cells are matched
    by precision, runtime, threads and options: a changed model is what this is for. Raises UserError when one of them cannot be
    read, or when they were not made alike, with the key that differs.
    """
    if not 0 <= limit < float("inf"):
        raise UserError(f"a limit must be 0 or more, not {limit}")
    after, before = read(now, output), read(baseline, output)
    check_alike(after, before)
    here = {key_of(cell): cell for cell in after["cells"]}
    rows = []
    for cell in before["cells"]:
        total = total_of(cell)
        if total is not None:
            rows.append(row_of(cell, total, here.get(key_of(cell)), limit))
    if not rows:
        message = f"the baseline {baseline} has no instruction counts"
        raise UserError(message, "make it on a device that counts them: edgekit profile --device pi4")
    return Gated(str(after["run"]), str(before["run"]), rows, list(notes(after, before)))


def read(name: str, output: Path) -> Json:
    """The machine form of a run, or of a file with one. Raises UserError."""
    if not is_file(Path(name)):
        return Report.load(run_of(name, output)).to_json()
    try:
        found = json.loads(Path(name).read_text("utf-8"), parse_constant=store.no_number)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {name}: {error}", "it should be what `edgekit profile --json` prints") from error
    whole = isinstance(found, dict) and {"schema", "run", "device", "cells"} <= found.keys()
    if not whole or not isinstance(found["cells"], list):
        several = isinstance(found, dict) and "reports" in found
        hint = "one device to a file" if several else "it should be what `edgekit profile --json` prints"
        raise UserError(f"{name} is not the report of a run", hint)
    if found["schema"] != store.SCHEMA:
        raise UserError(f"{name} has schema {found['schema']}, this edgekit reads {store.SCHEMA}", "make it anew")
    try:
        check_whole(found)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise damaged(name, error) from error
    return dict(found)


def run_of(name: str, output: Path) -> Path:
    """The folder of a run that is asked for where a file might be. Raises UserError."""
    try:
        return store.find(output, name)
    except UserError as error:
        if not name or not (Path(name).suffix or os.sep in name):
            raise
        hint = f"edgekit gate RUN --save {name} would write it"
        raise UserError(f"there is no file {name}, and no run of that name in {output}", hint) from error


def damaged(name: str, error: Exception) -> UserError:
    """What is said of a file in which something is not as a report has it."""
    return UserError(f"{name} is damaged: {damage.reason(error)}", "write it anew: edgekit gate RUN --save FILE")


def check_whole(form: Json) -> None:
    """A report from a file has what the gate takes from it, each cell once. Raises what reading it would raise."""
    profile(form["device"])
    names = [form["run"], *(cell[key] for cell in form["cells"] for key in NAMES)]
    if not all(isinstance(name, str) for name in names):
        raise ValueError("a run, a cell or a model has no name")
    keys = [key_of(cell) for cell in form["cells"]]
    if len(set(keys)) < len(keys):
        raise ValueError("a cell is there twice")
    for cell in form["cells"]:
        if not isinstance(cell["threads"], int) or cell["status"] not in get_args(CellStatus):
            raise ValueError(f"{cell['id']} has {cell['threads']!r} threads and is {cell['status']}")
        reason_of(cell)
        total = (cell.get("instructions") or {"total": 0})["total"]
        if not is_number(total) or total < 0:
            raise ValueError(f"{total!r} is no count")


def is_number(value: object) -> bool:
    """Whether it is a finite number; JSON as Python reads it has NaN and Infinity, and true is no number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < damage.MOST


def check_alike(after: Json, before: Json) -> None:
    """Both were counted on the same device, with the same runtimes and threads. Raises UserError that names what differs."""
    differing = differences(after, before)
    if differing:
        told = said_of(differing, "the baseline", "the run")
        raise UserError(f"these runs are not alike: {told}", "make the baseline anew with what is used now")


def said_of(differing: Sequence[tuple[str, object, object]], before: str, after: str) -> str:
    """What differs, in words; the first ones where it is much, because another device differs in everything."""
    told = [f"{what}: {one} in {before}, {other} in {after}" for what, one, other in differing[:TOLD]]
    more = [f"and {len(differing) - TOLD} more"] if len(differing) > TOLD else []
    return "; ".join(told + more)


def differences(after: Json, before: Json) -> list[tuple[str, object, object]]:
    """What of the device, the threads and the runtimes' versions differs: (key, in the baseline, now)."""
    was, has = profile(before["device"]), profile(after["device"])
    differing: list[tuple[str, object, object]] = [
        (f"device.{key}", was.get(key), has.get(key)) for key in {**was, **has} if was.get(key) != has.get(key)
    ]
    threads = [sorted({cell["threads"] for cell in one["cells"]}) for one in (before, after)]
    if not set(threads[0]) & set(threads[1]):
        differing.append(("threads", threads[0], threads[1]))
    here = {key_of(cell): cell for cell in after["cells"]}
    versions = {}
    for cell in before["cells"]:
        pair = (cell.get("runtime_version"), here.get(key_of(cell), {}).get("runtime_version"))
        if None not in pair and pair[0] != pair[1]:
            versions[cell["runtime"]] = pair
    return differing + [(f"the version of {runtime}", *pair) for runtime, pair in versions.items()]


def profile(device: Json) -> Json:
    """What of a device decides its counts, the keys of a section by SECTION.KEY."""
    chosen = {key: device[key] for key in PROFILE if device.get(key) is not None}
    emulation = chosen.pop("emulation", {})
    return chosen | {f"emulation.{key}": value for key, value in emulation.items()}


def key_of(cell: Json) -> tuple[object, ...]:
    """What a cell is matched by; its options stand behind the "+" of its id."""
    return (cell["precision"], cell["runtime"], *str(cell["id"]).rpartition("@")[2].split("+")[1:])


def reason_of(cell: Json) -> str:
    """Why a cell that is not ok has no figures."""
    return f"{cell['status']}: {(cell.get('error') or {}).get('message', 'no reason is known')}"


def total_of(cell: Json | None) -> int | None:
    """The instructions of one inference, where they are known."""
    found = (cell or {}).get("instructions")
    return int(found["total"]) if found else None


def row_of(cell: Json, baseline: int, now: Json | None, limit: float) -> Row:
    """A cell of the baseline and what became of it."""
    total = total_of(now)
    if now is None:
        why = "it is not in the new run"
    elif now["status"] != "ok":
        why = reason_of(now)
    elif total is None:
        why = "it has no instruction counts now"
    else:
        over = total - baseline > limit * baseline
        change = f"{100 * (total / baseline - 1):+.2f} %" if baseline else f"{total:,} instead of none"
        why = f"{change}, the limit is {100 * limit:+g} %" if over else ""
    return Row(str(cell["id"]), baseline, total, limit, why)


def notes(after: Json, before: Json) -> Iterator[str]:
    """What is worth a sentence and fails nothing."""
    names: Sequence[str] = [", ".join(dict.fromkeys(cell["model"] for cell in one["cells"])) for one in (before, after)]
    if names[0] != names[1]:
        yield f"another model: {names[0]} in the baseline, {names[1]} now"
    versions = [one.get("edgekit") for one in (before, after)]
    if versions[0] != versions[1]:
        yield f"another edgekit: {versions[0]} in the baseline, {versions[1]} now"
    known = {key_of(cell) for cell in before["cells"] if total_of(cell) is not None}
    fresh = [
        str(cell["id"]) for cell in after["cells"] if cell["status"] != "unsupported" and key_of(cell) not in known
    ]
    if fresh:
        yield f"not in the baseline, or without counts there: {', '.join(fresh)}"
