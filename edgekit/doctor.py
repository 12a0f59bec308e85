"""What this machine and a device need, checked one by one; each finding carries the exact command that mends it."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgekit import config, devices, plugins, session
from edgekit.cache import cache_dir
from edgekit.errors import AgentError, EdgekitError
from edgekit.evidence import SINCE_BOOT, THROTTLE_BITS
from edgekit.link import Link, duration
from edgekit.transports import Transport
from edgekit.types import Device, Json

FREE_BYTES = 2_000_000_000
DEVICE_FREE_BYTES = 150_000_000  # the userlands of three runtimes take 80
DEVICE_MEMORY_BYTES = 64_000_000
PAGE_BYTES = 65536  # what the libraries are aligned to
HOT_MILLIC = 75_000  # a Raspberry Pi slows down from 80 degrees on
CLOCK_S = 120.0
SHELL_S, HELLO_S, PROBE_S = 20.0, 20.0, 60.0
LOOK_FURTHER = "edgekit profile shows the whole error"
# program -> (Debian package, what it is for, whether a device needs it)
PROGRAMS: dict[str, tuple[str, str, Callable[[Device], bool]]] = {
    "gcc": ("gcc", "the native timing loop", lambda device: True),
    "g++": ("g++", "the ExecuTorch shim", lambda device: True),
    "qemu-aarch64": (
        "qemu-user",
        "emulated ARM devices, and trying what is built for real ones",
        lambda device: foreign(device),
    ),
    "aarch64-linux-gnu-g++": (
        "g++-aarch64-linux-gnu",
        "the ExecuTorch shim and timing loop for ARM",
        lambda device: foreign(device),
    ),
    "apt-get": ("apt", "a device's userland, on first use", lambda device: device.arch != "host"),
    "dpkg-deb": ("dpkg", "a device's userland, on first use", lambda device: device.arch != "host"),
    "qemu-system-aarch64": ("qemu-system-arm", "virtual machines", lambda device: device.transport == "vm"),
    "mke2fs": ("e2fsprogs", "the disk of virtual machines", lambda device: device.transport == "vm"),
}
# transport -> the pip extra that brings its Python package, and that package
LINKS = {
    "ssh": ("ssh", "paramiko"),
    "vm": ("ssh", "paramiko"),
    "adb": ("adb", "adbutils"),
    "serial": ("serial", "pyserial"),
}


@dataclass(frozen=True)
class Finding:
    """One check: what was looked at, whether it is well, what was seen, the command that mends it, and what could be better."""

    what: str
    ok: bool
    seen: str
    mend: str = ""
    advice: str = ""


def check(device_name: str | None, say: Callable[[str], None], connection: Json | None = None) -> Iterator[Finding]:
    """All findings, as they are made; with a device, also its agent and each of its runtimes."""
    device = config.device(device_name, connection) if device_name else None
    version = ".".join(str(part) for part in sys.version_info[:3])
    yield Finding("Python", sys.version_info >= (3, 11), version, "use Python 3.11 or newer")
    yield from check_programs(device)
    yield from check_packages(device)
    yield check_disk(cache_dir())
    if device:
        yield from check_device(device, say)


def check_programs(device: Device | None) -> Iterator[Finding]:
    """The programs of this machine that edgekit calls."""
    for program, (package, purpose, needed) in PROGRAMS.items():
        if device and not needed(device):
            continue
        where = found(program)
        yield Finding(
            program, bool(where), "found" if where else f"missing: needed for {purpose}", f"apt-get install {package}"
        )


def foreign(device: Device) -> bool:
    """Whether what runs there is built here for ARM."""
    return device.arch in ("aarch64", "armv7")


def found(program: str) -> str | None:
    """Where a program lies; those for the system's own care are not in every user's PATH."""
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")


def check_packages(device: Device | None) -> Iterator[Finding]:
    """The Python packages that the converters and the links need."""
    formats = {plugins.load("runtime", name).FORMATS[0] for name in device.runtimes} if device else set()
    for name in plugins.names("converter"):
        converter = plugins.load("converter", name)
        if name == "fake" or (device and name not in formats):
            continue
        sources: dict[str, list[str]] = {}
        for framework, extra in converter.EXTRA.items():
            sources.setdefault(extra, []).append(framework)
        for extra, frameworks in sources.items():
            packages = dict.fromkeys(package for framework in frameworks for package in converter.PACKAGES[framework])
            yield check_extra(f"{' or '.join(frameworks)} to {name}", packages, extra)
    yield check_extra("data of the built-in models", ("scikit-learn",), "models")
    for transport, (extra, package) in LINKS.items():
        if device.transport == transport if device else transport == extra:
            yield check_extra(f"devices reached by {transport}", (package,), extra)


def check_extra(what: str, packages: Iterable[str], extra: str) -> Finding:
    """Whether the packages of a pip extra are here."""
    here, missing = [], []
    for package in packages:
        try:
            here.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(package)
    seen = f"missing: {', '.join(missing)}" if missing else ", ".join(here)
    return Finding(what, not missing, seen, f"pip install 'edgekit[{extra}]'")


def check_disk(cache: Path) -> Finding:
    """Whether the cache can be written and has room."""
    folder = cache
    while not os.path.exists(folder):  # noqa: PTH110 - Path.exists raises where this user may not look
        folder = folder.parent
    if not os.access(folder, os.W_OK | os.X_OK):
        return Finding("cache folder", False, "not writable", "choose another with --cache-dir or EDGEKIT_CACHE_DIR")
    free = shutil.disk_usage(folder).free
    return Finding("free disk for the cache", free > FREE_BYTES, f"{free / 1e9:.1f} GB", "free at least 2 GB")


def check_device(device: Device, say: Callable[[str], None]) -> Iterator[Finding]:
    """The link, the shell, the agent and what it says of its device, and each runtime loaded there in a process of its own.

    Ends at the first thing without which the rest cannot be tried.
    """
    with Link(device, say, "doctor") as line:
        try:
            begun = time.monotonic()
            transport = line.connect()
            yield Finding("link", True, f"{devices.way(device)}, connected in {time.monotonic() - begun:.1f} s")
            if device.transport in LINKS:
                yield check_shell(device, transport)
            live = line.session(device.runtimes[0])
            remote = [name for name in device.runtimes if getattr(plugins.load("runtime", name), "REMOTE", False)]
            yield from check_bridge(live) if remote else check_system(live)
            line.drop(live)
        except EdgekitError as error:
            yield Finding(f"{device.name} answers", False, error.message, first_line(error.hint) or LOOK_FURTHER)
            return
        for runtime in device.runtimes:
            yield check_runtime(device, runtime, line)


def check_shell(device: Device, transport: Transport) -> Finding:
    """A program that every system has, run over the link: what machine it says it is."""
    machine = devices.uname(transport, SHELL_S)
    arch = devices.MACHINES.get(machine)
    # A 64-bit kernel runs a 32-bit userland, whose programs we bring along, too.
    fits = arch == device.arch or (machine, device.arch) == ("aarch64", "armv7")
    mend = f'arch = "{arch}" in its profile' if arch else f"another system there: {', '.join(devices.MACHINES)}"
    return Finding("shell", fits, f"{machine}, the profile says {device.arch}", mend)


def check_bridge(live: session.Session) -> Iterator[Finding]:
    """The agent where it runs beside the device, of which it knows nothing."""
    yield Finding("agent", True, f"Python {live.greeting['python']}, on this side of the link")


def check_system(live: session.Session) -> Iterator[Finding]:
    """What the agent says of its device."""
    system, state = live.greeting["system"], live.call("hello", {}, HELLO_S)["state"]
    where = system.get("model") or f"{system['machine']}, {system['cores']} cores"
    yield Finding("agent", True, f"Python {live.greeting['python']} on {where}, kernel {system['kernel']}")
    yield Finding("C library of the agent", True, state.get("libc", "not glibc"))
    page = int(system.get("page_bytes", 0))
    yield Finding("page size", page <= PAGE_BYTES, f"{page // 1024} KiB", "boot a kernel with pages of 64 KiB or less")
    free = int(state.get("free_bytes", 0))
    mend = "free some space: the edgekit folder there may be removed as a whole"
    yield Finding("free disk", free > DEVICE_FREE_BYTES, f"{free / 1e6:.0f} MB", mend)
    memory, total = int(state.get("available_bytes", 0)), int(system.get("memory_bytes", 0))
    mend = "end what else runs there"
    yield Finding("free memory", memory > DEVICE_MEMORY_BYTES, f"{memory / 1e6:.0f} of {total / 1e6:.0f} MB", mend)
    yield check_clock(float(state["clock_s"]))
    yield from check_steadiness(state)


def check_clock(clock_s: float) -> Finding:
    """The device's time of day; only the dates of its files depend on it."""
    skew = clock_s - time.time()
    seen = "as here" if abs(skew) < CLOCK_S else f"{duration(abs(skew))} {'ahead' if skew > 0 else 'behind'}"
    return Finding("clock", True, seen, advice="" if abs(skew) < CLOCK_S else "set it; figures do not depend on it")


