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
MODEL, DEVICE, PRECISIONS, THREADS = "digits_cnn", "pi4", ("fp32", "int8"), (1,)


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
        kinds: Json = {name: type(value) for name, value in dataclasses.asdict(base).items()}
        given = {name: value for name, value in overrides.items() if value is not None}
        for name in given:
            if name not in kinds:
                raise unknown("field of the effort", name, kinds)
        changes = {name: value for name, value in {**device.limits, **given}.items() if name in kinds}
        for name, value in changes.items():
            least = 0 if name.startswith("warmup") else 1
            what = "whole number" if kinds[name] is int else "number"
            if (
                not isinstance(value, (int, kinds[name]))
                or isinstance(value, bool)
                or not least <= value < float("inf")
            ):
                raise UserError(f"{name.replace('_', '-')} must be a {what} of at least {least}, not {value}")
        effort = dataclasses.replace(base, **changes)
        return dataclasses.replace(effort, min_calls=min(effort.min_calls, effort.calls))


@dataclass(frozen=True)
class Request:
    """What the user asked for; see api.profile for the fields."""

    model: str | None = None
    device: str | None = None
    runtimes: tuple[str, ...] | None = None
    precisions: tuple[str, ...] = PRECISIONS
    threads: tuple[int, ...] = THREADS
    samples: int | None = None
    output: Path = Path("results")
    resume: str | None = None
    effort: Json = field(default_factory=dict)

    def checked(self) -> Request:
        """The same with its defaults filled in. Raises UserError for what no run can be made of."""
        for name in ("runtimes", "precisions", "threads"):
            if getattr(self, name) == ():
                raise UserError(f"no {name} are left to measure", f"leave {name} out to have the default")
        for threads in self.threads:
            if not isinstance(threads, int) or threads < 1:
                raise UserError(f"threads must be whole numbers of at least 1, not {threads!r}")
        if self.samples is not None and (not isinstance(self.samples, int) or self.samples < 1):
            raise UserError(f"samples must be a whole number of at least 1, not {self.samples!r}")
        return dataclasses.replace(
            self,
            model=MODEL if self.model is None else self.model,
            device=DEVICE if self.device is None else self.device,
        )


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
        if most and threads > most:
            raise UserError(f"{threads} threads are not possible on {device.name}", f"1 to {most}")
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


def portable(name: str | None) -> str:
    """A name as it is; a path relative to the working directory, and below it: no run tells where it was made."""
    assert name is not None
    if os.sep not in name:
        return name
    relative = os.path.relpath(name)
    return Path(name).name if relative.startswith(os.pardir) else relative


def request_of(earlier: store.Run, given: Request) -> Request:
    """What was asked for when an earlier run was started; model and device may have been given again, from elsewhere."""
    plan = earlier.header["plan"]
    try:
        return Request(
            model=plan["model"] if given.model is None else given.model,
            device=plan["device"] if given.device is None else given.device,
            runtimes=tuple(plan["runtimes"]),
            precisions=tuple(plan["precisions"]),
            threads=tuple(plan["threads"]),
            samples=plan.get("samples"),
            output=given.output,
            resume=earlier.path.name,
            effort=plan["effort"],
        )
    except (KeyError, TypeError) as error:
        raise UserError(f"run.json of {earlier.path.name} lacks its plan: {error}", "start a new run") from error


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
