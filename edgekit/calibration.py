"""The A/A noise of a device: one artifact compared with itself for long enough to know what a comparison is worth there."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgekit import noise, plan, ratio, stats, turns
from edgekit.cache import disk_errors
from edgekit.errors import UserError
from edgekit.pairs import Side, Sides
from edgekit.types import Json, to_json

Say = Callable[[str], None]
PAIRS = 24
MAX_SECONDS = 180.0


@dataclass(frozen=True)
class Calibration:
    """The noise as it is remembered from now on, and the threshold that A/B tests have by it."""

    run: str
    path: Path
    device: str
    noise: noise.Noise
    threshold: float

    def to_json(self) -> Json:
        """The machine form."""
        found = {"run": self.run, "device": self.device, "noise": to_json(self.noise), "threshold": self.threshold}
        return {"schema": turns.SCHEMA, **found}


def run(request: plan.Request, say: Say, max_seconds: float | None = None) -> Calibration:
    """Compare the cell that the request names with itself, and remember the noise of the device.

    Raises what an A/B test raises, and UserError for an emulated device or when too little could be measured.
    """
    seconds = turns.seconds_of(max_seconds, MAX_SECONDS)
    old = Side.of("old", request, say)
    device = old.subject.device
    if device.emulated:
        message = f"{device.name} is emulated: A/B tests there compare instruction counts, which hardly vary"
        raise UserError(message, "calibrate the devices whose time counts: --device local")
    sides: Sides = {"old": old, "new": dataclasses.replace(old, name="new", request={}, found={})}
    with disk_errors("temporary files"), turns.line_to(sides, "calibrate", say) as line:
        turns.place(sides, line, say)
        key, state = turns.state_of(old)
        record = turns.Record(request.output, "calibration", sides, {"max_seconds": seconds})
        session = turns.measure(sides, record, 1, seconds, lambda found: len(found.logs) >= PAIRS, say, None)
        line.confirm()
    least = 2 * ratio.LEAST_PAIRS
    if len(session.logs) < least:
        message = f"{len(session.logs)} process pairs in {seconds:g} s are too few to know the noise: it takes {least}"
        raise UserError(message, "raise --max-seconds, or take a smaller model")
    known = noise.Noise(
        relative=ratio.noise(session.logs),
        date=time.strftime("%Y-%m-%d", time.gmtime()),
        device=device.name,
        subject=old.cell.id,
        pairs=len(session.logs),
        load=state["load"][0] if state.get("load") else None,
        drift=round(stats.drift(session.levels_ns), 6),
    )
    noise.keep(key, known)
    found = Calibration(record.path.name, record.path, device.name, known, ratio.threshold(known.relative))
    record.finish(found.to_json())
    return found
