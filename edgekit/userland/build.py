"""Compiling the native sources for this machine or another: timing loop, ExecuTorch shim, instruction counter."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

from edgekit.errors import SetupError
from edgekit.userland import tools
from edgekit.userland.targets import Target

NATIVE = Path(__file__).parent.parent / "native"
LOOP = "libedgekit_loop.so"
SHIM = "libedgekit_executorch.so"
PLUGIN = "libedgekit_counter.so"

COMMON = ("-O2", "-fPIC", "-shared", "-Wall", "-Wextra")
# --no-as-needed: kernels and backends register themselves when loaded, nothing refers to them by name.
SHIM_FLAGS = ("-std=c++17", "-DC10_USING_CUSTOM_GENERATED_MACROS", "-Wl,--no-as-needed")
SHIM_LIBRARIES = (
    "executorch",
    "executorch_kernels_optimized",
    "executorch_kernels_quantized",
    "executorch_backend_xnnpack",
    "executorch_threadpool",
)


def compiler(language: str, target: Target | None) -> str:
    """The C ("gcc") or C++ ("g++") compiler for `target`; None and this machine's own kind mean the native one."""
    if target is None or target.is_this_machine:
        return tools.find("gcc g++", language)
    return tools.find(f"g++-{target.multiarch.replace('_', '-')}", f"{target.multiarch}-{language}")


def compile_source(source: str, out: Path, language: str, target: Target | None, *flags: str) -> None:
    """Compile one file of edgekit/native into a shared library; the result does not depend on where the source lies."""
    with tempfile.TemporaryDirectory(prefix="edgekit-") as work:
        shutil.copy(NATIVE / source, work)
        argv = [compiler(language, target), *COMMON, source, "-o", out.name, "-Wl,--build-id=none", "-s", *flags]
        tools.run(argv, f"compiling {source}", cwd=Path(work))
        shutil.copy(Path(work) / out.name, out)


def loop(out: Path, target: Target | None) -> None:
    """The timing loop."""
    compile_source("loop.c", out, "gcc", target)


def counter(out: Path, qemu: str) -> None:
    """The QEMU plug-in; it always runs on this machine. Raises SetupError when this QEMU takes no such plug-in."""
    version = tools.run([qemu, "--version"], "asking QEMU for its version").split("\n")[0]
    hint = "count instructions with a qemu-user of QEMU 6 to 8 that was built with plug-ins, such as Debian 12's"
    if "-plugin" not in tools.run([qemu, "--help"], "asking QEMU for its options"):
        raise SetupError(f"{version} was built without plug-ins", hint)
    # QEMU 9 raised QEMU_PLUGIN_MIN_VERSION to 2 (include/qemu/qemu-plugin.h).
    if int((re.findall(r"version (\d+)", version) or ["0"])[0]) >= 9:
        raise SetupError(f"{version} takes only plug-ins of a newer interface", hint)
    compile_source("insn_counter.c", out, "gcc", None, "-pthread")


def shim(out: Path, target: Target | None, version: str, include: Path, libraries: Path, rpath: str) -> None:
    """The ExecuTorch shim, against the headers in `include` and the libraries in `libraries`, searched at `rpath`."""
    includes = (include, include / "executorch/runtime/core/portable_type/c10")
    flags = [*SHIM_FLAGS, *(f"-isystem{folder}" for folder in includes), f"-ffile-prefix-map={include}=executorch"]
    flags += [
        f'-DEDGEKIT_EXECUTORCH_VERSION="{version}"',
        f"-L{libraries}",
        *(f"-l{name}" for name in SHIM_LIBRARIES),
        f"-Wl,-rpath,{rpath}",
    ]
    compile_source("executorch_shim.cpp", out, "g++", target, *flags)
