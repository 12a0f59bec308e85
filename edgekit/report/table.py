"""The terminal form: one table that fits 100 columns, below it what is wrong or weak, and where the files are."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from edgekit.report import Report
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


def columns(report: Report) -> list[Column]:
    """The columns, each a heading and what it shows of a cell; only those that some cell fills."""
    emulated = bool(report.header["device"]["emulated"])
    threads = {cell["threads"] for cell in report.cells}

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

    every: list[Column] = [
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
        (
            "emul." if emulated else "p50",
            lambda cell: duration(cell["latency"]["p50_ns"]) if "latency" in cell else "",
        ),
    ]
    return [column for column in every if any(column[1](cell) for cell in report.cells)]


def mark(cell: Json) -> str:
    """How a row that is not ok says so."""
    return {"ok": "", "unsupported": "unsupported", "failed": "FAILED"}[cell["status"]]


def label(cell: Json, report: Report) -> str:
    """A row's short name, with its threads where the rows differ in them."""
    threads = f" x{cell['threads']}" if len({other["threads"] for other in report.cells}) > 1 else ""
    return f"{cell['runtime']} {cell['precision']}{threads}"


def notes(report: Report) -> list[str]:
    """What is wrong or weak, worst first; cells that share a sentence share a line."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for cell in report.cells:
        if cell["status"] != "ok":
            hint = cell["error"].get("hint") or ""
            reason = cell["error"]["message"] + (f" ({hint.splitlines()[-1]})" if hint else "")
            reasons.setdefault((mark(cell), reason), []).append(label(cell, report))
    lines = [f"{status}: {', '.join(cells)}: {reason}" for (status, reason), cells in reasons.items()]
    gathered: dict[str, list[str]] = {warning["message"]: [] for warning in report.warnings}
    for cell in report.cells:
        for warning in cell["warnings"]:
            gathered.setdefault(warning["message"], []).append(label(cell, report))
    measured = sum(cell["status"] == "ok" for cell in report.cells)
    for message, cells in gathered.items():
        where = "" if not cells or len(cells) >= measured else f"{', '.join(cells)}: "
        lines.append(f"weak: {where}{message}")
    return lines


def build(report: Report, shown: list[Column]) -> Table:
    """The table of these columns."""
    from rich.table import Table
    from rich.text import Text

    table = Table(header_style="bold", pad_edge=False, box=None, padding=(0, 1))
    for index, (heading, _) in enumerate(shown):
        table.add_column(heading, justify="left" if index < 2 else "right", no_wrap=True)
    troubled = any(cell["status"] != "ok" for cell in report.cells)
    if troubled:
        table.add_column("status", no_wrap=True)
    for cell in report.cells:
        row = [Text(value(cell)) for _, value in shown] + ([Text(mark(cell))] if troubled else [])
        table.add_row(*row, style="red" if cell["status"] == "failed" else None)
    return table


def show(report: Report, console: Console) -> None:
    """Print the report. What does not fit the width is left out whole, the least telling first; no figure is cut short."""
    from rich.measure import Measurement
    from rich.text import Text

    shown = columns(report)
    table = build(report, shown)
    for heading in EXPENDABLE:
        if Measurement.get(console, console.options.update(width=1000), table).maximum <= console.width:
            break
        shown = [column for column in shown if column[0] != heading]
        table = build(report, shown)
    device, name = report.header["device"], report.header["plan"]["name"]
    console.print(Text(f"{name} on {device['name']}: {device['description']}"), style="bold italic")
    console.print(table)
    threads = {cell["threads"] for cell in report.cells}
    if threads == {1}:
        console.print(Text("1 thread in every runtime, one runtime per process"))
    for sentence in report.header.get("data", {}).get("stated", ()):
        console.print(Text(sentence))
    for note in notes(report):
        console.print(Text(note), style="red" if note.startswith("FAILED") else "yellow")
    console.print(Text(f"results: {report.path}/run.json, measurements.jsonl"))
