"""What an agent says it measured, believed only where it can be so. An odd answer is the device's fault, no bug of ours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from edgekit.errors import ProtocolError
from edgekit.types import Json

MOST = 10**18  # nanoseconds of thirty years; counts, bytes and kHz are smaller
SHARES = ("own_cores", "other_cpu_share", "steal_share", "memory_stall_share", "swapped_bytes", "seconds", "cost_share")
LOOK = ("own_khz", "own_most_khz", "own_cores", "frequency_khz", "limit_khz", "throttled", "thermal_status")


class Odd(ProtocolError):
    """An answer in the protocol's form that no measurement gives."""


def launch(told: Json) -> Json:
    """A launch record as it came. Raises Odd: no samples, times below 0, most of them 0, counts that do not fit."""
    whole(told, "batch", 1)
    for key in ("load_ns", "first_ns", "warmup_ns"):
        whole(told, key)
    samples = list_of(told, "samples_ns", 1)
    if sorted(samples)[len(samples) // 2] < 1:
        raise odd("samples_ns", "most samples took no time: its clock is too coarse")
    if not isinstance(told.get("timer"), str):
        raise odd("timer", told.get("timer"))
    rows = told.get("counts")
    if rows:
        width = len(list_of(told, "counter_overhead", 1))
        if not isinstance(rows, list) or len(rows) != len(samples):
            raise odd("counts", f"not one row for each of {len(samples)} samples")
        if any(len(list_of({"counts": row}, "counts", 1)) != width for row in rows):
            raise odd("counts", f"rows of another length than {width}")
    evidence(told)
    return told


def window(event: Json, earlier: Sequence[Json] = ()) -> Json:
    """An event of `sustain` with a window as it came, after `earlier` ones.

    Raises Odd: each takes time and ends after the others, and a busy one has a latency.
    """
    told = event["window"]
    if not isinstance(told, dict):
        raise odd("window", told)
    begin, end = number(told, "start_s"), number(told, "end_s")
    if end <= max(begin, earlier[-1]["end_s"] if earlier else begin):
        raise odd("end_s", f"{end}, and the window began at {begin}")
    if whole(told, "calls"):
        whole(told, "p50_ns", 1)
    for key in ("uj", "uw"):
        if key in told:
            number(told, key, -MOST)
    look(event.get("evidence", {}))
    return event


def greeting(frame: Json) -> Json:
    """What a greeting says of the system, as it came. Raises Odd: cores and bytes are whole numbers where they are told."""
    system = frame.get("system")
    if not isinstance(system, dict):
        raise odd("system", system)
    for key in ("cores", "memory_bytes", "page_bytes"):
        if system.get(key) is not None:
            whole(system, key, 1)
    return frame


def prediction(reply: Json) -> Json:
    """An answer of `predict` as it came. Raises Odd: its tensors have names, shapes and dtypes, its memory is a table."""
    for side in ("inputs", "outputs"):
        tensors = reply.get(side)
        if not isinstance(tensors, list) or not all(isinstance(tensor, dict) for tensor in tensors):
            raise odd(side, tensors)
        for tensor in tensors:
            list_of(tensor, "shape", 0)
            for key in ("name", "dtype"):
                if not isinstance(tensor.get(key), str):
                    raise odd(key, tensor.get(key))
    if not isinstance(reply.get("memory"), dict):
        raise odd("memory", reply.get("memory"))
    return reply


def source(reply: Json) -> Json:
    """What an answer of `sustain` says of its source of energy: "method", "settle_s", "coarse". Raises Odd."""
    told = reply.get("energy")
    if (
        not isinstance(told, dict)
        or not isinstance(told.get("method"), str)
        or not isinstance(told.get("coarse"), bool)
    ):
        raise odd("energy", told)
    number(told, "settle_s")
    return told


def state(reply: Json) -> Json:
    """The state in an answer of `hello`. Raises Odd."""
    look(reply.get("state"))
    return dict(reply["state"])


def operators(told: Json) -> Json:
    """The answer of `operators` as it came. Raises Odd: as many times of each operator as there are inferences."""
    totals = list_of(told, "total_ns", 1)
    for key in ("plain_ns", "profiled_ns"):
        list_of(told, key, 1)
    rows = told.get("operators")
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and isinstance(row.get("name"), str) for row in rows
    ):
        raise odd("operators", "no list of operators with names")
    for row in rows:
        if len(list_of(row, "ns", 1)) != len(totals):
            raise odd("ns", f"{len(row['ns'])} times of an operator in {len(totals)} inferences")
    return told


def evidence(told: Json) -> Json:
    """An answer with its evidence as it came. Raises Odd where that cannot be believed."""
    found = told.get("evidence", {})
    if not isinstance(found, dict) or not isinstance(found.get("samples", []), list):
        raise odd("evidence", type(found).__name__)
    numbers(found, SHARES)
    if "cores" in found:
        whole(found, "cores", 1)
    for one in (found.get("before", {}), found.get("after", {}), *found.get("samples", ())):
        look(one)
    return told


def look(found: Any) -> None:
    """What was seen of the device at one moment. Raises Odd."""
    if not isinstance(found, dict):
        raise odd("evidence", found)
    numbers(found, LOOK)
    for key in ("throttled", "thermal_status"):
        if key in found:
            whole(found, key)
    if "temperature_millic" in found:
        number(found, "temperature_millic", -MOST)
    if not isinstance(found.get("governor", ""), str):
        raise odd("governor", found["governor"])


def numbers(found: Json, keys: Iterable[str]) -> None:
    """Those of the keys that are there are numbers of at least 0. Raises Odd."""
    for key in keys:
        if key in found:
            number(found, key)


def number(told: Json, key: str, least: float = 0) -> float:
    """A finite number. Raises Odd."""
    value = told.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= MOST:
        raise odd(key, value)
    return float(value)


def whole(told: Json, key: str, least: int = 0) -> int:
    """A whole number. Raises Odd."""
    value = told.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MOST:
        raise odd(key, value)
    return value


def list_of(told: Json, key: str, least: int) -> list[int]:
    """A list of at least so many whole numbers, none below 0. Raises Odd."""
    values = told.get(key)
    if not isinstance(values, list) or len(values) < least:
        raise odd(key, values)
    if not values:
        return values
    if not all(type(value) is int for value in values) or not 0 <= min(values) <= max(values) <= MOST:
        raise odd(key, next(value for value in values if type(value) is not int or not 0 <= value <= MOST))
    return values


def odd(key: str, value: object) -> Odd:
    """The error of an answer that no measurement gives."""
    shown = repr(value) if not isinstance(value, str) else value
    return Odd(f"the device says {key}: {shown[:100]}, which no measurement gives", "look at its clock and its agent")
