"""A session of process pairs: placed on the device, measured one after the other until it is enough, kept on the disk."""

from __future__ import annotations

import itertools
import json
import os
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgekit import evidence, link, noise, pairs, plan, ratio, store
from edgekit.cache import disk_errors, write_text
from edgekit.errors import UserError
from edgekit.pairs import SLOTS, Shape, Side, Sides
from edgekit.types import Json, to_json

Say = Callable[[str], None]
# History: 1 first form.
SCHEMA = 1
VOIDS = 3  # process pairs of one session are repeated; a device that disturbs more of them would disturb any number
HELLO_S = 20.0


class Record:
    """What is measured by turns, on the disk: KIND.json, and pairs.jsonl, which gains a line as soon as there is one."""

    def __init__(self, parent: Path, kind: str, sides: Sides, options: Json) -> None:
        """Make the folder. Raises SetupError where that cannot be written."""
        heads = {}
        for name, side in sides.items():
            subject = side.subject
            heads[name] = plan.header(subject.request, subject.model, subject.device, subject.effort, [side.cell])
        old = sides["old"].subject
        self.kind = kind
        self.header = {
            "schema": SCHEMA,
            "run": store.new_run_id(f"{kind}-{old.model.name}", old.device.name),
            **{key: heads["old"][key] for key in ("started", "edgekit", "agent", "device", "host", "git")},
            **{key: {name: head[key] for name, head in heads.items()} for key in ("plan", "model")},
            "options": options,
        }
        self.path = parent / str(self.header["run"])
        self.finish({})

    def line(self, value: Json) -> None:
        """One more line of pairs.jsonl, on the disk at the latest when the next process pair begins."""
        with disk_errors("the pairs"), (self.path / "pairs.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(value, allow_nan=False) + "\n")
            stream.flush()
            if "starts" in value:  # not between two blocks
                os.fsync(stream.fileno())

    def finish(self, found: Json) -> None:
        """Write KIND.json with what was found."""
        text = json.dumps({**self.header, **found}, indent=1, allow_nan=False) + "\n"
        write_text(self.path / f"{self.kind}.json", text)


@dataclass
class Session:
    """Process pairs: their log ratios, the launch records of their processes, the times per call in their blocks; `levels_ns`
    are the medians of the two processes of each pair."""

    shape: Shape | None = None
    logs: list[list[float]] = field(default_factory=list)
    starts: list[Mapping[str, Json]] = field(default_factory=list)
    times_ns: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in SLOTS})
    levels_ns: list[list[float]] = field(default_factory=list)
    void: int = 0

    @property
    def estimate(self) -> ratio.Estimate | None:
        """NEW / OLD so far, once there is enough to decide on."""
        return ratio.estimate(self.logs) if len(self.logs) >= ratio.LEAST_PAIRS else None

    def verdict(self, threshold: float) -> ratio.Verdict:
        """What it says so far."""
        estimate = self.estimate
        return ratio.verdict(estimate, threshold) if estimate else "inconclusive"

    def add(self, taken: pairs.ProcessPair) -> None:
        """One process pair that counts."""
        self.logs.append(taken.logs)
        self.starts.append(taken.starts)
        for name in SLOTS:
            self.times_ns[name] += [ns for block in taken.times_ns[name] for ns in block]
        self.levels_ns.append([statistics.median(itertools.chain(*taken.times_ns[name])) for name in SLOTS])

    def progress(self) -> str:
        """Which process pair is next, and what the others say."""
        estimate = self.estimate
        told = (
            f", NEW / OLD so far {estimate.ratio:.3f} ({estimate.low:.3f} to {estimate.high:.3f})" if estimate else ""
        )
        return f"process pair {len(self.logs) + 1}{told}"


def measure(
    sides: Sides,
    record: Record,
    number: int,
    seconds: float,
    enough: Callable[[Session], bool],
    say: Say,
    shape: Shape | None,
) -> Session:
    """Process pairs until it is `enough`, or the next one would end after `seconds`; at least one that counts."""
    found, chance = Session(shape), random.Random()
    began, longest = time.monotonic(), 0.0
    while True:
        started = time.monotonic()
        say(f"session {number}, {found.progress()}")

        def keep(line: Json, pair: int = len(found.logs) + 1) -> None:
            record.line({"session": number, "pair": pair, **line})

        taken = pairs.measure(sides, found.shape, chance, keep)
        found.shape = taken.shape
        if taken.void and found.void < VOIDS:
            found.void += 1
            keep({"void": to_json(taken.void)})
            say(f"this process pair does not count: {taken.void.message}")
            evidence.cool_down(sides["old"].agent, say)
        else:
            found.add(taken)
        longest = max(longest, time.monotonic() - started)
        late = time.monotonic() - began + longest > seconds
        if found.logs and (late or enough(found)):
            return found


def seconds_of(given: float | None, default: float) -> float:
    """What --max-seconds says, or the default. Raises UserError."""
    seconds = default if given is None else given
    if not 0 < seconds < float("inf"):
        raise UserError(f"max-seconds must be a positive number, not {seconds:g}")
    return seconds


def line_to(sides: Sides, doing: str, say: Say) -> link.Link:
    """The link to the device, which is locked meanwhile."""
    subject = sides["old"].subject
    return link.Link(subject.device, say, f"{doing} {subject.model.name}", subject.request.wait)


def place(sides: Sides, line: link.Link, say: Say) -> None:
    """An agent for each runtime, and both artifacts on the device, where their outputs are checked."""
    agents = {name: line.session(name) for name in dict.fromkeys(side.cell.runtime for side in sides.values())}
    for side in sides.values():
        side.place(agents[side.cell.runtime], say)


def state_of(side: Side) -> tuple[str, Json]:
    """The key by which a device's noise is known, and what it says of its state now."""
    state = side.agent.call("hello", {}, HELLO_S)["state"]
    return noise.device_key(side.agent.greeting["system"], state), state
