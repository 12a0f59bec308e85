"""A power meter on a serial line of this machine, read while the device works: lines of text, one reading each.

A line is one of these; docs/sustained-and-energy.md tells it to whoever builds a meter:

    5.12 0.431                                     volts and amperes, apart by blanks, a comma, a semicolon or a tab
    {"voltage_v": 5.12, "current_ma": 431}         JSON: voltage and current, or power; each in _v _a _w, _mv ..., _uv ...
    time_s,voltage_v,current_a                     CSV: one line of such names, then lines of numbers; other columns are left out
    Bus: 5.12 V  Current: 431.0 mA                 numbers with units; where a power is among them it counts alone

Readings carry no time that is trusted: each counts from when it arrives.
"""

from __future__ import annotations

import json
import math
import re
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType

from edgekit.errors import ConnectError, EdgekitError, UserError
from edgekit.transports import printable
from edgekit.transports._port import BAUD, Port

ANSWER_S = 6.0  # opening its port restarts many a meter
LISTEN_S = 0.2
LINE_BYTES = 4096  # a line of so many is none of a meter's
GAP_S = 2.5  # with a longer silence the power in between is not known
UNITS = {prefix + kind: (kind, scale) for kind in "vaw" for prefix, scale in (("", 1.0), ("m", 1e-3), ("u", 1e-6))}
NAMES = {"v": "voltage", "a": "current", "w": "power"}
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
FORMS = "a line is '5.12 0.431' (volts, amperes), JSON or CSV: docs/sustained-and-energy.md"


class Reader:
    """Makes watts of lines; a CSV header among them says what the columns of those after it are."""

    def __init__(self) -> None:
        self.columns: list[str] | None = None

    def watts(self, line: str) -> float | None:
        """The power that a line tells, in watts; None for a line without any."""
        if line.lstrip().startswith("{"):
            try:
                told = json.loads(line, parse_int=float)  # a whole number may have more digits than a float holds
            except (ValueError, RecursionError):
                return None
            return power(told) if isinstance(told, dict) else None
        parts = [part for part in re.split(r"[,;\s]+", line.strip()) if part]
        if all(re.fullmatch(NUMBER, part) for part in parts):
            return self._plain([float(part) for part in parts])
        if all(re.fullmatch(r"[A-Za-z]\w*", part) for part in parts) and power(dict.fromkeys(parts, 1.0)) is not None:
            self.columns = parts
            return None
        return power(with_units(line))

    def _plain(self, numbers: list[float]) -> float | None:
        if self.columns:
            return power(dict(zip(self.columns, numbers, strict=True))) if len(numbers) == len(self.columns) else None
        return power({"voltage_v": numbers[0], "current_a": numbers[1]}) if len(numbers) == 2 else None


def with_units(line: str) -> dict[str, float]:
    """The numbers of a line that a unit stands behind, by names as in JSON; {} when one quantity is there twice."""
    found: dict[str, float] = {}
    for number, unit in re.findall(rf"({NUMBER})\s*([mu]?[VAW])(?![A-Za-z])", line):
        kind = UNITS[unit.lower()][0]
        name = f"{NAMES[kind]}_{unit.lower()}"
        if kind != "w" and any(other.startswith(NAMES[kind]) for other in found):
            name = f"{NAMES[kind]}_twice"  # bus and load voltage, say: nobody knows which one is meant
        found[name] = float(number)
    if any(name.endswith("_twice") for name in found):
        return {name: value for name, value in found.items() if name.startswith("power")}
    return found


def power(told: Mapping[str, object]) -> float | None:
    """Watts of named floats: power_w, or voltage_v times current_a, each in its other units too; None without them."""
    values: dict[str, float] = {}
    for name, value in told.items():
        quantity, _, unit = name.lower().rpartition("_")
        kind, scale = UNITS.get(unit, ("", 0.0))
        if kind and quantity == NAMES[kind] and isinstance(value, float):
            values[kind] = value * scale
    watts = values["w"] if "w" in values else values.get("v", math.nan) * values.get("a", math.nan)
    return watts if math.isfinite(watts) else None


