"""What is asked for, expanded into cells, and how that stands in run.json. Nothing is measured here."""

from __future__ import annotations

import dataclasses
import itertools
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit import __version__, plugins, session, sources, store
from edgekit.errors import UserError, unknown
from edgekit.types import Cell, Device, Json, Model, to_json

ALIASES = {"litert": "tflite", "ort": "onnxruntime"}
# The order in which `--precision all` goes through them.
ALL_PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int8_io", "int8_dynamic", "int8_weight", "int16x8", "int4_weight")
PATHS = ("data", "calibration", "metric", "reference")
MODEL, DEVICE, PRECISIONS, THREADS, BATCHES = "digits_cnn", "pi4", ("fp32", "int8"), (1,), (1,)
# What is measured beside latency, memory and accuracy, and kept in a run only where it was asked for.
EXTRAS = ("level", "operators", "require_full_delegation", "sustained_s", "energy", "power_meter")

# What --quick and --gate change of an Effort.
LEVELS: Mapping[str, Json] = {
    "quick": {"launches": 3, "target": 0.05, "max_seconds": 15.0},
    "gate": {"launches": 10, "target": 0.01, "max_seconds": 180.0},
}
EFFORT_KINDS: Mapping[str, Any] = {
    "launches": int,
    "warmup_calls": int,
    "warmup_s": float,
    "calls": int,
    "min_calls": int,
    "seconds": float,
    "target": float,
    "max_seconds": float,
}

# --metric instructions: what it makes of a request that says nothing of these. Counts repeat, so a few calls tell all, and a few
# inputs whether the outputs are the model's.
INSTRUCTIONS = "instructions"
COUNTING_SAMPLES, COUNTING = 4, {"launches": 1, "warmup_calls": 1, "calls": 3}

WORDS = {"data": "the data", "judged_by": "the metric or the reference"}


@dataclass(frozen=True)
class Effort:
    """How much is measured per cell. A profile's [limits] and the command line override single fields.

    Fresh processes (`launches`, at least) are timed for `seconds` each, and more of them are started until the 95 % interval of
    the median is within +-`target` of it, or `max_seconds` were spent on warm-up and samples of the cell. `calls` says how many
    samples a launch takes instead. With a number of launches or calls that somebody asked for, the target is 0: so many, and
    no more. stats.py says why six launches are the least.
    """

    launches: int = 6
    warmup_calls: int = 5
    warmup_s: float = 0.5
    calls: int | None = None
    min_calls: int = 5
    seconds: float = 0.15
    target: float = 0.02
    max_seconds: float = 60.0

    @classmethod
    def of(cls, device: Device, overrides: Json, level: str | None = None) -> Effort:
        """Defaults by kind of device and level of precision. Raises UserError.

        Counts under emulation are deterministic, so few calls are enough there, at every level.
        """
        if level is not None and level not in LEVELS:
            raise unknown("level of precision", level, LEVELS)
        base = (
            cls(launches=1, warmup_calls=2, warmup_s=0.0, calls=10, min_calls=3, target=0.0, max_seconds=20.0)
            if device.emulated
            else cls(**LEVELS.get(level or "", {}))
        )
        kinds = EFFORT_KINDS
        given = {name: value for name, value in overrides.items() if value is not None}
        for name in given:
            if name not in kinds:
                raise unknown("field of the effort", name, kinds)
        changes = {name: value for name, value in {**device.limits, **given}.items() if name in kinds}
        for name, value in changes.items():
            least = 0 if name in ("warmup_calls", "warmup_s", "seconds", "target") else 1
            what = "whole number" if kinds[name] is int else "number"
            if (
                not isinstance(value, (int, kinds[name]))
                or isinstance(value, bool)
                or not least <= value < float("inf")
            ):
                raise UserError(f"{name.replace('_', '-')} must be a {what} of at least {least}, not {value}")
        if changes.keys() & {"launches", "calls"}:
            changes = {"target": 0.0, **changes}
        effort = dataclasses.replace(base, **changes)
        return dataclasses.replace(effort, min_calls=min(effort.min_calls, effort.calls or effort.min_calls))


