"""What a device needs before it can run the agent: a relocatable bundle, or this very machine's own files."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgekit import cache
from edgekit.errors import SetupError
from edgekit.userland import build, targets, tools
from edgekit.userland.bundles import interpreter, runtime_bundle

__all__ = ["Userland", "bundle", "counter_plugin", "native"]


@dataclass(frozen=True)
class Userland:
    """An interpreter and the libraries of one runtime. "{root}" in a path stands for where `root` lies on the device.

    `key` (sha256) names the folder on the device; `root` is None when the device is this machine and nothing is pushed.
    `libraries` has "runtime" (what the agent's runtime module loads) and "loop" (the timing loop), where they exist.
    """

    key: str
    root: Path | None
    python: tuple[str, ...]
    libraries: Mapping[str, str]
    versions: Mapping[str, str]


def bundle(arch: str, runtime: str, say: Callable[[str], None]) -> Userland:
    """The relocatable bundle of a runtime for an architecture. Built on first use (network), afterwards only looked up.

    Raises UserError for an unknown architecture or runtime, SetupError when this machine cannot build it.
    """
    target, wheel = targets.target(arch), targets.wheel(runtime)
    folder, manifest = runtime_bundle(target, runtime, wheel, say)
    library = build.SHIM if wheel.include else Path(wheel.libraries[0]).name
    libraries = {"runtime": f"{{root}}/lib/{library}", "loop": f"{{root}}/lib/{build.LOOP}"}
    return Userland(manifest["key"], folder, interpreter(folder, target), libraries, manifest["versions"])


def native(runtime: str, say: Callable[[str], None]) -> Userland:
    """The userland of this very machine: this Python, the libraries of the installed wheels, our sources compiled here.

    Without a C compiler "loop" is left out (the agent then times from Python). Raises SetupError when the runtime is
    not installed, or when it needs a compiler and there is none.
    """
    versions = {"python": platform.python_version(), "libc": platform.libc_ver()[1]}
    libraries: dict[str, str] = {}
    try:
        libraries["loop"] = str(compiled(build.LOOP, "loop.c", lambda out: build.loop(out, None), say))
    except SetupError as error:
        say(f"no native timing loop: {error}")
    if runtime != "fake":
        wheel = targets.wheel(runtime)
        versions["runtime"], files = installed(wheel)
        libraries["runtime"] = str(files[0])
        if wheel.include:
            include, folder = files[0].parent.parent / "include", files[0].parent
            made = compiled(
                build.SHIM,
                "executorch_shim.cpp",
                lambda out: build.shim(out, None, versions["runtime"], include, folder, str(folder)),
                say,
                [versions["runtime"], str(folder)],
            )
            libraries["runtime"] = str(made)
    key = cache.digest([sys.executable, libraries, versions])
    return Userland(key, None, (sys.executable,), libraries, versions)


def counter_plugin(say: Callable[[str], None]) -> Path:
    """The instruction-counter plug-in for this machine's qemu-aarch64, compiled on first use.

    Raises SetupError when there is no QEMU that takes it, or no compiler.
    """
    qemu = Path(tools.find("qemu-user", "qemu-aarch64")).resolve()
    # Another QEMU is asked again whether it takes the plug-in.
    identity = [str(qemu), str(qemu.stat().st_size), str(qemu.stat().st_mtime_ns)]
    return compiled(build.PLUGIN, "insn_counter.c", lambda out: build.counter(out, str(qemu)), say, identity)


def installed(wheel: targets.Wheel) -> tuple[str, list[Path]]:
    """Version and library files of a runtime's wheel in this environment. Raises SetupError when it is not there."""
    hint = f"pip install {wheel.distribution}=={wheel.version}"
    try:
        found = importlib.metadata.distribution(wheel.distribution)
    except importlib.metadata.PackageNotFoundError:
        raise SetupError(f"{wheel.distribution} is not installed in this Python environment", hint) from None
    # Another version names its files alike but for the version itself.
    files = [Path(str(found.locate_file(name.replace(wheel.version, found.version)))) for name in wheel.libraries]
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise SetupError(f"{wheel.distribution} {found.version} does not bring {missing[0]}", hint)
    return found.version, files


def compiled(
    name: str,
    source: str,
    make: Callable[[Path], None],
    say: Callable[[str], None],
    against: list[str] | None = None,
) -> Path:
    """A shared library of ours in the cache, by the hash of its source and of what it is compiled `against`."""
    files = [build.NATIVE / source, Path(build.__file__)]
    key = cache.digest([platform.machine(), cache.source_sha256(*files), against or []])
    folder = cache.cache_dir() / "userland" / f"native-{Path(name).stem}-{key[:16]}"
    with cache.entry(folder) as fresh:
        if fresh:
            say(f"compiling {name}")
            make(fresh / name)
    return folder / name
