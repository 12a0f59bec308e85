"""THE MAIN FLOW: expand the matrix, then per cell convert -> deploy -> verify -> measure -> append."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgekit import config, convert, data, plan, plugins, session, store
from edgekit.cache import cache_dir, disk_errors
from edgekit.caveats import caveat
from edgekit.errors import (
    AgentError,
    ConvertError,
    DeviceError,
    EdgekitError,
    ProtocolError,
    Unsupported,
    WrongOutput,
)
from edgekit.types import Artifact, Caveat, Cell, Device, Json, Measurement, Model, to_json

Say = Callable[[str], None]
SQNR_FLOOR_DB = 15.0  # below this an output is not the model's answer any more, whatever its speed
# The folders of an absolute path, wherever one is left in a tool's words; what the kernel shows is no place of the user's.
ABSOLUTE = re.compile(r"(?<![\w/.>~])/(?!proc/|sys/|dev/)(?:[^\s/:'\"<>|]+/)+")
PREDICT_S = 1800.0
LAUNCH_S = 300.0


@dataclass(frozen=True)
class Subject:
    """Everything about the model that all cells share."""

    model: Model
    device: Device
    effort: plan.Effort
    inputs: data.Data
    total_inputs: int


def run(request: plan.Request, say: Say, on_start: Callable[[store.Run], None] = lambda _: None) -> store.Run:
    """Do what is asked, or finish an earlier run, and return it with every cell's line in it.

    `on_start` receives the run as soon as it has a place on disk; it gains a line with every finished cell.

    Raises UserError and SetupError before anything is measured, and DeviceError when no agent can be started at all.
    A cell that cannot be done becomes a line that says why.
    """
    earlier = store.Run.load(store.find(request.output, request.resume)) if request.resume is not None else None
    request = (plan.request_of(earlier, request) if earlier else request).checked()
    device = config.device(str(request.device))
    model = plan.recipe(str(request.model))
    cells = plan.expand(model, device, request)
    effort = plan.Effort.of(device, request.effort)
    header = plan.header(request, model, device, effort, cells)
    if earlier:
        plan.check_alike(earlier, header)
    with disk_errors("temporary files"):
        everything = data.load(model, say)
        subject = Subject(model, device, effort, first(everything, request.samples), len(everything.x))
        the_run = earlier or store.Run.create(request.output, header)
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
    """One cell, whatever happens: the only place that turns an error into a Measurement. What was found out is kept.

    Raises SetupError for what this machine lacks: it is mended, and the run finished with --resume.
    """
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
        os.environ.get("HOME", "~"): "~",
    }
    for place in sorted(places, key=len, reverse=True):
        if place not in (os.sep, "~"):
            text = text.replace(place + os.sep, places[place] + os.sep)
    return ABSOLUTE.sub("", text)


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
    elif "classification" not in subject.model.task:
        warnings.append(caveat("no-metric", task=subject.model.task))
    else:
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
    weak = [*launch_caveats(launches, effort, subject.device), *device_caveats(cell, live.greeting, request, found)]
    found["warnings"] = (*found["warnings"], *weak)


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


def launch_caveats(launches: list[Json], effort: plan.Effort, device: Device) -> Iterator[Caveat]:
    """What is weak about the timed samples."""
    count = sum(len(launch["samples_ns"]) for launch in launches)
    if any(launch["timer"] == "python" for launch in launches):
        yield caveat("python-timer")
    if any(launch["capped"] for launch in launches):
        yield caveat("time-cap", count=count, wanted=effort.calls * len(launches))
    if count < 20 and not device.emulated:
        yield caveat("few-samples", count=count)


def device_caveats(cell: Cell, greeting: Json, request: Json, found: Json) -> Iterator[Caveat]:
    """What is weak because of the device: its cores, its load, what its kernel and emulator can tell."""
    cores = int(greeting["system"].get("cores") or 1)
    load = found["launches"][0].get("evidence", {}).get("before", {}).get("load", [0.0])[0]
    if cell.threads > cores:
        yield caveat("more-threads-than-cores", threads=cell.threads, cores=cores)
    if request["emulated"] and not request["counters"]:
        yield caveat("no-counts-with-threads")
    if not request["emulated"] and load > cores:
        yield caveat("busy", load=load, cores=cores)
    if found["memory"].get("run_peak_includes_load"):
        yield caveat("run-peak-includes-load")
