"""The user's streams: complaints on stderr, and what to do when a stream is closed, full or read by somebody who leaves."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from edgekit.errors import EXIT_BUG, ConvertError, EdgekitError
from edgekit.inert import printable

if TYPE_CHECKING:
    from rich.console import Console

TAIL_LINES = 8
PLAIN_WIDTH = 100  # of a table that goes into a file or a pipe
NO = ("", "0", "false")


def console(stream: TextIO) -> Console:
    """A stream to draw on: as wide as its terminal, else PLAIN_WIDTH; colours on a terminal that has them.

    NO_COLOR takes the colours away, FORCE_COLOR (but 0) brings them into files and pipes, TERM=dumb has none.
    """
    from rich.console import Console

    terminal = bool(stream.isatty())
    forced = os.environ.get("FORCE_COLOR", "").lower() not in NO and not os.environ.get("NO_COLOR")
    width = None if terminal else PLAIN_WIDTH
    return Console(file=stream, width=width, highlight=False, force_terminal=terminal or forced)


def complain(text: str) -> None:
    """One line on stderr; no matter when nobody reads it."""
    with contextlib.suppress(OSError):
        print(f"edgekit: {printable(text)}", file=sys.stderr, flush=True)


def explain(error: EdgekitError, of: str = "") -> None:
    """An error as the user sees it: what happened, below it what to do, and the last words of a tool that failed.

    `of` stands before it, and says what it concerns.
    """
    complain(f"{of}{error.message}")
    tail = error.log_tail.splitlines()[-TAIL_LINES:] if isinstance(error, ConvertError) else []
    with contextlib.suppress(OSError):
        for line in [*error.hint.splitlines(), *(f"| {line}" for line in tail)]:
            print(f"  {printable(line)}", file=sys.stderr)


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(value, indent=1))


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Left-aligned columns, the last one as long as it is."""
    rows = [[printable(text) for text in row] for row in rows]
    widths = [max(len(row[index]) for row in [heads, *rows]) for index in range(len(heads) - 1)]
    for row in [heads, *rows]:
        print("  ".join(text.ljust(width) for text, width in zip(row, [*widths, 0], strict=True)).rstrip())


def silence(stream: Any) -> None:
    """Let what is still buffered for a broken stream go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def prepare_streams() -> None:
    """Streams that were closed lead nowhere; characters that the user's encoding lacks are escaped, not fatal."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
        stream = getattr(sys, name)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def bug() -> int:
    """What is nobody's fault but ours: the traceback, and a request."""
    traceback.print_exc()
    complain("this is a bug in edgekit: please report the lines above")
    return EXIT_BUG
