"""Energy per inference: RAPL and batteries in a made-up /sys, Android's charge counter, the figures, the reasons for none."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from harness import FAKE_BOARD, FAKE_DEVICE

from edgekit import config, energy
from edgekit.agent import energy as source
from edgekit.agent.energy import Gauge, NoEnergy, Rapl
from edgekit.energy import Interval, Phases
from edgekit.errors import ConnectError, UserError
from edgekit.report import Report, Reports
from edgekit.report.energy import lines, millijoules
from edgekit.types import Cell, Json

LOCAL, BOARD = config.device(str(FAKE_DEVICE)), config.device(str(FAKE_BOARD))
NOTHING = "/nonexistent/dumpsys"


def rapl(sysfs: Path, zones: dict[str, tuple[str, int]]) -> None:
    """Zones of a powercap tree, each with its domain and its counter, whose range is 1000 uJ."""
    for name, (domain, uj) in zones.items():
        zone = sysfs / "class/powercap" / name
        zone.mkdir(parents=True, exist_ok=True)
        for file, text in (("name", domain), ("energy_uj", uj), ("max_energy_range_uj", 1000)):
            (zone / file).write_text(f"{text}\n")


def supply(sysfs: Path, name: str, **files: object) -> Path:
    """A power supply."""
    folder = sysfs / "class/power_supply" / name
    folder.mkdir(parents=True)
    for file, text in files.items():
        (folder / file).write_text(f"{text}\n")
    return folder


def dumpsys(folder: Path, **changes: str | None) -> str:
    """Android's program, which tells of a battery in the words of AOSP."""
    words = {
        "AC powered": "false", "USB powered": "false", "Wireless powered": "false", "Dock powered": "false",
        "Max charging current": "0", "Charge counter": "2500000", "status": "3", "present": "true", "level": "80",
        "scale": "100", "voltage": "4000", "temperature": "300", **changes,
    }  # fmt: skip
    told = "".join(f"  {name}: {value}\n" for name, value in words.items() if value is not None)
    program = folder / "dumpsys"
    program.write_text(f"#!/bin/sh\ncat <<'END'\nCurrent Battery Service state:\n{told}END\n")
    program.chmod(0o755)
    return str(program)


def test_whole_packages_are_counted_and_nothing_twice(tmp_path: Path) -> None:
    zones = {
        "intel-rapl": ("", 0),
        "intel-rapl:0": ("package-0", 100),
        "intel-rapl:0:0": ("core", 60),
        "intel-rapl:0:1": ("dram", 10),
        "intel-rapl:1": ("package-1", 200),
        "intel-rapl:2": ("psys", 900),
        "intel-rapl-mmio:0": ("package-0", 100),
    }
    rapl(tmp_path, zones)
    found = source.find(str(tmp_path), NOTHING)
    assert isinstance(found, Rapl)
    assert found.method == "RAPL (package-0, package-1)"
    assert found.reading() == {"uj": 0}
    rapl(tmp_path, zones | {"intel-rapl:0": ("package-0", 150), "intel-rapl:0:0": ("core", 999)})
    assert found.reading() == {"uj": 50}
    rapl(tmp_path, {"intel-rapl:1": ("package-1", 230)})
    assert found.reading() == {"uj": 80}


def test_a_counter_that_wraps_goes_on(tmp_path: Path) -> None:
    rapl(tmp_path, {"intel-rapl:0": ("package-0", 900)})
    found = source.find(str(tmp_path), NOTHING)
    for uj, total in ((1000, 100), (0, 100), (50, 150), (49, 1149), (49, 1149)):
        rapl(tmp_path, {"intel-rapl:0": ("package-0", uj)})
        assert found.reading() == {"uj": total}


