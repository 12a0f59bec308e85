"""A limit on a figure as people write it, p95_ms = "<= 20" or p95<=20ms: parsed for policies and budgets alike, and judged."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from edgekit import figures
from edgekit.errors import UserError, unknown
from edgekit.figures import METRICS, Figure, Kind

Status = Literal["pass", "fail", "inconclusive"]
Against = Literal["", "ratio", "difference"]
OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le, "<": operator.lt, ">=": operator.ge, ">": operator.gt,
}  # fmt: skip
# What a unit is worth in the base unit of its kind; people write them in any case. A kind without "" takes no bare number.
UNITS: Mapping[Kind, Mapping[str, str]] = {
    "time": {"ns": "1", "us": "1e3", "ms": "1e6", "s": "1e9"},
    "bytes": {"B": "1", "kB": "1e3", "MB": "1e6", "GB": "1e9", "KiB": "1024", "MiB": "1048576", "GiB": "1073741824"},
    "count": {"": "1", "k": "1e3", "M": "1e6", "G": "1e9"},
    "share": {"": "1", "%": "0.01", "pp": "0.01"},
    "db": {"": "1", "dB": "1"},
    "energy": {"uJ": "1e-3", "mJ": "1", "J": "1e3"},
    "number": {"": "1"},
}
BASE: Mapping[Kind, str] = {"time": "ns", "bytes": "B", "db": "dB", "energy": "mJ"}
# Not more digits than any figure has: what is beyond a float would be a limit that nothing breaks.
VALUE = re.compile(
    r"(<=|>=|<|>)\s*([+-]?)\s*([0-9]{1,20}(?:\.[0-9]{1,20})?(?:e[+-]?[0-9]{1,2})?)\s*([a-z\u00b5\u03bc%]*)",
    re.IGNORECASE,
)
MICRO = str.maketrans("\u00b5\u03bc", "uu")  # both signs for it
ABOVE_NOTHING = ("time", "count", "energy")  # no figure of these kinds is below 0
PART = re.compile(r"([a-z0-9_]+)\s*([<>].*)", re.IGNORECASE)
EXAMPLE = 'for instance p95_ms = "<= 20", top1 = ">= 97%", instructions = "<= +1%"'


@dataclass(frozen=True)
class Limit:
    """A limit: `value` in the metric's base unit, or what NEW / BASE ("ratio") or NEW - BASE ("difference") is held against."""

    metric: str
    op: str
    value: float
    against: Against
    text: str

    def judge(self, figure: Figure) -> Status:
        """pass or fail where both ends of the interval say so, else inconclusive. An end at the limit is judged as itself."""
        holds = OPERATORS[self.op]
        ends = (holds(figure.low, self.value), holds(figure.high, self.value))
        return "pass" if all(ends) else "inconclusive" if any(ends) else "fail"

    def __str__(self) -> str:
        return f"{self.metric} {self.text}"


def parse(name: str, text: str) -> Limit:
    """A limit from a metric, which may end with its unit, and "<= 20", "<= 20 ms", ">= 97%" or, against a baseline, "<= +1%".

    A sign makes it one against the baseline: of the ratio with %, else of the difference ("+2 ms", "-0.5 pp"). Raises UserError.
    """
    metric, suffix = metric_of(name)
    match = VALUE.fullmatch(text.strip())
    if not match:
        raise UserError(f"{name}: '{text}' is not a limit", EXAMPLE)
    op, sign, digits, given = match.groups()
    number = Decimal(f"{sign}{digits}")
    if sign and (given or suffix) == "%":
        if number <= -100:
            raise UserError(f"{name}: '{text}' is beyond nothing", "no figure can fall by 100 % or more")
        return Limit(metric, op, float(1 + number / 100), "ratio", f"{op} {sign}{digits} %")
    unit = unit_of(name, metric, suffix, given.translate(MICRO))
    if unit == "pp" and not sign:
        raise UserError(f"{name}: '{text}' is without a sign", "percentage points are against a baseline: '>= -0.5 pp'")
    if sign and not unit and METRICS[metric].kind == "share":
        raise UserError(f"{name}: '{text}' is a share or points?", "write '>= -0.5 pp' or '>= -0.5 %'")
    value = float(number * Decimal(UNITS[METRICS[metric].kind][unit]))
    check_reach(f"{name}: '{text}'", METRICS[metric].kind, op, value, bool(sign))
    return Limit(metric, op, value, "difference" if sign else "", f"{op} {sign}{digits} {unit}".rstrip())