def check_steadiness(state: Json) -> Iterator[Finding]:
    """Governor, temperature and throttling: what makes latencies differ from run to run."""
    governor = state.get("governor")
    steady = governor in (None, "performance")
    advice = "" if steady else "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
    seen = governor or "the kernel does not tell"
    yield Finding(
        "governor",
        True,
        seen + (f" at {state['frequency_khz'] // 1000} MHz" if "frequency_khz" in state else ""),
        advice=advice,
    )
    heat = state.get("temperature_millic")
    if heat is not None:
        advice = "let it cool, or give it a fan: it will soon be throttled" if heat > HOT_MILLIC else ""
        yield Finding("temperature", True, f"{heat / 1000:.0f} C", advice=advice)
    bits = state.get("throttled")
    if bits is not None:
        now = [text for bit, text in THROTTLE_BITS.items() if bits >> bit & 1]
        before = [text for bit, text in THROTTLE_BITS.items() if bits >> bit + SINCE_BOOT & 1]
        advice = f"since it was switched on it had: {', '.join(before)}" if before else ""
        mend = "a stronger power supply against under-voltage, a fan against heat"
        yield Finding("throttling", not now, ", ".join(now) or "none", mend, advice)


def check_runtime(device: Device, runtime: str, line: Link) -> Finding:
    """A runtime loaded on the device, in a process of its own: it may die of an instruction that the CPU does not have."""
    what = f"{runtime} on {device.name}"
    live = None
    try:
        live = line.session(runtime)
        answer = live.call("probe", {"runtime": runtime, "libraries": live.libraries}, PROBE_S)
    except AgentError as error:
        mend = (
            f'leave "{runtime}" out of its runtimes: its library was built for newer cores'
            if "SIGILL" in error.message
            else ""
        )
        return Finding(what, False, error.message, mend or first_line(error.hint) or LOOK_FURTHER)
    except EdgekitError as error:
        return Finding(what, False, error.message, first_line(error.hint) or LOOK_FURTHER)
    finally:
        if live is not None:
            line.drop(live)
    return Finding(what, True, str(answer.get("version")))


def first_line(text: str) -> str:
    """A hint may go on with the last words of a program."""
    return text.partition("\n")[0]


def missing_debian_packages() -> list[str]:
    """The Debian packages of the programs that are not here, for tools/setup."""
    return sorted({package for program, (package, _, _) in PROGRAMS.items() if not found(program)})


if __name__ == "__main__":
    print(" ".join(missing_debian_packages()))
