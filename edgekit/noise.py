"""The A/A noise of each device, as `edgekit calibrate` measured it, in the cache."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.cache import cache_dir, digest, write_text

KINDS = ("latency",)
# What makes a device another one as far as its noise goes, of the facts in an agent's greeting.
FACTS = ("machine", "kernel", "model", "soc", "cpu", "cores", "max_khz")


@dataclass(frozen=True)
class Noise:
    """How far apart an artifact's ratio to itself came out: below `relative` in 95 % of the comparisons.

    `drift` is how far the times of one run after the other lie apart beyond what their launches' spread explains, as a share
    of them, in 95 % of the runs (stats.drift); 0 where it was not looked for. `date` is a day (UTC); `subject` the cell it was
    measured with, `load` the device's load average then, `pairs` how many process pairs it was taken from, `device` the
    profile's name.
    """

    relative: float
    date: str
    device: str
    subject: str
    pairs: int
    load: float | None = None
    drift: float = 0.0


def device_key(system: Mapping[str, Any], evidence: Mapping[str, Any]) -> str:
    """A device by its board, CPU, cores, kernel and governor: `system` of the greeting, and any evidence of its agent."""
    facts = {name: system.get(name) for name in FACTS}
    return digest({**facts, "governor": evidence.get("governor")})[:16]


def of(key: str, kind: str = "latency") -> Noise | None:
    """The noise of a device by its key; None for one that was never calibrated, or whose entry cannot be read."""
    try:
        found = json.loads(_place(key, kind).read_text("utf-8"))
        noise = Noise(**found)
        return noise if all(0 <= share < math.inf for share in (noise.relative, noise.drift)) else None
    except (OSError, ValueError, TypeError):
        return None


def keep(key: str, noise: Noise, kind: str = "latency") -> None:
    """Remember it in place of what was known. Raises SetupError when the cache cannot be written."""
    write_text(_place(key, kind), json.dumps(dataclasses.asdict(noise), indent=1) + "\n")


def _place(key: str, kind: str) -> Path:
    assert kind in KINDS
    return cache_dir() / "noise" / f"{key}-{kind}.json"
