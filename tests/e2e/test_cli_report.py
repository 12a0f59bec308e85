"""The page of a run from the command line: it is there when a run ends, however it ends, and can be made and opened later."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from harness import FAKE_DEVICE, FAKE_MODEL, CommandLine, wait_until

from edgekit.report.forms import FORMS

pytestmark = pytest.mark.timeout(90)
PROFILE = ("profile", FAKE_MODEL, "--device", FAKE_DEVICE)


def page_of(cli: CommandLine) -> Path:
    """The page of the only run."""
    (found,) = (cli.cwd / "results").glob("*/report.html")
    return found


def test_every_run_leaves_its_page(cli: CommandLine) -> None:
    done = cli(*PROFILE)
    assert done.rc == 0, done.stderr
    text = page_of(cli).read_text("utf-8")
    assert len(text) < 3_000_000
    assert "report.html" in done.stdout
    assert f"edgekit profile {FAKE_MODEL.name} " in text and "--runtime fake" in text
    assert str(FAKE_MODEL.parent) not in text, "no place of this machine"


def test_a_run_that_is_ended_early_leaves_the_page_of_its_cells(cli: CommandLine) -> None:
    command = cli.start(*PROFILE, "--threads", "1,2,3,4,5,6", "--precision", "fp32,int8")
    command.until("cell 3 of")
    command.ctrl_c()
    assert command.end().rc == 130
    kept = len((page_of(cli).parent / "measurements.jsonl").read_text("utf-8").splitlines())
    text = page_of(cli).read_text("utf-8")
    assert kept >= 2 and text.count('<th scope="row"') == kept


def test_the_page_is_made_anew_and_opened(cli: CommandLine) -> None:
    assert cli(*PROFILE, "--quiet").rc == 0
    page = page_of(cli)
    page.unlink()
    done = cli("report", "last", "--format", "html")
    assert (done.rc, done.stderr) == (0, "")
    assert cli.cwd / done.stdout.strip() == page
    browser, asked = cli.cwd / "browser", cli.cwd / "asked"
    browser.write_text(f'#!/bin/sh\necho "$1" > {asked}.part && mv {asked}.part {asked}\n')
    browser.chmod(0o755)
    assert cli("report", "last", "--open", BROWSER=str(browser)).rc == 0
    wait_until(asked.exists)
    assert asked.read_text().strip() == page.as_uri()


def test_without_a_browser_the_page_is_named(cli: CommandLine) -> None:
    assert cli(*PROFILE, "--quiet").rc == 0
    done = cli(
        "report", "last", "--open", BROWSER="/nowhere/browser %s", PATH="/nowhere", DISPLAY="", WAYLAND_DISPLAY=""
    )
    assert done.rc == 0
    assert "no browser can be started here" in done.stderr


def test_every_form_is_on_stdout(cli: CommandLine) -> None:
    made = cli(*PROFILE, "--quiet", "--json")
    told = {name: cli("report", "last", "--format", name) for name in ("table", *FORMS)}
    for name, done in told.items():
        assert (done.rc, done.stderr) == (0, ""), name
        assert done.stdout.strip(), name
    assert json.loads(told["json"].stdout) == made.json
    assert cli("report", "last").stdout == told["table"].stdout
    assert re.search(r"results: .*report\.html", told["table"].stdout)


def test_a_page_cannot_be_opened_as_something_else(cli: CommandLine) -> None:
    done = cli("report", "last", "--open", "--format", "csv")
    assert done.rc == 2
    assert "--open is for the page" in done.stderr


def test_a_form_that_is_none_and_a_run_that_is_none(cli: CommandLine) -> None:
    assert cli("report", "no-such-run").rc == 2
    assert cli("report", "last", "--format", "pdf").rc == 2
