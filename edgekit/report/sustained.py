"""What a sustained run says, for the terminal: the cells by their steady state, and where their order was another at the start."""

from __future__ import annotations

from edgekit.report import Reports
from edgekit.report.words import duration, label, span
from edgekit.types import Json

TIE = 1.03  # latencies closer than this are not ranked against one another: the steady state itself is known to 3 %


def lines(found: Reports) -> list[str]:
    """One line for each cell that ran for a long time, each device by itself, best steady state first."""
    told = []
    for report in found.reports:
        cells = [cell for cell in report.cells if "sustained" in cell]
        if cells:
            told += ranking(cells, {cell["id"]: label(cell, found) for cell in cells})
    return told


def ranking(cells: list[Json], names: dict[str, str]) -> list[str]:
    """The lines of one device. `names` are the cells' short names by id."""
    steady = sorted((cell for cell in cells if whole(cell)), key=lambda cell: int(cell["sustained"]["steady_ns"]))
    others = [cell for cell in cells if not whole(cell)]
    width = max(map(len, names.values()))
    told = [f"sustained for {span(max(c['sustained']['asked_s'] for c in cells))}, by steady state:"]
    told += [f"{place:3d}  {names[c['id']]:{width}}  {described(c['sustained'])}" for place, c in enumerate(steady, 1)]
    told += [f"  -  {names[cell['id']]:{width}}  {described(cell['sustained'])}" for cell in others]
    for faster, slower in overtaken(steady):
        told.append(
            f"{names[slower['id']]} was faster than {names[faster['id']]} at the start, and is slower at the end"
        )
    return told


def whole(cell: Json) -> bool:
    """Whether a cell reached a steady state in a run that was not cut."""
    return "steady_ns" in cell["sustained"] and not cell["sustained"].get("cut")


def described(run: Json) -> str:
    """One cell's curve in a line."""
    first, last = run["windows"][0], run["windows"][-1]
    parts = []
    if run.get("cut"):
        parts.append(f"cut after {span(run['ran_s'])}: {duration(run['start_ns'])} -> {duration(run['end_ns'])}")
    elif "steady_ns" in run:
        parts.append(f"{duration(run['steady_ns'])} from {span(run['steady_from_s'])} on")
        parts.append(f"{duration(run['start_ns'])} at the start ({100 * (run['slowdown'] - 1):+.1f} %)")
    else:
        parts.append(f"not steady: {duration(run['start_ns'])} -> {duration(run['end_ns'])}")
    for key, unit, form in (("clock_mhz", "MHz", ".0f"), ("temperature_c", "C", ".0f")):
        if key in first and key in last:
            parts.append(f"{first[key]:{form}} -> {last[key]:{form}} {unit}")
    return ", ".join(parts)


def overtaken(steady: list[Json]) -> list[tuple[Json, Json]]:
    """The pairs (faster at the end, slower at the end) whose order at the start was the other way round, clearly both times."""
    return [
        (faster, slower)
        for place, faster in enumerate(steady)
        for slower in steady[place + 1 :]
        if slower["sustained"]["steady_ns"] > TIE * faster["sustained"]["steady_ns"]
        and faster["sustained"]["start_ns"] > TIE * slower["sustained"]["start_ns"]
    ]
