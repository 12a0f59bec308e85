"""Progress on stderr: one live line on a terminal, plain lines elsewhere, nothing when asked to be quiet."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from types import TracebackType

from edgekit import prompt


class Progress:
    """Shows the current step and the time since the start. Use as a context manager."""

    def __init__(self, quiet: bool) -> None:
        terminal = sys.stderr.isatty()
        self.plain = not quiet and not terminal
        self.started = time.monotonic()
        self.bar = None
        if not quiet and terminal:
            from rich.console import Console
            from rich.progress import Progress as Bar
            from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

            columns = (SpinnerColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
            self.bar = Bar(*columns, console=Console(stderr=True), transient=True)
            self.task = self.bar.add_task("starting")

    def __enter__(self) -> Progress:
        if self.bar:
            self.bar.start()
            prompt.DRAWING.append(self.held_back)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def say(self, text: str) -> None:
        """A new step."""
        if self.bar:
            self.bar.update(self.task, description=text)
        elif self.plain:
            with contextlib.suppress(OSError):  # whoever read our stderr may be gone; the work goes on
                print(f"[{time.monotonic() - self.started:6.1f} s] {text}", file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def held_back(self) -> Iterator[None]:
        """No live line meanwhile."""
        bar = self.bar
        if bar:
            bar.stop()
        yield
        if bar and bar is self.bar:
            bar.start()

    def close(self) -> None:
        """Take the live line away, so that something else can be printed; safe to call twice."""
        bar, self.bar = self.bar, None
        if bar:
            prompt.DRAWING.remove(self.held_back)
            bar.stop()
