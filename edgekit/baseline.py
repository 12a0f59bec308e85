"""Runs and baselines as what figures are taken from: read by name, path or file, held against one another, saved small.

A saved baseline is a report in its machine form without what is no figure, so whatever reads one reads the other.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from edgekit import figures, gate, stats, store
from edgekit.cache import disk_errors, is_file
from edgekit.errors import UserError
from edgekit.report import Report, damage
from edgekit.types import Json

TOP = ("schema", "run", "started", "edgekit", "device", "data", "judged_by", "protocol", "plan", "noise")
CELL = (
    "id", "model", "format", "precision", "runtime", "runtime_version", "device", "threads", "status", "error", "governor",
    "system", "latency", "instructions", "memory", "accuracy", "fidelity", "energy", "estimate",
)  # fmt: skip
HELD_OUT = ("x", "y")  # of the data; calibration makes another artifact, which is no reason not to compare
SYSTEM = ("machine", "model", "cpu", "cores")
WARM_UP = ("warmup_calls", "warmup_s")
PARTS: Mapping[str, type] = {
    "latency": dict, "memory": dict, "accuracy": dict, "fidelity": dict, "artifact": dict, "energy": dict, "sustained": dict,
    "estimate": dict, "system": dict, "instructions": dict, "warnings": list,
}  # fmt: skip
# What of a cell decides what its figures mean.
MEANING: Mapping[str, Callable[[Json], object]] = {
    "inputs judged on": lambda cell: cell.get("accuracy", {}).get("total"),
    "metric": lambda cell: cell.get("accuracy", {}).get("metric"),
    "what memory is": lambda cell: cell.get("memory", {}).get("method"),
    "seconds of the sustained run": lambda cell: cell.get("sustained", {}).get("asked_s"),
    "what tells the energy": lambda cell: cell.get("energy", {}).get("method", "").partition(" (")[0] or None,
    "governor": lambda cell: cell.get("governor"),
}


def read(name: str, output: Path) -> Json:
    """The machine form of a run (by path, name, the beginning of it, or last), or of a file with one. Raises UserError.

    Of a run it also has what is compared but not reported: "judged_by", the agent's "protocol", and in a cell "governor" and
    latency.each_launch {"p50", "first", "load": [ns per launch]}.
    """
    if is_file(Path(name)):
        return whole(gate.read(name, output), name)
    run = store.Run.load(gate.run_of(name, output))
    form = Report.of(run).to_json()
    form |= {"judged_by": run.header["judged_by"]} if "judged_by" in run.header else {}
    try:
        take(form, run.lines)
    except damage.WRONG as error:
        raise UserError(f"{run.path / store.LINES} is damaged: {error}", "restore the file, or run anew") from error
    return form


def take(form: Json, lines: Iterable[Json]) -> None:
    """Add to the machine form of a run what `read` gives beside it, of its measurements. Raises damage.WRONG."""
    for cell, line in zip(form["cells"], lines, strict=True):
        greeting = line.get("environment", {}).get("greeting", {})
        form |= {"protocol": greeting["protocol"]} if "protocol" in greeting else {}
        launches = line.get("launches", ())
        governor = launches[0].get("evidence", {}).get("before", {}).get("governor") if launches else None
        cell |= {"governor": governor} if governor else {}
        if "latency" in cell:
            each = {"p50": [statistics.median(calls) for calls in stats.per_call(launches)]}
            each |= {key: [launch[f"{key}_ns"] for launch in launches] for key in ("first", "load")}
            cell["latency"]["each_launch"] = each
    system_of(form)


def whole(form: Json, name: str) -> Json:
    """A report from a file, each cell of which has its keys, and figures that are numbers. Raises UserError."""
    try:
        list(differences(form, form))
        unmeasured(form)
        numbers = [form["noise"]["relative"]] if form.get("noise") else []
        for cell in form["cells"]:
            check_parts(cell)
            found = {metric: figures.of(cell, metric) for metric in figures.METRICS}
            for metric, figure in found.items():
                numbers += [figure.value, figure.low, figure.high] if figure else []
                if figure is None:
                    figures.why_not(cell, metric)
                elif figure.low > figure.high:
                    raise ValueError(f"the interval of {metric} ends before it begins")
            numbers += [value for metric in figures.PER_LAUNCH for value in figures.launches_of(cell, metric)]
        if not all(map(gate.is_number, numbers)):
            raise ValueError("a figure is not a number")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise gate.damaged(name, error) from error
    return form


def check_parts(cell: Json) -> None:
    """The parts of a cell are what they should be, as far as anything here reads them. Raises TypeError, KeyError, ValueError."""
    for key, kind in PARTS.items():
        if not isinstance(cell.get(key, kind()), kind):
            raise TypeError(f"{key} of {cell['id']} is {cell[key]!r}")
    artifact, system = cell.get("artifact", {}), cell.get("system", {})
    words = [warning[key] for warning in cell.get("warnings", ()) for key in ("code", "message")]
    words += [artifact["sha256"]] if artifact else []
    words += [cell["accuracy"]["metric"]] if cell.get("accuracy") else []
    if not all(isinstance(word, str) for word in words):
        raise TypeError(f"{cell['id']} has no words where some should be")
    if not all(isinstance(one, dict) for one in (artifact.get("details", {}), system.get("cpu", {}))):
        raise TypeError(f"the file or the system of {cell['id']} is not described")
    paired = cell.get("accuracy", {}).get("paired")
    if paired is not None and not gate.is_number(paired["p"]):
        raise ValueError(f"{cell['id']} has no p of its test")


def unmeasured(form: Json) -> list[str]:
    """The ids of the cells that a run was to have and has not: it ended early, or goes on. A saved baseline does not tell."""
    measured = {str(cell["id"]) for cell in form["cells"]}
    return [str(planned) for planned in form.get("plan", {}).get("cells", ()) if str(planned) not in measured]


def save(form: Json, path: Path) -> None:
    """Write a baseline file: the figures of each cell with their intervals, and what they were made with. Raises UserError."""
    kept = {key: form[key] for key in TOP if key in form}
    # It lies beside the code: nobody's addresses and paths.
    kept["device"] = {key: value for key, value in form["device"].items() if key != "connection"}
    kept["data"] = {key: value for key, value in form.get("data", {}).items() if key == "sha256"}
    kept["plan"] = {"effort": form.get("plan", {}).get("effort", {}), "samples": form.get("plan", {}).get("samples")}
    cells = [{key: cell[key] for key in CELL if key in cell} for cell in form["cells"]]
    for cell, whole in zip(cells, form["cells"], strict=True):
        if "artifact" in whole:
            cell["artifact"] = {key: whole["artifact"][key] for key in ("sha256", "size_bytes")}
        if "sustained" in whole:
            cell["sustained"] = {key: value for key, value in whole["sustained"].items() if key != "windows"}
        if "system" in cell:
            cell["system"] = {key: value for key, value in cell["system"].items() if key in SYSTEM}
    write(path, "the baseline", json.dumps({**kept, "cells": cells}, indent=1, allow_nan=False) + "\n")


def write(path: Path, what: str, text: str) -> None:
    """Write a file of the user's, with the rights of any other. Raises UserError and SetupError."""
    if not path.parent.is_dir():
        raise UserError(f"there is no folder {path.parent}", "make it first")
    if path.is_dir():
        raise UserError(f"{path} is a folder", "name a file")
    with disk_errors(f"{what} {path}"):
        path.write_text(text, "utf-8")


