"""Runs one function in a fresh interpreter with a deadline, so that a tool that crashes, hangs or prints harms nobody.

    request.json -> python -m edgekit.worker FOLDER -> result.json          in a private temporary folder

Everything the child prints, native libraries included, goes to a log whose tail is kept for the error. Large data
travels in files that the request names. What the function computes is no business of this file.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

from edgekit import errors
from edgekit.cache import disk_errors
from edgekit.errors import ConvertError, EdgekitError, WorkerCrashed
from edgekit.types import Json

# The children under way; `end_all` is for a Ctrl-C while several threads wait for theirs.
LIVE: set[subprocess.Popen[bytes]] = set()
LOG_TAIL_LINES = 40
LOG_TAIL_BYTES = 8000
HEARTBEAT_S = 30.0
COLOURS = re.compile(r"\x1b\[[0-9;:?]*[ -/]*[@-~]")  # ECMA-48 control sequences

# The same answer on every host, without the pages that the tools print at start-up.
ENVIRONMENT = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "0",  # oneDNN reorders float sums by CPU; reference outputs should not depend on that
    "KERAS_BACKEND": "tensorflow",  # whatever the user's keras.json says
    "CUDA_VISIBLE_DEVICES": "",  # conversion is CPU work; TensorFlow would take all memory of a GPU
    "PYTHONHASHSEED": "0",
    "PYTHONSAFEPATH": "1",  # a torch.py in the current folder must not replace the package
    "PYTHONWARNINGS": "ignore",
}


def run(
    function: str, request: Json, deadline_s: float, say: Callable[[str], None] | None = None, what: str = "the worker"
) -> Json:
    """Call `function` ("module:name", taking and returning a JSON object) in a fresh interpreter and return its result.

    `what` names the work in messages ("converting digits_cnn to tflite"); `say` hears of it every 30 s while it lasts.
    Raises the function's own EdgekitError with its class, message and hint; ConvertError for any other exception;
    WorkerCrashed when the process dies of a signal, ends without a result or passes the deadline.
    """
    with contextlib.ExitStack() as stack:
        with disk_errors("the worker's request"):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgekit-worker-")))
            (folder / "request.json").write_text(json.dumps({"function": function, "request": request}), "utf-8")
            (folder / "tmp").mkdir()
            log = stack.enter_context((folder / "log").open("wb"))
        command = [sys.executable, "-m", "edgekit.worker", str(folder)]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_environment(folder / "tmp"),
            start_new_session=True,
        )
        started = time.monotonic()
        LIVE.add(process)
        try:
            returncode = _wait(process, deadline_s, what, say)
        finally:
            _end_group(process)
            LIVE.discard(process)
        tail = _tail(folder / "log")
        if returncode is None:
            message = f"{what} did not finish within {deadline_s:g} s and was ended"
            raise WorkerCrashed(message, "a larger model may need a longer deadline", tail)
        if returncode < 0:
            raise _death_by_signal(what, -returncode, tail)
        answer = _read_answer(folder / "result.json")
        if answer is None:
            elapsed_s = time.monotonic() - started
            message = f"{what} ended after {elapsed_s:.1f} s with exit status {returncode} and without a result"
            raise WorkerCrashed(message, "the log tail may say why", tail)
    if "error" in answer:
        raise _rebuild(answer["error"], what, tail)
    result: Json = answer["ok"]
    return result


def _wait(
    process: subprocess.Popen[bytes], deadline_s: float, what: str, say: Callable[[str], None] | None
) -> int | None:
    """The return code, or None when the deadline passed first."""
    started = time.monotonic()
    while True:
        elapsed_s = time.monotonic() - started
        if elapsed_s >= deadline_s:
            return None
        try:
            return process.wait(min(HEARTBEAT_S, deadline_s - elapsed_s))
        except subprocess.TimeoutExpired:
            elapsed_s = time.monotonic() - started
            if say and elapsed_s < deadline_s:
                say(f"{what}: still at work after {elapsed_s:.0f} s")


def end_all() -> None:
    """End every child that is under way; whoever waits for one gets a WorkerCrashed."""
    for process in list(LIVE):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End the child and whatever it started; its session has its own process group, so nobody else is hit."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _environment(temporary: Path) -> dict[str, str]:
    environment = {**os.environ, **ENVIRONMENT, "TMPDIR": str(temporary)}
    root = str(Path(__file__).resolve().parent.parent)
    if root not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        inherited = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = root + (os.pathsep + inherited if inherited else "")
    return environment


def _tail(log: Path) -> str:
    """The last lines of the child's output, as text."""
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - LOG_TAIL_BYTES))
        lines = printable(stream.read().decode("utf-8", "replace")).splitlines()
    return "\n".join(collections.deque((line.rstrip() for line in lines if line.strip()), LOG_TAIL_LINES))


