"""A recipe that needs no framework: its output is its input. For tests of the pipeline; `fake_model` drives the fake runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

TASK = "image-classification"
DESCRIPTION = "identity on ten numbers; 95 % of 200 rows have their largest number at the label"
LICENCE = "Apache-2.0"
INPUT = {"name": "x", "shape": (1, 10), "dtype": "float32"}


def fake_model() -> dict[str, Any]:
    """What the fake runtime does with the artifact: see edgekit/converters/fake.py for every key."""
    return {"latency_ns": 1_200_000, "jitter": 0.01, "output": "identity", "instructions": 123_456, "fault": None}


def data() -> dict[str, np.ndarray]:
    """50 calibration rows, and 200 test rows of which exactly 190 are right."""
    import numpy as np

    rng = np.random.default_rng(0)
    x = rng.uniform(0.0, 0.5, (200, 10)).astype(np.float32)
    y = rng.integers(0, 10, 200)
    shown = y.copy()
    wrong = rng.choice(200, 10, replace=False)
    shown[wrong] = (y[wrong] + 1) % 10
    x[np.arange(200), shown] = 1.0
    return {"calibration": rng.uniform(0.0, 1.0, (50, 10)).astype(np.float32), "x": x, "y": y.astype(np.int64)}
