"""A run as one page that needs nothing beside itself: text and table from the template, charts drawn by the browser.

The page may not reach the network, nor run any script but its own two: its policy says so, so that a hostile name in a run stays a
name even where it were not escaped.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import store
from edgekit.cache import write_text
from edgekit.errors import EdgekitError
from edgekit.report import Report, Reports, chart_rows, charts, choice, estimated, reproduce, table
from edgekit.report.columns import COLUMNS, Column
from edgekit.report.words import label
from edgekit.types import Json

if TYPE_CHECKING:
    import jinja2

NAME = "report.html"
TEMPLATES = Path(__file__).parent / "templates"
LISTED, NAMED, TOLD = 800, 20, 50  # cells in the table, of those that share a weakness, and of those without figures
SAID, WORDS = 10, 1500  # sentences of one weakness, and characters of one text out of a run
LAST_WORDS = 4000  # characters of what a tool said
Say = Callable[[str], None]
# The columns of the table, where some cell fills them; the first two where the cells differ in them.
SHOWN = (
    "threads", "batch", "p50_ns", "p50_half_width", "p90_ns", "p95_ns", "p99_ns", "estimate_ns", "instructions",
    "accuracy", "agreement", "sqnr_db", "file_bytes", "run_peak_bytes", "load_peak_bytes", "sustained_steady_ns",
    "mj_per_inference", "mj_above_idle", "load_ns", "first_ns",
)  # fmt: skip


def leave(run: store.Run, say: Say) -> None:
    """Put the page into the folder of a run that has cells; where that cannot be done, it is said, and the run stands."""
    if not run.lines:
        return
    try:
        write(Report.of(run))
    except (EdgekitError, OSError) as error:
        why = error.message if isinstance(error, EdgekitError) else error.strerror
        say(f"{NAME} could not be written: {why}")


def write(report: Report) -> Path:
    """Write the page into the run's folder; its path. Raises SetupError when the disk refuses, UserError for a damaged run."""
    path = report.path / NAME
    text = render(report, store.Lines(report.path / store.LINES))
    write_text(path, text.encode("utf-8", "replace").decode())  # a file's name may hold bytes that are no text
    return path


def render(report: Report, lines: Iterable[Json]) -> str:
    """The page of a report. `lines` are its measurements as they stand in the run, for the distributions."""
    from markupsafe import Markup

    found = Reports([report], {})
    cells = found.cells
    names = short_names(found)
    texts = {name: (TEMPLATES / name).read_text("utf-8") for name in ("vega.js", "report.js", "report.css")}
    axes = choice.cost(cells), choice.quality(cells)
    front = choice.front(cells, [axis for axis in (*axes, choice.SIZE) if axis is not None]) if axes[0] else set()
    picked = choice.pick(cells)
    drawn = charts.charted(cells, front)
    shown = columns(report)
    figures = list(charts.described(drawn, names, lines, axes))
    return template().render(
        report=report,
        title=brief(
            f"{report.header['plan'].get('name', report.header['plan']['model'])} on {report.header['device']['name']}"
        ),
        tally=tally(cells),
        picks=[{"name": names[cell["id"]], "why": why, "figures": in_short(cell, axes)} for cell, why in picked],
        no_pick=not picked and any(cell["status"] == "ok" for cell in cells),
        bests=bests(cells, names, axes),
        headings=[heading for heading, _ in shown],
        rows=rows(cells, shown, names, front, {cell["id"] for cell, _ in picked}),
        unlisted=max(0, len(cells) - LISTED),
        uncharted=len([c for c in cells if c["status"] == "ok"]) - len(drawn),
        charts=[{key: chart[key] for key in ("id", "title", "says", "one_cell")} for chart in figures],
        choosable=[(index, names[cell["id"]]) for index, cell in enumerate(drawn)],
        first=next((index for index, cell in enumerate(drawn) if picked and cell["id"] == picked[0][0]["id"]), 0),
        troubles=troubles(cells, names),
        untold=max(0, sum(cell["status"] != "ok" for cell in cells) - TOLD),
        weaknesses=weaknesses(report, names),
        remarks=[*table.noises(found), *estimated.lines(found)],
        parity=parity(cells),
        stated=report.header.get("data", {}).get("stated", ()),
        environment=surroundings(report),
        command=brief(reproduce.command(report.header)),
        data={"charts": [{key: chart[key] for key in ("id", "one_cell", "spec", "rows")} for chart in figures]},
        policy=policy(texts["vega.js"], texts["report.js"]),
        licences=Markup((TEMPLATES / "vega.LICENSE.txt").read_text("utf-8")),
        **{name.replace(".", "_"): Markup(text) for name, text in texts.items()},
    )


