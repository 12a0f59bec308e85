"""An Android-like root with a real adbd: AOSP's source as Debian packages it, mksh, toybox, no /lib, no bash, no /tmp.

Built once per architecture, then a cache entry. What it needs of Debian 12 is fetched by the host's apt.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from edgekit import cache
from edgekit.errors import SetupError
from edgekit.userland import apt, build, elf, python, targets, tools

HERE = Path(__file__).parent
PLATFORM_TOOLS = "android-platform-tools-29.0.6"  # the release that adbd.mk is written for
DEBIAN_12 = f"name a sources.list with Debian 12 in {apt.SOURCES_VARIABLE}"
# Of Android's own configuration of toybox, what needs libraries or a kernel that are not here.
NOT_HERE = "TOYBOX_SELINUX TOYBOX_LIBCRYPTO TOYBOX_LIBZ RUNCON CHCON GETENFORCE LOAD_POLICY RESTORECON SETENFORCE SENDEVENT LOG"


def root(arch: str, say: Callable[[str], None] = print) -> Path:
    """The root for `arch` (aarch64 or x86_64), to be copied: a device writes into it. Raises SetupError."""
    target = targets.target(arch)
    key = cache.digest([arch, cache.source_sha256(Path(__file__), HERE / "adbd.mk", HERE / "android")])
    folder = cache.cache_dir() / "lab" / f"android-{arch}-{key[:16]}"
    with cache.entry(folder) as fresh:
        if fresh:
            say(f"building adbd and toybox for {arch} from Debian's source packages (first use, about two minutes)")
            with tempfile.TemporaryDirectory(prefix="edgekit-") as work:
                make(target, Path(work), fresh)
    return folder


def make(target: targets.Target, work: Path, root: Path) -> None:
    """Fill `root`."""
    debian, binaries = work / "debian", root / "system" / "bin"
    debian.mkdir()
    apt.unpack(("android-libboringssl-dev", "mksh", "libstdc++6"), target.debian, work / "apt", debian)
    shutil.copytree(HERE / "android", root / "system")
    for name in ("data/local/tmp", "dev", "proc", "sys", "system/lib64", "apex", "mnt"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "bin").symlink_to("/system/bin")
    (root / "etc").symlink_to("/system/etc")
    shutil.copy(adbd(target, work, debian), binaries / "adbd")
    shutil.copy(toybox(target, work), binaries / "toybox")
    for name in tools.run([*python.emulator(target), binaries / "toybox"], "asking toybox what it has").split():
        if not (binaries / name).exists():
            (binaries / name).symlink_to("toybox")
    shutil.copy(debian / f"usr/lib/{target.multiarch.replace('-gnu', '-musl')}/bin/mksh", binaries / "mksh")
    (binaries / "sh").symlink_to("mksh")
    libraries(target, debian, binaries / "adbd", root / "system" / "lib64")
    for path in binaries.iterdir():
        path.chmod(0o755)


def libraries(target: targets.Target, debian: Path, program: Path, folder: Path) -> None:
    """Copy the loader and all libraries that `program` needs into `folder`."""
    multiarch = [debian / name / target.multiarch for name in ("lib", "usr/lib", "usr/lib/android")]
    places = [*multiarch, debian / "usr/lib" / target.multiarch / "android", debian / "lib", debian / "lib64"]
    waiting = [target.loader, *elf.needed(program)]
    while waiting:
        name = waiting.pop()
        if (folder / name).exists():
            continue
        found = next((place / name for place in places if (place / name).exists()), None)
        if found is None:
            raise SetupError(f"adbd needs {name}, which no package brought", DEBIAN_12)
        shutil.copy(found.resolve(), folder / name)
        waiting += elf.needed(folder / name)


def sources(work: Path) -> dict[str, str]:
    """An environment in which apt-get fetches source packages: the host's sources with their `deb` turned to `deb-src`."""
    folder = work / "sources"
    folder.mkdir()
    (work / "apt-source").mkdir()
    chosen = os.environ.get(apt.SOURCES_VARIABLE)
    given = [Path(chosen)] if chosen else [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*.*")]
    for number, path in enumerate(given):
        if path.is_file() and path.suffix in (".list", ".sources"):
            text = re.sub(r"(?m)^deb\b", "deb-src", re.sub(r"(?m)^Types:.*", "Types: deb-src", path.read_text("utf-8")))
            (folder / f"{number}{path.suffix}").write_text(text, "utf-8")
    configuration = apt.configure("amd64", work / "apt-source")
    with configuration.open("a", encoding="utf-8") as stream:
        stream.write(f'Dir::Etc::sourcelist "/dev/null";\nDir::Etc::sourceparts "{folder}";\n')
    environment = {"APT_CONFIG": str(configuration)}
    with contextlib.suppress(SetupError):  # a third-party source may have none; what matters is whether they are found
        tools.run([tools.find("apt", "apt-get"), "update"], "reading the source packages", apt.HINT, env=environment)
    return environment


def adbd(target: targets.Target, work: Path, debian: Path) -> Path:
    """Compile adbd; returns its path."""
    tools.find("dpkg-dev", "dpkg-source")
    environment = sources(work)
    fetch = [tools.find("apt", "apt-get"), "source", "android-platform-tools"]
    tools.run(fetch, "fetching the source of adbd with apt", apt.HINT, cwd=work, env=environment)
    folder = work / PLATFORM_TOOLS
    if not folder.is_dir():
        raise SetupError(f"this machine's mirror has another adbd than {PLATFORM_TOOLS}", DEBIAN_12)
    annotations = folder / "system/core/base/include/android-base/thread_annotations.h"
    told = annotations.read_text("utf-8")  # attributes that only clang knows
    annotations.write_text(told.replace("(x) __attribute__((x))", "(x)"), "utf-8")
    argv = [tools.find("make", "make"), "-f", str(HERE / "adbd.mk"), "-j2", f"OUT={work / 'out'}", f"BSSL={debian}"]
    argv += [f"CXX={build.compiler('g++', target)}", f"CC={build.compiler('gcc', target)}"]
    argv += [f"TRIPLET={target.multiarch}", f"LOADER={target.loader}"]
    tools.run(argv, "compiling adbd", cwd=folder)
    return work / "out" / "adbd"


def toybox(target: targets.Target, work: Path) -> Path:
    """Compile toybox with Android's choice of commands, statically; returns its path."""
    place, folder = work / "toybox-package", work / "toybox"
    place.mkdir()
    folder.mkdir()
    environment = {"APT_CONFIG": str(work / "apt-source" / "apt.conf")}
    fetch = [tools.find("apt", "apt-get"), "source", "--tar-only", "toybox"]
    tools.run(fetch, "fetching the source of toybox with apt", apt.HINT, cwd=place, env=environment)
    archive = next(place.glob("toybox_*.orig.tar.*"))
    tools.run([tools.find("tar", "tar"), "xf", archive, "-C", folder, "--strip-components=1"], "unpacking toybox")
    tools.run(["make", "android_defconfig"], "configuring toybox", cwd=folder)
    configuration = folder / ".config"
    unwanted = "|".join(NOT_HERE.split())
    configuration.write_text(
        re.sub(rf"(?m)^CONFIG_({unwanted})=y", r"# CONFIG_\1 is not set", configuration.read_text())
    )
    tools.run(
        ["make", "toybox"],
        "compiling toybox",
        cwd=folder,
        env={"CC": build.compiler("gcc", target), "STRIP": "true", "NOSTRIP": "1", "LDFLAGS": "--static -s"},
    )
    return folder / "toybox"
