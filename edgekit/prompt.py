"""Secrets that the user types at the terminal: one question at a time, and nobody else writes there meanwhile."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import threading
from collections.abc import Callable, Iterator

TURN = threading.Lock()
ENDED = threading.Event()  # the work that asks was interrupted
POLL_S = 0.1
# Those who draw on the terminal: what each returns holds it back for as long as a question stands.
DRAWING: list[Callable[[], contextlib.AbstractContextManager[None]]] = []


@contextlib.contextmanager
def unanswered() -> Iterator[None]:
    """Whoever asks in another thread meanwhile, or has asked, is told that there is no answer."""
    ENDED.set()
    try:
        yield
    finally:
        ENDED.clear()


def secret(question: str) -> str | None:
    """What the user types, unseen; None where there is no terminal, at Ctrl-D, and when the work was interrupted."""
    if not (sys.stdin and sys.stdin.isatty()) or os.environ.get("CI"):
        return None
    with TURN, contextlib.ExitStack() as held:
        if ENDED.is_set():
            return None
        try:
            terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
        except OSError:
            return None
        held.callback(os.close, terminal)
        for drawing in list(DRAWING):
            held.enter_context(drawing())
        return unseen(terminal, question)


def unseen(terminal: int, question: str) -> str | None:
    """One line typed at a terminal that echoes nothing; its settings are given back whatever happens."""
    before = termios.tcgetattr(terminal)
    silent = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
    typed = b""
    try:
        termios.tcsetattr(terminal, termios.TCSAFLUSH, silent)
        os.write(terminal, question.encode())
        while not typed.endswith(b"\n"):
            if ENDED.is_set():
                return None
            if select.select([terminal], [], [], POLL_S)[0]:
                data = os.read(terminal, 4096)
                if not data:
                    return None
                typed += data
        return typed[:-1].decode(errors="surrogateescape")
    finally:
        termios.tcsetattr(terminal, termios.TCSAFLUSH, before)
        os.write(terminal, b"\n")