@dataclass(frozen=True)
class Request:
    """What the user asked for; see api.profile for the fields."""

    model: str | None = None
    device: str | None = None
    runtimes: tuple[str, ...] | None = None
    precisions: tuple[str, ...] | None = None
    threads: tuple[int, ...] = THREADS
    samples: int | None = None
    output: Path = Path("results")
    resume: str | None = None
    effort: Json = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    data: str | None = None
    calibration: str | None = None
    preprocess: str | None = None
    metric: str | None = None
    reference: str | None = None
    trust: bool = False
    connection: Json = field(default_factory=dict)
    wait: bool = False
    level: str | None = None
    batches: tuple[int, ...] = BATCHES
    operators: bool = False
    require_full_delegation: bool = False
    sustained_s: float | None = None
    energy: bool = False
    power_meter: str | None = None

    @property
    def counts_only(self) -> bool:
        """Whether instructions are all that is asked for."""
        return self.metric == INSTRUCTIONS

    def checked(self) -> Request:
        """The same with its defaults filled in. Raises UserError for what no run can be made of."""
        for name in ("runtimes", "precisions", "threads", "batches"):
            if getattr(self, name) == ():
                raise UserError(f"no {name} are left to measure", f"leave {name} out to have the default")
        for name in ("threads", "batches"):
            for number in getattr(self, name):
                if not isinstance(number, int) or number < 1:
                    raise UserError(f"{name} must be whole numbers of at least 1, not {number!r}")
        if self.samples is not None and (not isinstance(self.samples, int) or self.samples < 1):
            raise UserError(f"samples must be a whole number of at least 1, not {self.samples!r}")
        return dataclasses.replace(
            self,
            model=MODEL if self.model is None else self.model,
            device=DEVICE if self.device is None else self.device,
        )


def counting(request: Request, devices: Sequence[Device]) -> Request:
    """The request as --metric instructions means it; any other one as it is. Raises UserError where nothing counts them."""
    if not request.counts_only:
        return request
    for device in devices:
        if not device.counted:
            hint = "name an emulated board, such as pi4; `edgekit devices` lists them"
            raise UserError(
                f"instructions are not counted on {device.name}: only user-mode emulation counts them", hint
            )
    samples = COUNTING_SAMPLES if request.samples is None else request.samples
    said = {name: value for name, value in request.effort.items() if value is not None}
    return dataclasses.replace(request, samples=samples, effort={**COUNTING, **said})


def check_apart(devices: Sequence[Device]) -> None:
    """Several devices differ in their names, by which the cells are told apart. Raises UserError."""
    for device in devices:
        if [other.name for other in devices].count(device.name) > 1:
            raise UserError(f"two of the devices are called '{device.name}'", "give one of the files another name")


def expand(model: Model, device: Device, request: Request) -> list[Cell]:
    """The matrix, runtime by runtime. Raises UserError for a name that does not exist.

    Where nothing is said, a finished file is measured as it is, in the runtimes of its format; everything else in fp32 and
    int8, in all runtimes of the device.
    """
    cells = []
    wanted = precisions(model, request.precisions)
    batches = request.batches if request.batches != BATCHES else (model.batch,)
    for name in _runtimes(model, device, request.runtimes):
        formats = plugins.load("runtime", name).FORMATS
        made = model.entry if model.entry in formats else formats[0]
        for precision, threads, batch in itertools.product(wanted, request.threads, batches):
            options = (("batch", str(batch)),) if batch != 1 else ()
            cells.append(Cell(model.name, made, precision, name, device.name, threads, options))
    most = int(device.limits.get("threads", 0))
    for threads in request.threads:
        if most and threads > most:
            raise UserError(f"{threads} threads are not possible on {device.name}", f"1 to {most}")
    return cells


def _runtimes(model: Model, device: Device, wanted: tuple[str, ...] | None) -> list[str]:
    """The runtimes asked for, by their names."""
    if wanted is None and model.kind == "artifact":
        fits = {name: model.entry in plugins.load("runtime", name).FORMATS for name in device.all_runtimes}
        fitting = [name for name in device.runtimes if fits[name]] or [name for name in fits if fits[name]]
        if not fitting:
            hint = f"{device.name} has: {', '.join(device.all_runtimes)}"
            raise UserError(f"{device.name} has no runtime for {model.source.suffix} files", hint)
        return fitting
    chosen = device.all_runtimes if wanted and "all" in wanted else wanted or device.runtimes
    names = list(dict.fromkeys(ALIASES.get(name, name) for name in chosen))
    for name in names:
        if name not in device.all_runtimes:
            if name not in plugins.names("runtime"):
                raise unknown("runtime", name, device.all_runtimes)
            raise UserError(f"{device.name} has no runtime '{name}'", f"it has: {', '.join(device.all_runtimes)}")
    return names


