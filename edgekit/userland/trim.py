"""Packs the part of the standard library an agent needs. Run by the target's own Python, so that the bytecode fits it.

`python -B -I -S trim.py OUT.zip MODULE ...` writes OUT.zip and prints {"python", "libc", "modules", "extensions"} as JSON.
"""

import importlib
import json
import os
import platform
import sys
import zipfile

# Imported by the standard library only if it is there; each would drag a large library (OpenSSL, bzip2, xz) along.
UNWANTED = ("_hashlib", "_bz2", "_lzma", "_ssl", "readline", "_curses")
# The codecs a device may need: the interpreter's own, file names, consoles, and what zipimport asks for.
CODECS = ("aliases", "ascii", "cp437", "idna", "latin_1", "utf_8", "utf_8_sig", "utf_16", "unicode_escape")
TIME = (1980, 1, 1, 0, 0, 0)


def collect(names):
    """Import `names`; returns the modules that are now there and come from a file: (name, path)."""
    for name in UNWANTED:
        sys.modules[name] = None
    for name in list(names) + ["encodings." + codec for codec in CODECS]:
        importlib.import_module(name)
    found = []
    for name, module in sorted(sys.modules.items()):
        path = getattr(module, "__file__", None)
        frozen = getattr(getattr(module, "__spec__", None), "origin", None) == "frozen"
        if path and name != "__main__" and not frozen:
            found.append((name, os.path.realpath(path)))
    return found


def pack(archive, name, path):
    """Compile one module into the archive, under its own name: no path of the build machine stays in it."""
    inside = name.replace(".", "/") + ("/__init__.py" if os.path.basename(path) == "__init__.py" else ".py")
    with open(path, "rb") as stream:
        code = compile(stream.read(), inside, "exec", dont_inherit=True, optimize=2)
    from importlib._bootstrap_external import _code_to_hash_pyc

    # A hash-based file whose source is never looked for (PEP 552), so that equal sources give equal bytes.
    data = _code_to_hash_pyc(code, b"\0" * 8, checked=False)
    info = zipfile.ZipInfo(inside + "c", TIME)
    archive.writestr(info, bytes(data))


def main(out, names):
    """Write the archive; print what is in it."""
    modules, extensions = [], []
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, path in collect(names):
            if path.endswith(".py"):
                pack(archive, name, path)
                modules.append(name)
            elif path.endswith(".so"):
                extensions.append(path)
    libc = os.confstr("CS_GNU_LIBC_VERSION").split()[-1]
    print(json.dumps({"python": platform.python_version(), "libc": libc, "modules": modules, "extensions": extensions}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
