"""The published schema: runs of every kind keep to it, and no key can be renamed without it being seen."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from harness import FAKE_BOARD, FAKE_DEVICE, FAKE_MODEL, CommandLine

from edgekit import store
from edgekit.report import Report, Reports, forms

GOLDEN = Path(__file__).parents[1] / "golden"
RUN = GOLDEN / "forms" / "run"


@functools.cache
def validator(name: str) -> jsonschema.Draft202012Validator:
    """The published schema, closed: keys that it does not name are refused."""
    jsonschema.Draft202012Validator.check_schema(forms.schema(name))
    return jsonschema.Draft202012Validator(forms.schema(name, strict=True))


def check(name: str, value: Any) -> None:
    """Hold a value against the published schema. Raises jsonschema.ValidationError."""
    validator(name).validate(value)


def check_run(path: Path) -> None:
    """Hold a run's files and its report against it."""
    check("run", json.loads((path / "run.json").read_text("utf-8")))
    for line in store.Lines(path / "measurements.jsonl"):
        check("measurement", line)
    check("report", json.loads(forms.as_json(Report.load(path))))


@pytest.mark.parametrize("run", [RUN, *sorted(GOLDEN.glob("run-schema-*"))], ids=lambda path: path.name)
def test_the_recorded_runs_keep_to_the_schema(run: Path) -> None:
    check_run(run)
    check("reports", Reports([Report.load(run)], {}).to_json())


def test_fresh_runs_keep_to_the_schema(cli: CommandLine) -> None:
    page = cli.cwd / "summary.md"
    done = cli("profile", FAKE_MODEL, "--device", FAKE_BOARD, "--json", GITHUB_STEP_SUMMARY=str(page))
    check("report", done.json)
    (run,) = (cli.cwd / "results").iterdir()
    check_run(run)
    assert page.read_text("utf-8") == forms.as_markdown(Report.load(run)) + "\n"


@pytest.mark.slow
def test_a_run_with_more_passes_and_more_inputs_keeps_to_the_schema(cli: CommandLine) -> None:
    more = ("--precision", "fp32", "--sustained", "20", "--energy", "--batch", "1,2", "--quick")
    done = cli("profile", FAKE_MODEL, "--device", FAKE_DEVICE, *more, "--json")
    assert done.rc == 0, done.stderr
    assert [(cell.get("batch", 1), "sustained" in cell) for cell in done.json["cells"]] == [(1, True), (2, True)]
    check("report", done.json)
    (run,) = (cli.cwd / "results").iterdir()
    check_run(run)


@pytest.mark.slow
def test_a_comparison_keeps_to_the_schema(cli: CommandLine) -> None:
    for device in (FAKE_DEVICE, FAKE_BOARD):
        check("comparison", cli("ab", FAKE_MODEL, FAKE_MODEL, "--device", device, "--json").json)
    for path in (cli.cwd / "results").glob("*/ab.json"):
        check("comparison", json.loads(path.read_text("utf-8")))


# What devices, tools and runtimes say of themselves; its keys are theirs.
THEIRS = (
    "details", "made_with", "environment", "evidence", "delegation", "system", "host", "git", "model", "data", "judged_by",
    "connection", "hardware", "limits", "emulation", "quantization",
)  # fmt: skip


def renamed(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The value with each of its keys in turn under another name; of a list the first element speaks for all."""
    if isinstance(value, list) and value:
        for name, one in renamed(value[0], f"{path}[]"):
            yield name, [one, *value[1:]]
    elif isinstance(value, dict):
        for key in value:
            yield f"{path}.{key}", {f"{other}x" if other == key else other: one for other, one in value.items()}
            if key not in THEIRS:
                for name, one in renamed(value[key], f"{path}.{key}"):
                    yield name, {**value, key: one}


def test_no_key_can_be_renamed_unseen() -> None:
    run = store.Run.load(RUN)
    forms_of = {"run": run.header, "measurement": run.lines[0], "report": Report.of(run).to_json()}
    seen = {
        (name, path)
        for name, form in forms_of.items()
        for path, one in renamed(form)
        if not validator(name).is_valid(one)
    }
    every = {(name, path) for name, form in forms_of.items() for path, _ in renamed(form)}
    assert every - seen == set()
    assert len(every) > 150
    assert forms.schema("report")["$defs"]["memory"].get("additionalProperties", True), "a reader takes what is new"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("run", {"schema": 2}),
        ("run", {"plan": {}}),
        ("measurement", {"status": "fine"}),
        ("measurement", {"status": "failed"}),
        ("measurement", {"launches": [{"samples_ns": [1.5], "batch": 1, "load_ns": 1, "first_ns": 1}]}),
        ("report", {"cells": [{}]}),
        ("run", {"started": "yesterday"}),
        ("measurement", {"launches": None}),
    ],
)
def test_the_schema_refuses_what_is_none(name: str, change: dict[str, Any]) -> None:
    run = store.Run.load(RUN)
    good = {"run": run.header, "measurement": run.lines[0], "report": Report.of(run).to_json()}[name]
    check(name, good)
    with pytest.raises(jsonschema.ValidationError):
        check(name, {**good, **change})


def test_the_schema_is_of_the_version_that_is_written() -> None:
    assert forms.schema("run")["$defs"]["run"]["properties"]["schema"]["const"] == store.SCHEMA
    assert forms.schema("run")["$id"] == f"urn:edgekit:schema:{store.SCHEMA}:run"