@pytest.mark.parametrize("span", ["0", "nonsense", "800"])
def test_a_counter_that_falls_beyond_its_range_is_no_energy(tmp_path: Path, span: str) -> None:
    rapl(tmp_path, {"intel-rapl:0": ("package-0", 900)})
    (tmp_path / "class/powercap/intel-rapl:0/max_energy_range_uj").write_text(span)
    found = source.find(str(tmp_path), NOTHING)
    (tmp_path / "class/powercap/intel-rapl:0/energy_uj").write_text("950")
    assert found.reading() == {"uj": 50}
    (tmp_path / "class/powercap/intel-rapl:0/energy_uj").write_text("100")
    with pytest.raises(NoEnergy, match="fell from 950 to 100 uJ"):
        found.reading()


def test_a_counter_that_only_root_may_read_is_said_with_its_cure(tmp_path: Path) -> None:
    """Tests may run as root, whom permissions do not stop: the file is one that cannot be read."""
    rapl(tmp_path, {"intel-rapl:0": ("package-0", 900)})
    (tmp_path / "class/powercap/intel-rapl:0/energy_uj").unlink()
    (tmp_path / "class/powercap/intel-rapl:0/energy_uj").mkdir()
    with pytest.raises(NoEnergy, match=r"may not read the RAPL counter: sudo chmod a\+r /sys/class/powercap"):
        source.find(str(tmp_path), NOTHING)


def test_a_battery_is_read_by_its_power_or_by_current_and_voltage(tmp_path: Path) -> None:
    supply(tmp_path, "AC", type="Mains", online=0)
    supply(tmp_path, "hid-mouse", type="Battery", scope="Device", status="Discharging", power_now=10**9)
    supply(tmp_path, "BAT0", type="Battery", status="Unknown", power_now=5)
    gauge = supply(tmp_path, "BAT1", type="Battery", status="Discharging", current_now=-500_000, voltage_now=4_000_000)
    found = source.find(str(tmp_path), NOTHING)
    assert isinstance(found, Gauge)
    assert found.method == "battery gauge (current_now x voltage_now)"
    assert found.reading() == {"uw": 2_000_000}
    (gauge / "power_now").write_text("3000000\n")
    assert source.find(str(tmp_path), NOTHING).method == "battery gauge (power_now)"
    assert found.reading() == {"uw": 3_000_000}
    (gauge / "status").write_text("Charging\n")
    with pytest.raises(NoEnergy, match="its state became 'Charging'"):
        found.reading()


@pytest.mark.parametrize("status", ["Charging", "Full", "Not charging", "Unknown"])
def test_a_battery_that_does_not_feed_the_device_is_refused(tmp_path: Path, status: str) -> None:
    supply(tmp_path, "battery", type="Battery", status=status, power_now=2_000_000)
    with pytest.raises(NoEnergy, match=f"its state is '{status}'.*unplug it.*Wi-Fi"):
        source.find(str(tmp_path), NOTHING)


@pytest.mark.parametrize(("current", "taken"), [(2500, True), (2499, False), (400, False)])
def test_a_gauge_in_other_units_is_not_believed(tmp_path: Path, current: int, taken: bool) -> None:
    """10 mW at 4 V; 400 is what a gauge in mA shows of a phone at work."""
    supply(tmp_path, "battery", type="Battery", status="Discharging", current_now=current, voltage_now=4_000_000)
    if taken:
        assert source.find(str(tmp_path), NOTHING).reading() == {"uw": 10_000}
    else:
        with pytest.raises(NoEnergy, match="which no running device draws"):
            source.find(str(tmp_path), NOTHING)


def test_androids_charge_counter_stands_in_for_a_gauge_that_is_hidden(tmp_path: Path) -> None:
    """1000 uAh are 3.6 C, and those at 4 V 14.4 J."""
    program = dumpsys(tmp_path)
    found = source.find(str(tmp_path), program)
    assert (found.method, found.coarse) == ("battery charge counter (dumpsys battery)", True)
    assert found.reading() == {"uj": 0}
    dumpsys(tmp_path, **{"Charge counter": "2499000"})
    assert found.reading() == {"uj": 14_400_000}
    dumpsys(tmp_path, **{"Charge counter": "2498000", "voltage": "3900"})
    assert found.reading() == {"uj": 28_440_000}
    dumpsys(tmp_path, **{"Charge counter": "2498000", "USB powered": "true"})
    with pytest.raises(NoEnergy, match=r"it is on USB power.*unplug it"):
        found.reading()


