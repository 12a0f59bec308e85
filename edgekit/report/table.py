"""The terminal form: a table as wide as the terminal lets it be, below it what it says, what is wrong or weak, and the files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgekit.inert import cut, printable
from edgekit.report import Report, Reports, grid, marks, remarks
from edgekit.types import Json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

ROWS = 50  # a table of more cells shows the Pareto set and the cheapest ones
LINES = 6  # of one remark; a longer one is cut
NARROWEST = 8  # to which names are cut where nothing else is left to leave out
# The marks of the page (report.html.j2), and what stands for them where the encoding has no such characters.
PICK, FRONT, FAILED, UNSUPPORTED = "\N{BLACK STAR}", "\N{WHITE CIRCLE}", "x", "-"
ASCII = str.maketrans({PICK: ">", FRONT: "o", "\N{PLUS-MINUS SIGN}": "~"})


def mark(cell: Json) -> str:
    """How a cell that is not ok is called."""
    return {"ok": "", **remarks.WORDS}[cell["status"]]


def notes(found: Reports) -> list[str]:
    """What is wrong or weak, worst first."""
    return [*remarks.failures(found), *remarks.weaknesses(found)]


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


@dataclass(frozen=True)
class Table:
    """What is shown of some cells: `rows` are their places in `Reports.cells`; `missing` are the columns that do not fit."""

    found: Reports
    rows: list[int]
    chosen: list[marks.Chosen]
    columns: list[grid.Drawn]
    names_width: int = grid.NAMES_WIDTH
    missing: tuple[str, ...] = ()

    @classmethod
    def of(cls, found: Reports) -> Table:
        """All that can be said of the cells, however wide."""
        chosen = marks.chosen(found)
        rows = marks.shown_first(found, chosen, ROWS)
        return cls(found, rows, chosen, grid.drawn(found, rows, chosen))

    def fit(self, width: int) -> Table:
        """The table in so many places: the columns of the highest rank are left out first, then names are cut; figures never."""
        table = self
        ranked = sorted((one.column for one in self.columns if one.column.rank), key=lambda column: -column.rank)
        for column in ranked:
            if table.width() <= width:
                return table
            kept = [one for one in table.columns if one.column is not column]
            missing = table.missing if column.extra else (*table.missing, column.heading)
            table = replace(table, columns=kept, missing=missing)
        while table.width() > width and table.names_width > NARROWEST:
            table = replace(table, names_width=table.names_width - 2)
        return table

    def marked(self) -> list[str]:
        """What stands before each row."""
        picked = {place for one in self.chosen for place in one.picked}
        front = {place for one in self.chosen for place in one.front}
        signs = {"failed": FAILED, "unsupported": UNSUPPORTED}
        told = []
        for place in self.rows:
            sign = signs.get(self.found.cells[place]["status"], PICK if place in picked else " ")
            told.append(sign + (FRONT if place in front else " "))
        return told if any(text.strip() for text in told) else []

    def widths(self) -> list[int]:
        """Of each column, with the mark behind its figures."""
        from rich.cells import cell_len

        told = []
        for one in self.columns:
            texts = [(cut(text, self.names_width) if one.column.name else text) for text in one.texts]
            longest = max(map(cell_len, (*pointed(texts, one), one.column.heading, one.unit)))
            told.append(longest + (0 if one.column.name else 1))
        return told

    def width(self) -> int:
        """Of the whole table in places of the terminal."""
        between = sum(2 if one.column.name else 1 for one in self.columns[:-1])
        last = 0 if any(self.columns[-1].marks) or self.columns[-1].column.name else 1
        return sum(self.widths()) + between - last + (3 if self.marked() else 0)

    def lines(self) -> list[Text]:
        """The heading, the units below it, and a line for each row."""
        from rich.cells import cell_len
        from rich.text import Text

        widths, marked = self.widths(), self.marked()
        before = " " * 3 if marked else ""
        told = []
        for style, heads in (
            ("bold", [one.column.heading for one in self.columns]),
            ("dim", [one.unit for one in self.columns]),
        ):
            parts = [before]
            for one, head, width in zip(self.columns, heads, widths, strict=True):
                if one.column.name:
                    parts.append(head + " " * (width + 2 - cell_len(head)))
                else:
                    parts.append(" " * (width - 1 - cell_len(head)) + f"{head}  ")
            if any(heads):
                told.append(Text("".join(parts).rstrip(), style=style))
        columns = [pointed(one.texts, one) for one in self.columns]
        for number, place in enumerate(self.rows):
            line = Text(style="red" if self.found.cells[place]["status"] == "failed" else "")
            line.append(f"{marked[number]} " if marked else "", style="bold")
            for one, texts, width in zip(self.columns, columns, widths, strict=True):
                self.cell(line, one, texts[number], one.marks[number], width)
            line.rstrip()
            told.append(line)
        return told

    def cell(self, line: Text, one: grid.Drawn, text: str, behind: str, width: int) -> None:
        """Add one cell to a row: a name to the left, a figure to the right with its mark behind it."""
        from rich.cells import cell_len

        if one.column.name:
            text = cut(text, self.names_width)
            line.append(text + " " * (width + 2 - cell_len(text)))
            return
        room = text.rstrip()
        after = text[len(room) :]
        plain = "dim" if one.column.emulated else ""
        style = {grid.BEST: "bold green", grid.DOUBT: "yellow"}.get(behind, plain)
        line.append(" " * (width - 1 - cell_len(text)))
        line.append(room + behind, style=style)
        line.append(after + " " * (2 - len(behind)))


def pointed(texts: Sequence[str], one: grid.Drawn) -> list[str]:
    """The figures of a column with their points below one another."""
    if one.column.name or not one.column.base or not one.unit:
        return list(texts)
    after = [len(text) - text.index(".") if "." in text else 0 for text in texts]
    return [text + " " * (max(after) - given) if text else "" for text, given in zip(texts, after, strict=True)]


def beside(table: Table) -> list[str]:
    """What the table leaves out, and what its marks say."""
    found, told = table.found, []
    run = found.reports[0].run if len(found.reports) == 1 else "RUN"
    if len(table.rows) < len(found.cells):
        left = len(found.cells) - len(table.rows)
        which = ", the dearer ones" if all(one.axes for one in table.chosen) else ""
        told.append(f"{left:,} more cells are not shown{which}: edgekit report {run} --format csv has all")
    if table.missing:
        told.append(f"no room for: {', '.join(table.missing)}; all figures: edgekit report {run} -f csv")
    told += marks.legend(table.chosen, len(table.chosen) > 1, PICK, FRONT)
    best = [one.column for one in table.columns if grid.BEST in one.marks]
    if best:
        differ = {key for column in best for key in column.within if len({c.get(key, 1) for c in found.cells}) > 1}
        parts = [f"{grid.BEST} best of its column"]
        for key in sorted(differ, reverse=True):
            names = [column.heading for column in best if key in column.within]
            parts.append(f"{', '.join(names)}: of its {key}")
        parts += ["p50: or not to be told from the best"] if any(column.heading == "p50" for column in best) else []
        told.append("; ".join(parts))
    if any(grid.DOUBT in one.marks for one in table.columns):
        told.append(f"{grid.DOUBT} a wider interval than was asked for")
    statuses = {found.cells[place]["status"] for place in table.rows}
    signs = [f"{sign} {what}" for sign, what in ((FAILED, "failed"), (UNSUPPORTED, "unsupported")) if what in statuses]
    if signs:
        told.append(f"{', '.join(signs)}: why stands below")
    return told


def remark(text: str, width: int) -> str:
    """A remark in lines of that width, those after the first indented; what is too long is cut."""
    from rich.console import Console
    from rich.text import Text

    room = max(width - 2, NARROWEST)
    text = printable(text[: 2 * LINES * room])
    wrapped = [line.plain.rstrip() for line in Text(text).wrap(Console(width=width), room)]
    if len(wrapped) > LINES:
        wrapped = [*wrapped[: LINES - 1], cut(f"{wrapped[LINES - 1]} {wrapped[LINES]}", room)]
    return "\n  ".join(wrapped)


def first(found: Reports, rows: Sequence[int]) -> Reports:
    """The reports with the cells of these places only."""
    if len(rows) == len(found.cells):
        return found
    kept, start, told = set(rows), 0, []
    for report in found.reports:
        cells = [cell for place, cell in enumerate(report.cells, start) if place in kept]
        start += len(report.cells)
        told.append(replace(report, cells=cells))
    return Reports(told, found.errors)


def show(report: Report | Reports, console: Console) -> None:
    """Print the report. What does not fit the width is left out whole, the least telling first; no figure is cut short."""
    from rich.text import Text

    from edgekit.report import energy, estimated, operators, sustained

    found = report if isinstance(report, Reports) else Reports([report], {})
    width = console.width

    def put(text: Text | str, style: str = "") -> None:
        line = text if isinstance(text, Text) else Text(text, style=style)
        if console.options.ascii_only:
            line.plain = line.plain.translate(ASCII)
        console.print(line, soft_wrap=True)

    for one in found.reports:
        device, plan = one.header["device"], one.header["plan"]
        title = f"{plan.get('name', plan['model'])} on {device['name']}: {device.get('description', '')}"
        put(remark(title, width), "bold italic")
    table = Table.of(found)
    if table.rows:
        table = table.fit(width)
        for line in table.lines():
            put(line)
        for text in beside(table):
            put(remark(text, width), "dim")
    if {cell["threads"] for cell in found.cells} == {1}:
        put("1 thread in every runtime, one runtime per process")
    for text in noises(found):
        put(remark(text, width))
    stated = [sentence for one in found.reports for sentence in one.header.get("data", {}).get("stated", ())]
    for text in dict.fromkeys(stated):
        put(remark(text, width))
    shown = first(found, table.rows)
    for text in (*estimated.lines(found), *sustained.lines(shown), *energy.lines(shown)):
        put(remark(text, width))
    for text in operators.lines(shown):
        put(cut(text, width))
    for text in notes(found):
        put(remark(text, width), "red" if text.startswith(remarks.WORDS["failed"]) else "yellow")
    for one in found.reports:
        page = ", report.html" if (one.path / "report.html").is_file() else ""
        put(f"results: {printable(str(one.path))}/run.json, measurements.jsonl{page}")
