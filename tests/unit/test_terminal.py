"""What the command line writes of others' words, and how wide and in which colours it draws."""

from __future__ import annotations

import io

import pytest

from edgekit import terminal
from edgekit.errors import UserError

EVIL = "a\x1b[2J\x07b"


def test_complaints_and_tables_move_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.complain(EVIL)
    terminal.explain(UserError(EVIL, f"{EVIL}\n{EVIL}"))
    terminal.print_table(("name", "what"), [(EVIL, "x"), ("long name", EVIL)])
    told = capsys.readouterr()
    assert told.err.splitlines() == ["edgekit: a?[2J?b", "edgekit: a?[2J?b", "  a?[2J?b", "  a?[2J?b"]
    assert told.out.splitlines() == ["name       what", "a?[2J?b    x", "long name  a?[2J?b"]


class Tty(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "environment", "width", "colours"),
    [
        (io.StringIO(), {}, 100, None),
        (io.StringIO(), {"FORCE_COLOR": "1"}, 100, "standard"),
        (io.StringIO(), {"FORCE_COLOR": "0"}, 100, None),
        (io.StringIO(), {"FORCE_COLOR": "1", "NO_COLOR": "1"}, 100, None),
        (Tty(), {}, 70, "standard"),
        (Tty(), {"TERM": "dumb"}, 80, None),
        (Tty(), {"TERM": "xterm-256color"}, 70, "256"),
    ],
)
def test_how_a_stream_is_drawn_on(
    stream: io.StringIO, environment: dict[str, str], width: int, colours: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "TTY_COMPATIBLE", "LINES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm", "COLUMNS": "70", **environment}.items():
        monkeypatch.setenv(name, value)
    console = terminal.console(stream)
    assert (console.width, console.color_system) == (width, colours)
