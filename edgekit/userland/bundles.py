"""Building bundles: the base of an architecture, and on top of it one runtime. Both are cache entries."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from edgekit import cache
from edgekit.errors import SetupError
from edgekit.types import Json
from edgekit.userland import build, elf, python, tools, wheels
from edgekit.userland.targets import Target, Wheel

MANIFEST = "manifest.json"
HERE = Path(__file__).parent


def base(target: Target, say: Callable[[str], None]) -> Path:
    """The folder with loader, libc and Python for `target`; built on first use."""
    sources = [HERE / name for name in ("apt.py", "elf.py", "python.py", "targets.py", "trim.py")]
    key = cache.digest([asdict(target), cache.source_sha256(*sources)])
    folder = cache.cache_dir() / "userland" / f"base-{target.arch}-{key[:16]}"

    def make(fresh: Path) -> None:
        python.emulator(target)  # before minutes of downloading
        say(f"building a Python for {target.arch} from Debian packages (first use, about a minute)")
        contents = python.make_base(target, fresh)
        check(fresh, target)
        write_manifest(fresh, contents)

    cache.fetch(folder, make, read_manifest, f"Python for {target.arch}", say)
    return folder


def runtime_bundle(target: Target, runtime: str, wheel: Wheel, say: Callable[[str], None]) -> tuple[Path, Json]:
    """The folder to push (the base, the runtime's libraries and the timing loop), and its manifest."""
    key = cache.digest([asdict(target), runtime, asdict(wheel), cache.source_sha256(*sources(), build.NATIVE)])
    folder = cache.cache_dir() / "userland" / f"{runtime}-{target.arch}-{key[:16]}"

    def make(fresh: Path) -> None:
        if target.loop:
            build.compiler("g++", target)  # before minutes of downloading
        contents = with_packages(target, wheel, fresh, say) if wheel.modules else on_base(target, wheel, fresh, say)
        add_runtime(target, runtime, wheel, fresh)
        contents["wheel"] = asdict(wheel)
        contents["versions"]["runtime"] = wheel.version
        write_manifest(fresh, contents)

    return folder, cache.fetch(folder, make, read_manifest, f"{runtime} for {target.arch}", say)


def sources() -> list[Path]:
    """The files that decide what is in a bundle: all of this folder but the VM's."""
    return [path for path in sorted(HERE.iterdir()) if path.is_file() and not path.name.startswith("vm")]


def read_manifest(folder: Path) -> Json | None:
    """The manifest of a bundle; None when it is damaged, or a file is not of the size that it says."""
    try:
        manifest: Json = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        sizes = {name: about["bytes"] for name, about in manifest["files"].items()}
        whole = all((folder / name).stat().st_size == size for name, size in sizes.items())
        return manifest if whole and {"key", "versions"} <= set(manifest) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def on_base(target: Target, wheel: Wheel, folder: Path, say: Callable[[str], None]) -> Json:
    """Copy the base of the target into `folder`; returns its manifest."""
    under = base(target, say)
    shutil.copytree(under, folder, dirs_exist_ok=True)
    say(f"fetching {wheel.distribution} {wheel.version} for {target.arch} (first use)")
    contents: Json = json.loads((under / MANIFEST).read_text(encoding="utf-8"))
    return contents


def with_packages(target: Target, wheel: Wheel, folder: Path, say: Callable[[str], None]) -> Json:
    """Make a base of its own for a wheel that is used from Python, its packages in `folder`/site; returns the manifest."""
    python.emulator(target)  # before minutes of downloading
    say(f"building a Python with {wheel.distribution} {wheel.version} for {target.arch} (first use, about a minute)")
    with tempfile.TemporaryDirectory(prefix="edgekit-") as name:
        work = Path(name)
        wheels.unpack(wheels.fetch(wheel, target, work), wheel, work / "wheel")
        contents = python.make_base(target, folder, wheel, work / "wheel")
    check(folder, target, wheel.modules)
    return {"versions": {name: contents.pop(name) for name in ("python", "libc")}, **contents}


def add_runtime(target: Target, runtime: str, wheel: Wheel, folder: Path) -> None:
    """Put the runtime's libraries, its shim and the timing loop, where it has them, into `folder`/lib."""
    lib = folder / "lib"
    if wheel.libraries:
        add_libraries(target, wheel, lib)
    if target.loop:
        build.loop(lib / build.LOOP, target)
    present = {path.name for path in lib.iterdir()}
    for path in lib.glob("*.so*"):
        missing = [name for name in elf.needed(path) if name not in present]
        if missing:
            raise SetupError(
                f"{path.name} of the {runtime} bundle needs {', '.join(missing)}, which no package brought"
            )


def add_libraries(target: Target, wheel: Wheel, lib: Path) -> None:
    """Fetch the wheel and put its libraries, and our shim where it has headers for one, into `lib`."""
    with tempfile.TemporaryDirectory(prefix="edgekit-") as name:
        work = Path(name)
        libraries = wheels.unpack(wheels.fetch(wheel, target, work), wheel, work / "wheel")
        for library in libraries:
            place = lib / library.name
            shutil.copy(library, place)
            place.chmod(0o755)
        if wheel.include:
            include = work / "wheel" / wheel.include
            build.shim(lib / build.SHIM, target, wheel.version, include, libraries[0].parent, "$ORIGIN")


def check(folder: Path, target: Target, modules: tuple[str, ...] = ()) -> None:
    """Start the trimmed Python and import all that was promised: a base that does not work is never kept."""
    promised = f"import {', '.join(python.STDLIB)}; sys.path.append({str(folder / python.SITE)!r})"
    promised += "".join(f"; import {name}" for name in modules)
    argv = [part.replace("{root}", str(folder)) for part in interpreter(folder, target)]
    tools.run([*python.emulator(target), *argv, "-I", "-S", "-c", promised], f"starting the {target.arch} Python")


def interpreter(folder: Path, target: Target) -> tuple[str, ...]:
    """The argv that starts the bundle's Python: through its own loader, for a device may have no /lib at all."""
    name = next((folder / "bin").iterdir()).name
    return (f"{{root}}/lib/{target.loader}", "--library-path", "{root}/lib", f"{{root}}/bin/{name}")


def write_manifest(folder: Path, contents: Json) -> None:
    """Write manifest.json: versions, packages, every file with size and sha256, and `key`, the hash over these."""
    versions = contents.pop("versions", None) or {name: contents.pop(name) for name in ("python", "libc")}
    files: Json = {}
    total = 0
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MANIFEST:
            name = path.relative_to(folder).as_posix()
            files[name] = {"bytes": path.stat().st_size, "sha256": cache.file_sha256(path)}
            total += path.stat().st_size
    contents.pop("key", None)
    contents |= {"versions": versions, "files": files, "total_bytes": total}
    manifest = {"key": cache.digest(contents), **contents}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