def _read_answer(path: Path) -> Json | None:
    try:
        answer = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(answer, dict) or not ("error" in answer or isinstance(answer.get("ok"), dict)):
        return None
    return answer


def _death_by_signal(what: str, number: int, tail: str) -> WorkerCrashed:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    reasons = {
        "SIGKILL": (", most likely out of memory", "close other programs, or use a machine with more memory"),
        "SIGABRT": (": a library in it gave up", "the log tail holds its last words"),
        "SIGILL": (": a library in it uses instructions that this CPU does not have", ""),
    }
    reason, hint = reasons.get(name, (": a library in it crashed", "the log tail holds its last words"))
    return WorkerCrashed(f"{what} was killed by {name}{reason}", hint, tail)


def _rebuild(error: Mapping[str, str], what: str, tail: str) -> EdgekitError:
    """The exception that the child described, with its class where that is one of ours."""
    message, hint = printable(error["message"]), printable(error.get("hint", ""))
    if error.get("foreign") == "MemoryError":
        return WorkerCrashed(f"{what} ran out of memory", "use a machine with more memory", tail)
    if "foreign" in error:  # torch has a UserError too
        return ConvertError(f"{what} failed: {error['foreign']}: {message}", hint, tail)
    kind: type[EdgekitError] = getattr(errors, error["class"])
    if issubclass(kind, ConvertError):
        return kind(message, hint, printable(error.get("log_tail", "")) or tail)
    if kind is errors.AgentError:
        return errors.AgentError(error.get("kind", "internal"), message, hint)
    return kind(message, hint)


def printable(text: str) -> str:
    """A tool's words without what would colour or move a terminal; lines stay lines."""
    return "".join(mark if mark.isprintable() or mark in "\t\n" else "?" for mark in COLOURS.sub("", text))


def _describe(error: BaseException) -> Json:
    """An exception as JSON; the traceback of a foreign one is printed, so that it ends up in the log."""
    if isinstance(error, EdgekitError):
        extra = {name: getattr(error, name) for name in ("log_tail", "kind") if hasattr(error, name)}
        return {"class": type(error).__name__, "message": error.message, "hint": error.hint, **extra}
    traceback.print_exception(error)
    # Exporters wrap the reason in advice of their own: "Failed to export. This is step 1 of 3 ..."
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, EdgekitError):
        return _describe(error)
    last_line = traceback.format_exception_only(error)[-1].strip()
    return {"foreign": type(error).__name__, "message": errors.first_line(error, otherwise=last_line)}


def _die_with_parent() -> None:
    """Ask Linux to end this process when the parent dies, however that happens; elsewhere do nothing."""
    pr_set_pdeathsig = 1  # sys/prctl.h
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def main(folder: Path) -> None:
    """The child: do what request.json says, leave result.json behind under its final name only when it is whole."""
    _die_with_parent()
    order = json.loads((folder / "request.json").read_text("utf-8"))
    module, _, name = order["function"].partition(":")
    answer: Json
    try:
        with disk_errors("the result", foreign=True):
            result = getattr(importlib.import_module(module), name)(order["request"])
        if not isinstance(result, dict):
            raise TypeError(f"{order['function']} returned {type(result).__name__}, not a JSON object")
        answer = {"ok": result}
        text = json.dumps(answer, allow_nan=False)
    except Exception as error:
        text = json.dumps({"error": _describe(error)})
    partial = folder / "result.part"
    partial.write_text(text, "utf-8")
    partial.rename(folder / "result.json")
    sys.stdout.flush()
    sys.stderr.flush()
    # Interpreter shutdown of several native runtimes together can crash; the answer is out, so nothing is lost.
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
