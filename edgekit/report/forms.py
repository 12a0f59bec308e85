"""The machine forms of a report: JSON, CSV, Markdown, JUnit XML, a trace of operators. Report in, text out."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from edgekit import store
from edgekit.cache import disk_errors
from edgekit.report import Report, Reports
from edgekit.report.columns import COLUMNS, SHOWN, codes
from edgekit.report.operators import printable
from edgekit.report.words import label
from edgekit.types import Json

SUMMARY, SUMMARY_BYTES = "GITHUB_STEP_SUMMARY", 1 << 20
CUT = b"\n**A step summary has no room for the rest: see the files of the run.**\n"
# XML 1.0 has no place for these.
CONTROLS = {code: "?" for code in (*range(32), 0xFFFE, 0xFFFF) if code not in (9, 10, 13)}
FORMULA = (
    "=+-@\t\r\n\N{FULLWIDTH EQUALS SIGN}\N{FULLWIDTH PLUS SIGN}\N{FULLWIDTH HYPHEN-MINUS}\N{FULLWIDTH COMMERCIAL AT}"
)


def together(found: Report | Reports) -> Reports:
    """One report or several, as several."""
    return found if isinstance(found, Reports) else Reports([found], {})


def as_json(found: Report | Reports) -> str:
    """The machine form, as `edgekit profile --json` prints it; its schema is schema("report")."""
    return json.dumps(found.to_json(), indent=1, allow_nan=False) + "\n"


def as_csv(found: Report | Reports) -> str:
    """A row per cell; "run", a column for each of columns.COLUMNS, the codes of "warnings". Empty means not measured."""
    target = io.StringIO()
    rows = csv.writer(target, lineterminator="\n")
    rows.writerow(["run", *(column.name for column in COLUMNS), "warnings"])
    for report in together(found).reports:
        for cell in report.cells:
            values = [report.run, *(column.of(cell) for column in COLUMNS), codes(cell)]
            rows.writerow(["" if value is None else inert(value) for value in values])
    return storable(target.getvalue())


def storable(text: str) -> str:
    """The same without the lone surrogates that stand for bytes of a file's name which are no text."""
    return text.encode("utf-8", "replace").decode()


def inert(value: Any) -> Any:
    """A value as a spreadsheet reads it: true or false in small letters, an apostrophe before words that begin like a formula."""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return value
    lines = value.replace("\r\n", "\n").replace("\r", "\n")  # a lone \r would end a row
    return f"'{lines}" if lines.startswith(tuple(FORMULA)) else lines


def as_markdown(found: Report | Reports) -> str:
    """A table per run in GitHub's Markdown: figures with their units, what failed, and what is weak."""
    reports = together(found)
    parts = [_markdown(report, reports) for report in reports.reports]
    parts += [f"**{escaped(name)}: {escaped(error.message)}**\n" for name, error in reports.errors.items()]
    return storable("\n".join(parts))


def _markdown(report: Report, reports: Reports) -> str:
    """The table of one run and the remarks below it."""
    device, plan = report.header["device"], report.header["plan"]
    name = plan.get("name", plan["model"])
    lines = [f"### {escaped(name)} on {escaped(device['name'])}", "", escaped(device.get("description", "")), ""]
    shown = [c for c in COLUMNS if c.name in SHOWN and any(c.of(cell) is not None for cell in report.cells)]
    emulated = " (emulated)" if device["emulated"] else ""
    heads = [
        (column.heading or column.name.removesuffix("_bytes").removesuffix("_ns").replace("_", " ")) for column in shown
    ]
    heads = [
        head + emulated if column.name.startswith("p") and column.unit == "ns" else head
        for head, column in zip(heads, shown, strict=True)
    ]
    troubled = any(cell["status"] != "ok" for cell in report.cells)
    lines.append("| " + " | ".join(["cell", *heads, *(["status"] if troubled else [])]) + " |")
    lines.append("|" + " --- |" + " ---: |" * len(shown) + (" --- |" if troubled else ""))
    for cell in report.cells:
        row = [escaped(label(cell, reports)), *(column.text(cell) for column in shown)]
        lines.append("| " + " | ".join(row + ([cell["status"]] if troubled else [])) + " |")
    lines.append("")
    for cell in report.cells:
        if cell["status"] != "ok":
            lines.append(
                f"- **{cell['status']}**: {escaped(label(cell, reports))}: {escaped(cell['error']['message'])}"
            )
    gathered: dict[str, list[str]] = {warning["message"]: [] for warning in report.warnings}
    for cell in report.cells:
        for warning in cell["warnings"]:
            gathered.setdefault(warning["message"], []).append(label(cell, reports))
    for message, cells in gathered.items():
        where = "" if not cells or len(cells) == len(report.cells) else f"{', '.join(map(escaped, cells))}: "
        lines.append(f"- weak: {where}{escaped(message)}")
    lines += ["", f"run {code(report.run)}, edgekit {escaped(str(report.header.get('edgekit', '')))}", ""]
    return "\n".join(lines)


def escaped(text: str) -> str:
    """Words of others inside Markdown: one line in which nothing is markup, an address a link, or a name a mention."""
    marked = "".join(f"\\{mark}" if mark in "\\`*_[]<>|#~" else mark for mark in printable(" ".join(text.split())))
    marked = re.sub(
        r"://|\bwww\.", lambda found: f"{found[0][:-1]}\\{found[0][-1]}", marked.replace("&", "&amp;"), flags=re.I
    )
    return re.sub(r"(?<!\w)@(?=\w)", "@<!-- -->", marked)  # GitHub would tell whoever is called so


