"""The power meter: what a line may look like, the integral over its readings, and a meter on a pseudo-terminal."""

from __future__ import annotations

import contextlib
import math
import os
import pty
import threading
import time
import tty
from collections.abc import Callable, Iterator

import pytest
from harness import wait_until

from edgekit import powermeter
from edgekit.errors import ConnectError, EdgekitError, TransportClosed, UserError
from edgekit.powermeter import PowerMeter, Reader, integrals


@pytest.mark.parametrize(
    ("line", "watts"),
    [
        ("5 0.5", 2.5),
        ("5.0,0.5", 2.5),
        ("5.0; 0.5", 2.5),
        ("5.0\t-.5e0", -2.5),
        ('{"voltage_v": 5, "current_ma": 500}', 2.5),
        ('{"voltage_mv": 5000, "current_ua": 500000, "shunt_ohm": 0.1}', 2.5),
        ('{"Power_mW": 2500, "voltage_v": 9, "current_a": 9}', 2.5),
        ("Bus: 5.00 V  Current: 500.0 mA", 2.5),
        ("5.00V 500mA", 2.5),
        ("Bus 5 V, shunt 50 mV, load 5.05 V, current 500 mA, power 2500 mW", 2.5),
    ],
)
def test_a_line_is_read_in_each_of_the_forms(line: str, watts: float) -> None:
    assert Reader().watts(line) == pytest.approx(watts)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "INA219 ready",
        "5.0",
        "1 5.0 0.5",
        '{"voltage_v": 5}',
        '{"voltage_v": 5, "current_a": NaN}',
        '{"voltage_v": "5", "current_a": 1}',
        '{"voltage_v": 5, "current_a"',
        "[5, 0.5]",
        "Bus 5 V, load 5.05 V, current 500 mA",
        "5 V",
        "nan nan",
        "1e999 1",
        "1e200 1e200",
        '{"power_w": 1e999}',
        '{"voltage_v": 1e200, "current_a": 1e200}',
        '{"power_w": 1' + 400 * "0" + "}",
        '{"power_w": true}',
        '{"a":' * 800,
        '{"a":' + "[" * 4000,
    ],
)
def test_what_is_no_reading_gives_none(line: str) -> None:
    assert Reader().watts(line) is None


def test_a_header_says_what_the_columns_are() -> None:
    reader = Reader()
    assert reader.watts("1.5,5000,500") is None
    assert reader.watts("time_s,voltage_mv,current_ma") is None
    assert reader.watts("1.5,5000,500") == pytest.approx(2.5)
    assert reader.watts("5000,500") is None, "a line that was cut"
    assert reader.watts("time_s,power_w") is None
    assert reader.watts("1.5,3") == 3


def test_the_integral_is_the_trapezoids() -> None:
    times = [0.0, 1.0, 2.0, 3.0]
    watts = [0.0, 2.0, 2.0, 4.0]
    assert integrals(times, watts, [0, 1, 2, 3]) == pytest.approx([1.0, 2.0, 3.0])
    assert integrals(times, watts, [0.5, 1.5]) == pytest.approx([0.75 + 1.0]), (
        "the ends lie on the lines between readings"
    )
    assert integrals(times, watts, [0.25, 0.75]) == pytest.approx([0.5]), "no reading in between is needed"


def test_the_integral_of_a_known_wave() -> None:
    """5 W with a wave of 2 W of one second: whole seconds hold 5 J each, the first half second 2.5 + 2 / pi."""
    times = [at / 200 for at in range(2001)]
    watts = [5 + 2 * math.sin(2 * math.pi * at) for at in times]
    assert integrals(times, watts, [1, 2, 3, 7]) == pytest.approx([5, 5, 20], rel=1e-4)
    assert integrals(times, watts, [1, 1.5]) == pytest.approx([2.5 + 2 / math.pi], rel=1e-4)


@pytest.mark.parametrize(("gap", "known"), [(2.5, True), (2.51, False)])
def test_a_silence_of_more_than_two_and_a_half_seconds_is_no_measurement(gap: float, known: bool) -> None:
    times, watts = [0.0, 1.0, 1.0 + gap, 2.0 + gap], [3.0] * 4
    if known:
        assert integrals(times, watts, [0, 2 + gap]) == pytest.approx([3 * (2 + gap)])
    else:
        with pytest.raises(ConnectError, match=r"silent for 2\.5 s"):
            integrals(times, watts, [0, 2 + gap])
    for bounds in ([-2.51, 0.5], [1 + gap, 4.52 + gap]):
        with pytest.raises(ConnectError):
            integrals(times, watts, bounds)


