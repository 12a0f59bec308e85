"""The base of every bundle: dynamic loader, libc, libstdc++ and a trimmed Python, made from Debian packages."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from edgekit.errors import SetupError
from edgekit.userland import apt, elf, tools
from edgekit.userland.targets import Target, Wheel

SITE = "site"  # the folder of Python packages, in a bundle whose runtime is used from Python
PACKAGES = ("python3-minimal", "libpython3-stdlib", "libstdc++6", "zlib1g")

# Everything the agent imports, and what its runtimes may want; a test compares this with the agent's sources.
# What these import in turn comes along by itself.
STDLIB = (
    "__future__ _json argparse array ast base64 binascii bisect collections.abc contextlib copy ctypes ctypes.util "
    "dataclasses datetime enum errno faulthandler fcntl fnmatch functools gc glob hashlib heapq "
    "importlib.util inspect io itertools json linecache math mmap operator os pathlib platform queue random "
    "re resource runpy select selectors shutil signal socket stat string struct subprocess sys tempfile "
    "termios textwrap threading time tokenize traceback tty types typing warnings weakref zipfile zipimport "
    "zlib"
).split()

# Libraries a runtime may ask for that Python itself does not; all from the packages above.
LIBRARIES = ("libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libstdc++.so.6", "libgcc_s.so.1")


def make_base(target: Target, folder: Path, wheel: Wheel | None = None, unpacked: Path | None = None) -> dict[str, Any]:
    """Fill `folder` with bin/python3.X and lib/; returns {"packages", "python", "libc", "modules"}.

    With a wheel that is used from Python, `unpacked` there, its modules and all they import come into `folder`/site.
    """
    with tempfile.TemporaryDirectory(prefix="edgekit-") as name:
        work = Path(name)
        root = work / "root"
        root.mkdir()
        wanted = (*PACKAGES, *(wheel.debian if wheel else ()))
        packages = apt.unpack(wanted, target.debian, work / "apt", root)
        source = Debian(root, target)
        python = source.python()
        if wheel and python.name != f"python{wheel.python_tag}":
            raise SetupError(
                f"{wheel.distribution} {wheel.version} needs Python {wheel.python_tag}, this machine's mirror has {python.name}",
                f"name a sources.list with Debian 12 in {apt.SOURCES_VARIABLE}",
            )
        (folder / "bin").mkdir()
        (folder / "lib").mkdir()
        shutil.copy(python, folder / "bin" / python.name)
        shutil.copy(source.library(target.loader), folder / "lib" / target.loader)
        archive = folder / "lib" / f"{python.name.replace('.', '')}.zip"
        site = root / "usr/lib/python3/dist-packages"
        if unpacked:
            shutil.copytree(unpacked, site, dirs_exist_ok=True)
        chosen = wheel.modules if wheel else ()
        contents = source.trim(python, archive, site, folder / SITE, chosen)
        # Where these lie tells the interpreter its prefix: see CPython's Modules/getpath.py, "STDLIB_LANDMARKS".
        extensions = folder / "lib" / python.name / "lib-dynload"
        extensions.mkdir(parents=True)
        (extensions.parent / "os.py").touch()
        for extension in contents.pop("extensions"):
            shutil.copy(extension, extensions)
        for library in LIBRARIES:
            shutil.copy(source.library(library), folder / "lib" / library)
        close(folder, source)
    return {"packages": packages, **contents}


class Debian:
    """An unpacked Debian root of another architecture, and how to run its Python here."""

    def __init__(self, root: Path, target: Target) -> None:
        self.root = root
        self.target = target
        parents = (root / "usr/lib", root / "lib")
        # Debian's choice between several BLAS libraries is a link that only an installation makes.
        below = (target.multiarch, ".", f"{target.multiarch}/blas", f"{target.multiarch}/lapack")
        folders = [parent / name for parent in parents for name in below]
        self.folders = [folder for folder in folders if folder.is_dir()]

    def library(self, name: str) -> Path:
        """The file of a library by its soname. Raises SetupError when no package brought it."""
        for folder in self.folders:
            if (folder / name).exists():
                return (folder / name).resolve()
        raise SetupError(f"the {self.target.debian} packages of this machine's mirror do not bring {name}")

    def python(self) -> Path:
        """The interpreter's file, python3.X."""
        found = sorted((self.root / "usr/bin").glob("python3.*[0-9]"))
        if not found:
            raise SetupError(f"the {self.target.debian} packages of this machine's mirror do not bring Python 3")
        return found[-1]

    def trim(self, python: Path, archive: Path, packages: Path, site: Path, modules: tuple[str, ...]) -> dict[str, Any]:
        """Pack the standard library with the interpreter itself; returns what trim.py printed.

        `modules` are imported from the folder `packages`; they and what they import there go to the folder `site`.
        """
        script = Path(__file__).with_name("trim.py")
        argv: list[str | Path] = [*emulator(self.target), self.library(self.target.loader)]
        argv += ["--library-path", ":".join(map(str, self.folders)), python]
        argv += ["-B", "-I", "-S", script, archive, packages, site, *STDLIB, *modules]
        printed = tools.run(argv, f"packing the standard library with the {self.target.arch} Python")
        contents: dict[str, Any] = json.loads(printed)
        return contents


def emulator(target: Target) -> list[str]:
    """What runs a program of the target here: nothing on its own kind of machine, else QEMU's user-mode emulator."""
    if target.is_this_machine:
        return []
    return [tools.find("qemu-user", target.qemu, f"{target.qemu}-static")]


def close(folder: Path, source: Debian) -> None:
    """Copy every library that the files in `folder` need and that is not there yet, until none is missing."""
    waiting = [path for path in folder.rglob("*") if path.is_file() and elf.is_elf(path)]
    while waiting:
        for name in elf.needed(waiting.pop()):
            place = folder / "lib" / name
            if not place.exists():
                shutil.copy(source.library(name), place)
                waiting.append(place)
