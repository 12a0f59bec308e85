"""What a cell's energy says, for the terminal."""

from __future__ import annotations

from edgekit.report import Reports
from edgekit.report.words import label


def lines(found: Reports) -> list[str]:
    """One line for each cell whose energy is known: per inference in all and above idle, and how it was measured."""
    told = []
    for cell in found.cells:
        if energy := cell.get("energy"):
            what = f"call of {cell['batch']} inputs" if cell.get("batch", 1) > 1 else "inference"
            each = f"{millijoules(energy['mj_per_inference'])} per {what}"
            above = f"{millijoules(energy['mj_above_idle'])} of it above idle"
            powers = f"{energy['active_mw'] / 1e3:.3g} W running, {energy['idle_mw'] / 1e3:.3g} W idle"
            told.append(f"energy: {label(cell, found)}: {each}, {above} ({powers}; {energy['method']})")
    return told


def millijoules(mj: float) -> str:
    """Three significant digits in J, mJ or uJ."""
    for unit, scale in (("J", 1e3), ("mJ", 1.0)):
        if abs(mj) >= 0.9995 * scale:
            return f"{mj / scale:.3g} {unit}"
    return f"{mj * 1e3:.3g} uJ"
