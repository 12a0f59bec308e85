"""Running the host's tools: a missing one is answered with the package to install, a failing one with its last lines."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgekit.errors import SetupError

TAIL_LINES = 15


def find(package: str, *names: str) -> str:
    """The full path of the first of these programs that is installed. Raises SetupError naming the Debian package."""
    for name in names:
        found = shutil.which(name)
        if found:
            return found
    raise SetupError(f"{names[0]} is not installed on this machine", f"apt-get install {package}")


def run(
    argv: Sequence[str | os.PathLike[str]],
    what: str,
    hint: str = "",
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout_s: float = 900,
) -> str:
    """Run a tool and return its stdout. Raises SetupError("<what> failed ...") with its last lines."""
    try:
        done = subprocess.run(
            [os.fspath(part) for part in argv],
            cwd=cwd,
            env={**os.environ, "LC_ALL": "C", **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired as error:
        raise SetupError(f"{what} failed: it did not finish within {timeout_s:g} s", hint) from error
    except OSError as error:
        raise SetupError(f"{what} failed: {error.strerror}: {os.fspath(argv[0])}", hint) from error
    if done.returncode:
        output = done.stderr.strip() or done.stdout.strip()
        raise SetupError(f"{what} failed: {cause(output) or f'exit code {done.returncode}'}", hint or tail(output))
    return done.stdout


def cause(text: str) -> str:
    """The line that says why: the first that calls itself an error, else the last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"E: |ERROR|fatal|.*\berror: ", line)]
    return (errors or lines[-1:] or [""])[0]


def tail(text: str) -> str:
    """The last lines of a tool's output."""
    return "\n".join(text.strip().splitlines()[-TAIL_LINES:])
