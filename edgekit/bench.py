"""THE MAIN FLOW: expand the matrix, then per cell convert -> deploy -> verify -> measure -> append."""

from __future__ import annotations

import dataclasses
import itertools
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from edgekit import __version__, config, convert, data, plugins, session, sources, store
from edgekit.cache import cache_dir
from edgekit.caveats import caveat
from edgekit.errors import (
    AgentError,
    ConvertError,
    DeviceError,
    EdgekitError,
    ProtocolError,
    Unsupported,
    UserError,
    WrongOutput,
    unknown,
)
from edgekit.types import Artifact, Caveat, Cell, Device, Json, Measurement, Model, to_json

Say = Callable[[str], None]
SQNR_FLOOR_DB = 15.0  # below this an output is not the model's answer any more, whatever its speed
PREDICT_S = 1800.0
LAUNCH_S = 300.0


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


@dataclass(frozen=True)
class Subject:
    """Everything about the model that all cells share."""

    model: Model
    device: Device
    effort: Effort
    inputs: data.Data
    total_inputs: int


def run(request: Request, say: Say, on_start: Callable[[store.Run], None] = lambda _: None) -> store.Run:
    """Do what is asked, or finish an earlier run, and return it with every cell's line in it.

    `on_start` receives the run as soon as it has a place on disk; it gains a line with every finished cell.

    Raises UserError and SetupError before anything is measured, and DeviceError when no agent can be started at all.
    A cell that cannot be done becomes a line that says why.
    """
    earlier = store.Run.load(store.find(request.output, request.resume)) if request.resume else None
    if earlier:
        request = dataclasses.replace(request, **plan_of(earlier))
    device = config.device(request.device)
    model = sources.load(request.model)
    cells = expand(model, device, request)
    effort = Effort.of(device, request.effort)
    everything = data.load(model, say)
    subject = Subject(model, device, effort, first(everything, request.samples), len(everything.x))
    the_run = earlier or store.Run.create(request.output, header(request, subject, cells))
    on_start(the_run)

    left = [cell for cell in cells if cell.id not in the_run.done()]
    for runtime, group in itertools.groupby(left, key=lambda cell: cell.runtime):
        with Agents(device, runtime, say) as agents:
            for cell in group:
                say(f"cell {len(the_run.lines) + 1} of {len(cells)}: {cell.id}")
                the_run.append(measure_cell(subject, cell, agents, say))
    return the_run


def first(everything: data.Data, count: int | None) -> data.Data:
    """The first `count` held-out inputs and their labels; all of them for None."""
    y = everything.y[:count] if everything.y is not None else None
    return dataclasses.replace(everything, x=everything.x[:count], y=y)


def expand(model: Model, device: Device, request: Request) -> list[Cell]:
    """The matrix, runtime by runtime. Raises UserError for a name that does not exist."""
    aliases = {"litert": "tflite", "ort": "onnxruntime"}
    wanted = request.runtimes if request.runtimes and "all" not in request.runtimes else device.runtimes
    cells = []
    for name in dict.fromkeys(aliases.get(name, name) for name in wanted):
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


def header(request: Request, subject: Subject, cells: list[Cell]) -> Json:
    """run.json: the plan and what it was made with. No path of this machine stands in it."""
    plan = {
        "model": portable(request.model),
        "device": portable(request.device),
        "name": subject.model.name,
        "runtimes": list(dict.fromkeys(cell.runtime for cell in cells)),
        "precisions": list(request.precisions),
        "threads": list(request.threads),
        "samples": request.samples,
        "effort": dataclasses.asdict(subject.effort),
        "cells": [cell.id for cell in cells],
    }
    return {
        "run": store.new_run_id(subject.model.name, subject.device.name),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "edgekit": __version__,
        "agent": session.agent_key(),
        "plan": to_json(plan),
        "device": {**to_json(dataclasses.replace(subject.device, source=None)), "emulated": subject.device.emulated},
        "model": {
            "description": subject.model.description,
            "task": subject.model.task,
            "licence": subject.model.licence,
        },
        "host": {"system": platform.system(), "machine": platform.machine(), "python": platform.python_version()},
        "git": store.git_state(Path.cwd()),
    }


