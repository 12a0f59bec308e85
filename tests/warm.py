"""A Python that has imported what the command line imports, and forks for each command that a test runs.

Importing numpy, jinja2, rich and edgekit is most of what a command of the fake runtime costs. A forked command runs
`python -m edgekit` from its first line to its exit code, with streams, environment, folder and process group of its own.
Requests come over a socket: one JSON object and the files for stdin, stdout, stderr and the status, into which go the process's
number, and, when it has ended, its exit code (negative: the signal that ended it), a line each.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import sys
import threading
import time

MOST = 1 << 20  # bytes of one request


def import_all() -> None:
    """Everything that a command may import in its own process; that each can be imported alone, other tests see to."""
    for package in ("edgekit", "edgekit.report"):
        for found in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
            if not found.ispkg and not found.name.endswith("__main__"):
                importlib.import_module(found.name)
    for name in ("jinja2", "numpy", "rich.table"):
        importlib.import_module(name)
    importlib.import_module("edgekit.report.html").template()
    gc.freeze()


def become(request: dict[str, object], files: list[int]) -> None:
    """Turn this process into one that has just been started, as far as `python -m edgekit` can tell."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        old = getattr(sys, name)
        setattr(sys, name, open(number, old.mode, encoding=old.encoding, errors=old.errors, closefd=False))  # noqa: SIM115
    sys.stderr.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os.chdir(str(request["cwd"]))
    os.environ.clear()
    os.environ.update(request["environment"])  # type: ignore[arg-type]
    time.tzset()
    sys.path[0] = str(request["cwd"])
    sys.argv[1:] = request["args"]  # type: ignore[assignment]


def end(code: object) -> None:
    """What an interpreter does at its end, but for taking apart a thousand modules, which costs a fork more than the command."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    assert isinstance(code, int)
    os._exit(code)


def serve(requests: socket.socket) -> None:
    """Fork for each request; returns in the forked processes only, and ends with the process that asks."""
    alive: dict[int, tuple[int, int]] = {}  # by the handle of a process: its number and its status file
    while True:
        ready = select.select([requests, *alive], [], [])[0]
        for handle in [one for one in ready if isinstance(one, int)]:
            pid, status = alive.pop(handle)
            os.write(status, b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            os.close(status)
            os.close(handle)
        if requests not in ready:
            continue
        message, files, _, _ = socket.recv_fds(requests, MOST, 4, socket.MSG_CMSG_CLOEXEC)
        if not message:
            os._exit(0)
        *streams, status = files
        pid = os.fork()
        if not pid:
            for file in (status, requests.detach(), *alive, *(other for _, other in alive.values())):
                os.close(file)
            become(json.loads(message), streams)
            return
        os.write(status, b"%d\n" % pid)
        alive[os.pidfd_open(pid)] = pid, status
        for file in streams:
            os.close(file)


if __name__ == "__main__":
    asked = socket.socket(fileno=int(sys.argv[1]))
    import_all()
    serve(asked)
    try:
        runpy.run_module("edgekit", run_name="__main__", alter_sys=True)
    except SystemExit as ending:
        end(ending.code)
