"""The held-out inputs through an artifact on the device, and its outputs against the float source and the labels.
Comes before anything is timed."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgekit import answers, convert, data, metrics, plan, session, sources
from edgekit.caveats import caveat
from edgekit.errors import EdgekitError, ProtocolError, UserError, WrongOutput
from edgekit.types import Artifact, Cell, Device, Json, Model, TensorSpec, to_json

Say = Callable[[str], None]
SQNR_FLOOR_DB = 15.0  # below this an output is not the model's answer any more, whatever its speed
INT4_FLOOR_DB = 6.0  # four bits leave a small classifier some 11 dB, and nearly all of its accuracy
PREDICT_S = 1800.0
# What goes to the device at a time: of a large set of images no more lies there, and a small one is there once for all cells.
PORTION_BYTES = 64 << 20


@dataclass(frozen=True)
class Subject:
    """Everything about the model that all cells share."""

    model: Model
    device: Device
    effort: plan.Effort
    inputs: data.Data
    total_inputs: int
    artifacts: convert.Artifacts
    request: plan.Request = field(default_factory=plan.Request)
    reference: Model | None = None


def deploy(subject: Subject, cell: Cell, artifact: Artifact, live: session.Session, folder: Path) -> Json:
    """Push the artifact and the first inputs in the form it wants; returns the request that all operations share."""
    place = folder / "input.bin"
    place.write_bytes(encoded(subject, artifact, 0))
    return {
        "runtime": cell.runtime,
        "model": live.push(artifact.path),
        "threads": cell.threads,
        "libraries": live.libraries,
        "input": live.push(place),
        # Files of PyTorch do not say what goes in and comes out.
        "inputs": to_json(artifact.inputs),
        "outputs": to_json(artifact.outputs),
        "emulated": subject.device.counted,
        "counters": subject.device.counted,
    }


def encoded(subject: Subject, artifact: Artifact, start: int) -> bytes:
    """What goes to the device at a time of the held-out inputs, from `start` on, as the artifact takes it.

    The last call is filled up with its last input again.
    """
    given, end = subject.model.inputs, min(subject.inputs.count, start + portion(artifact.inputs))
    batch = artifact.inputs[0].shape[0]
    rows = [min(row, end - 1) for row in range(start, start + -(-(end - start) // batch) * batch)]
    places = data.order(artifact.inputs, given)
    xs = [subject.inputs.x[place][rows] for place in places]
    return data.encode(xs, artifact.inputs, [given[place].layout for place in places])


def portion(inputs: tuple[TensorSpec, ...]) -> int:
    """How many samples go to the device at a time: whole calls."""
    return max(1, PORTION_BYTES // sum(data.call_bytes(inputs))) * inputs[0].shape[0]


def verify(
    subject: Subject, artifact: Artifact, live: session.Session, request: Json, folder: Path, found: Json, say: Say
) -> None:
    """Run the held-out inputs on the device and compare with the float source, before anything is timed.

    Adds memory, accuracy, fidelity and their caveats to `found`. Raises WrongOutput when the outputs are not the model's.
    """
    inputs, model, judging = subject.inputs, subject.model, not subject.request.counts_only
    expected = reference_of(subject, artifact, say)
    outputs, found["memory"] = predicted(subject, artifact, live, request, folder, say)
    warnings = found["warnings"] = [caveat("opened", what=note) for note in model.notes]
    if inputs.origin == "random":
        warnings.append(caveat("random-inputs"))
    elif inputs.y is None:
        warnings.append(caveat("no-labels"))
    elif judging and inputs.count < subject.total_inputs:
        warnings.append(caveat("few-inputs", count=inputs.count, total=subject.total_inputs))
    index = model.metric_output
    if expected is not None:
        raw, outputs = outputs, matched(outputs, artifact, expected)
        if model.kind == "artifact":  # the place that it has in the file
            index = next(place for place, output in enumerate(outputs) if output is raw[index])
        found["fidelity"] = data.fidelities(outputs, expected.outputs, expected.names)
    else:
        warnings.append(caveat("no-reference"))
    if (
        inputs.y is not None
        and judging
        and inputs.origin == "recipe"
        and not subject.request.metric
        and "classif" not in model.task
    ):
        warnings.append(caveat("no-metric", task=model.task))
    elif inputs.y is not None and judging:
        try:
            found["accuracy"] = judged(subject, outputs, expected, index)
        except EdgekitError as error:
            if ":" not in (subject.request.metric or ""):
                raise
            warnings.append(caveat("no-accuracy", why=error.message))  # the user's own metric: the figures stay
        if "chance" in found.get("accuracy", {}):
            warnings.append(caveat("chance", chance=found["accuracy"]["chance"]))
    check_fidelity(found.get("fidelity"), outputs, artifact.precision)


def predicted(
    subject: Subject, artifact: Artifact, live: session.Session, request: Json, folder: Path, say: Say
) -> tuple[data.Arrays, Json]:
    """The artifact's outputs on all held-out inputs, portion after portion in one process, and that process's memory figures.

    The process stays for the first launch: what is timed is what was verified.
    """
    count, step, batch = subject.inputs.count, portion(artifact.inputs), artifact.inputs[0].shape[0]
    say(f"verifying on {subject.device.name}: {count} inputs")
    place, raw = folder / "output.bin", bytearray()
    for start in range(0, count, step):
        job = {**request, "keep": True}
        if start:
            (folder / "more.bin").write_bytes(encoded(subject, artifact, start))
            job |= {"input": live.lend(folder / "more.bin"), "discard": True, "continue": True}

        def told(event: Json, before: int = start) -> None:
            say(f"verifying: {min(count, before + batch * int(event['done']))} of {count} inputs")

        reply = answers.prediction(live.fetch("predict", job, PREDICT_S, place, told))
        check_tensors(artifact, reply)
        raw += place.read_bytes()
    outputs = data.decode(raw, artifact.outputs)
    if len(outputs[0]) != -(-count // batch) * batch:
        raise ProtocolError(f"the device answered for {len(outputs[0])} of {count} inputs")
    return tuple(output[:count] for output in outputs), reply["memory"]


def reference_of(subject: Subject, artifact: Artifact, say: Say) -> convert.Reference | None:
    """The float outputs to compare with: of the model given by --reference, else of the form that the artifact was made from."""
    other = subject.reference
    if other is None:
        if not artifact.framework:
            return None
        return convert.reference(subject.model, artifact.framework, say, subject.inputs)
    places = data.order(other.inputs, subject.model.inputs)
    given = [subject.model.inputs[place].layout for place in places]
    xs = (
        data.to_layout(subject.inputs.x[p], had, s.layout)
        for p, had, s in zip(places, given, other.inputs, strict=True)
    )
    inputs = dataclasses.replace(subject.inputs, x=tuple(xs))
    return convert.reference(other, other.frameworks[0], say, inputs)


def check_reference(model: Model, other: Model) -> None:
    """The model given by --reference can be run here, on the same inputs. Raises UserError."""
    if not other.frameworks:
        raise UserError(f"{other.source.name} cannot be run here as a reference", "give the model it was made from")
    places = data.order(other.inputs, model.inputs)
    for spec, place in zip(other.inputs, places, strict=True):
        wanted = sources.in_layout(model.inputs[place], spec.layout).shape
        if spec.shape[1:] != wanted[1:]:
            message = f"the reference {other.source.name} takes {spec.shape} as '{spec.name}', the model {wanted}"
            raise UserError(message, "give the float model that this one was made from")


def check_tensors(artifact: Artifact, reply: Json) -> None:
    """The runtime's inputs and outputs are those the artifact promises. Raises WrongOutput: bytes would be read as others."""
    for side, specs in (("inputs", artifact.inputs), ("outputs", artifact.outputs)):
        told = [(tuple(tensor["shape"]), tensor["dtype"]) for tensor in reply[side]]
        known = [(spec.shape, spec.dtype) for spec in specs]
        if told != known:
            raise WrongOutput(f"the runtime has the {side} {told}, the file promises {known}")
        names, promised = [tensor["name"] for tensor in reply[side]], [spec.name for spec in specs]
        # A runtime may have names of its own; the same names in another order are other tensors.
        if names != promised and set(names) == set(promised):
            raise WrongOutput(f"the runtime has the {side} in the order {names}, the file promises {promised}")