def portable(name: str) -> str:
    """A name as it is; a path relative to the working directory, so that no run tells where it was made."""
    return os.path.relpath(name) if os.sep in name else name


def plan_of(earlier: store.Run) -> Json:
    """The fields of a Request that an earlier run fixes."""
    plan = earlier.header["plan"]
    return {
        "model": plan["model"],
        "device": plan["device"],
        "runtimes": tuple(plan["runtimes"]),
        "precisions": tuple(plan["precisions"]),
        "threads": tuple(plan["threads"]),
        "samples": plan.get("samples"),
        "effort": plan["effort"],
    }


class Agents:
    """One runtime's agent on the device: started when first needed, started anew after it was lost."""

    def __init__(self, device: Device, runtime: str, say: Say) -> None:
        self.device, self.runtime, self.say = device, runtime, say
        self.live: session.Session | None = None

    def get(self) -> session.Session:
        """A live session."""
        if self.live is None:
            self.live = session.Session.open(self.device, self.runtime, self.say)
        return self.live

    def drop(self) -> None:
        """Let go of the session; the next get() starts another."""
        if self.live is not None:
            self.live.close()
            self.live = None

    def __enter__(self) -> Agents:
        return self

    def __exit__(self, *_: object) -> None:
        self.drop()


def measure_cell(subject: Subject, cell: Cell, agents: Agents, say: Say) -> Measurement:
    """One cell, whatever happens: the only place that turns an error into a Measurement. What was found out is kept."""
    found: Json = {}
    try:
        live = agents.get()  # before converting: a device that does not answer is known in seconds, not minutes
        artifact = convert.artifact(subject.model, cell.format, cell.precision, {}, say)
        found["artifact"] = describe(artifact)
        with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
            found["environment"] = {"greeting": live.greeting, "versions": live.versions}
            request = deploy(subject, cell, artifact, live, Path(folder))
            verify(subject, artifact, live, request, Path(folder), found, say)
            measure(subject, cell, live, request, found, say)
        return Measurement(cell, "ok", **found)
    except Unsupported as error:
        return Measurement(cell, "unsupported", error=failure("unsupported", error), **found)
    except ConvertError as error:
        told = {**failure("convert", error), "log_tail": placeless(error.log_tail)}
        return Measurement(cell, "failed", error=told, **found)
    except WrongOutput as error:
        return Measurement(cell, "failed", error=failure("wrong_output", error), **found)
    except AgentError as error:
        return Measurement(cell, "failed", error=failure(error.kind, error), **found)
    except DeviceError as error:
        if agents.live is None:
            raise  # no agent can be started at all: that is not this cell's failure
        agents.drop()
        return Measurement(cell, "failed", error=failure("device", error), **found)


def failure(kind: str, error: EdgekitError) -> Json:
    """An error as a measurement keeps it."""
    return {"kind": kind, "message": placeless(error.message), "hint": placeless(error.hint)}


def placeless(text: str) -> str:
    """A tool's words without this machine's folders, which tracebacks and messages are full of."""
    places = {
        str(Path(__file__).parent.parent): "<edgekit>",
        str(cache_dir()): "<cache>",
        sys.prefix: "<python>",
        sys.base_prefix: "<python>",
        str(Path.cwd()): ".",
        tempfile.gettempdir(): "<tmp>",
        str(Path.home()): "~",
    }
    for place in sorted(places, key=len, reverse=True):
        if place != os.sep:
            text = text.replace(place + os.sep, places[place] + os.sep)
    return text