def code(text: str) -> str:
    """A name as code in Markdown: one line without backticks."""
    return f"`{printable(' '.join(text.split())).replace('`', '') or '?'}`"


def as_junit(found: Report | Reports) -> str:
    """JUnit XML: a suite per run and a case per cell, its figures as properties; unsupported cells are skipped ones."""
    root = ElementTree.Element("testsuites", name="edgekit")
    for report in together(found).reports:
        cells = report.cells
        skipped = sum(cell["status"] == "unsupported" for cell in cells)
        counts = {"tests": len(cells), "failures": len(report.failed), "errors": 0, "skipped": skipped}
        started = clean(str(report.header.get("started", "")).removesuffix("Z"))
        told = {"name": clean(report.run), "timestamp": started, **{key: str(value) for key, value in counts.items()}}
        suite = ElementTree.SubElement(root, "testsuite", told)
        for cell in cells:
            place = clean(f"edgekit.{cell['device']}.{cell['model']}")
            case = ElementTree.SubElement(suite, "testcase", classname=place, name=clean(cell["id"]))
            held = ElementTree.SubElement(case, "properties")
            for column in COLUMNS:
                if column.number and (value := column.of(cell)) is not None:
                    ElementTree.SubElement(held, "property", name=column.name, value=repr(value))
            if cell["status"] == "failed":
                error = cell["error"]
                failure = ElementTree.SubElement(
                    case, "failure", type=clean(error["kind"]), message=clean(error["message"])
                )
                failure.text = clean("\n".join(filter(None, (error.get("hint"), error.get("log_tail")))))
            elif cell["status"] == "unsupported":
                ElementTree.SubElement(case, "skipped", message=clean(cell["error"]["message"]))
            if cell["warnings"]:
                said = "\n".join(f"{warning['code']}: {warning['message']}" for warning in cell["warnings"])
                ElementTree.SubElement(case, "system-out").text = clean(said)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def clean(text: str) -> str:
    """Words without the control characters and lone surrogates that XML cannot hold."""
    return storable(text.translate(CONTROLS))


def as_trace(found: Report | Reports) -> str:
    """The operators of every profiled cell as trace events, for Perfetto (ui.perfetto.dev) and chrome://tracing.

    A process per cell; its operators follow one another in the order in which they ran, each as long as its mean (times in us,
    as the format has it), with its share, shapes, MACs and bytes beside it. What lies between operators is not shown. Of an
    emulated device the times are the emulator's, which the name of the process says; "instructions" beside them are its own.
    """
    profiled = [cell for report in together(found).reports for cell in report.cells if "operators" in cell]
    events = [event for number, cell in enumerate(profiled, 1) for event in _trace(cell, number)]
    return json.dumps({"displayTimeUnit": "ns", "traceEvents": events}, indent=1) + "\n"


def _trace(cell: Json, number: int) -> list[Json]:
    """The trace events of one cell."""
    name = f"{cell['id']} (times of the emulator)" if cell["operators"].get("emulated") else cell["id"]
    events: list[Json] = [{"ph": "M", "name": "process_name", "pid": number, "tid": 1, "args": {"name": name}}]
    begun = 0
    for row in cell["operators"]["operators"]:
        told = {key: value for key, value in row.items() if key not in ("name", "ns", "index")}
        kind = row.get("delegate", "runtime")
        event = {"ph": "X", "name": row.get("type") or row["name"], "cat": kind, "pid": number, "tid": 1}
        events.append({**event, "ts": begun / 1000, "dur": row["ns"] / 1000, "args": {"name": row["name"], **told}})
        begun += row["ns"]
    return events


def step_summary(found: Report | Reports) -> None:
    """Add the Markdown form to the summary of a GitHub Actions step, where there is one. Raises SetupError.

    GitHub shows none that is larger than 1 MiB: of a longer form the lines that have room are added.
    """
    target = os.environ.get(SUMMARY)
    if not target:
        return
    with disk_errors("the step summary"), Path(target).open("ab") as stream:
        text, room = as_markdown(found).encode() + b"\n", SUMMARY_BYTES - stream.tell() - len(CUT)
        if len(text) <= room:
            stream.write(text)
        elif room >= 0:
            stream.write(text[: text.rfind(b"\n", 0, room) + 1] + CUT)


def schema(name: str, strict: bool = False) -> Json:
    """The JSON Schema (draft 2020-12) of run.json ("run"), a line of measurements.jsonl ("measurement"), or --json.

    The last is "report", "reports" of several devices, and "comparison" of `edgekit ab`. With `strict` a key that this version
    does not write is refused wherever the schema names keys, so that no misspelt or renamed one goes unseen.
    """
    text = (Path(__file__).parent / "schema" / f"edgekit-{store.SCHEMA}.json").read_text("utf-8")
    whole: Json = json.loads(text, object_hook=_closed if strict else None)
    return {**whole, "$id": f"{whole['$id']}:{name}", "$ref": f"#/$defs/{name}"}


def _closed(found: Json) -> Json:
    """A part of a schema; one that says which keys an object has allows no others."""
    return (
        {**found, "additionalProperties": False} if found.get("type") == "object" and "properties" in found else found
    )


# What `edgekit report RUN --format NAME` writes.
FORMS: dict[str, Callable[[Report | Reports], str]] = {
    "json": as_json,
    "csv": as_csv,
    "markdown": as_markdown,
    "junit": as_junit,
    "trace": as_trace,
}
