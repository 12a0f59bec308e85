"""The rows that the charts of the HTML report draw, each figure beside its words. Raw samples are reduced to quantiles here."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from edgekit import stats
from edgekit.agent.protocol import INSTRUCTION_CLASSES
from edgekit.report.choice import MEMORY, SIZE, Axis, front, mebi
from edgekit.report.words import count, duration, percent
from edgekit.types import Json

MEBI = 1 << 20
TOP_OPERATORS = 10
NAME = 120  # characters
LAUNCHES, LAUNCH_ROWS = 40, 2400  # of one cell are drawn, more look alike; and of all cells
CURVES, POINTS = 8, 100  # so many sustained runs are drawn, those of the best steady state, and of each so many points
WORDS = {
    "load_store": "load/store",
    "simd_load_store": "SIMD load/store",
    "fp_fma": "FP multiply-add",
    "int_mac": "integer multiply-add",
    "simd_other": "other SIMD",
    "branch": "branch",
    "alu": "other",
}
QUANTILES = {"p5": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95}
Rows = list[Json]
Names = Mapping[str, str]  # a cell's short name by its id


def scatter(cells: Sequence[Json], names: Names, cost: Axis, quality: Axis) -> Rows:
    """A point for each cell that has both figures: x in seconds or counts, y as measured, size in bytes.

    "front" says whether no other cell is as cheap, as good and as small; "edge" whether that is so without the size, which the
    line joins.
    """
    members, edge = front(cells, (cost, quality, SIZE)), front(cells, (cost, quality))
    rows = []
    for cell in cells:
        x, y = cost.of(cell), quality.of(cell)
        if cell["status"] != "ok" or x is None or y is None:
            continue
        row: Json = {
            "label": names[cell["id"]],
            "precision": cell["precision"],
            "runtime": cell["runtime"],
            "x": scaled(cost, x),
            "y": y,
            "size": SIZE.of(cell) or 0.0,
            "cost": cost.text(x),
            "quality": quality.text(y),
            "front": "yes" if cell["id"] in members else "no",
            "edge": cell["id"] in edge,
            "group": " ".join(cost.group(cell)),
        }
        row |= {
            key: axis.text(v) for key, axis in (("file", SIZE), ("memory", MEMORY)) if (v := axis.of(cell)) is not None
        }
        rows.append(row)
    return rows


def scaled(axis: Axis, value: float) -> float:
    """Nanoseconds as seconds, which the charts write with a prefix; counts as they are."""
    return value / 1e9 if axis.text is duration else value


def ordered(rows: Rows) -> Rows:
    """The rows with their place, least first."""
    return [
        {**row, "order": place} for place, row in enumerate(sorted(rows, key=lambda row: (row["value"], row["label"])))
    ]


def latencies(cells: Sequence[Json], names: Names, emulated: bool) -> Rows:
    """The median of each cell in seconds, its interval and its tails."""
    rows = []
    for cell in cells:
        found = cell.get("latency")
        if not found or found["emulated"] != emulated:
            continue
        row = bar(cell, names, found["p50_ns"] / 1e9, duration(found["p50_ns"]))
        if "low_ns" in found:
            row |= interval(found["low_ns"], found["high_ns"], 1e-9, duration)
        tails = [f"{key[:-3]} {duration(found[key])}" for key in stats.TAIL_SAMPLES if key in found]
        row |= {"tails": ", ".join(tails)} if tails else {}
        rows.append(row)
    return ordered(rows)


def estimates(cells: Sequence[Json], names: Names) -> Rows:
    """The estimated latency of the real board in seconds, with its error."""
    rows = []
    for cell in cells:
        found = cell.get("estimate", {})
        if "latency_ns" in found:
            row = bar(
                cell, names, found["latency_ns"] / 1e9, f"{duration(found['latency_ns'])} ±{percent(found['error'])}"
            )
            rows.append(row | interval(found["low_ns"], found["high_ns"], 1e-9, duration))
    return ordered(rows)


def accuracies(cells: Sequence[Json], names: Names, axis: Axis) -> Rows:
    """The metric of each cell with its interval."""
    rows = []
    for cell in cells:
        value, found = axis.of(cell), cell.get("accuracy", {})
        if value is None:
            continue
        row = bar(cell, names, value, axis.text(value))
        if axis.metric and axis.metric == found.get("metric") and "interval" in found:
            low, high = found["interval"]
            row |= interval(low, high, 1.0, axis.text)
        rows.append(row)
    return ordered(rows)


def energies(cells: Sequence[Json], names: Names) -> Rows:
    """Energy per inference in joules."""
    from edgekit.report.energy import millijoules

    rows = []
    for cell in cells:
        if found := cell.get("energy"):
            row = bar(cell, names, found["mj_per_inference"] / 1e3, millijoules(found["mj_per_inference"]))
            rows.append(row | {"tails": f"{millijoules(found['mj_above_idle'])} above idle"})
    return ordered(rows)


def bar(cell: Json, names: Names, value: float, text: str) -> Json:
    """One figure of a cell."""
    return {"label": names[cell["id"]], "precision": cell["precision"], "value": value, "text": text}


def interval(low: float, high: float, scale: float, text: Callable[[float], str]) -> Json:
    """Where it lies with 95 %."""
    return {"low": low * scale, "high": high * scale, "interval": f"{text(low)} to {text(high)}"}


def memories(cells: Sequence[Json], names: Names) -> Rows:
    """Peaks after loading and while running, in MiB."""
    rows = []
    for order, cell in enumerate(cells):
        for place, (part, key) in enumerate((("load peak", "load_peak_bytes"), ("run peak", "run_peak_bytes"))):
            if key in (cell.get("memory") or {}):
                value = cell["memory"][key]
                row = {"part": part, "place": place, "value": value / MEBI, "text": mebi(value), "order": order}
                rows.append(row | {"label": names[cell["id"]]})
    return rows


def classes(cells: Sequence[Json], names: Names) -> Rows:
    """Instructions of an inference by class; a cell of which the total alone is known has one part."""
    rows = []
    for order, cell in enumerate(cells):
        found = cell.get("instructions")
        if not found:
            continue
        parts = [(WORDS[key], found[key]) for key in INSTRUCTION_CLASSES[1:] if found.get(key)]
        for place, (part, value) in enumerate(parts or [("all", found["total"])]):
            row = {"label": names[cell["id"]], "part": part, "place": place, "value": value, "text": count(value)}
            rows.append(row | {"share": f"{value / found['total']:.1%}" if found["total"] else "", "order": order})
    return rows


def shares(profile: Json) -> list[tuple[Json, float, str]]:
    """Each operator of a profile, its share of the inference and its cost in words, the dearest first.

    By counted instructions where there are any: they are the board's, and an emulator's time is not.
    """
    total, own = profile.get("total_instructions"), profile["operators"]
    if total:
        told = [(one, one["instructions"] / total, f"{count(one['instructions'])} instructions") for one in own]
    else:
        told = [(one, one["share"], duration(one["ns"])) for one in own]
    return sorted(told, key=lambda found: (-found[1], found[0]["index"]))


def delegations(cells: Sequence[Json], names: Names) -> Rows:
    """The share of a profiled inference by what runs it: each delegate, the runtime's own kernels, and outside any operator."""
    rows = []
    for order, cell in enumerate(cells):
        profile = cell.get("operators")
        if not profile:
            continue
        parts: dict[str, float] = {}
        for one, share, _ in shares(profile):
            where = brief(one.get("delegate", "runtime"))
            parts[where] = parts.get(where, 0.0) + share
        counted = profile.get("total_instructions")
        parts["outside any operator"] = max(0.0, 1 - sum(parts.values())) if counted else profile["unprofiled_share"]
        for place, (part, share) in enumerate(parts.items()):
            cost = f"{count(share * counted)} instructions" if counted else duration(share * profile["total_ns"])
            row = {"label": names[cell["id"]], "part": part, "place": place, "value": share, "text": f"{share:.1%}"}
            rows.append(row | {"share": cost, "order": order})
    return rows