def check_alike(before: Json, after: Json) -> None:
    """Both were made so that their figures can be held against one another; the model may differ. Raises UserError that names what
    differs: of the device (profile, board, CPU, governor), threads, runtimes, data, metric, or how it was measured."""
    differing = [*gate.differences(after, before), *differences(before, after)]
    if differing:
        told = gate.said_of(differing, before["run"], after["run"])
        raise UserError(f"these runs are not alike: {told}", "make one of them anew, with what the other was made with")


def differences(before: Json, after: Json) -> Iterator[tuple[str, object, object]]:
    """What differs besides gate.differences(), as (key, before, after); what one of them does not tell is no difference."""
    pairs: dict[str, tuple[object, object]] = {"the agent's protocol": (before.get("protocol"), after.get("protocol"))}
    hashes = [one.get("data", {}).get("sha256") for one in (before, after)]
    data = [found if isinstance(found, dict) else {"all": found} for found in hashes]
    pairs |= {f"data.{key}": (short(data[0].get(key)), short(data[1].get(key))) for key in (*HELD_OUT, "all")}
    judged = [one.get("judged_by", {}) for one in (before, after)]
    pairs |= {key: (judged[0].get(key), judged[1].get(key)) for key in ("metric", "reference")}
    efforts = [one.get("plan", {}).get("effort", {}) for one in (before, after)]
    pairs |= {f"plan.effort.{key}": (efforts[0].get(key), efforts[1].get(key)) for key in WARM_UP}
    systems = [system_of(one) for one in (before, after)]
    pairs |= {f"system.{key}": (value, systems[1].get(key)) for key, value in systems[0].items()}
    cells = [{gate.key_of(cell): cell for cell in one["cells"]} for one in (before, after)]
    alike = [(cells[0][key], cells[1][key]) for key in cells[0] if key in cells[1]]
    plans = [one.get("plan", {}) for one in (before, after)]
    if any("fidelity" in cell and "accuracy" not in cell for cell, _ in alike) and all(
        "effort" in one for one in plans
    ):
        pairs["plan.samples"] = (plans[0].get("samples") or "all", plans[1].get("samples") or "all")
    differing = [(what, *pair) for what, pair in pairs.items()]
    differing += [(what, tell(one), tell(other)) for what, tell in MEANING.items() for one, other in alike]
    named: set[str] = set()
    for what, was, has in differing:
        if was is not None and has is not None and was != has and what not in named:
            named.add(what)
            yield what, was, has


def system_of(form: Json) -> Json:
    """What the device's agent said of its board and CPU, those of the CPU by cpu.KEY."""
    system: Json = next((cell["system"] for cell in form["cells"] if "system" in cell), {})
    found = {key: system[key] for key in SYSTEM if key in system}
    return found | {f"cpu.{key}": value for key, value in found.pop("cpu", {}).items()}


def short(sha256: str | None) -> str | None:
    """Enough of a hash to tell it from another."""
    return sha256[:12] if sha256 else None


def notes(before: Json, after: Json) -> Iterator[str]:
    """What differs and decides nothing, each a sentence."""
    names = [", ".join(dict.fromkeys(cell["model"] for cell in one["cells"])) for one in (before, after)]
    if before["run"] == after["run"]:
        yield f"{after['run']} is held against itself"
    if names[0] != names[1]:
        yield f"another model: {names[0]} in {before['run']}, {names[1]} in {after['run']}"
    versions = [one.get("edgekit") for one in (before, after)]
    if versions[0] != versions[1]:
        yield f"another edgekit: {versions[0]} in {before['run']}, {versions[1]} in {after['run']}"
    known = {gate.key_of(cell) for cell in before["cells"]}
    fresh = [str(cell["id"]) for cell in after["cells"] if gate.key_of(cell) not in known]
    if fresh:
        yield f"not in {before['run']}: {', '.join(fresh)}"