@functools.cache
def template() -> jinja2.Template:
    """The page's template, compiled."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["brief"] = brief
    return environment.get_template("report.html.j2")


def policy(*scripts: str) -> str:
    """The content security policy: these scripts, styles in the page, and nothing from anywhere."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    allowed = " ".join(f"'sha256-{one}'" for one in hashes)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def short_names(found: Reports) -> dict[str, str]:
    """The cells' short names by id; of cells that share one, the id."""
    # A name depends on what differs between the cells, which is looked for in one of each kind.
    (report,) = found.reports
    kinds = {(cell["threads"], cell.get("batch")): cell for cell in report.cells}
    few = Reports([dataclasses.replace(report, cells=list(kinds.values()))], {})
    short = {cell["id"]: label(cell, few) for cell in report.cells}
    seen: dict[str, int] = {}
    for name in short.values():
        seen[name] = seen.get(name, 0) + 1
    told = {cell: chart_rows.brief(name if seen[name] == 1 else cell) for cell, name in short.items()}
    if len(set(told.values())) < len(told):  # ids without end that begin alike
        told = {cell: f"{number} {name}" for number, (cell, name) in enumerate(told.items(), 1)}
    return told


def tally(cells: list[Json]) -> str:
    """How many cells there are, and how many came to nothing."""
    counts = {status: sum(cell["status"] == status for cell in cells) for status in ("ok", "unsupported", "failed")}
    words = {"ok": "measured", "unsupported": "unsupported", "failed": "failed"}
    return ", ".join(f"{number} {words[status]}" for status, number in counts.items() if number)


def in_short(cell: Json, axes: tuple[choice.Axis | None, ...]) -> str:
    """A cell's figures in a line."""
    every = [axis for axis in (*axes, choice.SIZE, choice.MEMORY) if axis is not None]
    return ", ".join(f"{axis.title} {axis.text(value)}" for axis in every if (value := axis.of(cell)) is not None)


def bests(cells: list[Json], names: dict[str, str], axes: tuple[choice.Axis | None, ...]) -> list[Json]:
    """The best cell by each figure that can be compared over all cells."""
    told = []
    for axis in (*axes, choice.SIZE, choice.MEMORY):
        if axis is None or len({axis.group(cell) for cell in cells}) > 1:
            continue
        known = [(value, cell) for cell in cells if cell["status"] == "ok" and (value := axis.of(cell)) is not None]
        if known:
            best = min(known, key=lambda pair: (pair[0] if axis.lower else -pair[0], pair[1]["id"]))
            same = sum(value == best[0] for value, _ in known) - 1
            name = names[best[1]["id"]] + (f" and {same} more" if same else "")
            told.append(
                {"title": f"{'least' if axis.lower else 'best'} {axis.title}", "text": axis.text(best[0]), "name": name}
            )
    return told


def columns(report: Report) -> list[tuple[str, Column]]:
    """The table's columns with their headings: only those that some cell fills, and that tell the cells apart."""
    by_name = {column.name: column for column in COLUMNS}
    told = []
    for name in SHOWN:
        column = by_name[name]
        values = {column.of(cell) for cell in report.cells}
        if values <= {None} or (name in SHOWN[:2] and len(values) == 1):
            continue
        heading = column.heading or name.removesuffix("_bytes").removesuffix("_ns").replace("_", " ")
        emulated = report.header["device"]["emulated"] and column.path[0] == "latency"
        told.append((f"{heading} (emulated)" if emulated else heading, column))
    return told


def rows(
    cells: list[Json], shown: list[tuple[str, Column]], names: dict[str, str], front: set[str], picked: set[str]
) -> list[Json]:
    """The table's rows: the cell, its marks, and (text, sort key) of each column."""
    return [
        {
            "name": names[cell["id"]],
            "id": cell["id"],
            "status": cell["status"],
            "mark": table.mark(cell),
            "picked": cell["id"] in picked,
            "front": cell["id"] in front,
            "values": [(column.text(cell), column.of(cell)) for _, column in shown],
            "weak": len(cell["warnings"]),
        }
        for cell in ({"batch": 1, **cell} for cell in listed(cells, front | picked))  # 1 stands in no machine form
    ]


