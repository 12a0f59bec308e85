"""The cache folder: content-addressed entries, each written under a temporary name and renamed, so none is ever half there."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from edgekit.errors import SetupError

T = TypeVar("T")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG)


def cache_dir() -> Path:
    """EDGEKIT_CACHE_DIR, else the XDG cache folder of the user. Raises SetupError for a user without a home folder."""
    chosen = os.environ.get("EDGEKIT_CACHE_DIR")
    try:
        if chosen:
            return Path(chosen).expanduser().absolute()
        import platformdirs

        return Path(platformdirs.user_cache_dir("edgekit", appauthor=False))
    except RuntimeError as error:
        message = "there is no home folder to keep the cache in"
        raise SetupError(message, "choose a folder with --cache-dir or EDGEKIT_CACHE_DIR") from error


def devices_dir() -> Path:
    """EDGEKIT_DEVICES_DIR, else a folder of the cache: where the emulated devices and this machine keep what is pushed to them,
    and their locks. Raises SetupError as cache_dir does."""
    chosen = os.environ.get("EDGEKIT_DEVICES_DIR")
    return Path(chosen).expanduser().absolute() if chosen else cache_dir() / "devices"


def is_file(path: Path) -> bool:
    """Whether there is such a file; False, and no error, for a path that is too long or that this user may not look at."""
    return os.path.isfile(path)  # noqa: PTH113 - Path.is_file raises there before Python 3.14


def digest(value: Any) -> str:
    """sha256 (hex) of the canonical JSON of a value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def content_sha256(path: Path) -> str:
    """sha256 (hex) of a file's bytes, or of all that lies in a folder."""
    return source_sha256(path) if path.is_dir() else file_sha256(path)


def source_sha256(*paths: Path) -> str:
    """sha256 (hex) of some source files, folders taken recursively; names count, times do not."""
    total = hashlib.sha256()
    for top in paths:
        found = (
            sorted(p for p in top.rglob("*") if p.is_file() and "__pycache__" not in p.parts) if top.is_dir() else [top]
        )
        for path in found:
            name = path.relative_to(top.parent).as_posix()
            total.update(f"{name}\0{file_sha256(path)}\n".encode())
    return total.hexdigest()


@contextlib.contextmanager
def disk_errors(what: str, foreign: bool = False) -> Iterator[None]:
    """Turn a full or read-only disk, or a place where nothing can be made, into one clear SetupError; `what` is being written.

    `foreign` is for a body that runs code of others: a file that it misses is no fault of the disk.
    """
    try:
        yield
    except OSError as error:
        missing = error.errno == errno.ENOENT and not foreign
        if missing or error.errno in FULL + CLOSED:
            where = f" at {error.filename}" if error.filename else ""
            hint = "free some space, or choose another folder with --cache-dir or --output"
            raise SetupError(f"cannot write {what}{where}: {error.strerror}", hint) from error
        raise


@contextlib.contextmanager
def entry(path: Path) -> Iterator[Path | None]:
    """Make a cache entry (a folder) once, whoever asks first.

    Yields None when `path` is already there, else an empty temporary folder to fill; on leaving without an
    exception it is renamed to `path`, on an exception it is removed. Other processes wait meanwhile.
    """
    temporary = None
    with contextlib.ExitStack() as stack:
        with disk_errors("the cache"):
            if not path.is_dir():
                path.parent.mkdir(parents=True, exist_ok=True)
                lock = stack.enter_context((path.parent / f".{path.name}.lock").open("w"))
                fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.is_dir():
                temporary = Path(tempfile.mkdtemp(prefix=f".{path.name[:40]}-", dir=path.parent))
                stack.callback(shutil.rmtree, temporary, ignore_errors=True)
                temporary.chmod(0o755)
        if temporary is None:
            yield None
            return
        with disk_errors("the cache", foreign=True):
            yield temporary
            temporary.rename(path)


def fetch(
    path: Path,
    make: Callable[[Path], None],
    read: Callable[[Path], T | None],
    what: str,
    say: Callable[[str], None] | None,
) -> T:
    """What `read` finds in a cache entry (a folder), which `make` fills the first time.

    An entry in which `read` finds nothing (None) is damaged: `say` hears of it and it is made again, once.
    Raises SetupError when it is damaged then too.
    """
    for _ in range(2):
        with entry(path) as fresh:
            if fresh:
                make(fresh)
        found = read(path)
        if found is not None:
            return found
        if say:
            say(f"the cache entry of the {what} is damaged; making it again")
        drop(path)
    raise SetupError(f"the cache entry of the {what} is damaged again right after it was written", "check the disk")


def drop(path: Path) -> None:
    """Remove a cache entry: renamed first, so that nobody meets it half removed."""
    away = path.with_name(f".damaged-{path.name}")
    shutil.rmtree(away, ignore_errors=True)
    with disk_errors("the cache"):
        path.rename(away)
    shutil.rmtree(away, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a file under a temporary name in the same folder, then rename it."""
    with disk_errors(path.name):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            Path(name).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise
