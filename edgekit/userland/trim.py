"""Packs the part of the standard library an agent needs. Run by the target's own Python, so that the bytecode fits it.

`python -B -I -S trim.py OUT.zip PACKAGES SITE MODULE ...` writes OUT.zip, puts what was imported from the folder PACKAGES
into the folder SITE, and prints python, libc, modules and extensions as JSON. Standard library only, Python 3.9.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import marshal
import os
import platform
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any

# Imported by the standard library only if it is there; each would drag a large library (OpenSSL, bzip2, xz) along.
UNWANTED = ("_hashlib", "_bz2", "_lzma", "_ssl", "readline", "_curses")
# The codecs a device may need: the interpreter's own, file names, consoles, and what zipimport asks for.
CODECS = ("aliases", "ascii", "cp437", "idna", "latin_1", "utf_8", "utf_8_sig", "utf_16", "unicode_escape")
TIME = (1980, 1, 1, 0, 0, 0)
# PEP 552: bytecode that is checked by a hash of its source, and that check switched off; so equal sources give equal files.
UNCHECKED_HASH = (1).to_bytes(4, "little") + b"\0" * 8


def collect(names: list[str]) -> list[tuple[str, Path]]:
    """Import `names`; returns all modules that are there now and come from a file, with that file."""
    modules: dict[str, Any] = sys.modules
    for name in UNWANTED:
        modules[name] = None
    for name in [*names, *("encodings." + codec for codec in CODECS)]:
        importlib.import_module(name)
    found = []
    for name, module in sorted(modules.items()):
        path = getattr(module, "__file__", None)
        frozen = getattr(getattr(module, "__spec__", None), "origin", None) == "frozen"
        if path and name != "__main__" and not frozen:
            found.append((name, Path(path).resolve()))
    return found


def compiled(inside: str, path: Path, optimize: int) -> bytes:
    """The bytecode file of one module, under the name `inside`: no path of the build machine stays in it."""
    code = compile(path.read_bytes(), inside, "exec", dont_inherit=True, optimize=optimize)
    return importlib.util.MAGIC_NUMBER + UNCHECKED_HASH + marshal.dumps(code)


def pack(archive: zipfile.ZipFile, name: str, path: Path) -> None:
    """Compile one module into the archive."""
    inside = name.replace(".", "/") + ("/__init__.py" if path.name == "__init__.py" else ".py")
    # Without docstrings and assertions: it is a quarter smaller, and quicker to start under emulation.
    archive.writestr(zipfile.ZipInfo(inside + "c", TIME), compiled(inside, path, 2))


def settle(site: Path, inside: Path, path: Path) -> None:
    """Put one module of a package at its place in the folder `site`: an extension as it is, the rest compiled."""
    place = site / inside
    place.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".py":
        # Docstrings stay: NumPy adds to its own when it is imported.
        place.with_suffix(".pyc").write_bytes(compiled(inside.as_posix(), path, 1))
    else:
        shutil.copy(path, place)


def main(out: str, packages: str, site: str, names: list[str]) -> None:
    """Write the archive and the folder; print what is in them."""
    modules, extensions = [], []
    home = Path(packages).resolve()
    sys.path.append(str(home))
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, path in collect(names):
            if home in path.parents:
                settle(Path(site), path.relative_to(home), path)
                modules.append(name)
            elif path.suffix == ".py":
                pack(archive, name, path)
                modules.append(name)
            elif path.suffix == ".so":
                extensions.append(str(path))
    libc = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()[-1]
    contents = {"python": platform.python_version(), "libc": libc, "modules": modules, "extensions": extensions}
    sys.stdout.write(json.dumps(contents) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])