@pytest.mark.parametrize(
    ("counter", "percent", "millivolts", "taken"),
    [
        (2_500_000, 80, 4000, True),
        (2_500, 80, 4000, False),  # mAh
        (2_500_000_000, 20, 4000, False),  # nAh
        (2_500_000, 80, 4_000_000, False),  # uV
        (2_500_000, 80, 4, False),  # V
        (50_000, 100, 2000, True),
        (49_999, 100, 2000, False),
        (50_000, 100, 1999, False),
        (25_000, 50, 60_000, True),  # by the charge of a full one
        (25_000, 50, 60_001, False),
        (100_000_000, 100, 4000, True),
        (100_000_001, 100, 4000, False),
        (60_000, 0, 4000, True),  # nearly empty
    ],
)
def test_a_counter_in_other_units_is_not_believed(
    tmp_path: Path, counter: int, percent: int, millivolts: int, taken: bool
) -> None:
    program = dumpsys(tmp_path, **{"Charge counter": str(counter), "level": str(percent), "voltage": str(millivolts)})
    if taken:
        assert source.find(str(tmp_path), program).reading() == {"uj": 0}
    else:
        with pytest.raises(NoEnergy, match="which no battery does"):
            source.find(str(tmp_path), program)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"USB powered": "true"}, "on USB power"),
        ({"present": "false"}, "does not say how it is powered"),
        ({"Charge counter": "0"}, "neither its current nor its charge"),
        ({"Charge counter": None}, "neither its current nor its charge"),
    ],
)
def test_an_android_that_tells_nothing_says_why(tmp_path: Path, changes: dict[str, str | None], why: str) -> None:
    with pytest.raises(NoEnergy, match=why):
        source.find(str(tmp_path), dumpsys(tmp_path, **changes))


def test_a_device_without_anything_says_so(tmp_path: Path) -> None:
    with pytest.raises(NoEnergy, match="neither a RAPL counter nor a battery"):
        source.find(str(tmp_path), NOTHING)
    supply(tmp_path, "battery", type="Battery", status="Discharging")
    with pytest.raises(NoEnergy, match="may not read the battery's gauge"):
        source.find(str(tmp_path), NOTHING)


def pass_of(idle_mw: list[float], active_mw: list[float], calls: int = 100) -> Phases:
    """One-second intervals of these powers."""
    powers = [*((mw, 0) for mw in idle_mw), *((mw, calls) for mw in active_mw)]
    return Phases([Interval(at, at + 1.0, n, mw) for at, (mw, n) in enumerate(powers)])


def test_the_figures() -> None:
    told = energy.figures(pass_of([1000, 1010, 990] * 3, [3000, 3030, 2970] * 5, calls=100), 0)
    assert told["idle_mw"] == pytest.approx(1000)
    assert told["active_mw"] == pytest.approx(3000)
    assert told["mj_per_inference"] == pytest.approx(30), "3 W for 10 ms"
    assert told["mj_above_idle"] == pytest.approx(20)
    assert (told["seconds"], told["calls"], told["noisy"]) == (15.0, 1500, False)


def test_each_phase_is_left_to_settle() -> None:
    told = energy.figures(pass_of([9000, 9000] + [1000] * 4, [1000, 9000] + [3000] * 4), 2.0)
    assert (told["idle_mw"], told["active_mw"], told["calls"]) == (pytest.approx(1000), pytest.approx(3000), 400)


@pytest.mark.parametrize(("active", "noisy"), [(1040, True), (1041, False), (900, True)])
def test_a_difference_within_two_standard_errors_is_noise(active: float, noisy: bool) -> None:
    """Each phase: four intervals that deviate by sqrt(800), so its standard error is 14.14 mW, and that of the difference 20."""
    swing = 600**0.5
    phases = [[level + swing, level - swing] * 2 for level in (1000, active)]
    told = energy.figures(pass_of(*phases), 0)
    assert told["noisy"] is noisy


