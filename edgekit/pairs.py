"""Two artifacts on one device by turns: pairs of fresh processes, and in each of them pairs of blocks in random order."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgekit import answers, bench, config, convert, evidence, plan, plugins, ratio, session, sources
from edgekit.errors import EdgekitError, UserError
from edgekit.types import Artifact, Caveat, Cell, Json, to_json
from edgekit.verification import Subject, deploy, verify

Say = Callable[[str], None]
Keep = Callable[[Json], None]
SLOTS = {"old": "a", "new": "b"}
CALL_S = 300.0  # for an answer of the agent, which may have a large model to load
WARMUP_S = 0.2  # of a process; what is left to warm up falls on OLD and NEW alike
WARMUP_SAMPLES = 1000
BLOCK_NS = 20_000_000  # of a block: short, so that what disturbs one of a pair disturbs the other
BLOCKS = 12  # pairs of blocks in a process pair ...
PAIR_NS = 3_000_000_000  # ... fewer of them where they would take longer than this
LEAST_BLOCKS = 3


@dataclass
class Side:
    """OLD or NEW: its artifact, and once it is placed the live agent and how that is asked for it.

    `found` is what verification found out, as in a measurement.
    """

    name: str
    subject: Subject
    cell: Cell
    artifact: Artifact
    live: session.Session | None = None
    request: Json = field(default_factory=dict)
    found: Json = field(default_factory=dict)

    @property
    def agent(self) -> session.Session:
        """The live agent, once it is placed."""
        assert self.live is not None
        return self.live

    @classmethod
    def of(cls, name: str, request: plan.Request, say: Say) -> Side:
        """What a request for one cell asks for, converted. Raises what profile raises, and ConvertError or Unsupported."""
        with named(name):
            request = request.checked()
            device = config.device(str(request.device), request.connection)
            model = sources.load(str(request.model), request.inputs, request.trust, say)
            compared = bench.reference(request, model, say)
            cell = plan.expand(model, device, request)[0]
            if getattr(plugins.load("runtime", cell.runtime), "REMOTE", False):
                message = f"{cell.runtime} runs the one model that is on the device, and cannot take turns"
                raise UserError(message, "profile each of them, and compare the reports")
            everything = bench.inputs_of(model, request, say)
            inputs = bench.spread(everything, request.samples)
            artifacts = convert.Artifacts(model, [(cell.format, cell.precision, cell.batch)], inputs, say)
            effort = plan.Effort.of(device, request.effort)
            subject = Subject(model, device, effort, inputs, everything.count, artifacts, request, compared)
            return cls(name, subject, cell, artifacts.get(cell.format, cell.precision, cell.batch))

    def place(self, live: session.Session, say: Say) -> None:
        """Put it on the device, and check its outputs there. Raises WrongOutput, AgentError and DeviceError."""
        self.live = live
        with named(self.name), tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
            shared = deploy(self.subject, self.cell, self.artifact, live, Path(folder))
            self.request = {**shared, "slot": SLOTS[self.name]}
            verify(self.subject, self.artifact, live, self.request, Path(folder), self.found, say)

    def measure(self, **how: object) -> Json:
        """A launch record of the agent's `measure`. Raises AgentError and DeviceError."""
        with named(self.name):
            return answers.launch(self.agent.call("measure", {**self.request, **how}, CALL_S))

    def start(self) -> Json:
        """The record of a fresh process, whose samples are its warm-up; the process stays."""
        few = {"warmup_calls": 1, "warmup_s": 0.0, "calls": WARMUP_SAMPLES, "min_calls": 2, "max_seconds": WARMUP_S}
        return self.measure(**few, keep=True)

    def count(self) -> Json:
        """The record of a fresh process as `profile` measures an emulated device: with instruction counts, where there are any."""
        return self.measure(**dataclasses.asdict(self.subject.effort))

    def block(self, shape: Shape) -> Json:
        """One block in the process that was started last; its launch record."""
        samples = {"batch": shape.batch, "calls": shape.calls, "min_calls": shape.calls, "max_seconds": CALL_S}
        return self.measure(**samples, warmup=False, keep=True, **{"continue": True})


Sides = Mapping[str, Side]


@contextlib.contextmanager
def named(name: str) -> Iterator[None]:
    """Errors say whether OLD or NEW is meant."""
    try:
        yield
    except EdgekitError as error:
        error.message = f"{name.upper()}: {error.message}"
        raise


@dataclass(frozen=True)
class Shape:
    """Of all process pairs of a comparison: the pairs of blocks in each, the samples of a block, the calls of a sample."""

    blocks: int
    calls: int
    batch: int

    @classmethod
    def of(cls, starts: Mapping[str, Json]) -> Shape:
        """Such that a block takes about BLOCK_NS and a process pair not much over PAIR_NS, by the later half of the warm-ups."""
        batch = max(int(launch["batch"]) for launch in starts.values())
        slowest = max(typical_ns(launch) for launch in starts.values())
        calls = max(1, round(BLOCK_NS / (slowest * batch)))
        blocks = int(PAIR_NS / (2 * calls * batch * slowest))
        return cls(max(LEAST_BLOCKS, min(BLOCKS, blocks)), calls, batch)


def typical_ns(launch: Json) -> float:
    """What a call took in the later half of a launch."""
    samples = launch["samples_ns"]
    return float(max(1.0, statistics.median(samples[len(samples) // 2 :]) / launch["batch"]))


@dataclass(frozen=True)
class ProcessPair:
    """A fresh process of each side, by turns: their launch records of the warm-up, the blocks, and what speaks against them.

    `times_ns` are the times per call of each side's blocks, [blocks, samples].
    """

    starts: Mapping[str, Json]
    shape: Shape
    times_ns: Mapping[str, list[list[float]]]
    void: Caveat | None

    @property
    def logs(self) -> list[float]:
        """The log of NEW / OLD of each pair of blocks."""
        return [ratio.log_ratio(*block) for block in zip(self.times_ns["old"], self.times_ns["new"], strict=True)]


def measure(sides: Sides, shape: Shape | None, chance: random.Random, keep: Keep) -> ProcessPair:
    """One process pair, each of its pairs of blocks in an order of its own. The shape is found in the first.

    `keep` receives a line for the file with every pair of blocks. The first pair is kept too, and not counted: one process has
    waited before it while the other one was warmed up.
    """
    starts = {name: sides[name].start() for name in chance.sample(tuple(SLOTS), 2)}
    shape = shape or Shape.of(starts)
    keep({"starts": starts, "shape": to_json(shape)})
    times: dict[str, list[list[float]]] = {name: [] for name in SLOTS}
    looks: list[Json] = []
    for number in range(shape.blocks + 1):
        order = chance.sample(tuple(SLOTS), 2)
        taken = {name: sides[name].block(shape) for name in order}
        keep({"block": number, "order": order, **{f"{name}_ns": taken[name]["samples_ns"] for name in SLOTS}})
        looks += [launch["evidence"] for launch in taken.values() if "evidence" in launch]
        if number:
            for name in SLOTS:
                times[name].append([ns / shape.batch for ns in taken[name]["samples_ns"]])
    return ProcessPair(starts, shape, times, evidence.void_reason(joined(looks), sides["old"].subject.device))


def joined(looks: Sequence[Json]) -> Json:
    """A launch record whose evidence is that of all blocks."""
    if not looks:
        return {}
    samples = [look for found in looks for look in (found["before"], *found["samples"])]
    return {"evidence": {"before": looks[0]["before"], "samples": samples, "after": looks[-1]["after"]}}
