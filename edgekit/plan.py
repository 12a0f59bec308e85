"""What is asked for, expanded into cells, and how that stands in run.json. Nothing is measured here."""

from __future__ import annotations

import dataclasses
import itertools
import os
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path

from edgekit import __version__, convert, plugins, session, sources, store
from edgekit.errors import UserError, unknown
from edgekit.types import Cell, Device, Json, Model, to_json

ALIASES = {"litert": "tflite", "ort": "onnxruntime"}


@dataclass(frozen=True)
class Effort:
    """How much is measured per cell. A profile's [limits] and the command line override single fields."""

    launches: int = 3
    warmup_calls: int = 5
    warmup_s: float = 0.5
    calls: int = 200
    min_calls: int = 20
    max_seconds: float = 10.0

    @classmethod
    def of(cls, device: Device, overrides: Json) -> Effort:
        """Defaults by kind of device. Counts under emulation are deterministic, so few calls are enough there."""
        base = (
            cls(launches=1, warmup_calls=2, warmup_s=0.0, calls=10, min_calls=3, max_seconds=20.0)
            if device.emulated
            else cls()
        )
        known = {f.name for f in dataclasses.fields(cls)}
        given = {name: value for name, value in overrides.items() if value is not None}
        changes = {name: value for name, value in {**device.limits, **given}.items() if name in known}
        for name, value in changes.items():
            least = 0 if name.startswith("warmup") else 1
            if not least <= value < float("inf"):
                raise UserError(f"{name.replace('_', '-')} must be a number of at least {least}, not {value}")
        effort = dataclasses.replace(base, **changes)
        return dataclasses.replace(effort, min_calls=min(effort.min_calls, effort.calls))


@dataclass(frozen=True)
class Request:
    """What the user asked for; see api.profile for the fields."""

    model: str
    device: str
    runtimes: tuple[str, ...] | None = None
    precisions: tuple[str, ...] = ("fp32", "int8")
    threads: tuple[int, ...] = (1,)
    samples: int | None = None
    output: Path = Path("results")
    resume: str | None = None
    effort: Json = field(default_factory=dict)


def recipe(name: str) -> Model:
    """The model of that name or recipe file. Raises UserError for a finished model file, and says first if it is damaged."""
    path = Path(name)
    if path.suffix not in ("", ".py"):
        kind = convert.check_file(path)
        hint = f"{path.name} is a whole {kind} model; a recipe says what it was made from: docs/adding-a-model.md"
        raise UserError(f"profile takes a recipe (.py), not a finished {path.suffix} file", hint)
    return sources.load(name)


def expand(model: Model, device: Device, request: Request) -> list[Cell]:
    """The matrix, runtime by runtime. Raises UserError for a name that does not exist."""
    wanted = request.runtimes if request.runtimes and "all" not in request.runtimes else device.runtimes
    cells = []
    for name in dict.fromkeys(ALIASES.get(name, name) for name in wanted):
        if name not in device.runtimes:
            if name not in plugins.names("runtime"):
                raise unknown("runtime", name, device.runtimes)
            raise UserError(f"{device.name} has no runtime '{name}'", f"it has: {', '.join(device.runtimes)}")
        produced = plugins.load("runtime", name).FORMATS[0]
        for precision, threads in itertools.product(request.precisions, request.threads):
            cells.append(Cell(model.name, produced, precision, name, device.name, threads))
    every = {p for name in plugins.names("converter") for p in plugins.load("converter", name).PRECISIONS}
    for precision in request.precisions:
        if precision not in every:
            raise unknown("precision", precision, every)
    most = int(device.limits.get("threads", 0))
    for threads in request.threads:
        if threads < 1 or (most and threads > most):
            raise UserError(
                f"--threads {threads} is not possible on {device.name}", f"1 to {most}" if most else "at least 1"
            )
    return cells


def header(request: Request, model: Model, device: Device, effort: Effort, cells: list[Cell]) -> Json:
    """run.json: the plan and what it was made with. No path of this machine stands in it."""
    plan = {
        "model": portable(request.model),
        "device": portable(request.device),
        "name": model.name,
        "runtimes": list(dict.fromkeys(cell.runtime for cell in cells)),
        "precisions": list(request.precisions),
        "threads": list(request.threads),
        "samples": request.samples,
        "effort": dataclasses.asdict(effort),
        "cells": [cell.id for cell in cells],
    }
    return {
        "run": store.new_run_id(model.name, device.name),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "edgekit": __version__,
        "agent": session.agent_key(),
        "plan": to_json(plan),
        "device": {**to_json(dataclasses.replace(device, source=None)), "emulated": device.emulated},
        "model": {
            "description": model.description,
            "task": model.task,
            "licence": model.licence,
            "sha256": sources.source_sha256(model),
        },
        "host": {"system": platform.system(), "machine": platform.machine(), "python": platform.python_version()},
        "git": store.git_state(Path.cwd()),
    }


def portable(name: str) -> str:
    """A name as it is; a path relative to the working directory, so that no run tells where it was made."""
    return os.path.relpath(name) if os.sep in name else name


def request_of(earlier: store.Run, output: Path) -> Request:
    """What was asked for when an earlier run was started."""
    plan = earlier.header["plan"]
    return Request(
        model=plan["model"],
        device=plan["device"],
        runtimes=tuple(plan["runtimes"]),
        precisions=tuple(plan["precisions"]),
        threads=tuple(plan["threads"]),
        samples=plan.get("samples"),
        output=output,
        resume=earlier.path.name,
        effort=plan["effort"],
    )


def check_alike(earlier: store.Run, now: Json) -> None:
    """A run is finished only with what it was begun with. Raises UserError that names what has changed since."""
    before = earlier.header
    pairs = {
        "edgekit's version": (before.get("edgekit"), now["edgekit"]),
        "the agent": (before.get("agent"), now["agent"]),
        "the device profile": (before.get("device"), now["device"]),
        "the model's recipe": (before.get("model"), now["model"]),
    }
    changed = [what for what, (then, since) in pairs.items() if then != since]
    if changed:
        message = f"{earlier.path.name} cannot be finished: {' and '.join(changed)} changed since it was begun"
        raise UserError(message, "start a new run; the finished cells stay where they are")
