"""What the device says of itself, read from /proc and /sys: facts for the report, evidence for or against a figure."""

import os
import time

from . import android


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
    """The throttle bits of a Raspberry Pi's firmware (vcgencmd get_throttled), or None elsewhere."""
    text = read("/sys/devices/platform/soc/soc:firmware/get_throttled")
    try:
        return int(text, 16) if text else None
    except ValueError:
        return None


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


def evidence():
    """What can weaken a figure, now: governor, frequency, temperature, throttling, load, free memory."""
    base = "/sys/devices/system/cpu/cpu0/cpufreq/"
    governors = sorted(set(over_cores("scaling_governor")))
    try:
        load = list(os.getloadavg())
    except OSError:
        load = None
    found = {
        "governor": ", ".join(governors) or None,
        "frequency_khz": number(base + "scaling_cur_freq"),
        "temperature_millic": hottest(),
        "throttled": throttled(),
        "load": load,
        "available_bytes": meminfo().get("MemAvailable"),
    }
    return {key: value for key, value in dict(found, **android.evidence()).items() if value is not None}


def state():
    """What a device needs to be used, now: room on its disk, its clock, its C library, and what can weaken a figure."""
    disk = os.statvfs(".")
    try:
        libc = os.confstr("CS_GNU_LIBC_VERSION")
    except (ValueError, OSError):
        libc = None
    found = dict(evidence(), free_bytes=disk.f_bavail * disk.f_frsize, clock_s=time.time(), libc=libc)
    return {key: value for key, value in found.items() if value is not None}