def place(text: str) -> tuple[str, int]:
    """TTY or TTY@BAUD, as --power-meter takes it. Raises UserError."""
    name, at, baud = text.rpartition("@")
    if not at:
        return text, BAUD
    if not name or not baud.isdigit() or int(baud) < 1:
        raise UserError(f"'{text}' is no power meter", "--power-meter /dev/ttyUSB0, or /dev/ttyUSB0@9600")
    return name, int(baud)


class PowerMeter:
    """Listens to a meter in a thread of its own until it is closed. Use as a context manager.

    Raises ConnectError, SetupError or UserError when its port cannot be opened, or when nothing readable comes.
    """

    def __init__(self, text: str) -> None:
        self.name, baud = place(text)
        self.times: list[float] = []  # seconds of time.monotonic()
        self.watts: list[float] = []
        self.error: EdgekitError | None = None
        self.odd = ""  # the last line that told no power
        self._heard, self._closed = threading.Event(), threading.Event()
        self._port = Port(self.name, baud)
        self._thread = threading.Thread(target=self._listen, name="edgekit-power-meter", daemon=True)
        self._thread.start()
        self._heard.wait(ANSWER_S)
        if not self.times:
            self.close()
            if self.error:
                raise self.error
            said = f"'{self.odd}' is no reading" if self.odd else "nothing comes from it"
            raise ConnectError(f"the power meter on {self.name} cannot be read: {said}", FORMS)

    def _listen(self) -> None:
        """The thread: lines as they come, until the end."""
        reader, rest, whole = Reader(), b"", False
        try:
            self._port.wait(0)  # what lay in the buffer was measured before
            while not self._closed.is_set():
                data = self._port.wait(LISTEN_S)
                now = time.monotonic()
                *lines, rest = (rest + data).split(b"\n")
                rest = rest[-LINE_BYTES:]
                for line in lines:
                    if len(line) < LINE_BYTES:
                        self._take(reader, line, now if whole else None)
                    whole = True  # the first line may have begun before we listened: it can be a header, but no reading
        except EdgekitError as error:
            self.error = error
        finally:
            self._heard.set()

    def _take(self, reader: Reader, line: bytes, now: float | None) -> None:
        text = printable(line).strip()
        watts = reader.watts(text)
        if watts is not None and now is not None:
            self.watts.append(watts)
            self.times.append(now)
            self._heard.set()
        elif watts is None and text and reader.columns is None:
            self.odd = text[:60]

    def energy(self, bounds: Sequence[float]) -> list[float]:
        """The joules between each two successive times of `bounds`, in seconds of time.monotonic().

        Raises EdgekitError when the meter was silent for longer than GAP_S meanwhile, or was unplugged.
        """
        if self.error:
            raise self.error
        count = len(self.times)  # the thread may be adding one: times grow last
        return integrals(self.times[:count], self.watts[:count], bounds, self.name)

    def close(self) -> None:
        """Let go of the port; never raises."""
        self._closed.set()
        self._thread.join(2)
        self._port.close()

    def __enter__(self) -> PowerMeter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def integrals(
    times: Sequence[float], watts: Sequence[float], bounds: Sequence[float], name: str = "the power meter"
) -> list[float]:
    """The joules between each two successive bounds: the trapezoid rule over the readings, which lie on straight lines between.

    times, bounds: seconds, ascending; watts: one for each time. Raises ConnectError where the readings leave a gap above GAP_S.
    """
    import numpy as np

    inside = [time for time in times if bounds[0] < time < bounds[-1]]
    gaps = np.diff([bounds[0], *inside, bounds[-1]])
    if gaps.max() > GAP_S:
        raise ConnectError(
            f"{name} was silent for {gaps.max():.1f} s", "a reading is needed every second or more often"
        )
    at = np.asarray(times, np.float64)
    power_w = np.asarray(watts, np.float64)
    edges = np.asarray(bounds, np.float64)
    points = np.union1d(at[(at > edges[0]) & (at < edges[-1])], edges)
    values = np.interp(points, at, power_w)
    steps = np.concatenate([[0.0], np.cumsum((values[1:] + values[:-1]) / 2 * np.diff(points))])
    return [float(joules) for joules in np.diff(steps[np.searchsorted(points, edges)])]
