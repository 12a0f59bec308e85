"""What cells say about one another: a smaller precision that is slower, the same file in a slower runtime. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from edgekit.caveats import caveat
from edgekit.types import Json, to_json

SLOWER_RUNTIME = 1.25  # below this, versions of the same kernels differ as well
SLOWER = 1.05  # a smaller difference is the noise of many machines, and worth nobody's while


class Timed(NamedTuple):
    """What is compared of a cell that was timed; `place` is that in its report. Times in ns; None where not known."""

    place: int
    runtime: str
    precision: str
    threads: int
    batch: int
    emulated: bool
    p50_ns: float
    low_ns: float | None
    high_ns: float | None
    artifact: str | None
    instructions: int | None

    @classmethod
    def of(cls, place: int, cell: Json) -> Timed | None:
        """That of a cell; None for one that was not timed."""
        if "latency" not in cell:
            return None
        latency = cell["latency"]
        return cls(
            place,
            cell["runtime"],
            cell["precision"],
            cell["threads"],
            cell.get("batch", 1),
            latency["emulated"],
            latency["p50_ns"],
            latency.get("low_ns"),
            latency.get("high_ns"),
            cell.get("artifact", {}).get("sha256"),
            cell.get("instructions", {}).get("total"),
        )


def apart(slow_low: float | None, fast_high: float | None) -> bool:
    """Whether the intervals of two latencies leave no doubt which is slower; cells of one launch have none."""
    return slow_low is None or fast_high is None or slow_low > fast_high


def of_precisions(timed: Sequence[Timed]) -> Iterator[tuple[int, Json]]:
    """Of each cell of a smaller precision that was timed on a real device and is slower than its fp32 sibling: place and warning.

    Only by time: an int8 instruction and an fp32 one cost differently, so their counts decide nothing here. Siblings differ in
    their precision alone: runtime, threads and inputs per call are the same.
    """
    floats = {(one.runtime, one.threads, one.batch): one for one in timed if one.precision == "fp32"}
    for one in timed:
        sibling = floats.get((one.runtime, one.threads, one.batch))
        if sibling is None or one is sibling or one.emulated:
            continue
        ratio = one.p50_ns / sibling.p50_ns
        if ratio > SLOWER and apart(one.low_ns, sibling.high_ns):
            yield one.place, to_json(caveat("slower-than-fp32", precision=one.precision, ratio=ratio))


def of_runtimes(timed: Sequence[Timed]) -> Iterator[tuple[int, Json]]:
    """Of each cell that ran the very file of an earlier cell in another runtime and needs more for it: place and warning.

    By time on a real device, by instructions on an emulated one: the same file in the same precision can be compared so.
    """
    earlier: dict[tuple[str, int], Timed] = {}
    for one in timed:
        if one.artifact is None:
            continue
        first = earlier.setdefault((one.artifact, one.threads), one)
        if first.runtime == one.runtime or first.precision != one.precision:
            continue
        if not one.emulated:
            if not apart(one.low_ns, first.high_ns):
                continue
            what, ratio = "time", one.p50_ns / first.p50_ns
        elif one.instructions is not None and first.instructions is not None:
            what, ratio = "instructions", one.instructions / first.instructions
        else:
            continue
        if ratio > SLOWER_RUNTIME:
            found = caveat("slower-runtime", ratio=ratio, what=what, runtime=one.runtime, other=first.runtime)
            yield one.place, to_json(found)
