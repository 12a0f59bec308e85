"""What the terminal's table marks: the cell to take and the Pareto set, as the page has them (choice.py). Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from edgekit.report import Reports, choice
from edgekit.types import Json


@dataclass(frozen=True)
class Chosen:
    """What is chosen among the cells of one model on one device; cells are meant by their place in `Reports.cells`.

    `axes` are what they are judged by, none where nothing tells what an inference costs; only cells alike in `within` can be
    compared. `picked` has the reason of each pick.
    """

    device: str
    model: str
    places: tuple[int, ...]
    axes: tuple[choice.Axis, ...] = ()
    within: tuple[str, ...] = ()
    picked: dict[int, str] = field(default_factory=dict)
    front: frozenset[int] = frozenset()


def chosen(found: Reports) -> list[Chosen]:
    """What is chosen on each device, of each model. A single cell is no choice, and marked in no way."""
    told, start = [], 0
    for report in found.reports:
        groups: dict[str, list[int]] = {}
        for place, cell in enumerate(report.cells, start):
            groups.setdefault(str(cell["model"]), []).append(place)
        start += len(report.cells)
        told += [judged(report.header["device"]["name"], model, found, places) for model, places in groups.items()]
    return told


def judged(device: str, model: str, found: Reports, places: list[int]) -> Chosen:
    """The pick and the Pareto set of these cells."""
    every = found.cells
    cells = [every[place] for place in places]
    cost = choice.cost(cells)
    if cost is None or sum(cell["status"] == "ok" for cell in cells) < 2:
        return Chosen(device, model, tuple(places))
    axes = tuple(axis for axis in (cost, choice.quality(cells), choice.SIZE) if axis is not None)
    at = {str(cell["id"]): place for place, cell in zip(places, cells, strict=True)}
    picked = {at[str(cell["id"])]: why for cell, why in choice.pick(cells)}
    front = frozenset(at[name] for name in choice.front(cells, axes))
    within = tuple(key for key in cost.within if len({cell.get(key, 1) for cell in cells}) > 1)
    return Chosen(device, model, tuple(places), axes, within, picked, front)


def shown_first(found: Reports, chosen: Sequence[Chosen], most: int) -> list[int]:
    """The places of the cells that a table of about `most` rows has: all of them in their order where they are no more.

    Else of each device and model the Pareto set and then the cheapest, both by what an inference costs; what has no figures
    comes last.
    """
    every = found.cells
    if len(every) <= most:
        return list(range(len(every)))
    share = max(most // len(chosen), 1)
    told: list[int] = []
    for one in chosen:
        cost = one.axes[0] if one.axes else None

        def order(
            place: int, one: Chosen = one, cost: choice.Axis | None = cost
        ) -> tuple[bool, bool, bool, float, int]:
            cell = every[place]
            value = cost.of(cell) if cost else None
            told = value if value is not None else float("inf")
            return place not in one.picked, place not in one.front, cell["status"] != "ok", told, place

        told += sorted(one.places, key=order)[:share]
    return told


def best(values: Sequence[float | None], cells: Sequence[Json], groups: Sequence[object], lower: bool) -> set[int]:
    """The places of the best values, each among those of its group. Where all of a group are alike there is no best.

    `values` and `cells` are by place; None, and what was not measured to its end, is no candidate.
    """
    found: dict[object, list[tuple[float, int]]] = {}
    for place, (value, cell, group) in enumerate(zip(values, cells, groups, strict=True)):
        if value is not None and cell["status"] == "ok":
            found.setdefault(group, []).append((value if lower else -value, place))
    told: set[int] = set()
    for candidates in found.values():
        least = min(candidates)[0]
        leaders = {place for value, place in candidates if value == least}
        told |= leaders if len(leaders) < len(candidates) else set()
    return told


def as_fast(
    leaders: set[int], values: Sequence[float | None], cells: Sequence[Json], groups: Sequence[object]
) -> set[int]:
    """The best medians, and those whose intervals do not tell them from the best of their group; none where that is all."""
    first = {groups[place]: cells[place] for place in sorted(leaders)}
    timed = [
        p for p, value in enumerate(values) if value is not None and cells[p]["status"] == "ok" and groups[p] in first
    ]
    alike = {p for p in timed if not choice.dearer(cells[p], first[groups[p]], choice.LATENCY)}
    telling = {groups[place] for place in timed if place not in alike}
    return {place for place in alike if groups[place] in telling}


def legend(chosen: Sequence[Chosen], several: bool, pick: str, front: str) -> list[str]:
    """What the marks `pick` and `front` say, and of which device and model where `several` are shown."""
    picks: dict[str, list[str]] = {}
    fronts: dict[str, list[str]] = {}
    models, devices = {one.model for one in chosen}, {one.device for one in chosen}
    for one in chosen:
        name = one.device if len(models) == 1 else one.model if len(devices) == 1 else f"{one.model} on {one.device}"
        each = listed(one.within) if one.within else ""
        apart = f", in each {each}" if each else ""
        for why in dict.fromkeys(one.picked.values()):
            picks.setdefault(f"{why}{apart}", []).append(name)
        if one.front:
            within = f" of its {each}" if each else ""
            judged = listed([axis.title.partition(",")[0].partition(" of an ")[0] for axis in one.axes])
            fronts.setdefault(f"no other{within} is as good in {judged}, and better in one", []).append(name)
    lines = []
    for mark, told in ((f"{pick} to take", picks), (f"{front} the Pareto set", fronts)):
        for what, names in told.items():
            where = f" ({', '.join(names)})" if several and len(told) > 1 else ""
            lines.append(f"{mark}{where}: {what}")
    return lines


def listed(names: Sequence[str]) -> str:
    """a, b and c."""
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
