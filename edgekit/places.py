"""The results folders of this machine: a plain file in the cache that gains a line with every new one."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path

from edgekit.cache import cache_dir
from edgekit.errors import SetupError


def file() -> Path:
    """Where they are noted. Raises SetupError for a user without a home folder."""
    return cache_dir() / "history" / "places"


def noted() -> list[Path]:
    """The folders that were noted, in that order; some may be gone."""
    try:
        text = file().read_text("utf-8", "replace")
    except (OSError, SetupError):
        return []
    found = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError, OSError):
            found.append(real(Path(str(json.loads(line)))))
    return list(dict.fromkeys(found))


def real(folder: Path) -> Path:
    """The folder itself, whichever way leads to it: runs that were found twice would count twice."""
    return Path(os.path.realpath(folder))


def note(folder: Path) -> None:
    """Remember that runs lie in a folder. A run counts for more than where it lies: what goes wrong here is let be."""
    with contextlib.suppress(OSError, SetupError):
        absolute = real(folder)
        if absolute in noted():
            return
        file().parent.mkdir(parents=True, exist_ok=True)
        with file().open("ab", buffering=0) as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            # A line of its own, also after one that a full disk cut short.
            stream.write(f"\n{json.dumps(str(absolute))}\n".encode())


def keep(wanted: Callable[[Path], bool]) -> None:
    """Forget the folders that are not wanted. Raises OSError."""
    with contextlib.suppress(FileNotFoundError), file().open("r+b") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        kept = "".join(f"{json.dumps(str(place))}\n" for place in noted() if wanted(place)).encode()
        stream.write(kept)
        stream.truncate()
        os.fsync(stream.fileno())
