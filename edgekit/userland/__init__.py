"""What a device needs before it can run the agent: a relocatable bundle, or this very machine's own files."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from edgekit import cache
from edgekit.errors import SetupError, Unsupported
from edgekit.types import Device
from edgekit.userland import build, python, targets, tools, vm, wheels
from edgekit.userland.bundles import interpreter, runtime_bundle

__all__ = ["Userland", "bundle", "counter_plugin", "native", "prepare"]


@dataclass(frozen=True)
class Userland:
    """An interpreter and the libraries of one runtime. "{root}" in a path stands for where `root` lies on the device.

    `key` (sha256) names the folder on the device; `root` is None when the device is this machine and nothing is pushed.
    `libraries` has "runtime" (what the agent's runtime module loads: a library, or a folder of Python packages) and
    "loop" (the timing loop), where they exist.
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
    if wheel.modules:
        libraries = {"runtime": f"{{root}}/{python.SITE}"}
    else:
        libraries = {"runtime": f"{{root}}/lib/{build.SHIM if wheel.include else Path(wheel.libraries[0]).name}"}
    if target.loop:
        libraries["loop"] = f"{{root}}/lib/{build.LOOP}"
    return Userland(manifest["key"], folder, interpreter(folder, target), libraries, manifest["versions"])


def native(runtime: str, say: Callable[[str], None]) -> Userland:
    """The userland of this very machine: this Python, the libraries of the installed wheels, our sources compiled here.

    Without a C compiler "loop" is left out (the agent then times from Python). Raises SetupError when the runtime is
    not installed, or when it needs a compiler and there is none; Unsupported when it is a Python framework that is not
    here, or one that this Python is too new for.
    """
    versions = {"python": platform.python_version(), "libc": platform.libc_ver()[1]}
    libraries: dict[str, str] = {}
    try:
        libraries["loop"] = str(compiled(build.LOOP, "loop.c", lambda out: build.loop(out, None), say))
    except SetupError as error:
        say(f"no native timing loop: {error}")
    if runtime in targets.FRAMEWORKS:
        versions["runtime"], packages = framework(runtime)
        libraries["runtime"] = str(packages)
    elif runtime == "tflite_runtime":
        versions["runtime"] = targets.wheel(runtime).version
        libraries["runtime"] = str(environment(runtime, say))
    elif runtime not in ("fake", "mlperf_tiny"):  # these bring or need no library
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


def prepare(device: Device, say: Callable[[str], None]) -> Path | None:
    """What this machine must have before it can connect to a device: the counter of an emulator, the image of a VM.

    Made on first use; raises SetupError when it cannot be made here.
    """
    if device.counted:
        return counter_plugin(say)
    return vm.image(say).folder if device.transport == "vm" else None


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


def framework(runtime: str) -> tuple[str, Path]:
    """Version of the framework that is a runtime, and the folder of packages it lies in. Raises Unsupported without it."""
    names = targets.FRAMEWORKS[runtime]
    for name in names:
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        return found.version, Path(str(found.locate_file("")))
    raise Unsupported(f"{runtime} needs {names[0]}, which is not installed in this Python environment")


def environment(runtime: str, say: Callable[[str], None]) -> Path:
    """A folder with a runtime's wheel and the NumPy it was built against, apart from this environment; made on first use.

    Raises Unsupported when there is no such wheel for this machine or this Python, SetupError without a network.
    """
    wheel, machine = targets.wheel(runtime), platform.machine()
    if machine not in wheel.sha256.keys() & targets.NUMPY.sha256.keys():
        raise Unsupported(
            f"there is no {wheel.distribution} {wheel.version} for {machine} outside a Raspberry Pi's system"
        )
    if sys.version_info[:2] != tuple(map(int, wheel.python_tag.split("."))):
        here = f"{sys.version_info[0]}.{sys.version_info[1]}"
        raise Unsupported(
            f"{wheel.distribution} {wheel.version}, the last one, was made for Python {wheel.python_tag}; this is Python {here}",
            "run edgekit with that Python, or measure on --device pi4, whose userland has it",
        )
    target = targets.target(machine)
    key = cache.digest([asdict(wheel), asdict(targets.NUMPY), machine])
    folder = cache.cache_dir() / "userland" / f"{runtime}-native-{key[:16]}"
    with cache.entry(folder) as fresh:
        if fresh:
            say(f"fetching {wheel.distribution} {wheel.version} and NumPy {targets.NUMPY.version} (first use)")
            with tempfile.TemporaryDirectory(prefix="edgekit-") as work:
                for one in (wheel, targets.NUMPY):
                    wheels.unpack(wheels.fetch(one, target, Path(work)), one, fresh)
    return folder


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
