"""Figures and names as the reports write them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgekit.types import Json

if TYPE_CHECKING:
    from edgekit.report import Reports

# The units of a base unit, greatest first: name, how many of the base unit, significant digits (0: whole numbers).
UNITS = {
    "ns": (("s", 1e9, 3), ("ms", 1e6, 3), ("us", 1e3, 3), ("ns", 1.0, 0)),
    "B": (("MB", 1e6, 3), ("kB", 1e3, 0), ("B", 1.0, 0)),
    "count": (("G", 1e9, 4), ("M", 1e6, 4), ("k", 1e3, 4), ("", 1.0, 0)),
    "mJ": (("J", 1e3, 3), ("mJ", 1.0, 3), ("uJ", 1e-3, 3)),
}
NAMED = 3  # cells are named one by one up to so many
KINDS = ("precision", "runtime", "device", "threads", "batch")  # what cells may have in common


def size(count: float) -> str:
    """Bytes as B, kB or MB of up to three significant digits."""
    if count >= 999_500:
        return f"{count / 1e6:.3g} MB"
    return f"{count / 1e3:.0f} kB" if count >= 1e3 else f"{count:.0f} B"


def duration(ns: float) -> str:
    """Nanoseconds as us, ms or s of three significant digits."""
    for unit, scale in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if ns >= 0.9995 * scale:  # what rounds to 1000 is one of the next unit
            return f"{ns / scale:.3g} {unit}"
    return f"{ns:.0f} ns"


def count(number: float) -> str:
    """A large count with its unit."""
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= scale:
            return f"{number / scale:.4g} {unit}"
    return str(round(number))


def percent(share: float) -> str:
    """A share of two significant digits, at least a tenth of a percent fine."""
    return f"{100 * share:.1f} %" if share < 0.0995 else f"{100 * share:.0f} %"


def label(cell: Json, found: Reports) -> str:
    """A row's short name, with its threads, its batch and its device where the rows differ in them."""
    threads = f" x{cell['threads']}" if found.threads_differ else ""
    device = f"{cell['device']} " if len(found.reports) > 1 else ""
    batch = f" batch {cell.get('batch', 1)}" if found.batches_differ else ""
    return f"{device}{cell['runtime']} {cell['precision']}{threads}{batch}"


def span(seconds: float) -> str:
    """3.0 s, 45 s, 30 min, 2.0 h; seconds below two minutes."""
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def together(values: Sequence[float | None], base: str) -> tuple[str, list[str]]:
    """Figures of one column, of base unit `base`, in one unit: the unit, and a text for each ("" for None).

    The unit is the middle figure's, where the least is at least 0.1 of it and the greatest under 10,000; else one of which
    that is so; else there is none, and each figure bears its own.
    """
    sizes = sorted(abs(value) for value in values if value)
    units = UNITS[base]
    if not sizes:
        units = units[-1:]
    else:
        fit = [u for u in units if sizes[0] >= (0.1 if u[2] else 1) * u[1] and sizes[-1] < 10_000 * u[1]]
        usual = own(sizes[len(sizes) // 2], base)
        units = (usual,) if usual in fit else tuple(fit[:1])
    if units:
        ((name, scale, digits),) = units
        return name, ["" if value is None else significant(value / scale, digits) for value in values]
    return "", ["" if value is None else alone(value, base) for value in values]


def own(value: float, base: str) -> tuple[str, float, int]:
    """The unit in which a figure is at least 1; what rounds to 1000 is one of the next unit."""
    return next((unit for unit in UNITS[base] if abs(value) >= 0.9995 * unit[1]), UNITS[base][-1])


def alone(value: float, base: str) -> str:
    """A figure with its own unit."""
    name, scale, digits = own(value, base)
    return f"{significant(value / scale, digits)} {name}".rstrip()


def significant(value: float, digits: int) -> str:
    """A number of so many significant digits, trailing zeros kept, all digits before the point; a whole one for 0 digits."""
    if not digits:
        return f"{value:.0f}"
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])
    return f"{value:.{max(0, digits - 1 - exponent)}f}"


def those(cells: Sequence[Json], every: Sequence[Json], found: Reports) -> str:
    """Some of the cells in few words: "all 6 cells", up to three by their names, "all int8 cells", or "6 of 12 cells".

    `every` are the cells that could have been meant.
    """
    if len(cells) >= len(every) > 1:
        return f"all {len(every)} cells" if len(every) > 2 else "both cells"
    if len(cells) <= NAMED:
        return ", ".join(label(cell, found) for cell in cells)
    for kind in KINDS:
        (value, *others) = {cell.get(kind, 1) for cell in cells}
        if not others and sum(cell.get(kind, 1) == value for cell in every) == len(cells):
            return f"all {called(kind, value)}"
    return f"{len(cells)} of {len(every)} cells"


def called(kind: str, value: object) -> str:
    """The cells of one kind."""
    if kind == "device":
        return f"cells on {value}"
    return f"cells of {kind} {value}" if kind in ("threads", "batch") else f"{value} cells"