def test_the_port_may_say_its_speed() -> None:
    assert powermeter.place("/dev/ttyUSB0") == ("/dev/ttyUSB0", 115200)
    assert powermeter.place("/dev/ttyUSB0@9600") == ("/dev/ttyUSB0", 9600)
    for wrong in ("@9600", "/dev/ttyUSB0@fast", "/dev/ttyUSB0@0"):
        with pytest.raises(UserError, match="is no power meter"):
            powermeter.place(wrong)


class FakeMeter:
    """A meter on a pseudo-terminal, `name`: says what `line` gives, a hundred times a second, until it is closed."""

    def __init__(self, line: Callable[[float], str]) -> None:
        self.line = line
        self.master, slave = pty.openpty()
        tty.setraw(slave)
        self.name = os.ttyname(slave)
        self.slave = slave
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.talk)
        self.thread.start()

    def talk(self) -> None:
        os.set_blocking(self.master, False)
        while not self.ended.wait(0.01):
            with contextlib.suppress(BlockingIOError):  # nobody listens
                os.write(self.master, self.line(time.monotonic()).encode())

    def close(self) -> None:
        if not self.ended.is_set():
            self.ended.set()
            self.thread.join()
            os.close(self.slave)
            os.close(self.master)


@pytest.fixture
def plugged() -> Iterator[Callable[[Callable[[float], str]], FakeMeter]]:
    """Makes meters that are gone after the test."""
    made: list[FakeMeter] = []

    def plug(line: Callable[[float], str]) -> FakeMeter:
        made.append(FakeMeter(line))
        return made[-1]

    yield plug
    for meter in made:
        meter.close()


def test_a_meter_is_listened_to(plugged: Callable[..., FakeMeter]) -> None:
    """Its power is 100 W for each second of the clock since the test began, so the energy between two times is known."""
    begun = time.monotonic()
    fake = plugged(lambda now: f"{100 * (now - begun):.6f} 1.0\r\n")
    with PowerMeter(fake.name) as meter:
        wait_until(lambda: meter.times and meter.times[-1] - meter.times[0] > 0.5)
        a, b, c = (meter.times[0] + step for step in (0.1, 0.3, 0.45))
        first, second = meter.energy([a, b, c])
    assert first == pytest.approx(50 * ((b - begun) ** 2 - (a - begun) ** 2), rel=0.1)
    assert second == pytest.approx(50 * ((c - begun) ** 2 - (b - begun) ** 2), rel=0.1)


def test_a_line_that_began_before_we_listened_is_no_reading(plugged: Callable[..., FakeMeter]) -> None:
    sent = iter(["99 9", "9\n", "5 1\n"])
    fake = plugged(lambda _: next(sent, "5 1\n"))
    with PowerMeter(fake.name) as meter:
        assert set(meter.watts) == {5.0}


def test_a_line_that_is_too_long_is_no_reading(
    plugged: Callable[..., FakeMeter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(powermeter, "LINE_BYTES", 20)
    sent = iter(["\n", "noise", "noise", "noise", "   9 9\n", "9 9".rjust(20) + "\n", "7 1".rjust(19) + "\n"])
    fake = plugged(lambda _: next(sent, "5 1\n"))
    with PowerMeter(fake.name) as meter:
        wait_until(lambda: 5.0 in meter.watts)
        assert set(meter.watts) == {7.0, 5.0}


def test_a_header_that_is_the_first_line_counts(plugged: Callable[..., FakeMeter]) -> None:
    sent = iter(["time_s,power_mw\n"])
    fake = plugged(lambda now: next(sent, f"{now},3000\n"))
    with PowerMeter(fake.name) as meter:
        assert set(meter.watts) == {3.0}


def test_a_meter_that_says_nothing_readable_is_an_error_that_shows_what_it_said(
    plugged: Callable[..., FakeMeter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(powermeter, "ANSWER_S", 0.3)
    with pytest.raises(ConnectError, match="'hello \\?\\[31m' is no reading") as caught:
        PowerMeter(plugged(lambda _: "hello \x1b[31m\n").name)
    assert "volts, amperes" in caught.value.hint
    with pytest.raises(ConnectError, match="nothing comes from it"):
        PowerMeter(plugged(lambda _: "").name)
    with pytest.raises(ConnectError, match="there is no /dev/ttyNONE"):
        PowerMeter("/dev/ttyNONE")


def test_a_meter_that_is_unplugged_ends_the_measurement_with_its_error(plugged: Callable[..., FakeMeter]) -> None:
    fake = plugged(lambda _: "5 1\n")
    with PowerMeter(fake.name) as meter:
        fake.close()
        wait_until(lambda: meter.error)
        with pytest.raises(EdgekitError) as caught:
            meter.energy([meter.times[0], meter.times[-1]])
        assert isinstance(caught.value, TransportClosed)