def listed(cells: list[Json], first: set[str]) -> list[Json]:
    """The cells of the table in the run's order: where there are too many, those of these ids and then the first others."""
    kept = {cell["id"] for cell in sorted(cells, key=lambda cell: cell["id"] not in first)[:LISTED]}
    return [cell for cell in cells if cell["id"] in kept]


def troubles(cells: list[Json], names: dict[str, str]) -> list[Json]:
    """The cells that have no figures, and why."""
    return [
        {
            "name": names[cell["id"]],
            "mark": table.mark(cell),
            **{key: brief(cell["error"].get(key) or "") for key in ("message", "hint")},
            "log_tail": (cell["error"].get("log_tail") or "")[-LAST_WORDS:],
        }
        for cell in [cell for cell in cells if cell["status"] != "ok"][:TOLD]
    ]


def weaknesses(report: Report, names: dict[str, str]) -> list[Json]:
    """What is weak about the figures: by its code, the first sentences with what to do, and where; `more` are left out."""
    gathered: dict[str, dict[str, list[str]]] = {}
    for one in report.warnings:
        gathered.setdefault(one["code"], {})[one["message"]] = []
    for cell in report.cells:
        for one in cell["warnings"]:
            gathered.setdefault(one["code"], {}).setdefault(one["message"], []).append(names[cell["id"]])
    return [
        {
            "code": code,
            "said": [(message, placed(cells)) for message, cells in list(said.items())[:SAID]],
            "more": max(0, len(said) - SAID),
        }
        for code, said in gathered.items()
    ]


def placed(cells: list[str]) -> str:
    """The first of the cells that share a weakness; without any it is the run's."""
    more = f" and {len(cells) - NAMED} more" if len(cells) > NAMED else ""
    return ", ".join(cells[:NAMED]) + more or "the whole run"


def brief(text: object) -> str:
    """Words out of a run: of what has no end, the beginning."""
    told = str(text)
    return told if len(told) <= WORDS else f"{told[:WORDS]} ... ({len(told) - WORDS} more characters)"


def parity(cells: list[Json]) -> str:
    """How many threads each runtime had."""
    threads = sorted({cell["threads"] for cell in cells})
    if len(threads) != 1:
        return f"{', '.join(map(str, threads))} threads, the same in every runtime; one runtime per process."
    return f"{threads[0]} thread{'s' if threads[0] > 1 else ''} in every runtime, one runtime per process."


def surroundings(report: Report) -> list[tuple[str, list[tuple[str, str]]]]:
    """What the run was made with and on, in groups of (name, value)."""
    header = report.header
    measured = [cell for cell in report.cells if cell.get("system")]
    device = {
        key: header["device"].get(key) for key in ("name", "description", "arch", "transport", "hardware", "emulation")
    }
    runtimes = {cell["runtime"]: cell["runtime_version"] for cell in report.cells if cell.get("runtime_version")}
    made: dict[str, Any] = {}
    for cell in report.cells:
        made |= cell.get("artifact", {}).get("made_with", {})
    groups = {
        "device": device,
        "what the device says": measured[0]["system"] if measured else {},
        "runtimes": runtimes,
        "converted with": made,
        "data": {key: value for key, value in header.get("data", {}).items() if key != "stated"},
        "model": header.get("model", {}),
        "effort per cell": header["plan"].get("effort", {}),
        "run": {"name": report.run, **{key: header.get(key) for key in ("started", "edgekit", "agent", "host", "git")}},
    }
    return [(name, told) for name, group in groups.items() if (told := list(flat(group)))]


def flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """The leaves of a nested value with their path."""
    if isinstance(value, dict):
        for key, one in value.items():
            yield from flat(one, f"{name} {key}".strip())
    elif isinstance(value, (list, tuple)):
        if value:
            yield (
                name,
                brief(", ".join(json.dumps(one) if isinstance(one, (dict, list)) else str(one) for one in value)),
            )
    elif value not in (None, ""):
        yield name, brief(value)
