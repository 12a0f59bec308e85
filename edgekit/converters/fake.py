"""The fake format: a JSON file that tells the agent's fake runtime what to do. For tests of everything around a conversion.

A fake recipe's fake_model() returns these keys, all optional:

    latency_ns     what one inference takes on the fake clock         jitter        its relative spread
    instructions   guest instructions per inference                   output        "identity": the input's first floats
    slow_after_calls, slow_factor    from that call of a process on, one inference takes so many times as long
    noise          {"launch", "calls": standard deviations of the logarithm, between processes and between calls, "seed"}
    memory         what a process takes: {"load_mib": while it loads, "keep_mib": from then on, "run_mib": in each inference,
                   for "hold_s", "map": a file that stays mapped}
    operators      what its profiler tells: [{"name", "type", "delegate", "place", "ns"}]        delegation     what it says of that
    fault          None, or what the runtime does: crash, segfault, exit, hang, print, oom, bad_model, wrong,
                   or "pause PATH" (until that file is there); or {precision: fault}
    convert_fault  None, or what this converter does: refuse, raise, crash, hang, disk_full
"""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import ConvertError, UserError
from edgekit.types import Json, TensorSpec, to_json

if TYPE_CHECKING:
    import numpy as np

SOURCES = ("fake",)
SUFFIX = ".fake"
EXTRA = {"fake": "fake"}
PRECISIONS = ("fp32", "int8")
OPTIONS: Mapping[str, tuple[str, ...]] = {"colour": ("grey", "red")}
PACKAGES: Mapping[str, tuple[str, ...]] = {"fake": ()}

FORMAT = "edgekit-fake"
KEYS = (
    "latency_ns",
    "jitter",
    "output",
    "instructions",
    "slow_after_calls",
    "slow_factor",
    "noise",
    "memory",
    "operators",
    "delegation",
    "fault",
    "convert_fault",
)


def convert(
    source: Mapping[str, Any],
    precision: str,
    calibration: tuple[np.ndarray, ...] | None,
    input_specs: tuple[TensorSpec, ...],
    options: Mapping[str, str],
    output: Path,
    framework: str,
) -> Json:
    """Write `source` with its precision and shapes as one JSON object."""
    unknown = sorted(set(source) - set(KEYS))
    if unknown:
        raise UserError(f"fake_model() has unknown keys: {', '.join(unknown)}", f"known: {', '.join(KEYS)}")
    _fail(source.get("convert_fault"), output)
    batch, *extents = input_specs[0].shape
    tensor = TensorSpec("y", (batch, math.prod(extents)), "float32")
    body = {key: source.get(key) for key in KEYS if key != "convert_fault"}
    tensors = {"inputs": [to_json(spec) for spec in input_specs], "outputs": [to_json(tensor)]}
    calibrated = 0 if calibration is None else len(calibration[0])
    text = json.dumps({"format": FORMAT, "precision": precision, **body, **tensors, "options": dict(options)}, indent=1)
    output.write_text(text, "utf-8")
    return {
        **tensors,
        "details": {"calibration_inputs": calibrated, "delegated_ops": 1, "total_ops": 1, "delegated_share": 1.0},
    }


def check(path: Path) -> None:
    """The file is a JSON object that names this format."""
    try:
        whole = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{path.name} is damaged: {error}") from error
    if not isinstance(whole, dict) or whole.get("format") != FORMAT:
        raise UserError(f"{path.name} is no fake model")


def _fail(fault: str | None, output: Path) -> None:
    """Fail as real tools do, half-way through writing."""
    if fault is None:
        return
    output.write_text('{"format": ', "utf-8")
    if fault == "refuse":
        raise ConvertError("the fake converter refuses this model", "this is a test")
    if fault == "raise":
        raise ValueError("an operator is missing")
    if fault == "disk_full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(output))
    if fault == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if fault == "hang":
        time.sleep(3600)
    raise UserError(f"fake_model() has an unknown convert_fault: {fault}")
