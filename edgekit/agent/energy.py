"""What a device can tell of its own energy: RAPL counters of the CPU, the gauge of a battery. Standard library only, Python 3.9.

Sources: Linux, Documentation/power/powercap/powercap.rst (energy_uj, max_energy_range_uj) and
Documentation/ABI/testing/sysfs-class-power (uA, uV, uW); AOSP, BatteryService.dump (charge counter in uAh, voltage in mV).
"""

import os
import re

from . import android
from .sysinfo import number, read

# An energy in uJ is 1 uAh (3.6 mC) at 1 mV.
UJ_PER_UAH_MV = 3.6
LEAST_UW = 10_000  # a device that runs a model draws more; less means a gauge that does not keep to the kernel's units
# What a battery holds and shows; beyond, the counter does not keep to AOSP's units: mAh, nAh, V and uV have been seen.
LEAST_UAH, MOST_UAH = 50_000, 100_000_000
LEAST_MV, MOST_MV = 2_000, 60_000


class NoEnergy(Exception):
    """This device does not tell its energy; the message says why, and what can be done."""


class Rapl:
    """The energy of all CPU packages, Intel's or AMD's, in uJ since the first reading."""

    idle_s, seconds, settle_s, window_s = 8.0, 20.0, 1.0, 1.0
    coarse = False

    def __init__(self, zones):
        self.zones = zones
        names = ", ".join(read(os.path.join(zone, "name")) for zone in zones)
        self.method = "RAPL (%s)" % names
        self.ranges = [number(os.path.join(zone, "max_energy_range_uj")) or 0 for zone in zones]
        self.last = self.raw()
        self.total = 0

    def raw(self):
        """The counters as they stand, in uJ. Raises NoEnergy."""
        found = [number(os.path.join(zone, "energy_uj")) for zone in self.zones]
        if None in found:
            raise NoEnergy(
                "this user may not read the RAPL counter: sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj"
            )
        return found

    def reading(self):
        """{"uj": energy since the first reading}; a counter that has wrapped goes on from its range. Raises NoEnergy."""
        now = self.raw()
        for before, after, span in zip(self.last, now, self.ranges):
            step = after - before if after >= before else after - before + span
            if step < 0:
                raise NoEnergy("a RAPL counter fell from %d to %d uJ, and its range is %d" % (before, after, span))
            self.total += step
        self.last = now
        return {"uj": self.total}


class Gauge:
    """The power that a battery's gauge says is drawn from it, in uW; gauges show a mean over seconds."""

    idle_s, seconds, settle_s, window_s = 40.0, 60.0, 10.0, 1.0
    coarse = False

    def __init__(self, folder):
        self.folder = folder
        status = read(os.path.join(folder, "status")) or "not known"
        if status != "Discharging":
            raise charging("its state is '%s'" % status)
        power = self.number("power_now")
        self.method = "battery gauge (%s)" % ("power_now" if power is not None else "current_now x voltage_now")
        if self.power() < LEAST_UW:
            raise NoEnergy("the battery's gauge shows %d uW, which no running device draws" % self.power())

    def number(self, name):
        """A file of the gauge, or None."""
        return number(os.path.join(self.folder, name))

    def power(self):
        """uW, whatever sign the driver gives to a current that leaves the battery. Raises NoEnergy."""
        power = self.number("power_now")
        if power is not None:
            return abs(power)
        current, voltage = self.number("current_now"), self.number("voltage_now")
        if current is None or voltage is None:
            raise NoEnergy("the battery's gauge tells no current")
        return abs(current) * voltage // 1_000_000

    def reading(self):
        """{"uw": the power now}. Raises NoEnergy when a charger was plugged in meanwhile."""
        if (status := read(os.path.join(self.folder, "status"))) != "Discharging":
            raise charging("its state became '%s'" % status)
        return {"uw": self.power()}


class ChargeCounter:
    """The charge that has left an Android's battery, in uJ at the voltage of the time; it moves in steps, so it needs minutes."""

    idle_s, seconds, settle_s, window_s = 160.0, 180.0, 10.0, 4.0
    coarse = True
    method = "battery charge counter (dumpsys battery)"

    def __init__(self, dump=lambda: android.ask(android.DUMPSYS, "battery")):
        self.dump = dump
        self.last = self.charge()[0]
        self.total = 0.0

    def charge(self):
        """The charge that is left in uAh, and the voltage in mV. Raises NoEnergy."""
        text = self.dump()
        plugged = android.battery(text).get("plugged")
        if plugged != "no":
            raise charging("it is on %s power" % plugged if plugged else "it does not say how it is powered")
        charge = re.search(r"^\s*Charge counter: (\d+)\s*$", text, re.M)
        voltage = re.search(r"^\s*voltage: (\d+)\s*$", text, re.M)
        if not charge or not voltage or not int(charge.group(1)) or not int(voltage.group(1)):
            raise NoEnergy("the battery tells neither its current nor its charge")
        left, millivolts = int(charge.group(1)), int(voltage.group(1))
        percent = max(1, android.battery(text).get("battery_percent", 100))
        if not (LEAST_UAH <= 100 * left / percent <= MOST_UAH and LEAST_MV <= millivolts <= MOST_MV):
            shown = (left, percent, millivolts)
            raise NoEnergy("the battery's counter shows %d uAh at %d %% and %d mV, which no battery does" % shown)
        return left, millivolts

    def reading(self):
        """{"uj": energy since the first reading}."""
        charge, millivolts = self.charge()
        self.total += (self.last - charge) * millivolts * UJ_PER_UAH_MV
        self.last = charge
        return {"uj": round(self.total)}


def charging(why):
    """The NoEnergy of a battery that does not feed the device alone."""
    return NoEnergy(
        "the battery is not what feeds the device (%s): unplug it; a phone is then reached by adb over Wi-Fi" % why
    )


def find(sysfs="/sys", dumpsys=android.DUMPSYS):
    """The best source of this device. Raises NoEnergy. `sysfs` is where the kernel shows it, `dumpsys` Android's program."""
    zones = packages(os.path.join(sysfs, "class/powercap"))
    if zones:
        return Rapl(zones)
    gauge = battery(os.path.join(sysfs, "class/power_supply"))
    if gauge and readable(gauge):
        return Gauge(gauge)
    if os.path.exists(dumpsys):
        return ChargeCounter(lambda: android.ask(dumpsys, "battery"))
    if gauge:
        raise NoEnergy("this user may not read the battery's gauge")
    raise NoEnergy("this device has neither a RAPL counter nor a battery")


def entries(folder):
    """The paths in a folder of the kernel's, in their order; [] where there is none for this user."""
    try:
        return [os.path.join(folder, name) for name in sorted(os.listdir(folder))]
    except OSError:
        return []


def packages(folder):
    """The RAPL zones of whole CPU packages; their cores and memory are subzones of them, and the platform (psys) holds them."""
    zones = [place for place in entries(folder) if re.search(r"/intel-rapl:\d+$", place)]
    return [zone for zone in zones if (read(os.path.join(zone, "name")) or "").startswith("package")]


def battery(folder):
    """The battery that feeds the device, not that of a mouse; of several the one in use. None where there is none."""
    found = []
    for place in entries(folder):
        if read(os.path.join(place, "type")) == "Battery" and read(os.path.join(place, "scope")) != "Device":
            found.append((read(os.path.join(place, "status")) != "Discharging", place))
    return min(found)[1] if found else None


def readable(folder):
    """Whether a gauge tells power or current to this user; Android keeps it from the shell on many phones."""
    return any(number(os.path.join(folder, name)) is not None for name in ("power_now", "current_now"))
