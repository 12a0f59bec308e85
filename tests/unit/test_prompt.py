"""A secret typed at a terminal: unseen, one question at a time, nobody draws over it, and an interrupted run lets go of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from harness import PATIENCE_S, ROOT, wait_until
from lab.terminal import Terminal

from edgekit import prompt

ASKS = """
import signal, threading
from edgekit import prompt
from edgekit.progress import Progress
ended = prompt.unanswered()
signal.signal(signal.SIGUSR1, lambda *_: ended.__enter__())
told = []
with Progress(quiet=False) as progress:
    progress.say("drawing")
    threads = [threading.Thread(target=lambda n=n: told.append(prompt.secret(f"Question {n}? "))) for n in "12"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
print("told", sorted(map(str, told)))
"""


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    started = Terminal([sys.executable, "-c", ASKS], ROOT, {"PYTHONPATH": str(ROOT)})
    yield started
    started.close()


def test_questions_come_one_at_a_time_unseen_and_nothing_is_drawn_over_them(terminal: Terminal) -> None:
    first = terminal.until(b"? ")[-3:]
    wait_until(lambda: not terminal.echoes())
    assert terminal.silence(0.4) == b"", "the live line is drawn ten times a second"
    terminal.type(b"open sesame\n")
    said = terminal.until(b"? ")
    assert b"sesame" not in said
    assert said[-3:] != first
    terminal.type("k\u00e4se\n".encode())
    terminal.until("told ['k\u00e4se', 'open sesame']".encode())
    assert terminal.process.wait(PATIENCE_S) == 0
    assert terminal.echoes()


def test_the_end_of_input_is_no_answer(terminal: Terminal) -> None:
    for _ in range(2):
        terminal.until(b"? ")
        wait_until(lambda: not terminal.echoes())
        terminal.type(b"\x04")
    terminal.until(b"told ['None', 'None']")
    assert terminal.echoes()


def test_an_interrupted_run_asks_no_longer_and_gives_the_terminal_back(terminal: Terminal) -> None:
    terminal.until(b"? ")
    wait_until(lambda: not terminal.echoes())
    terminal.process.send_signal(signal.SIGUSR1)
    assert b"? " not in terminal.until(b"told ['None', 'None']"), "the second is not asked"
    assert terminal.echoes()


def test_without_a_terminal_nobody_is_asked() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", ASKS],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    assert "told ['None', 'None']" in done.stdout


def test_the_run_after_an_interrupted_one_may_ask_again() -> None:
    with pytest.raises(KeyboardInterrupt), prompt.unanswered():
        assert prompt.ENDED.is_set()
        raise KeyboardInterrupt
    assert not prompt.ENDED.is_set()
