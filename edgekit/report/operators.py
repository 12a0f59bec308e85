"""Time per operator as lines of at most 100 columns: the ten that take most of each cell, and where the rest of the time is."""

from __future__ import annotations

from edgekit.report import Report, Reports
from edgekit.report.words import count, duration, label
from edgekit.types import Json

WIDTH = 100
TOP = 10
HEADING = f"  {'share':>6}  {'time':>8}  {'MACs':>8}  {'FLOP/B':>6}  {'runs on':<8}  operator"


def lines(found: Report | Reports) -> list[str]:
    """The lines of all cells whose operators were profiled, one empty line before each cell."""
    reports = found if isinstance(found, Reports) else Reports([found], {})
    return [line for cell in reports.cells if cell.get("operators") for line in of_cell(cell, label(cell, reports))]


def of_cell(cell: Json, name: str) -> list[str]:
    """The operators of one cell that take most of its time."""
    profile = cell["operators"]
    whose = f"{profile['runtime_profiler']}, {profile['runs']} inferences"
    overhead = profile.get("overhead", 0)
    slower = f", slowed {overhead:.2f}x by it" if overhead >= 1 else ", not measurably slowed by it"
    shown = ["", cut(f"operators of {name}: {whose}{slower}", WIDTH)]
    if profile.get("emulated"):
        shown.append("  times are the emulator's: only MACs, bytes and who runs what are the board's")
    known = "macs" in profile
    if known:
        unknown = f"; not counted: {', '.join(profile['uncounted'])}" if profile.get("uncounted") else ""
        call = f" for a call of {cell['batch']} inputs" if cell.get("batch", 1) > 1 else ""
        whole = f"  the whole model: {count(profile['macs'])} MACs{call}, {count(profile['parameters'])} parameters{unknown}"
        shown.append(cut(whole, WIDTH))
    rows = sorted(profile["operators"], key=lambda row: (-row["ns"], row["index"]))
    total = profile.get("total_instructions")
    if total:  # the emulator's time means nothing
        rows = [{**row, "share": row["instructions"] / total} for row in rows]
        rows.sort(key=lambda row: (-row["instructions"], row["index"]))
    shown.append(HEADING.replace("    time", "  instr.") if total else HEADING)
    shown += [line(row) for row in rows[:TOP]]
    rest = rows[TOP:]
    parts = [f"{len(rest)} more take {sum(row['share'] for row in rest):.0%}"] if rest else []
    if total:
        outside = max(0.0, 1 - sum(row["share"] for row in rows))
        parts.append(
            f"{outside:.0%} of {count(total)} instructions are outside any operator, the profiler's own among them"
        )
    else:
        parts.append(f"{profile['unprofiled_share']:.0%} of {duration(profile['total_ns'])} is outside any operator")
        parts.append(f"as fine as {duration(profile['resolution_ns'])}")
    return [*shown, "  " + "; ".join(parts)]


def line(row: Json) -> str:
    """One operator."""
    macs = count(row["macs"]) if row.get("macs") else "-" if "macs" in row else ""
    intensity = f"{row['intensity']:.3g}" if "intensity" in row else ""
    cost = count(row["instructions"]) if "instructions" in row else duration(row["ns"])
    figures = f"  {100 * row['share']:>5.1f}%  {cost:>8}  {macs:>8}  {intensity:>6}"
    where = cut(row.get("delegate", "runtime"), 8)
    kind, name = row.get("type", ""), row["name"]
    words = [word for word in (kind, "" if name == kind else name) if word]
    told = row.get("output_name")
    head = f"{figures}  {where:<8}  "
    left = WIDTH - len(head)
    text = cut(", ".join(words), left)
    if told and told not in name and left - len(text) > 12:
        text += "  " + tail(told, left - len(text) - 2)
    return (head + text).rstrip()


def printable(text: str) -> str:
    """A name out of a file, without what would move or colour a terminal."""
    return "".join(mark if mark.isprintable() else "?" for mark in text)


def cut(text: str, width: int) -> str:
    """The beginning of a text in so many columns."""
    from rich.cells import cell_len, set_cell_size

    text = printable(text)
    return text if cell_len(text) <= width else set_cell_size(text, width - 2).rstrip() + ".."


def tail(text: str, width: int) -> str:
    """The end of a text in so many columns: of a path of names that tells most."""
    turned = cut(text[::-1], width)
    return turned[::-1]
