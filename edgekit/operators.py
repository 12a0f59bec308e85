"""Time per operator, in a pass of its own, beside the work that each is; what runs on the fast backend, and what does not."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterable, Sequence

from edgekit import answers, macs, session
from edgekit.caveats import caveat
from edgekit.errors import AgentError, EdgekitError, NotDelegated
from edgekit.types import Artifact, Cell, Json
from edgekit.verification import Subject

Say = Callable[[str], None]
DEADLINE_S = 900.0
# Inferences with the profiler, and as many without; an emulator's times are worth few.
REAL = {"runs": 100, "warmup_calls": 20, "max_seconds": 10.0}
EMULATED = {"runs": 5, "warmup_calls": 2, "max_seconds": 20.0}
OWN_WORK = (
    1.25  # an inference may have so many times the instructions with a profiler, and its operators' counts are shown
)
# Operators that multiply and add, as XNNPACK calls them, and as ONNX Runtime does.
LAYERS = re.compile(
    r"(Convolution|Deconvolution|(Dynamic )?Fully Connected|Batch Matrix Multiply)\b"
    r"|(\w*Conv(Transpose|Integer)?|(\w*MatMul|Q?Gemm|FusedGemm)\w*)$"
)
COARSE = 0.25  # so large a share of an inference outside any operator is said aloud
NAMED = 5  # so many operators are named in a sentence


def measure(subject: Subject, cell: Cell, live: session.Session, request: Json, found: Json, say: Say) -> None:
    """Add the time per operator to `found` where it was asked for, and what weakens it.

    Raises NotDelegated when every operator was to run on the fast backend and some do not.
    """
    wanted = subject.request
    artifact = subject.artifacts.get(cell.format, cell.precision, cell.batch)
    work = work_of(artifact, say)
    delegation = found["launches"][-1].get("delegation") or {}
    # LiteRT says whether operators fell back, and only its profiler which.
    asked = wanted.require_full_delegation and delegation.get("fully_accelerated") is False
    told: Json = {}
    if wanted.operators or asked:
        say(f"{cell.id}: measuring the operators")
        effort = EMULATED if subject.device.emulated else REAL
        try:
            told = live.call("operators", {**request, **effort}, DEADLINE_S)
            answers.operators(told)
        except (AgentError, answers.Odd) as error:  # the figures that were measured stand without it
            told = {}
            if wanted.operators:
                found["warnings"] = (*found["warnings"], caveat("no-operators", why=error.message))
    if told and wanted.operators:
        found["operators"] = {**profiled(told, work), "emulated": subject.device.emulated}
        if found["operators"]["unprofiled_share"] > COARSE:
            share = found["operators"]["unprofiled_share"]
            found["warnings"] = (*found["warnings"], caveat("coarse-operators", share=share))
    outside = fallen_back(delegation, work, told)
    if wanted.require_full_delegation:
        require(cell, outside, found)
    elif told and outside:
        share, note = share_outside(found["operators"])
        weak = caveat("fallen-back", names=named(outside) + note, share=share)
        found["warnings"] = (*found["warnings"], weak)


def work_of(artifact: Artifact, say: Say) -> Json:
    """The operators of an artifact with their work; {} of a format that does not tell, or a file that cannot be read."""
    try:
        return macs.of(artifact.path, artifact.format, artifact.inputs) or {}
    except EdgekitError as error:  # the figures that were measured stand without it
        say(f"how much work the operators are is not known: {error.message}")
        return {}


def require(cell: Cell, outside: Sequence[str] | None, found: Json) -> None:
    """Every operator is to run on the fast backend. Raises NotDelegated; a runtime without one has a caveat."""
    if outside is None:
        found["warnings"] = (*found["warnings"], caveat("nothing-to-delegate", runtime=cell.runtime))
    elif outside:
        which = (
            f": {len(outside)} fell back ({named(outside)})" if any(outside) else "; this runtime does not tell which"
        )
        message = f"not all operators run on the fast backend{which}"
        raise NotDelegated(message, "try another precision or format, or leave out --require-full-delegation")


def fallen_back(delegation: Json, work: Json, told: Json) -> list[str] | None:
    """The types of the operators outside the fast backend, one for each; None of a runtime that has no such backend.

    A .pte file tells them itself. LiteRT tells whether there are any, and its profiler which; "" stands for what nobody names.
    """
    if "backends" in delegation:
        listed = work.get("operators")
        if listed is None:
            listed = told.get("operators", ())
        return [one.get("type") or one["name"] for one in listed if not one.get("delegate")]
    if "fully_accelerated" not in delegation:
        return None
    if delegation["fully_accelerated"]:
        return []
    return [one["name"] for one in told.get("operators", ()) if not one.get("delegate")] or [""]


def named(types: Iterable[str]) -> str:
    """DEPTHWISE_CONV_2D x17, PAD: the most frequent first, and how many more there are."""
    counts: dict[str, int] = {}
    for one in types:
        counts[one] = counts.get(one, 0) + 1
    words = [f"{one} x{n}" if n > 1 else one for one, n in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    more = f" and {len(words) - NAMED} more" if len(words) > NAMED else ""
    return ", ".join(words[:NAMED]) + more


def share_outside(operators: Json) -> tuple[float, str]:
    """The share of the profiled inference that operators outside a delegate took; what is to be said of it beside.

    An emulator's time is no board's: there it is that of the instructions, where these were counted.
    """
    outside = [one for one in operators["operators"] if "delegate" not in one]
    whole = operators.get("total_instructions")
    if whole:
        return sum(one["instructions"] for one in outside) / whole, " (counted in instructions)"
    note = " (by the emulator's time, which is no board's)" if operators.get("emulated") else ""
    return float(sum(one["share"] for one in outside)), note


def profiled(told: Json, work: Json) -> Json:
    """What the agent's pass tells, as a report has it.

    runtime_profiler, version, resolution_ns    whose times they are, and how fine
    runs, used        inferences with the profiler, and the quicker half of them: all times are means of these
    plain_ns, profiled_ns, overhead    an inference without and with the profiler, and their ratio
    total_ns          an inference by the profiler's clock              unprofiled_share    of it outside any operator
    total_instructions    where they are counted: the same in guest instructions; each operator then has its "instructions"
    macs, parameters  of the whole model, where the file tells          uncounted           types whose MACs are not known
    operators         in the order in which they ran: "index", "name" (the runtime's), "type" and "output_name" (the file's),
                      "delegate", "ns", "share" of total_ns, "inputs" and "output" (shapes), "macs", "parameters", "bytes",
                      "intensity" (operations per byte, a MAC being two of them); absent where it is not known

    The means are of the same inferences for all operators, so that shares add up: medians would not. A disturbed inference
    is among the slower half.
    """
    totals = told["total_ns"]
    quick = quicker(totals)
    total = mean(totals, quick)
    rows = []
    for index, (event, layer) in enumerate(zip(told["operators"], joined(told["operators"], work), strict=True)):
        ns = mean(event["ns"], quick)
        row = {"index": index, "name": event["name"], "type": event.get("type") or layer.get("type")}
        row |= {"output_name": layer.get("name"), "delegate": event.get("delegate")}
        row |= {"ns": round(ns), "share": ns / total if total else 0.0}
        row |= {"inputs": layer.get("inputs"), "output": layer.get("output") or event.get("output")}
        row |= {key: layer.get(key) for key in ("macs", "parameters", "bytes")}
        if layer.get("macs") and layer.get("bytes"):
            row["intensity"] = round(2 * layer["macs"] / layer["bytes"], 2)
        rows.append({key: value for key, value in row.items() if value is not None})
    instructions = counted(told, rows)
    plain, slowed = (mean(told[key], quicker(told[key])) for key in ("plain_ns", "profiled_ns"))
    figures = {
        "runtime_profiler": told["profiler"],
        "version": told["version"],
        "resolution_ns": told["resolution_ns"],
        "runs": len(totals),
        "used": len(quick),
        "plain_ns": round(plain),
        "profiled_ns": round(slowed),
        "overhead": slowed / plain if plain else None,
        "total_ns": round(total),
        "total_instructions": instructions,
        "unprofiled_share": max(0.0, 1 - sum(row["share"] for row in rows)),
        **{key: work.get(key) for key in ("macs", "parameters", "uncounted")},
    }
    return {**{key: value for key, value in figures.items() if value is not None}, "operators": rows}


def counted(told: Json, rows: list[Json]) -> int | None:
    """Add to each operator its guest instructions, where the emulator counted them; those of the inference by the profiler.

    None of a profiler that does so much itself within the operators that the counts would be its own (ONNX Runtime's).
    """
    found = told.get("counted")
    if not found or max(found["total"]) > OWN_WORK * found["plain"]:
        return None
    if [event["name"] for event in found["operators"]] != [row["name"] for row in rows]:
        return None
    for row, event in zip(rows, found["operators"], strict=True):
        row["instructions"] = round(statistics.median(event["instructions"]))
    return int(statistics.median_low(found["total"]))


def quicker(values: Sequence[int]) -> list[int]:
    """Where the smaller half of them stand."""
    return sorted(range(len(values)), key=values.__getitem__)[: -(-len(values) // 2)]


def mean(values: Sequence[int], chosen: Sequence[int]) -> float:
    """The mean of those values."""
    return statistics.fmean(values[index] for index in chosen)


def joined(events: Sequence[Json], work: Json) -> list[Json]:
    """For each operator that ran, the one of the file that it is; {} where that cannot be told.

    By its place where the runtime tells that. A delegate and an optimizer rename, merge and add operators, but run the
    layers in the file's order: where as many ran as the file has, and none gives less than its own in the file, they are
    paired in turn. What ran beside them multiplies nothing.
    """
    layers: list[Json] = list(work.get("operators", ()))
    found: list[Json] = [{} for _ in events]
    exact = {layer["place"]: layer for layer in layers if "delegate" not in layer}
    groups: dict[int | None, list[int]] = {}
    for index, event in enumerate(events):
        place = event.get("place")
        if place is not None and "delegate" not in event:
            found[index] = exact.pop(place, {})
        else:
            groups.setdefault(place, []).append(index)
    left = [layer for layer in layers if "delegate" in layer or layer["place"] in exact]
    for place, members in groups.items():
        mine = [layer for layer in left if place is None or layer["place"] == place]
        heavy = [layer for layer in mine if layer.get("macs")]
        ran = [index for index in members if LAYERS.match(kind_of(events[index]))]
        if (
            not mine
            or len(heavy) != len(ran)
            or not all(fits(events[i], one) for i, one in zip(ran, heavy, strict=True))
        ):
            continue
        for index in members:
            found[index] = {"macs": 0} if macs.countable(kind_of(events[index])) else {}
        for index, layer in zip(ran, heavy, strict=True):
            found[index] = layer
    return found


def kind_of(event: Json) -> str:
    """What the runtime says an operator is."""
    return str(event.get("type") or event["name"])


def fits(event: Json, layer: Json) -> bool:
    """Whether what ran can be that layer: it gives as many numbers, or more where the runtime pads channels."""
    made, known = event.get("output"), layer.get("output")
    return made is None or known is None or size(made) >= size(known)


def size(shape: Iterable[int]) -> int:
    """How many numbers a tensor has; an open dimension counts as one."""
    product = 1
    for extent in shape:
        product *= max(1, extent)
    return product
