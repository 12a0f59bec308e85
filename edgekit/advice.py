"""Which cell of a run to choose within a budget, what each relaxed limit would buy, and what the run found out. Measures nothing.

An emulator's latency is no latency: p50 is then judged by the estimate for the real board, labelled so, or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from edgekit import baseline, figures, limits
from edgekit.errors import UserError
from edgekit.figures import METRICS, Figure
from edgekit.findings import Finding, findings
from edgekit.limits import Limit, Status
from edgekit.types import Json, to_json

TOLD = ("p50", "p95", "estimate", "peak", "size", "accuracy", "instructions")
NOTHING = "no cell keeps the whole budget"
UNSURE = "no cell surely keeps the whole budget"
WORTH = 0.03  # a relaxed limit that buys less of a figure than this buys nothing


@dataclass(frozen=True)
class Reason:
    """One limit on one cell: "unknown" is what no figure speaks for. `estimated` where an estimate stands for the latency."""

    limit: Limit
    status: Status | Literal["unknown"]
    figure: Figure | None
    says: str
    estimated: bool = False


@dataclass(frozen=True)
class Choice:
    """A cell with what each limit says of it."""

    cell: Json
    reasons: tuple[Reason, ...]

    @property
    def id(self) -> str:
        """The cell's id."""
        return str(self.cell["id"])

    @property
    def against(self) -> list[Reason]:
        """The limits it does not surely keep."""
        return [reason for reason in self.reasons if reason.status != "pass"]

    @property
    def perhaps(self) -> bool:
        """Whether its figures keep every limit, though the intervals of some reach beyond it."""
        return all(
            reason.status == "pass"
            or (
                reason.status == "inconclusive"
                and reason.figure is not None
                and reason.limit.judge(Figure.exact(reason.figure.value)) == "pass"
            )
            for reason in self.reasons
        )

    @property
    def figures(self) -> dict[str, float]:
        """The figures worth telling by metric, in its base unit; accuracy by the name of what it is."""
        found = ((name, figures.of(self.cell, name)) for name in TOLD)
        return {
            self.cell["accuracy"]["metric"] if name == "accuracy" else name: one.value for name, one in found if one
        }


@dataclass(frozen=True)
class Relaxed:
    """What leaving a limit out would buy: the cell then chosen, what its figure is there, and by which figures it is better."""

    limit: Limit
    choice: Choice
    needs: str
    buys: list[str]


@dataclass(frozen=True)
class Advice:
    """The cell to take (None: none keeps the budget) and why, those that fit, those that fell `out` (the nearest first), why the
    `broken` ones have no figures, what each relaxed limit would buy, and the findings."""

    run: str
    budget: list[Limit]
    pick: Choice | None
    why: str
    fits: list[Choice]
    out: list[Choice]
    broken: dict[str, str]
    relaxed: list[Relaxed]
    findings: list[Finding]

    def to_json(self) -> Json:
        """The machine form."""
        return {
            "run": self.run, "budget": [str(limit) for limit in self.budget], "pick": self.pick.id if self.pick else None,
            "figures": self.pick.figures if self.pick else None, "why": self.why, "fits": [choice.id for choice in self.fits],
            "out": [{"id": choice.id, "reasons": [told(reason) for reason in choice.against]} for choice in self.out],
            "broken": self.broken,
            "relaxed": [
                {"limit": str(one.limit), "id": one.choice.id, "needs": one.needs, "buys": one.buys} for one in self.relaxed
            ],
            "findings": [to_json(one) for one in self.findings],
        }  # fmt: skip


def told(reason: Reason) -> Json:
    """The machine form of a reason, in the metric's base unit."""
    figure = {"figure": to_json(reason.figure)} if reason.figure else {}
    return {
        "limit": str(reason.limit), "metric": reason.limit.metric, "status": reason.status, "says": reason.says,
        "estimated": reason.estimated, **figure,
    }  # fmt: skip


def advise(form: Json, budget: Sequence[Limit]) -> Advice:
    """Advice on a run in its machine form, within limits that may be empty. Raises UserError for a run without cells."""
    if not form["cells"]:
        raise UserError(f"{form['run']} has no cell", "edgekit profile --resume finishes a run")
    choices = [Choice(cell, tuple(reasons(cell, budget))) for cell in form["cells"] if cell["status"] == "ok"]
    broken = {str(cell["id"]): figures.why_not(cell, "p50") for cell in form["cells"] if cell["status"] != "ok"}
    broken |= dict.fromkeys(baseline.unmeasured(form), "not measured: the run ended early or goes on")
    fits = [choice for choice in choices if not choice.against]
    pick, why = best(fits)
    if pick is None:
        pick, why = best([choice for choice in choices if choice.perhaps])
        unsure = "; ".join(reason.says for reason in pick.against) if pick else ""
        why = f"{UNSURE} ({unsure}); by their figures alone: {why}" if pick else NOTHING
    out = sorted(
        (choice for choice in choices if choice.against and choice is not pick), key=lambda choice: len(choice.against)
    )
    relaxed = [one for limit in budget if (one := relax(limit, choices, pick))]
    return Advice(str(form["run"]), list(budget), pick, why, fits, out, broken, relaxed, findings(form["cells"]))