def deploy(subject: Subject, cell: Cell, artifact: Artifact, live: session.Session, folder: Path) -> Json:
    """Push the artifact and the inputs in the form it wants; returns the request that all operations share."""
    encoded = folder / "input.bin"
    encoded.write_bytes(data.encode(subject.inputs.x, artifact.inputs[0], subject.model.input.layout).tobytes())
    return {
        "runtime": cell.runtime,
        "model": live.push(artifact.path),
        "threads": cell.threads,
        "libraries": live.libraries,
        "input": live.push(encoded),
        "emulated": subject.device.emulated,
        # Threads wait for one another in busy loops, so a count over several says more of the schedule than of the model.
        "counters": subject.device.emulated and cell.threads == 1,
    }


def verify(
    subject: Subject, artifact: Artifact, live: session.Session, request: Json, folder: Path, found: Json, say: Say
) -> None:
    """Run the held-out inputs on the device and compare with the float source, before anything is timed.

    Adds memory, accuracy, fidelity and their caveats to `found`. Raises WrongOutput when the outputs are not the model's.
    """
    inputs = subject.inputs
    count = len(inputs.x)
    reference = convert.reference(subject.model, plugins.load("converter", artifact.format).SOURCE, say)[:count]
    say(f"verifying on {subject.device.name}: {count} inputs")
    place = folder / "output.bin"
    # The process stays for the first launch: what is timed is what was verified.
    reply = live.fetch(
        "predict",
        {**request, "keep": True},
        PREDICT_S,
        place,
        lambda event: say(f"verifying: {event.get('done')} of {count} inputs"),
    )
    outputs = data.decode(place.read_bytes(), artifact.outputs[0])
    if len(outputs) != count:
        raise ProtocolError(f"the device answered for {len(outputs)} of {count} inputs")
    found["memory"] = reply["memory"]
    fidelity = found["fidelity"] = data.fidelity(outputs, reference)
    warnings = found["warnings"] = []
    if inputs.origin == "random":
        warnings.append(caveat("random-inputs"))
    elif inputs.y is None:
        warnings.append(caveat("no-labels"))
    if inputs.y is not None:
        found["accuracy"] = data.accuracy(outputs, inputs.y)
        if count < subject.total_inputs:
            warnings.append(caveat("few-inputs", count=count, total=subject.total_inputs))
    sqnr = fidelity.get("sqnr_db")
    if sqnr is None or sqnr < SQNR_FLOOR_DB:
        shown = "not finite" if sqnr is None else f"at {sqnr:.1f} dB SQNR"
        raise WrongOutput(
            f"the outputs are wrong: {shown} against the float source; under {SQNR_FLOOR_DB:g} dB it is not the same model",
            "suspect the conversion: compare precisions, look at the artifact's details",
        )


def measure(subject: Subject, cell: Cell, live: session.Session, request: Json, found: Json, say: Say) -> None:
    """The timed launches, the first in the process that was verified; adds launches and their caveats to `found`."""
    effort = subject.effort
    launches = []
    for launch in range(effort.launches):
        say(f"{cell.id}: measuring, launch {launch + 1} of {effort.launches}")
        job = {**request, **dataclasses.asdict(effort), "continue": launch == 0}
        launches.append(live.call("measure", job, LAUNCH_S + 2 * effort.max_seconds))
    found["launches"] = tuple(launches)
    found["warnings"] = (*found["warnings"], *launch_caveats(launches, effort, subject.device))


def describe(artifact: Artifact) -> Json:
    """What a report says of an artifact; its path is this machine's business."""
    return {
        "sha256": artifact.sha256,
        "size_bytes": artifact.size_bytes,
        "key": artifact.key,
        "inputs": to_json(artifact.inputs),
        "outputs": to_json(artifact.outputs),
        "made_with": dict(artifact.made_with),
        "details": dict(artifact.details),
    }


def launch_caveats(launches: list[Json], effort: Effort, device: Device) -> Iterator[Caveat]:
    """What is weak about the timed samples."""
    count = sum(len(launch["samples_ns"]) for launch in launches)
    if any(launch["timer"] == "python" for launch in launches):
        yield caveat("python-timer")
    if any(launch["capped"] for launch in launches):
        yield caveat("time-cap", count=count, wanted=effort.calls * len(launches))
    if count < 20 and not device.emulated:
        yield caveat("few-samples", count=count)