def test_the_error_covers_what_was_spent_as_often_as_two_deviations_do() -> None:
    """Nineteen windows of 5 W that scatter by 0.2 W, a hundred calls each of 50 mJ: 94 % by Student's t."""
    chance = random.Random(8)
    covered = 0
    for _ in range(1000):
        told = energy.figures(pass_of([1000.0] * 7, [chance.gauss(5000, 200) for _ in range(19)]), 0)
        covered += abs(told["mj_per_inference"] - 50) <= told["mj_error"]
    assert 0.92 <= covered / 1000 <= 0.96


@pytest.mark.parametrize(
    ("rise_mw", "least", "most"),
    [
        (0, 0.0, 0.06),  # no more than the model draws is seen where it draws nothing: 2.7 % of Student's t beyond 2
        (500, 0.98, 1.0),  # five standard errors
    ],
)
def test_how_often_a_rise_is_seen_in_noise(rise_mw: float, least: float, most: float) -> None:
    """Seven idle windows and nineteen busy ones that scatter by 224 mW: the difference is known to 99 mW."""
    chance = random.Random(7)
    seen = 0
    for _ in range(1000):
        idle, active = ([chance.gauss(mean, 224) for _ in range(n)] for mean, n in ((5000, 7), (5000 + rise_mw, 19)))
        seen += not energy.figures(pass_of(idle, active), 0)["noisy"]
    assert least <= seen / 1000 <= most


@pytest.mark.parametrize(("active", "noisy"), [(1001, True), (1002, False)])
def test_a_difference_of_a_thousandth_is_none(active: float, noisy: bool) -> None:
    assert energy.figures(pass_of([1000] * 4, [active] * 4), 0)["noisy"] is noisy


def test_too_little_is_no_figure() -> None:
    with pytest.raises(energy.NoEnergy, match="lasts so long"):
        energy.figures(pass_of([1000] * 3, [3000] * 2), 0)
    assert energy.figures(pass_of([1000] * 3, [3000] * 3), 0)
    with pytest.raises(energy.NoEnergy, match="stands still"):
        energy.figures(pass_of([0] * 3, [0] * 3), 0)
    with pytest.raises(energy.NoEnergy, match="leads are swapped"):
        energy.figures(pass_of([-5] * 3, [-9] * 3), 0)


@pytest.mark.parametrize(("steps", "enough"), [(20, True), (19, False)])
def test_a_counter_in_steps_has_to_move_twenty_times(steps: int, enough: bool) -> None:
    moved = [3000.0] * steps + [0.0] * 10
    if enough:
        assert energy.figures(pass_of(moved, moved), 0, coarse=True)
    else:
        with pytest.raises(energy.NoEnergy, match="less than 20 times"):
            energy.figures(pass_of(moved, moved), 0, coarse=True)
        assert energy.figures(pass_of(moved, moved), 0), "of a counter that always moves nothing is asked"


def test_windows_of_counters_and_of_gauges_become_the_same() -> None:
    times = [{"start_s": float(at), "end_s": at + 1.0, "calls": 0} for at in range(3)]
    counted = [window | {"uj": uj} for window, uj in zip(times, (500_000, 1_500_000, 4_500_000), strict=True)]
    assert [interval.mj for interval in Phases.told(counted).intervals] == [1000, 3000]
    shown = [window | {"uw": uw} for window, uw in zip(times, (1_000_000, 1_000_000, 5_000_000), strict=True)]
    assert [interval.mj for interval in Phases.told(shown).intervals] == [1000, 3000]


def test_the_time_that_a_reading_takes_is_part_of_the_window_after_it() -> None:
    """A quarter of a second between windows of one, at 1 W all along: no interval shows more."""
    times = [{"start_s": 1.25 * at, "end_s": 1.25 * at + 1, "calls": 0, "uj": 1_250_000 * at} for at in range(4)]
    told = Phases.told(times).intervals
    assert [energy.power_mw([interval]) for interval in told] == [pytest.approx(1000)] * 3