def operators(cells: Sequence[Json]) -> Rows:
    """The operators of each cell (by its index) that cost most, and the rest as one; shares of an inference."""
    rows = []
    for index, cell in enumerate(cells):
        profile = cell.get("operators")
        if not profile:
            continue
        dearest = shares(profile)
        for order, (one, share, cost) in enumerate(dearest[:TOP_OPERATORS]):
            kind = brief(one.get("type") or one["name"])
            row = {"i": index, "order": order, "label": f"{one['index']} {kind}", "name": brief(one["name"])}
            row |= {"where": brief(one.get("delegate", "runtime")), "value": share, "share": f"{share:.1%}"}
            rows.append(row | {"cost": cost} | ({"macs": count(one["macs"])} if one.get("macs") else {}))
        rest = dearest[TOP_OPERATORS:]
        if rest:
            share = sum(part for _, part, _ in rest)
            row = {"i": index, "order": TOP_OPERATORS, "label": f"{len(rest)} more", "name": f"{len(rest)} more"}
            rows.append(row | {"where": "various", "value": share, "share": f"{share:.1%}"})
    return rows


def brief(name: str) -> str:
    """A name out of a model file as a chart has it: of one without end, the beginning."""
    return name if len(name) <= NAME else f"{name[: NAME - 1]}\N{HORIZONTAL ELLIPSIS}"