def matched(outputs: data.Arrays, artifact: Artifact, expected: convert.Reference) -> data.Arrays:
    """The outputs in the order of the reference: by name or number, by place, or by shape where only that tells them apart."""
    shapes = [output.shape[1:] for output in outputs]
    wanted = [output.shape[1:] for output in expected.outputs]
    names = [spec.name for spec in artifact.outputs]
    if len(outputs) > 1 and set(names) == set(expected.names):
        return tuple(outputs[names.index(name)] for name in expected.names)
    numbers, others = numbered(names), numbered(expected.names)
    if len(outputs) > 1 and numbers and others and set(numbers) == set(others):
        return tuple(outputs[numbers.index(number)] for number in others)
    if [math.prod(shape) for shape in shapes] == [math.prod(shape) for shape in wanted]:
        return outputs
    if len(set(shapes)) == len(shapes) and set(shapes) == set(wanted):
        return tuple(outputs[shapes.index(shape)] for shape in wanted)
    raise WrongOutput(f"the outputs have the shapes {shapes}, those of the float source {wanted}")


def numbered(names: Sequence[str]) -> list[int] | None:
    """The numbers in output, output1, output2 ... or output_0, output_1 ..., as TensorFlow writes them; None for others."""
    found = [re.fullmatch(r"output(?:_?(\d+))?", name) for name in names]
    numbers = [int(match[1] or 0) for match in found if match]
    return numbers if len(set(numbers)) == len(names) else None


def judged(subject: Subject, outputs: data.Arrays, expected: convert.Reference | None, index: int) -> Json:
    """Accuracy on the output with this index, that of METRIC_OUTPUT or the first one."""
    y = subject.inputs.y
    assert y is not None
    if index >= len(outputs):
        raise UserError(f"METRIC_OUTPUT is {index}, and the model has {len(outputs)} outputs", "0 is the first")
    about = subject.inputs.provenance.get("labels", {})
    reference = expected.outputs[index] if expected else None
    return metrics.judge(outputs[index], y, about, subject.request.metric, reference)


def check_fidelity(fidelity: Json | None, outputs: data.Arrays, precision: str) -> None:
    """Raise WrongOutput when the outputs are not finite, or too far from the float source's."""
    sqnr = fidelity.get("sqnr_db") if fidelity else None
    finite = all(bool((abs(output) < float("inf")).all()) for output in outputs)
    floor = INT4_FLOOR_DB if precision.startswith("int4") else SQNR_FLOOR_DB
    if finite and (fidelity is None or (sqnr is not None and sqnr >= floor)):
        return
    if fidelity is None:
        raise WrongOutput("the outputs are not finite", "the file is damaged, or the inputs are far from what it takes")
    shown = "not finite" if not finite or sqnr is None else f"at {sqnr:.1f} dB SQNR"
    raise WrongOutput(
        f"the outputs are wrong: {shown} against the float source; under {floor:g} dB it is not the same model",
        "suspect the conversion: compare precisions, look at the artifact's details",
    )
