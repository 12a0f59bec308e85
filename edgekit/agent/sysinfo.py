"""What the device says of itself, read from /proc and /sys: facts for the report, evidence for or against a figure."""

import os


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
    found = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        key = key.strip().lower()
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
    return found


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
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "page_bytes": os.sysconf("SC_PAGE_SIZE"),
        "memory_bytes": meminfo().get("MemTotal"),
    }
    return {key: value for key, value in facts.items() if value is not None}


def evidence():
    """What can weaken a figure, now: governor, frequency, temperature, load, free memory."""
    base = "/sys/devices/system/cpu/cpu0/cpufreq/"
    try:
        load = list(os.getloadavg())
    except OSError:
        load = None
    found = {
        "governor": read(base + "scaling_governor"),
        "frequency_khz": number(base + "scaling_cur_freq"),
        "temperature_millic": number("/sys/class/thermal/thermal_zone0/temp"),
        "load": load,
        "available_bytes": meminfo().get("MemAvailable"),
    }
    return {key: value for key, value in found.items() if value is not None}
