"""Progress on stderr: a live line for each device on a terminal, plain lines elsewhere, nothing when asked to be quiet."""

from __future__ import annotations

import contextlib
import math
import re
import sys
import time
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING

from edgekit import prompt, terminal
from edgekit.inert import printable

if TYPE_CHECKING:
    from rich.text import Text

# What bench says when it begins a cell; fleet puts the device's name before it. The first cell of a run also waits for the
# artifacts of all, so its time counts from its verification on.
CELL = re.compile(r"(?:(?P<of>[^:/]+): )?cell (?P<number>\d+) of (?P<total>\d+): (?P<id>.+)", re.DOTALL)
NAMED = re.compile(
    r".+/(?P<precision>[^/]+)/(?P<runtime>[^/@]+)@[^@]+?\+threads=(?P<threads>\d+)(?P<more>.*)", re.DOTALL
)
AT_WORK = "verifying on "
PER_SECOND = 4  # the live line is drawn, by the machine that may be measured


class Step:
    """What one device is at, and how long its cells took so far. `now` is in seconds, by a clock that only goes on."""

    def __init__(self) -> None:
        self.number = self.total = 0
        self.cell = ""
        self.phase = "starting"
        self.took: list[float] = []  # seconds of each cell that is done
        self.since: float | None = None  # when the cell began that is measured now

    def say(self, text: str, now: float) -> None:
        """A new phase, or a new cell."""
        found = CELL.fullmatch(text)
        if not found:
            self.phase = text.removeprefix(f"{self.cell}: ")
            if self.number and self.since is None and text.startswith(AT_WORK):
                self.since = now
            return
        if self.since is not None:
            self.took.append(now - self.since)
        self.since = now if self.number else None
        self.number, self.total = int(found["number"]), int(found["total"])
        self.cell, self.phase = found["id"], ""

    def left_s(self, now: float) -> float | None:
        """Seconds that the cells that are left take if they take as long as those that are done; None without a ground for it."""
        if not self.took:
            return None
        each = sum(self.took) / len(self.took)
        spent = now - self.since if self.since is not None else 0.0
        left = max(each - spent, 0.0) + each * (self.total - self.number)
        return left if left > 0 else None

    def told(self, now: float) -> str:
        """Cell, expected time and phase in a line."""
        left = self.left_s(now)
        parts = [f"cell {self.number} of {self.total}"] if self.number else []
        parts += [about(left)] if left is not None else []
        parts += [": ".join(part for part in (short(self.cell), self.phase) if part)]
        return ", ".join(part for part in parts if part)


def short(cell: str) -> str:
    """A cell's id without what all cells share: runtime and precision, threads where they are not one, the options."""
    found = NAMED.fullmatch(cell)
    if not found:
        return cell
    threads = "" if found["threads"] == "1" else f" x{found['threads']}"
    return f"{found['runtime']} {found['precision']}{threads}{found['more'].replace('+', ' ').replace('=', ' ')}"


def about(seconds: float) -> str:
    """about 25 s left: to five seconds from ten on, to a minute from two on."""
    if seconds < 120:
        return f"about {math.ceil(seconds) if seconds <= 10 else 5 * math.ceil(seconds / 5)} s left"
    return f"about {math.ceil(seconds / 60)} min left" if seconds < 7200 else f"about {seconds / 3600:.1f} h left"


def clock(seconds: float) -> str:
    """0:07, 12:05, 1:02:05."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Progress:
    """Shows what each device is at, the time since the start, and what is expected once cells are done. A context manager."""

    def __init__(self, quiet: bool) -> None:
        self.started = time.monotonic()
        self.steps = {"": Step()}  # by the device's name, "" for what concerns one only or all
        console = terminal.console(sys.stderr) if not quiet and sys.stderr.isatty() else None
        self.bar = None
        if console and not console.is_dumb_terminal:
            from rich.live import Live

            self.bar = Live(console=console, transient=True, refresh_per_second=PER_SECOND, get_renderable=self.drawn)
        self.plain = not quiet and self.bar is None

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
        now = time.monotonic()
        found = CELL.fullmatch(text)
        name = (found["of"] or "") if found else text.partition(": ")[0]
        if found and name:
            self.steps.setdefault(name, Step())
        step = self.steps.get(name, self.steps[""])
        self.steps[""].phase = ""  # what concerned all is over when a device goes on
        step.say(text if step is self.steps[""] else text.removeprefix(f"{name}: "), now)
        if self.plain:
            left = step.left_s(now) if found else None
            expected = f", {about(left)}" if left is not None else ""
            with contextlib.suppress(OSError):  # whoever read our stderr may be gone; the work goes on
                print(f"[{now - self.started:6.1f} s] {printable(text)}{expected}", file=sys.stderr, flush=True)

    def drawn(self) -> Text:
        """The live lines: the time since the start, and what each device is at."""
        from rich.text import Text

        now = time.monotonic()
        first, *devices = list(self.steps.items())
        lines = [f"{clock(now - self.started)}  {first[1].told(now)}".rstrip()]
        lines += [f"  {name}: {step.told(now)}" for name, step in devices]
        return Text("\n".join(map(printable, lines)), no_wrap=True, overflow="ellipsis")

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
