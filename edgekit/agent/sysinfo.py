"""What the device says of itself, read from /proc and /sys: facts for the report, evidence for or against a figure."""

import os
import time

from . import android

VCGENCMD = ("/usr/bin/vcgencmd", "/opt/vc/bin/vcgencmd")


def read(path):
    """A small text file stripped, or None when it is not there or not readable."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read().replace("\0", "").strip()
    except OSError:
        return None


def number(path):
    """An integer in a file, or None."""
    text = read(path)
    try:
        return int(text) if text else None
    except ValueError:
        return None


def cpu():
    """Model name, part and feature flags, from /proc/cpuinfo."""
    text = read("/proc/cpuinfo") or ""
    found, parts = {}, {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        key = key.strip().lower()
        if key == "cpu part":
            parts[value.strip()] = parts.get(value.strip(), 0) + 1
        if key in (
            "model name",
            "cpu implementer",
            "cpu part",
            "cpu variant",
            "cpu revision",
            "features",
            "flags",
            "model",
        ):
            found.setdefault(key.replace(" ", "_"), value.strip())
    flags = found.pop("flags", None) or found.pop("features", "")
    wanted = (
        "asimd",
        "fp",
        "asimdhp",
        "asimddp",
        "i8mm",
        "bf16",
        "sve",
        "sse4_2",
        "avx2",
        "fma",
        "avx512_vnni",
        "amx_int8",
    )
    found["features"] = [flag for flag in wanted if flag in flags.split()]
    if parts:
        found["parts"] = parts  # of big and small cores there are several
    return found


def soc():
    """The name of the chip, where the kernel tells it."""
    base = "/sys/devices/soc0/"
    named = [read(base + name) for name in ("machine", "soc_id")]
    return next((name for name in named if name), None)


def over_cores(name):
    """What a cpufreq file says of each core, in their order; [] where the kernel does not tell."""
    found = [read("/sys/devices/system/cpu/cpu%d/cpufreq/%s" % (core, name)) for core in range(os.cpu_count() or 1)]
    return [text for text in found if text]


def hottest():
    """The highest temperature that a sensor shows, in thousandths of a degree Celsius, or None."""
    found = []
    for zone in range(32):
        value = number("/sys/class/thermal/thermal_zone%d/temp" % zone)
        if value is None and zone > 3:
            break
        if value is not None and 0 < value < 200_000:
            found.append(value)
    return max(found) if found else None


def throttled():
    """The throttle bits of a Raspberry Pi's firmware, or None elsewhere. From sysfs alone; asking vcgencmd starts a program."""
    return hexadecimal(read("/sys/devices/platform/soc/soc:firmware/get_throttled"))


def vcgencmd():
    """The same bits from the firmware's own program (it prints throttled=0x50000), where the kernel has no file for them."""
    for path in VCGENCMD:
        if os.access(path, os.X_OK):
            name, _, bits = android.ask(path, "get_throttled").strip().partition("=")
            return hexadecimal(bits) if name == "throttled" else None
    return None


def hexadecimal(text):
    """The number in a text such as 50000 or 0x50000, or None."""
    try:
        return int(text, 16) if text else None
    except ValueError:
        return None


def on_battery():
    """Whether a machine with a mains plug runs without it; None where there is no such plug to read of."""
    base, online = "/sys/class/power_supply", []
    try:
        supplies = os.listdir(base)
    except OSError:
        return None
    for name in supplies:
        if read("%s/%s/type" % (base, name)) == "Mains":
            online.append(number("%s/%s/online" % (base, name)))
    return not any(online) if online else None


def meminfo():
    """MemTotal and MemAvailable in bytes."""
    values = {}
    for line in (read("/proc/meminfo") or "").splitlines():
        key, _, rest = line.partition(":")
        if key in ("MemTotal", "MemAvailable") and rest.split():
            values[key] = int(rest.split()[0]) * 1024
    return values


def system():
    """Facts that do not change while the agent lives."""
    uname = os.uname()
    release = {}
    for line in (read("/etc/os-release") or "").splitlines():
        key, _, value = line.partition("=")
        release[key] = value.strip('"')
    facts = {
        "machine": uname.machine,
        "kernel": uname.release,
        "os": release.get("PRETTY_NAME"),
        "model": read("/proc/device-tree/model"),
        "soc": soc(),
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "max_khz": sorted({int(khz) for khz in over_cores("cpuinfo_max_freq") if khz.isdigit()}) or None,
        "page_bytes": os.sysconf("SC_PAGE_SIZE"),
        "memory_bytes": meminfo().get("MemTotal"),
    }
    return {key: value for key, value in dict(facts, **android.facts()).items() if value is not None}


def clocks(name="scaling_cur_freq"):
    """What the kernel tells of the cores' clocks in kHz, or another of its cpufreq files: core -> kHz; {} where it does not."""
    found = {}
    for core in range(os.cpu_count() or 1):
        khz = number("/sys/devices/system/cpu/cpu%d/cpufreq/%s" % (core, name))
        if khz:
            found[core] = khz
    return found


def evidence():
    """What can weaken a figure, now: governor, clocks, temperature, throttling, load, free memory, power.

    `frequency_khz` and `frequency_max_khz` are the lowest and the highest clock of any core, `limit_khz` the highest that one
    may take now: heat lowers it.
    """
    governors = sorted(set(over_cores("scaling_governor")))
    limits = [int(khz) for khz in over_cores("scaling_max_freq") if khz.isdigit()]
    khz = list(clocks().values())
    try:
        load = list(os.getloadavg())
    except OSError:
        load = None
    found = {
        "governor": ", ".join(governors) or None,
        "frequency_khz": min(khz, default=None),
        "frequency_max_khz": max(khz, default=None),
        "limit_khz": max(limits, default=None),
        "temperature_millic": hottest(),
        "throttled": throttled(),
        "load": load,
        "available_bytes": meminfo().get("MemAvailable"),
        "on_battery": on_battery(),
    }
    return {key: value for key, value in found.items() if value is not None}


def told():
    """What only a program tells: Android's thermal status and battery, the throttle bits of a Raspberry Pi without the file.

    {} where there are no such programs. Starting one takes time of the device, so this is no part of a sample.
    """
    bits = None if throttled() is not None else vcgencmd()
    return dict(android.evidence(), **({} if bits is None else {"throttled": bits}))


def state():
    """What a device needs to be used, now: room on its disk, its clock, its C library, and what can weaken a figure."""
    disk = os.statvfs(".")
    try:
        libc = os.confstr("CS_GNU_LIBC_VERSION")
    except (ValueError, OSError):
        libc = None
    found = dict(evidence(), **told())
    found.update(free_bytes=disk.f_bavail * disk.f_frsize, clock_s=time.time(), libc=libc)
    return {key: value for key, value in found.items() if value is not None}
