"""Figures and names as the reports write them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.types import Json

if TYPE_CHECKING:
    from edgekit.report import Reports


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
