"""The command line at a terminal: the live line, Ctrl-C, colours and none."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import FAKE_DEVICE, FAKE_MODEL, PATIENCE_S, ROOT, CommandLine
from lab.terminal import Terminal

COLOUR = re.compile(rb"\x1b\[[\d;]*(?:3[0-7]|9[0-7])m")
HIDE, SHOW = b"\x1b[?25l", b"\x1b[?25h"


@pytest.fixture
def at_terminal(cli: CommandLine) -> Iterator[Callable[..., Terminal]]:
    """Starts `edgekit` with these arguments at a terminal."""
    started = []

    def start(*args: object, **environment: str) -> Terminal:
        argv = [sys.executable, "-m", "edgekit", *map(str, args)]
        started.append(Terminal(argv, cli.cwd, {**cli.environment, "PYTHONPATH": str(ROOT), **environment}))
        return started[-1]

    yield start
    for terminal in started:
        terminal.close()


def rest(terminal: Terminal) -> bytes:
    """Everything until the program has gone."""
    try:
        return terminal.until(b"\0 never \0")
    except OSError:  # the other end of the terminal is closed
        return terminal.seen


def elapsed(text: bytes) -> int:
    """Seconds in the last live line; -1 without one."""
    found = re.findall(rb"(\d+):(\d\d)  cell ", text)
    return int(found[-1][0]) * 60 + int(found[-1][1]) if found else -1


def test_the_live_line_has_cell_phase_elapsed_and_expected_time_and_ctrl_c_gives_the_cursor_back(
    at_terminal: Callable[..., Terminal], recipe: Callable[..., Path]
) -> None:
    """The second of twenty cells hangs, so that the line stands."""
    threads = ",".join(map(str, [1, 2, *range(3, 17)]))
    path = recipe("hanging", fault={"2": "hang"})
    terminal = at_terminal("profile", path, "-d", FAKE_DEVICE, "-p", "fp32", "-t", threads)
    before = terminal.until(b"cell 2 of 16")
    assert b"cell 1 of 16" in before and b" left" not in before, "nothing is expected before a cell is done"
    line = terminal.until(b"verifying on fake: 200 inputs")
    assert re.search(rb", about \d+ s left, fake fp32 x2: verifying", line.rpartition(b"\r")[2]), line
    later, begun = b"", elapsed(line)
    while elapsed(later) <= begun:
        later += terminal.until(b"cell 2 of 16, about ")
    assert HIDE in before + line + later
    terminal.type(b"\x03")
    end = rest(terminal)
    assert terminal.process.wait(PATIENCE_S) == 130
    assert b"edgekit: interrupted" in end
    everything = before + line + later + end
    assert everything.rindex(SHOW) > everything.rindex(HIDE), "the cursor is seen again"
    assert end.index(b"edgekit: interrupted") > end.rindex(b"cell 2 of 16"), "the live line is gone before it"
    assert terminal.echoes()


def test_a_run_at_a_terminal_ends_with_a_table_in_colours(at_terminal: Callable[..., Terminal]) -> None:
    terminal = at_terminal("profile", FAKE_MODEL, "-d", FAKE_DEVICE)
    text = rest(terminal)
    assert terminal.process.wait(PATIENCE_S) == 0
    report = text.rpartition(SHOW)[2]
    assert COLOUR.search(report) and b"\xe2\x98\x85" in report


def test_no_color_takes_the_colours_away(at_terminal: Callable[..., Terminal]) -> None:
    terminal = at_terminal("profile", FAKE_MODEL, "-d", FAKE_DEVICE, NO_COLOR="1")
    text = rest(terminal)
    assert not COLOUR.search(text) and b"95.0" in text


def test_a_dumb_terminal_gets_plain_lines(at_terminal: Callable[..., Terminal]) -> None:
    terminal = at_terminal("profile", FAKE_MODEL, "-d", FAKE_DEVICE, TERM="dumb")
    text = rest(terminal)
    assert b"\x1b" not in text
    assert re.search(rb"\[ +\d+\.\d s\] cell 2 of 2: .*, about \d+ s left", text) and b"95.0" in text


def test_a_pipe_gets_colours_only_when_it_asks(cli: CommandLine) -> None:
    cli("profile", FAKE_MODEL, "-d", FAKE_DEVICE, "--quiet")
    for environment, coloured in (
        ({}, False),
        ({"FORCE_COLOR": "1"}, True),
        ({"FORCE_COLOR": "0"}, False),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        ({"FORCE_COLOR": "1", "TERM": "dumb"}, False),
    ):
        plain = {"TERM": os.environ.get("TERM", "xterm"), "NO_COLOR": "", "COLUMNS": "60", **environment}
        ran = cli("report", "last", **plain)
        assert ("\x1b" in ran.stdout) == coloured, environment
        assert "right" in ran.stdout, "as wide as for a file, whatever the terminal around it is"
