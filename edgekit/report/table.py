"""The terminal form: one table that fits 100 columns, below it what is wrong or weak, and where the files are."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from edgekit.report import Report, Reports
from edgekit.report.words import count, duration, label, percent, size
from edgekit.types import Json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

MEBI = 1 << 20
# What a narrow terminal can do without, first to go first.
EXPENDABLE = ("load MiB", "agree", "file", "SQNR dB", "emul.", "run MiB")
Column = tuple[str, Callable[[Json], str]]


def timed(latency: Json) -> str:
    """A median with half the width of its interval; a question mark where that was to be narrower. Of an emulator without."""
    text = duration(latency["p50_ns"])
    if "half_width" not in latency or latency["emulated"]:
        return text
    doubt = "" if latency.get("conclusive", True) else " ?"
    return f"{text} \N{PLUS-MINUS SIGN}{percent(latency['half_width'])}{doubt}"


def columns(found: Reports) -> list[Column]:
    """The columns, each a heading and what it shows of a cell; only those that some cell fills."""
    from edgekit.report import estimated

    several = len(found.reports) > 1
    threads = {cell["threads"] for cell in found.cells}
    batches = {cell.get("batch", 1) for cell in found.cells}

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
            return timed(figures) if figures and figures["emulated"] == emulated else ""

        return value

    every: list[Column] = [
        ("device", lambda cell: cell["device"] if several else ""),
        ("runtime", lambda cell: cell["runtime"]),
        ("precision", lambda cell: cell["precision"]),
        ("threads", lambda cell: str(cell["threads"]) if threads != {1} else ""),
        ("batch", lambda cell: str(cell.get("batch", 1)) if batches != {1} else ""),
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
        ("estimated", estimated.value),
        ("p50", latency(False)),
    ]
    return [column for column in every if any(column[1](cell) for cell in found.cells)]


def mark(cell: Json) -> str:
    """How a row that is not ok says so."""
    return {"ok": "", "unsupported": "unsupported", "failed": "FAILED"}[cell["status"]]


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


def noises(found: Reports) -> list[str]:
    """What is known of the A/A noise of each device whose time was measured."""
    lines = []
    for report in found.reports:
        if not any("latency" in cell and not cell["latency"]["emulated"] for cell in report.cells):
            continue
        name = report.header["device"]["name"]
        if report.noise:
            known = f"{100 * report.noise['relative']:.1f} % (calibrated {report.noise['date']})"
        else:
            known = f"not calibrated: edgekit calibrate --device {name}"
        lines.append(f"A/A noise of {name if len(found.reports) > 1 else 'this device'}: {known}")
    return lines


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

    from edgekit.report import energy, estimated, operators, sustained

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
    for line in noises(found):
        console.print(Text(line))
    stated = [sentence for one in found.reports for sentence in one.header.get("data", {}).get("stated", ())]
    for sentence in dict.fromkeys(stated):
        console.print(Text(sentence))
    for line in (*estimated.lines(found), *sustained.lines(found), *energy.lines(found), *operators.lines(found)):
        console.print(Text(line))
    for note in notes(found):
        console.print(Text(note), style="red" if note.startswith("FAILED") else "yellow")
    for one in found.reports:
        page = ", report.html" if (one.path / "report.html").is_file() else ""
        console.print(Text(f"results: {one.path}/run.json, measurements.jsonl{page}"))
