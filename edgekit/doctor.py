"""What this machine and a device need, checked one by one; each finding carries the exact command that mends it."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgekit import config, plugins, session
from edgekit.cache import cache_dir
from edgekit.errors import EdgekitError
from edgekit.types import Device

FREE_BYTES = 2_000_000_000
# program -> (Debian package, what it is for, needed only for emulated devices)
PROGRAMS = {
    "gcc": ("gcc", "the native timing loop", False),
    "g++": ("g++", "the ExecuTorch shim", False),
    "qemu-aarch64": ("qemu-user", "emulated ARM devices", True),
    "aarch64-linux-gnu-g++": ("g++-aarch64-linux-gnu", "the ExecuTorch shim and timing loop for ARM", True),
    "apt-get": ("apt", "the ARM userland, on first use", True),
    "dpkg-deb": ("dpkg", "the ARM userland, on first use", True),
}


@dataclass(frozen=True)
class Finding:
    """One check: what was looked at, whether it is well, what was seen, and the command that mends it."""

    what: str
    ok: bool
    seen: str
    mend: str = ""


def check(device_name: str | None, say: Callable[[str], None]) -> Iterator[Finding]:
    """All findings, as they are made; with a device, also its agent and each of its runtimes."""
    device = config.device(device_name) if device_name else None
    version = ".".join(str(part) for part in sys.version_info[:3])
    yield Finding("Python", sys.version_info >= (3, 11), version, "use Python 3.11 or newer")
    yield from check_programs(device)
    yield from check_packages(device)
    yield check_disk(cache_dir())
    if device:
        yield from check_device(device, say)


def check_programs(device: Device | None) -> Iterator[Finding]:
    """The programs of this machine that edgekit calls."""
    for program, (package, purpose, for_emulation) in PROGRAMS.items():
        if device and for_emulation and not device.emulated:
            continue
        where = shutil.which(program)
        yield Finding(
            program, bool(where), "found" if where else f"missing: needed for {purpose}", f"apt-get install {package}"
        )


def check_packages(device: Device | None) -> Iterator[Finding]:
    """The Python packages that the converters need."""
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


def check_extra(what: str, packages: Iterable[str], extra: str) -> Finding:
    """Whether the packages of a pip extra are here."""
    found, missing = [], []
    for package in packages:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(package)
    seen = f"missing: {', '.join(missing)}" if missing else ", ".join(found)
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
    """A real agent on the device, and each runtime loaded there in a process of its own."""
    for runtime in device.runtimes:
        what = f"{runtime} on {device.name}"
        try:
            with session.Session.open(device, runtime, say) as live:
                answer = live.call("probe", {"runtime": runtime, "libraries": live.libraries}, 60)
        except EdgekitError as error:
            yield Finding(
                what,
                False,
                error.message,
                error.hint or f"edgekit profile --device {device.name} shows the whole error",
            )
        else:
            system = live.greeting["system"]
            where = system.get("model") or f"{system['machine']}, {system['cores']} cores"
            yield Finding(what, True, f"{answer.get('version')} ({where})")


def missing_debian_packages() -> list[str]:
    """The Debian packages of the programs that are not here, for tools/setup."""
    return sorted({package for program, (package, _, _) in PROGRAMS.items() if not shutil.which(program)})


if __name__ == "__main__":
    print(" ".join(missing_debian_packages()))