def launches(lines: Iterable[Json], places: Mapping[str, int]) -> Iterator[Json]:
    """The quantiles of each launch in seconds per call, by the index that its cell has in `places`; others are left out.

    `lines` are measurements as they stand in a run; one is looked at at a time.
    """
    most = max(3, min(LAUNCHES, LAUNCH_ROWS // max(1, len(places))))
    for line in lines:
        if line["id"] not in places or line["status"] != "ok":
            continue
        for number, launch in enumerate(line.get("launches", ())[:most], 1):
            samples = sorted(ns / launch["batch"] for ns in launch["samples_ns"])
            if not samples:
                continue
            found = {key: stats.percentile(samples, share) for key, share in QUANTILES.items()}
            yield {
                "i": places[line["id"]],
                "launch": number,
                **{key: float(f"{value / 1e9:.5g}") for key, value in found.items()},
                "median": duration(found["p50"]),
                "half": f"{duration(found['p25'])} to {duration(found['p75'])}",
                "range": f"{duration(found['p5'])} to {duration(found['p95'])}",
                "samples": len(samples),
            }


LINES = (("latency, ms", "p50_ns", 1e-6), ("clock, MHz", "clock_mhz", 1.0), ("temperature, °C", "temperature_c", 1.0))


def curves(cells: Sequence[Json], names: Names) -> Rows:
    """Latency, clock and temperature of each sustained run over time; each point is the median of the windows it stands for."""
    rows = []
    long = [cell for cell in cells if "sustained" in cell]
    for cell in sorted(long, key=lambda one: one["sustained"].get("steady_ns", math.inf))[:CURVES]:
        windows = cell["sustained"]["windows"]
        group = -(-len(windows) // POINTS)
        for some in grouped(windows, group):
            time_s = some[len(some) // 2]["end_s"] - windows[0]["start_s"]
            for place, (what, key, scale) in enumerate(LINES):
                values = [window[key] * scale for window in some if key in window]
                if values:
                    value = statistics.median(values)
                    row = {"label": names[cell["id"]], "what": what, "place": place, "t": round(time_s, 2)}
                    rows.append(row | {"value": value, "text": f"{value:.4g}", "time": f"{time_s:.1f} s"})
    return rows


def grouped(values: Sequence[Json], many: int) -> Iterator[Sequence[Json]]:
    """The values in groups of so many."""
    return (values[start : start + many] for start in range(0, len(values), many or 1))