class Live:
    """A session whose agent sends these windows and answers this."""

    def __init__(self, windows: list[Json], answer: Json) -> None:
        self.windows, self.answer = windows, answer

    def call(self, op: str, args: Json, deadline_s: float, on_event: Callable[[Json], None]) -> Json:
        assert (op, args["model"]) == ("sustain", "m")
        for window in self.windows:
            on_event({"window": window, "timer": "native"})
        return self.answer


def measured(live: Live, power_meter: str | None = None) -> Json:
    """What energy.measure finds against it."""
    subject = SimpleNamespace(request=SimpleNamespace(power_meter=power_meter))
    found: Json = {"warnings": ()}
    cell = Cell("net", "tflite", "int8", "tflite", "local")
    energy.measure(subject, cell, live, {"model": "m"}, found, lambda _: None)  # type: ignore[arg-type]
    return found


def readings(idle_mw: int, active_mw: int) -> list[Json]:
    """Ten idle and ten busy windows with a counter."""
    found, uj = [], 0
    for at in range(20):
        uj += 1000 * (idle_mw if at < 10 else active_mw) + at % 3
        window = {"start_s": float(at), "end_s": at + 1.0, "calls": 0 if at < 10 else 50, "uj": uj}
        found.append(window if at < 10 else {**window, "p50_ns": 20_000_000})
    return found


def test_what_the_device_tells_becomes_energy_with_its_method() -> None:
    answer: Json = {"energy": {"method": "RAPL (package-0)", "settle_s": 1.0, "coarse": False}}
    found = measured(Live(readings(10_000, 25_000), answer))
    assert found["energy"]["method"] == "RAPL (package-0)"
    assert found["energy"]["mj_per_inference"] == pytest.approx(500)
    assert found["energy"]["mj_above_idle"] == pytest.approx(300)
    assert found["warnings"] == ()
    noisy = measured(Live(readings(10_000, 10_000), answer))
    assert [caveat.code for caveat in noisy["warnings"]] == ["energy-within-noise"]


def test_what_cannot_be_had_is_absent_and_its_reason_is_told() -> None:
    found = measured(Live([], {"no_energy": "the battery is charging"}))
    assert "energy" not in found
    (told,) = found["warnings"]
    assert told.code == "no-energy"
    assert "the battery is charging" in told.message and "--power-meter" in told.message
    unplugged = measured(Live([], {}), "/dev/ttyNONE")
    assert "energy" not in unplugged
    assert "there is no /dev/ttyNONE" in unplugged["warnings"][0].message


def test_what_makes_no_sense_is_refused_before_anything_is_done() -> None:
    energy.check(False, None, [LOCAL, BOARD])
    energy.check(True, None, [LOCAL])
    with pytest.raises(UserError, match="fake_board is emulated"):
        energy.check(True, None, [LOCAL, BOARD])
    with pytest.raises(UserError, match="measures one device"):
        energy.check(True, "/dev/ttyNONE", [LOCAL, LOCAL])
    with pytest.raises(ConnectError, match="there is no /dev/ttyNONE"):
        energy.check(True, "/dev/ttyNONE", [LOCAL])


def test_the_report_names_energy_and_method() -> None:
    told = {
        "mj_per_inference": 12.34,
        "mj_above_idle": 0.5,
        "active_mw": 2150,
        "idle_mw": 340,
        "method": "RAPL (package-0)",
    }
    cell: Json = {"runtime": "tflite", "precision": "int8", "threads": 1, "device": "local"}
    report = Report("run", FAKE_DEVICE, 1, {}, [cell, {**cell, "energy": told}], [])
    assert lines(Reports([report], {})) == [
        "energy: tflite int8: 12.3 mJ per inference, 500 uJ of it above idle "
        "(2.15 W running, 0.34 W idle; RAPL (package-0))"
    ]
    several = Report("run", FAKE_DEVICE, 1, {}, [{**cell, "batch": 8, "energy": told}], [])
    assert "12.3 mJ per call of 8 inputs, 500 uJ of it above idle" in lines(Reports([several], {}))[0]
    assert [millijoules(mj) for mj in (0.001, 0.9996, 999.4, 999.6, -3)] == ["1 uJ", "1 mJ", "999 mJ", "1 J", "-3 mJ"]
