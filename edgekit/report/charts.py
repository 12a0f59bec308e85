"""The charts of the HTML report: which there are, what they are of, and their specifications with the report's words in them."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit.report import chart_rows as rows
from edgekit.report import choice
from edgekit.report.words import duration
from edgekit.types import Json

SPECIFICATIONS = Path(__file__).parent / "templates" / "charts.json"  # tools/charts.py makes them
CHARTED = 200  # cells are drawn, those of the Pareto front and the cheapest; the table has more


def charted(cells: list[Json], front: set[str]) -> list[Json]:
    """The measured cells that are drawn, in the run's order."""
    measured = [cell for cell in cells if cell["status"] == "ok"]
    if len(measured) <= CHARTED:
        return measured
    axis = choice.cost(cells)

    def rank(cell: Json) -> tuple[bool, float]:
        value = axis.of(cell) if axis else None
        return cell["id"] not in front, float("inf") if value is None else value

    kept = {cell["id"] for cell in sorted(measured, key=rank)[:CHARTED]}
    return [cell for cell in measured if cell["id"] in kept]


def described(
    cells: list[Json],
    names: Mapping[str, str],
    lines: Iterable[Json],
    axes: tuple[choice.Axis | None, choice.Axis | None],
) -> Iterator[Json]:
    """The charts for which there are rows: id, title, what it says, whether it is of one cell, its specification, its rows."""
    specs: dict[str, Any] = json.loads(SPECIFICATIONS.read_text("utf-8"))
    cost, quality = axes
    places = {cell["id"]: index for index, cell in enumerate(cells)}

    def chart(
        name: str, kind: str, title: str, says: str, found: list[Json], one_cell: bool = False, **words: Any
    ) -> Iterator[Json]:
        if found:
            kind = "intervals" if kind == "bars" and any("low" in row for row in found) else kind
            spec = filled(specs[kind], {"unit": "", "digits": "~s", **words})
            yield {"id": name, "title": title, "says": says, "one_cell": one_cell, "spec": spec, "rows": found}

    if cost and quality:
        says = "Ringed cells are on the Pareto front: none other is as cheap, good and small. The dashed line leaves size aside."
        within = " and ".join({"batch": "a batch size"}.get(key, f"a {key}") for key in cost.within)
        says += f" Cells are compared within {within} only." if within else ""
        unit = "s" if cost.text is duration else ""
        points = rows.scatter(cells, names, cost, quality)
        lowest, highest = limits([row["y"] for row in points])
        yield from chart(
            "scatter", "scatter", "Cost, quality and size", says, points,
            x=cost.title + (", s" if unit else ""), y=quality.title, unit=unit, lowest=lowest, highest=highest,
        )  # fmt: skip
    says = "The line over a bar is where the median of a call lies with 95 %, over fresh processes."
    yield from chart(
        "latency", "bars", "Latency", says, rows.latencies(cells, names, False), x="median of a call, s", unit="s"
    )
    says = "The real board's latency, estimated from counted instructions; the line is the error of the method."
    yield from chart(
        "estimate", "bars", "Estimated latency", says, rows.estimates(cells, names), x="estimate, s", unit="s"
    )
    says = "How fast the emulator ran it on this machine. It says nothing of the board."
    yield from chart(
        "emulated",
        "bars",
        "Latency under emulation",
        says,
        rows.latencies(cells, names, True),
        x="median of a call, s",
        unit="s",
    )
    if quality:
        says = "The line is the 95 % interval for so many inputs."
        yield from chart(
            "quality", "bars", "Quality", says, rows.accuracies(cells, names, quality), x=quality.title, digits="~g"
        )
    yield from chart(
        "memory", "pairs", "Memory", "Peak of the process after loading the model, and while it runs.",
        rows.memories(cells, names), x="peak, MiB", digits="~g",
    )  # fmt: skip
    says = "Guest instructions of one inference by what they do."
    yield from chart("instructions", "stacked", "Instructions", says, rows.classes(cells, names), x="instructions")
    says = "Joules of one inference in all; the tooltip has what is above idle."
    yield from chart("energy", "bars", "Energy", says, rows.energies(cells, names), x="energy, J", unit="J")
    says = "Latency while the model runs on and on; a device that grows hot slows down."
    if (long := sum("sustained" in cell for cell in cells)) > rows.CURVES:
        says += f" The {rows.CURVES} cells of the best steady state are drawn, of {long}."
    yield from chart("sustained", "sustained", "Sustained", says, rows.curves(cells, names))
    by_what = profiled(cells)
    says = f"Who runs the operators, as a share of {by_what}."
    yield from chart(
        "delegation",
        "stacked",
        "Delegation",
        says,
        rows.delegations(cells, names),
        x="share of an inference",
        digits=".0%",
    )
    says = "Each launch is a fresh process: the middle half of its calls as a bar, 5 to 95 % as a line, the median as a tick."
    found = list(rows.launches(lines, places))
    yield from chart("launches", "launches", "Launches", says, found, True, x="time of a call, s", unit="s")
    says = f"The operators that cost most, as shares of {by_what}."
    yield from chart(
        "operators",
        "operators",
        "Operators",
        says,
        rows.operators(cells),
        True,
        x="share of an inference",
        digits=".0%",
    )


def profiled(cells: Sequence[Json]) -> str:
    """What the shares of the operators are shares of."""
    found = [cell["operators"] for cell in cells if cell.get("operators")]
    if found and all("total_instructions" in profile for profile in found):
        return "the instructions of one profiled inference"
    time = "the time of one profiled inference"
    if any(profile.get("emulated") and "total_instructions" not in profile for profile in found):
        return f"{time}, which is the emulator's and not the board's"
    return time


def limits(values: Sequence[float]) -> tuple[float, float]:
    """An axis for these values with room at both ends, also where all are the same; a share ends at 1."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = 0.1 * (high - low) or 0.01 * abs(high) or 1.0
    return low - room, 1.0 if low >= 0 and high <= 1 < high + room else high + room


def filled(spec: Any, words: dict[str, Any]) -> Any:
    """A specification with its titles ("@x") and parameters as told."""
    made = copy.deepcopy(spec)
    for parameter in made.get("params", ()):
        parameter["value"] = words.get(parameter["name"], parameter["value"])

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: walk(one) for key, one in value.items()}
        if isinstance(value, list):
            return [walk(one) for one in value]
        return words[value[1:]] if isinstance(value, str) and value.startswith("@") else value

    return walk(made)
