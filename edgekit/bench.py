"""THE MAIN FLOW: expand the matrix, then per cell convert -> deploy -> verify -> measure -> append."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit import (
    config,
    convert,
    converters,
    data,
    energy,
    holdout,
    link,
    metrics,
    operators,
    plan,
    session,
    sources,
    store,
    sustained,
    timing,
    userdata,
)  # fmt: skip
from edgekit.cache import cache_dir, disk_errors, file_sha256
from edgekit.errors import (
    AgentError,
    ConvertError,
    DeviceError,
    EdgekitError,
    NotDelegated,
    Unsupported,
    UserError,
    WrongOutput,
)
from edgekit.report import html
from edgekit.types import Artifact, Cell, Json, Measurement, Model, to_json
from edgekit.verification import Subject, check_reference, deploy, verify

Say = Callable[[str], None]
INTERRUPTED = {"kind": "interrupted", "message": "it was interrupted", "hint": "--resume measures the cell anew"}
# The folders of an absolute path, wherever one is left in a tool's words; what the kernel shows is no place of the user's.
ABSOLUTE = re.compile(r"(?<![\w/.>~])/(?!proc/|sys/|dev/)(?:[^\s/:'\"<>|]+/)+")


def run(request: plan.Request, say: Say, on_start: Callable[[store.Run], None] = lambda _: None) -> store.Run:
    """Do what is asked, or finish an earlier run, and return it with every cell's line in it.

    `on_start` receives the run as soon as it has a place on disk; it gains a line with every finished cell.

    Raises UserError and SetupError before anything is measured, and DeviceError when no agent can be started at all.
    A cell that cannot be done becomes a line that says why.
    """
    earlier = store.Run.load(store.find(request.output, request.resume)) if request.resume is not None else None
    request = plan.request_of(earlier, request) if earlier else request
    (job,) = prepare([request], say, earlier)
    on_start(job.run)
    carry_out(job)
    return job.run


@dataclass(frozen=True)
class Job:
    """What is to be done on one device: the run, those of its cells that are `left`, and the link over which they are measured."""

    run: store.Run
    left: list[Cell]
    subject: Subject
    line: link.Link
    say: Say


def prepare(
    requests: Sequence[plan.Request],
    say: Say,
    earlier: store.Run | None = None,
    artifacts_of: type[convert.Artifacts] = convert.Artifacts,
) -> list[Job]:
    """A job for each request; the requests differ in their device and nothing else, so all share one model, data and artifacts.

    The runs are on the disk when this returns. Raises UserError and SetupError before that.
    """
    requests = [request.checked() for request in requests]
    devices = [config.device(str(one.device), one.connection) for one in requests]
    plan.check_apart(devices)
    requests = [plan.counting(request, devices) for request in requests]
    request = requests[0]
    sustained.check(request.sustained_s, devices)
    energy.check(request.energy, request.power_meter, devices)
    model = sources.load(str(request.model), request.inputs, request.trust, say)
    compared = reference(request, model, say)
    matrices = [plan.expand(model, device, request) for device in devices]
    judged = request.metric if not request.counts_only else None
    if judged:
        metrics.check(judged)
    efforts = [plan.Effort.of(device, request.effort, request.level) for device in devices]
    each = zip(requests, devices, efforts, matrices, strict=True)
    headers = [plan.header(one, model, device, effort, cells) for one, device, effort, cells in each]
    everything = inputs_of(model, request, say)
    inputs = spread(everything, request.samples)
    if judged and everything.y is None:
        raise UserError("--metric needs labels, and the data have none", "docs/data.md says where labels come from")
    for header in headers:
        header["data"] = {**to_json(inputs.provenance), "sha256": everything.sha256}
        header["judged_by"] = {
            "metric": metric_key(request.metric),
            "reference": sources.source_sha256(compared) if compared else None,
        }
    if earlier:
        plan.check_alike(earlier, headers[0])
        earlier.forget_lost()
    runs = [earlier or store.Run.create(request.output, header) for header in headers]
    done = [run.done() for run in runs]
    lefts = [[cell for cell in cells if cell.id not in ids] for ids, cells in zip(done, matrices, strict=True)]
    wanted = [(cell.format, cell.precision, cell.batch) for cell in itertools.chain(*lefts)]
    artifacts = artifacts_of(model, wanted, inputs, say)
    jobs = []
    for run, left, device, effort in zip(runs, lefts, devices, efforts, strict=True):
        tell = say if len(requests) == 1 else named(device.name, say)
        subject = Subject(model, device, effort, inputs, everything.count, artifacts, request, compared)
        line = link.Link(device, tell, f"profile {model.name}", request.wait, link.identity_in(run.lines))
        jobs.append(Job(run, left, subject, line, tell))
    return jobs


def named(name: str, say: Say) -> Say:
    """`say` for what concerns one of several devices."""
    return lambda text: say(f"{name}: {text}")


def carry_out(job: Job) -> None:
    """Measure what is left of a job on its device, which is locked meanwhile; what there is then is left as a page too."""
    try:
        measure_all(job)
    finally:
        html.leave(job.run, job.say)


def measure_all(job: Job) -> None:
    """The cells of a job, one after another."""
    with (
        disk_errors("temporary files"),
        job.run.claimed(),
        job.line as line,
        # One for all cells: it takes longer than most of a small one.
        tempfile.TemporaryDirectory(prefix="edgekit-") as folder,
    ):
        for runtime, group in itertools.groupby(job.left, key=lambda cell: cell.runtime):
            with Agents(line, runtime) as agents:
                for cell in group:
                    job.say(f"cell {len(job.run.lines) + 1} of {len(job.run.header['plan']['cells'])}: {cell.id}")
                    found: Json = {}
                    try:
                        measured = measure_cell(job.subject, cell, agents, Path(folder), found, job.say)
                        line.check()  # what was ended by us is no failure of the cell
                    except (KeyboardInterrupt, DeviceError):
                        if "sustained" in found:  # what came of a long curve is not thrown away
                            job.run.append(Measurement(cell, "failed", error=INTERRUPTED, **found))
                        raise
                    job.run.append(measured)


def reference(request: plan.Request, model: Model, say: Say) -> Model | None:
    """The model of --reference; where its file does not say what it takes, it takes what the model does. Raises UserError."""
    if not request.reference:
        return None
    shapes: tuple[str, ...] = ()
    if Path(request.reference).suffix in (".pt", ".pth"):
        specs = [sources.in_layout(spec, "NCHW") for spec in model.inputs]
        floats = ["float32" if spec.quantization else spec.dtype for spec in specs]
        shapes = tuple(f"{'x'.join(map(str, s.shape))}:{dtype}" for s, dtype in zip(specs, floats, strict=True))
    other = sources.load(request.reference, shapes, request.trust, say)
    check_reference(model, other)
    return other


def metric_key(name: str | None) -> str | None:
    """What a run remembers of --metric: its name, and of a function in a file the file's content."""
    if name is None or ":" not in name:
        return name
    path, _, function = name.rpartition(":")
    return f"{function} {file_sha256(Path(path).expanduser())}"


