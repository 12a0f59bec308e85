"""What Android tells of itself by its own programs: getprop for what it is, dumpsys for heat and power.

Standard library only, Python 3.9. Formats: AOSP, BatteryService.dump and ThermalManagerService.dump; older releases have
no thermalservice and say so.
"""

import os
import re

GETPROP = "/system/bin/getprop"
DUMPSYS = "/system/bin/dumpsys"
ANSWER_S = 10
CPU = 0  # TemperatureType of android.hardware.thermal
PLUGS = ("AC", "USB", "Wireless", "Dock")


def ask(*argv):
    """What a program prints, "" when it cannot."""
    import subprocess

    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=ANSWER_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace")


def facts():
    """Release, model, SoC and build; {} where this is not Android."""
    if not os.path.exists(GETPROP):
        return {}
    return described(ask(GETPROP))


def evidence():
    """Battery and thermal status now; {} where this is not Android."""
    if not os.path.exists(DUMPSYS):
        return {}
    return dict(battery(ask(DUMPSYS, "battery")), **thermal(ask(DUMPSYS, "thermalservice")))


def described(text):
    """The facts in the output of getprop."""
    found = dict(re.findall(r"^\[([^\]]+)\]: \[(.*)\]$", text, re.M))

    def first(*names):
        return next((found[name] for name in names if found.get(name)), "")

    def joined(maker, name):
        return name if name.lower().startswith(maker.lower()) else ("%s %s" % (maker, name)).strip()

    release, api = first("ro.build.version.release"), first("ro.build.version.sdk")
    facts = {
        "os": "Android %s (API %s)" % (release, api) if release else "",
        "model": joined(first("ro.product.manufacturer"), first("ro.product.model", "ro.product.name")),
        "soc": joined(first("ro.soc.manufacturer"), first("ro.soc.model", "ro.board.platform", "ro.hardware")),
        "build": first("ro.build.fingerprint", "ro.build.display.id"),
    }
    return {name: value for name, value in facts.items() if value}


def battery(text):
    """Charge and temperature in the output of `dumpsys battery`; {} for a device without one."""
    found = dict(re.findall(r"^\s*([\w ]+?): (\S+)\s*$", text, re.M))
    if found.get("present") == "false":
        return {}
    told = {}
    level, scale, tenths = (found.get(name, "") for name in ("level", "scale", "temperature"))
    if level.isdigit() and scale.isdigit() and int(scale):
        told["battery_percent"] = round(100 * int(level) / int(scale))
    if re.match(r"-?\d+$", tenths):
        told["battery_temperature_c"] = int(tenths) / 10
    powered = [plug for plug in PLUGS if found.get(plug + " powered") == "true"]
    if told:
        told["plugged"] = ", ".join(powered) or "no"
    return told


def thermal(text):
    """Thermal status (0 none ... 6 shutdown) and the hottest CPU sensor in the output of `dumpsys thermalservice`."""
    told = {}
    status = re.search(r"^\s*Thermal Status: (\d+)", text, re.M)
    if status:
        told["thermal_status"] = int(status.group(1))
    # The last section is what the sensors say now; those before it are what was last announced.
    now = text.rpartition("Current temperatures")[2]
    sensors = re.findall(r"mValue=(-?[\d.]+), mType=(\d+)", now)
    degrees = [float(value) for value, kind in sensors if int(kind) == CPU and float(value) > 0]
    if degrees:
        told["temperature_millic"] = round(max(degrees) * 1000)
    return told
