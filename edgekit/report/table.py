"""The terminal form: one table that fits 100 columns, below it what is wrong or weak, and where the files are."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from edgekit.report import Report, Reports
from edgekit.types import Json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

MEBI = 1 << 20
# What a narrow terminal can do without, first to go first.
EXPENDABLE = ("load MiB", "agree", "file", "SQNR dB", "emul.", "run MiB")
Column = tuple[str, Callable[[Json], str]]


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


def columns(found: Reports) -> list[Column]:
    """The columns, each a heading and what it shows of a cell; only those that some cell fills."""
    several = len(found.reports) > 1
    threads = {cell["threads"] for cell in found.cells}

    def accuracy(cell: Json) -> str:
        found = cell.get("accuracy")
        if not found or "value" not in found:
            return ""
        if "correct" not in found:
            return f"{found['value']:.4g} {found['metric']}"
        kind = "" if found["metric"] == "top1" else f" {found['metric']}"
        return f"{found['correct']}/{found['total']} {100 * found['value']:.1f}%{kind}"

    def memory(name: str) -> Callable[[Json], str]:
        return lambda cell: f"{cell['memory'][name] / MEBI:.1f}" if cell.get("memory") else ""

    def latency(emulated: bool) -> Callable[[Json], str]:
        def value(cell: Json) -> str:
            figures = cell.get("latency")
            return duration(figures["p50_ns"]) if figures and figures["emulated"] == emulated else ""

        return value

    every: list[Column] = [
        ("device", lambda cell: cell["device"] if several else ""),
        ("runtime", lambda cell: cell["runtime"]),
        ("precision", lambda cell: cell["precision"]),
        ("threads", lambda cell: str(cell["threads"]) if threads != {1} else ""),
        ("accuracy", accuracy),
        (
            "agree",
            lambda cell: (
                f"{100 * cell['fidelity']['agreement']:.1f} %" if "agreement" in cell.get("fidelity", {}) else ""
            ),
        ),
        ("SQNR dB", lambda cell: f"{cell['fidelity']['sqnr_db']:.1f}" if "sqnr_db" in cell.get("fidelity", {}) else ""),
        ("file", lambda cell: size(cell["artifact"]["size_bytes"]) if "artifact" in cell else ""),
        ("load MiB", memory("load_peak_bytes")),
        ("run MiB", memory("run_peak_bytes")),
        ("instr.", lambda cell: count(cell["instructions"]["total"]) if "instructions" in cell else ""),
        ("emul.", latency(True)),
        ("p50", latency(False)),
    ]
    return [column for column in every if any(column[1](cell) for cell in found.cells)]


def mark(cell: Json) -> str:
    """How a row that is not ok says so."""
    return {"ok": "", "unsupported": "unsupported", "failed": "FAILED"}[cell["status"]]


def label(cell: Json, found: Reports) -> str:
    """A row's short name, with its threads and its device where the rows differ in them."""
    threads = f" x{cell['threads']}" if len({other["threads"] for other in found.cells}) > 1 else ""
    device = f"{cell['device']} " if len(found.reports) > 1 else ""
    return f"{device}{cell['runtime']} {cell['precision']}{threads}"


def notes(found: Reports) -> list[str]:
    """What is wrong or weak, worst first; cells that share a sentence share a line, and all of a device go by its name."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for name, error in found.errors.items():
        reasons.setdefault(("FAILED", error.message), []).append(name)
    for cell in found.cells:
        if cell["status"] != "ok":
            hint = cell["error"].get("hint") or ""
            reason = cell["error"]["message"] + (f" ({hint.splitlines()[-1]})" if hint else "")
            reasons.setdefault((mark(cell), reason), []).append(label(cell, found))
    lines = [f"{status}: {', '.join(cells)}: {reason}" for (status, reason), cells in reasons.items()]
    gathered: dict[str, list[str]] = {}  # what is weak -> where, for each device; nothing where it is so on every one
    for report in found.reports:
        for message, where in weaknesses(report, found).items():
            gathered.setdefault(message, []).append(where)
    names = [report.header["device"]["name"] for report in found.reports if report.cells]
    for message, places in gathered.items():
        where = "" if not any(places) or places == names else f"{', '.join(places)}: "
        lines.append(f"weak: {where}{message}")
    return lines


def weaknesses(report: Report, found: Reports) -> dict[str, str]:
    """What is weak on one device, and in which cells; all of them go by the device's name, which one alone does not need."""
    device = report.header["device"]["name"] if len(found.reports) > 1 else ""
    gathered: dict[str, list[str]] = {warning["message"]: [] for warning in report.warnings}
    for cell in report.cells:
        for warning in cell["warnings"]:
            gathered.setdefault(warning["message"], []).append(label(cell, found))
    measured = sum(cell["status"] == "ok" for cell in report.cells)
    return {
        message: device if not cells or len(cells) >= measured else ", ".join(cells)
        for message, cells in gathered.items()
    }


def build(found: Reports, shown: list[Column]) -> Table:
    """The table of these columns."""
    from rich.table import Table
    from rich.text import Text

    table = Table(header_style="bold", pad_edge=False, box=None, padding=(0, 1))
    text = 3 if len(found.reports) > 1 else 2
    for index, (heading, _) in enumerate(shown):
        table.add_column(heading, justify="left" if index < text else "right", no_wrap=True)
    troubled = any(cell["status"] != "ok" for cell in found.cells)
    if troubled:
        table.add_column("status", no_wrap=True)
    for cell in found.cells:
        row = [Text(value(cell)) for _, value in shown] + ([Text(mark(cell))] if troubled else [])
        table.add_row(*row, style="red" if cell["status"] == "failed" else None)
    return table


def show(report: Report | Reports, console: Console) -> None:
    """Print the report. What does not fit the width is left out whole, the least telling first; no figure is cut short."""
    from rich.measure import Measurement
    from rich.text import Text

    found = report if isinstance(report, Reports) else Reports([report], {})
    shown = columns(found)
    table = build(found, shown)
    for heading in EXPENDABLE:
        if Measurement.get(console, console.options.update(width=1000), table).maximum <= console.width:
            break
        shown = [column for column in shown if column[0] != heading]
        table = build(found, shown)
    for one in found.reports:
        device, name = one.header["device"], one.header["plan"]["name"]
        console.print(Text(f"{name} on {device['name']}: {device['description']}"), style="bold italic")
    console.print(table)
    threads = {cell["threads"] for cell in found.cells}
    if threads == {1}:
        console.print(Text("1 thread in every runtime, one runtime per process"))
    stated = [sentence for one in found.reports for sentence in one.header.get("data", {}).get("stated", ())]
    for sentence in dict.fromkeys(stated):
        console.print(Text(sentence))
    for note in notes(found):
        console.print(Text(note), style="red" if note.startswith("FAILED") else "yellow")
    for one in found.reports:
        console.print(Text(f"results: {one.path}/run.json, measurements.jsonl"))