def inputs_of(model: Model, request: plan.Request, say: Say) -> data.Data:
    """The user's data where there are some, else the model's own."""
    if request.data is None and request.calibration is None:
        if request.preprocess:
            raise UserError("--preprocess is for --data and --calibration, and neither is given", "give --data")
        return data.load(model, say)
    made = [precision for precision in plan.precisions(model, request.precisions) if precision != model.precision]
    fixed = any(precision in converters.CALIBRATED for precision in made)
    outputs = model.about.get("outputs", ()) if request.metric in (None, "top1", "top5") else ()
    classes = math.prod(outputs[model.metric_output]["shape"]) if model.metric_output < len(outputs) else None
    return data.from_user(
        model,
        model.inputs,
        request.data,
        request.calibration,
        request.preprocess,
        say,
        calibrate=fixed,
        classes=classes,
    )


def spread(everything: data.Data, count: int | None) -> data.Data:
    """`count` held-out inputs, evenly spaced since files are sorted by class, and their labels; all of them for None."""
    if count is None or count >= everything.count:
        return everything
    chosen = userdata.spaced(everything.count, count)
    y = everything.y[chosen] if everything.y is not None else None
    provenance = everything.provenance
    if "stated" in provenance:
        provenance = holdout.sampled(dict(provenance), count)
    return dataclasses.replace(everything, x=tuple(x[chosen] for x in everything.x), y=y, provenance=provenance)


class Agents:
    """One runtime's agent on the device: started when first needed, started anew after it was lost."""

    def __init__(self, line: link.Link, runtime: str) -> None:
        self.line, self.runtime = line, runtime
        self.live: session.Session | None = None

    def get(self) -> session.Session:
        """A live session on a device that is ours."""
        if self.live is not None and not self.line.held():
            self.lose()
        if self.live is None:
            self.live = self.line.session(self.runtime)
        return self.live

    def lose(self) -> None:
        """Let go of the session after an error of the device; the next get() starts another."""
        if self.live is not None:
            self.line.lost(self.live)
            self.live = None

    def drop(self) -> None:
        """Let go of the session."""
        if self.live is not None:
            self.line.drop(self.live)
            self.live = None

    def __enter__(self) -> Agents:
        return self

    def __exit__(self, *_: object) -> None:
        self.drop()


def measure_cell(subject: Subject, cell: Cell, agents: Agents, folder: Path, found: Json, say: Say) -> Measurement:
    """One cell, whatever happens: the place that turns an error into a Measurement. What was found out is kept, and in `found`.

    Raises SetupError for what this machine lacks: it is mended, and the run finished with --resume.
    """
    try:
        live = agents.get()  # before converting: a device that does not answer is known in seconds, not minutes
        artifact = subject.artifacts.get(cell.format, cell.precision, cell.batch)
        found["artifact"] = describe(artifact)
        found["environment"] = {"greeting": live.greeting, "versions": live.versions}
        request = deploy(subject, cell, artifact, live, folder)
        verify(subject, artifact, live, request, folder, found, say)
        timing.measure(subject, cell, live, request, found, say)
        wanted = subject.request
        if wanted.operators or wanted.require_full_delegation:
            operators.measure(subject, cell, live, request, found, say)
        if wanted.sustained_s:
            sustained.measure(subject, cell, live, request, found, say)
        if wanted.energy:
            energy.measure(subject, cell, live, request, found, say)
        agents.line.confirm()
        return Measurement(cell, "ok", **found)
    except Unsupported as error:
        return Measurement(cell, "unsupported", error=failure("unsupported", error), **found)
    except ConvertError as error:
        told = {**failure("convert", error), "log_tail": placeless(error.log_tail)}
        return Measurement(cell, "failed", error=told, **found)
    except WrongOutput as error:
        return Measurement(cell, "failed", error=failure("wrong_output", error), **found)
    except NotDelegated as error:
        return Measurement(cell, "failed", error=failure("delegation", error), **found)
    except AgentError as error:
        return Measurement(cell, "failed", error=failure(error.kind, error), **found)
    except DeviceError as error:
        if agents.live is None:
            raise  # no agent can be started at all: that is not this cell's failure
        agents.lose()
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