def check_reach(what: str, kind: Kind, op: str, value: float, against: bool) -> None:
    """Some figure keeps the limit and some other breaks it. Raises UserError."""
    if kind == "share" and not (-1 < value < 1 if against else 0 <= value <= 1):
        raise UserError(f"{what} is no share", "a share lies between 0 and 1; in percent: '>= 97 %', '>= -0.5 pp'")
    if against:
        return
    if (op == ">=" and value == 0 and kind in (*ABOVE_NOTHING, "share")) or (
        op == "<=" and value == 1 and kind == "share"
    ):
        raise UserError(f"{what} cannot be broken", "a limit that no figure breaks limits nothing: leave it out")


def metric_of(name: str) -> tuple[str, str]:
    """A metric and the unit behind it ("" for none): p95_ms, load_peak_mb, top1. Raises UserError with the nearest name."""
    lowered = name.lower()
    if lowered in METRICS:
        return lowered, ""
    stem, _, unit = lowered.rpartition("_")
    if stem in METRICS:
        if unit not in map(str.lower, UNITS[METRICS[stem].kind]):
            raise UserError(f"'{name}': {stem} is not told in '{unit}'", f"its units: {named(METRICS[stem].kind)}")
        return stem, unit
    every = {unit.lower() for units in UNITS.values() for unit in units if unit}
    raise unknown("metric", stem if unit in every else lowered, METRICS)


def named(kind: Kind) -> str:
    """The units of a kind."""
    return ", ".join(filter(None, UNITS[kind])) or "none, a bare number"


def unit_of(name: str, metric: str, suffix: str, given: str) -> str:
    """The unit of a limit as UNITS has it. Raises UserError where there is none, an unknown one, or two."""
    units = {unit.lower(): unit for unit in UNITS[METRICS[metric].kind]}
    if suffix and given and given.lower() != suffix:
        raise UserError(f"{name}: the unit is both {suffix} and {given}", "say it once")
    unit = given.lower() or suffix
    if unit in units:
        return units[unit]
    if unit == "%":
        raise UserError(f"{name}: a percentage of what?", "a change against the baseline has a sign: '<= +1%'")
    what = f"'{unit}' is no unit of {metric}" if unit else f"{metric} needs a unit"
    raise UserError(f"{name}: {what}", f"its units: {named(METRICS[metric].kind)}")


def budget(text: str) -> list[Limit]:
    """Limits as "p50<=20ms, peak<=64MB, top1>=0.98". Raises UserError, also for one that is there twice."""
    limits: list[Limit] = []
    for part in text.split(","):
        match = PART.fullmatch(part.strip())
        if not match:
            raise UserError(
                f"'{part.strip()}' is not a limit", "for instance --budget 'p50<=20ms, peak<=64MB, top1>=0.98'"
            )
        limit = parse(match.group(1), match.group(2))
        if limit.against:
            raise UserError(f"'{part.strip()}' is against a baseline", "a budget has none; edgekit gate does")
        if (limit.metric, limit.op[0]) in {(known.metric, known.op[0]) for known in limits}:
            raise UserError(f"{limit.metric} is limited twice", "leave one out")
        limits.append(limit)
    return limits


def shown(limit: Limit, figure: Figure) -> str:
    """A figure as a limit's row tells it: with its unit, as a change, and the interval where there is one.

    What would read like the limit and is not has all its digits, in the base unit.
    """
    kind = METRICS[limit.metric].kind
    amount = limit.value - (limit.against == "ratio")
    round_limit = math.isclose(float(f"{amount:.{3 if kind in BASE else 4}g}"), amount)

    def rounded(value: float) -> str:
        if limit.against == "ratio":
            return f"{100 * (value - 1):+.2f} %"
        if limit.against == "difference":
            return f"{'-' if value < 0 else '+'}{figures.show(limit.metric, abs(value))}"
        return figures.show(limit.metric, value)

    def one(value: float) -> str:
        if value == limit.value or not round_limit or rounded(value) != rounded(limit.value):
            return rounded(value)
        if limit.against == "ratio":
            return f"{100 * (value - 1):+.10g} %"
        return f"{value:{'+' if limit.against else ''},.12g} {BASE.get(kind, '')}".rstrip()

    ends = f" ({one(figure.low)} to {one(figure.high)})" if figure.low < figure.high else ""
    return f"{one(figure.value)}{ends}"