def precisions(model: Model, wanted: tuple[str, ...] | None) -> tuple[str, ...]:
    """The precisions asked for; `all` is every one that some format has."""
    every = {p for name in plugins.names("converter") for p in plugins.load("converter", name).PRECISIONS}
    if wanted is None:
        return (model.precision,) if model.kind == "artifact" else PRECISIONS
    if "all" in wanted:
        own = () if model.precision in ("", *every) else (model.precision,)
        return (*own, *sorted(every, key=ALL_PRECISIONS.index))
    for precision in wanted:
        if precision not in every and precision != model.precision:
            raise unknown("precision", precision, every)
    return wanted


def header(request: Request, model: Model, device: Device, effort: Effort, cells: list[Cell]) -> Json:
    """run.json: the plan and what it was made with. No path of this machine stands in it."""
    plan = {
        "model": portable(request.model),
        "device": portable(request.device),
        "name": model.name,
        "runtimes": list(dict.fromkeys(cell.runtime for cell in cells)),
        "precisions": list(dict.fromkeys(cell.precision for cell in cells)),
        "threads": list(request.threads),
        "samples": request.samples,
        **{name: portable(value) for name in PATHS if (value := getattr(request, name)) is not None},
        **({"inputs": list(request.inputs)} if request.inputs else {}),
        **({"preprocess": request.preprocess} if request.preprocess else {}),
        **({"trust": True} if request.trust else {}),
        **({"connection": public(request.connection)} if request.connection else {}),
        **({"batches": list(request.batches)} if request.batches != BATCHES else {}),
        **{name: value for name in EXTRAS if (value := getattr(request, name))},
        "effort": dataclasses.asdict(effort),
        "cells": [cell.id for cell in cells],
    }
    return {
        "run": store.new_run_id(model.name, device.name),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "edgekit": __version__,
        "agent": session.agent_key(),
        "plan": to_json(plan),
        "device": {
            **to_json(dataclasses.replace(device, source=None, connection=public(device.connection))),
            "emulated": device.emulated,
        },
        "model": {
            "description": model.description,
            "task": model.task,
            "licence": model.licence,
            "sha256": sources.source_sha256(model),
            **({"notes": list(model.notes)} if model.notes else {}),
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


def public(connection: Mapping[str, Any]) -> Json:
    """A device's connection without what lies on this machine alone."""
    return {key: value for key, value in connection.items() if key != "identity"}


def request_of(earlier: store.Run, given: Request) -> Request:
    """What was asked for when an earlier run was started; paths may have been given again, from elsewhere."""
    plan = earlier.header["plan"]
    try:
        return Request(
            model=plan["model"] if given.model is None else given.model,
            device=plan["device"] if given.device is None else given.device,
            runtimes=tuple(plan["runtimes"]),
            precisions=tuple(plan["precisions"]),
            threads=tuple(plan["threads"]),
            samples=plan.get("samples"),
            inputs=tuple(plan.get("inputs", ())),
            preprocess=plan.get("preprocess"),
            trust=plan.get("trust", False),
            batches=tuple(plan.get("batches", BATCHES)),
            **{name: plan[name] for name in EXTRAS if name in plan},
            connection={**plan.get("connection", {}), **given.connection},
            wait=given.wait,
            **{name: getattr(given, name) or plan.get(name) for name in PATHS},
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
    for key in ("data", "judged_by"):
        if key in before:
            pairs[WORDS[key]] = (before[key], now[key])
    changed = [what for what, (then, since) in pairs.items() if then != since]
    if changed:
        message = f"{earlier.path.name} cannot be finished: {' and '.join(changed)} changed since it was begun"
        raise UserError(message, "start a new run; the finished cells stay where they are")
