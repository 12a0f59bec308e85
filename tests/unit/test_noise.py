"""The noise of a device, remembered by what makes it that device."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest

from edgekit import noise

SYSTEM = {
    "machine": "aarch64", "kernel": "6.6.31", "model": "Raspberry Pi 4", "cpu": {"cpu_part": "0xd08"}, "cores": 4, "os": "Debian",
    "memory_bytes": 1,
}  # fmt: skip
KNOWN = noise.Noise(0.008, "2026-11-23", "my-pi", "digits_cnn/fp32/tflite@my-pi+threads=1", 24, 0.4)


def test_what_is_kept_is_found_again_and_replaced(cold_cache: Path) -> None:
    key = noise.device_key(SYSTEM, {"governor": "performance"})
    assert noise.of(key) is None
    noise.keep(key, KNOWN)
    assert noise.of(key) == KNOWN
    later = noise.Noise(0.02, "2026-11-24", "my-pi", "mobilenet_v2/fp32/tflite@my-pi+threads=1", 20)
    noise.keep(key, later)
    assert noise.of(key, "latency") == later


@pytest.mark.parametrize(
    "changed", [{"kernel": "6.6.32"}, {"cores": 2}, {"model": "Raspberry Pi 5"}, {"cpu": {}}, {"machine": "armv7l"}]
)
def test_another_board_kernel_or_cpu_is_another_device(changed: dict[str, object]) -> None:
    evidence = {"governor": "performance"}
    assert noise.device_key({**SYSTEM, **changed}, evidence) != noise.device_key(SYSTEM, evidence)


def test_the_governor_counts_and_the_free_memory_does_not() -> None:
    assert noise.device_key(SYSTEM, {"governor": "ondemand"}) != noise.device_key(SYSTEM, {"governor": "performance"})
    assert noise.device_key({**SYSTEM, "memory_bytes": 2}, {"load": [1.0]}) == noise.device_key(SYSTEM, {})


@pytest.mark.parametrize(
    "damage",
    [
        "", "{", "[]", "{}",
        *(json.dumps({**dataclasses.asdict(KNOWN), "relative": share}) for share in (-1, math.nan, math.inf)),
        *(json.dumps({**dataclasses.asdict(KNOWN), "drift": share}) for share in (-1, math.nan, math.inf)),
    ],
)  # fmt: skip
def test_a_damaged_entry_is_none(damage: str, cold_cache: Path) -> None:
    noise.keep("some-device", KNOWN)
    (place,) = (cold_cache / "noise").iterdir()
    place.write_text(damage)
    assert noise.of("some-device") is None