def reasons(cell: Json, budget: Sequence[Limit]) -> Iterator[Reason]:
    """What each limit says of a cell."""
    for limit in budget:
        figure, estimated = figures.of(cell, limit.metric), False
        if figure is None and limit.metric == "p50" and cell.get("latency", {}).get("emulated"):
            figure, estimated = figures.of(cell, "estimate"), True
        if figure is None:
            refused = cell.get("estimate", {}).get("refused")
            why = figures.why_not(cell, limit.metric) + (
                f", and not estimated: {refused}" if estimated and refused else ""
            )
            yield Reason(limit, "unknown", None, f"{limit.metric} cannot be judged: {why}")
            continue
        label = "estimated " if estimated else ""
        sure = {"pass": "", "fail": ", the limit is", "inconclusive": ", which is not surely"}
        status = limit.judge(figure)
        yield Reason(
            limit,
            status,
            figure,
            f"{label}{limit.metric} {limits.shown(limit, figure)}{sure[status]} {limit.text}",
            estimated,
        )


def time_of(cell: Json) -> Figure | None:
    """What a cell is ranked by: its latency, of an emulated one the estimate."""
    return figures.of(cell, "p50") or figures.of(cell, "estimate")


def judged_by(cells: Sequence[Json]) -> str | None:
    """The metric by which all of the cells can be told apart: that of their accuracy, else their agreement with the float model.

    None where not all have one and the same. Of a metric of the user's own nobody knows whether more of it is better.
    """
    metrics = {cell["accuracy"]["metric"] if figures.of(cell, "accuracy") else None for cell in cells}
    if len(metrics) == 1 and (name := metrics.pop()) in METRICS:
        return name
    return "agreement" if cells and all(figures.of(cell, "agreement") for cell in cells) else None


def goodness(cell: Json, metric: str) -> float:
    """How good a cell is by that metric, more is better."""
    found = figures.of(cell, metric)
    assert found is not None
    return -found.value if METRICS[metric].lower else found.value


def best(fits: Sequence[Choice]) -> tuple[Choice | None, str]:
    """The choice and the sentence that says why: the fastest; of those it is not surely faster than, the most accurate, then the
    one with the least memory. Cells without any time come after those with one."""
    if not fits:
        return None, ""
    timed = {choice.id: found for choice in fits if (found := time_of(choice.cell))}
    peaks = {choice.id: found.value for choice in fits if (found := figures.of(choice.cell, "peak"))}

    def first(some: Sequence[Choice]) -> tuple[Choice, str]:
        metric = judged_by([choice.cell for choice in some])

        def rank(choice: Choice) -> tuple[float, float, str]:
            return (-goodness(choice.cell, metric) if metric else 0.0, peaks.get(choice.id, float("inf")), choice.id)

        told = "" if metric is None else f"the best by {metric}, then "
        return min(some, key=rank), f"{told}the one with the least memory"

    if not timed:
        pick, told = first(fits)
        return pick, f"no time is known, so it is {told}"
    fastest = min(timed.values(), key=lambda figure: figure.value)
    near = [choice for choice in fits if choice.id in timed and not timed[choice.id].apart(fastest)]
    pick, told = first(near)
    kind = "" if figures.of(pick.cell, "p50") else " by the estimate"
    if len(near) == 1:
        return pick, f"the fastest{kind} of {len(fits)}" if len(fits) > 1 else "the only one"
    return pick, f"{len(near)} of {len(fits)} are about as fast{kind}: of these {told}"


def relax(limit: Limit, choices: Sequence[Choice], pick: Choice | None) -> Relaxed | None:
    """What leaving one limit out would buy; None where no cell fails by it alone, or where that cell is better in nothing."""
    others = [choice for choice in choices if [reason.limit for reason in choice.against] == [limit]]
    offers = [(choice, better(choice.cell, pick.cell) if pick else ["a cell that keeps all else"]) for choice in others]
    worth = {choice.id: buys for choice, buys in offers if buys}
    chosen, _ = best([choice for choice in others if choice.id in worth])
    if chosen is None:
        return None
    return Relaxed(limit, chosen, chosen.against[0].says, worth[chosen.id])


def better(cell: Json, than: Json) -> list[str]:
    """By which figures a cell is better than another, each in words."""
    time = "p50" if figures.of(cell, "p50") else "estimate"
    found = []
    for name in (time, "peak", "size", judged_by([cell, than])):
        ours, theirs = (figures.of(one, name) if name else None for one in (cell, than))
        if name is None or ours is None or theirs is None:
            continue
        if name in figures.ON_SAME_INPUTS:
            worth = goodness(cell, name) > goodness(than, name)
        else:
            worth = ours.value < (1 - WORTH) * theirs.value and ours.apart(theirs)
        if worth:
            found.append(f"{name} {figures.show(name, ours.value)} instead of {figures.show(name, theirs.value)}")
    return found
