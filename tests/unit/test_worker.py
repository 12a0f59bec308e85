"""The worker: results, prints, errors and every way to die, each in a real process."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import ROOT, wait_gone, wait_until

from edgekit import errors, worker
from edgekit.errors import ConvertError, EdgekitError, UserError, WorkerCrashed
from edgekit.types import Json

TASKS = """
import ctypes, json, os, signal, subprocess, sys, time
from edgekit import errors

def echo(request):
    return {"got": request, "pid": os.getpid(), "session": os.getsid(0), "tmp": os.environ["TMPDIR"], "cwd": os.getcwd()}

def noisy(request):
    print("Python prints")
    print("and complains", file=sys.stderr)
    os.write(1, b"\\xff bytes that are no text\\n")
    libc = ctypes.CDLL(None)
    libc.puts(b"C stdio prints")
    libc.fflush(None)
    if request.get("fail"):
        raise errors.ConvertError("the tool said no", "try another")
    return {"fine": True}

def refuse(request):
    raise errors.UserError("the file is wrong", "look at line 3")

def stumble(request):
    return {}["operator FancyConv"]

def wrapped(request):
    try:
        try:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied\\nwhile executing %addmm")
        except RuntimeError as error:
            raise ValueError("the tracer gave up") from error
    except ValueError as error:
        print("\\x1b[96mgoodbye\\x1b[0m\\a")
        raise KeyError("Failed to export: \\x1b[96mThis is step 1/3\\x1b[0m") from error

def colourful(request):
    raise ValueError("\\x1b[96mred\\x1b[0m and a bell \\a")

def masquerade(request):
    raise type("UserError", (Exception,), {})("torch has one of this name")

def starve(request):
    raise MemoryError

def full(request):
    raise OSError(28, "No space left on device", "/some/where")

def leave(request):
    sys.exit(3)

def vanish(request):
    print("last words", flush=True)
    os._exit(7)

def strange(request):
    return {"value": float("nan")} if request else [1, 2]

def die(request):
    print("last words", flush=True)
    os.kill(os.getpid(), request["signal"])

def hang(request):
    child = subprocess.Popen(["sleep", "600"])
    with open(request["file"] + ".part", "w") as stream:
        json.dump([os.getpid(), child.pid], stream)
    os.rename(request["file"] + ".part", request["file"])
    time.sleep(600)

def call_nested(request):
    from edgekit import worker
    return worker.run("tasks:hang", request, 600)
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Makes `tasks` importable in workers, and checks that every worker removes its temporary folder."""
    (tmp_path / "tasks.py").write_text(TASKS, "utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    yield tmp_path
    assert not list(temporary.iterdir())


def ended(pids: list[int]) -> bool:
    """Whether these processes end in good time."""
    return all(wait_gone(pid) for pid in pids)


def pids_in(path: Path) -> list[int]:
    """The process ids that `hang` wrote."""
    wait_until(path.exists)
    found: list[int] = __import__("json").loads(path.read_text())
    return found


def test_a_result_comes_back_from_another_session_with_its_own_temporary_folder() -> None:
    request: Json = {"numbers": [1, 2.5, None], "text": "größe"}
    result = worker.run("tasks:echo", request, 30)
    assert result["got"] == request
    assert result["pid"] == result["session"] != os.getpid()
    assert not Path(result["tmp"]).exists()


def test_prints_of_python_and_of_native_code_reach_only_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    assert worker.run("tasks:noisy", {}, 30) == {"fine": True}
    with pytest.raises(ConvertError) as caught:
        worker.run("tasks:noisy", {"fail": True}, 30)
    for line in ("Python prints", "and complains", "bytes that are no text", "C stdio prints"):
        assert line in caught.value.log_tail
    assert capfd.readouterr() == ("", "")


def test_only_the_end_of_a_long_log_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"line {number} {'x' * 300}\n\n" for number in range(5000)), "utf-8")
    tail = worker._tail(log)
    assert len(tail) <= worker.LOG_TAIL_BYTES and "line 4999" in tail and "line 4000" not in tail


def test_an_error_of_ours_crosses_with_class_message_and_hint() -> None:
    with pytest.raises(UserError) as caught:
        worker.run("tasks:refuse", {}, 30)
    assert (caught.value.message, caught.value.hint) == ("the file is wrong", "look at line 3")


def every_error() -> list[EdgekitError]:
    """One of each class in errors.py."""
    classes = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, EdgekitError)]
    return [errors.AgentError("timeout", "m", "h") if kind is errors.AgentError else kind("m", "h") for kind in classes]


@pytest.mark.parametrize("error", every_error(), ids=lambda error: type(error).__name__)
def test_every_class_of_the_error_tree_can_cross(error: EdgekitError) -> None:
    rebuilt = worker._rebuild(worker._describe(error), "the worker", "")
    assert type(rebuilt) is type(error)
    assert vars(rebuilt) == vars(error)


def test_a_foreign_exception_becomes_a_convert_error_with_the_traceback_in_its_log() -> None:
    with pytest.raises(ConvertError) as caught:
        worker.run("tasks:stumble", {}, 30, what="converting x")
    assert type(caught.value) is ConvertError
    assert caught.value.message == "converting x failed: KeyError: 'operator FancyConv'"
    assert 'return {}["operator FancyConv"]' in caught.value.log_tail


def test_the_reason_is_taken_from_the_root_and_nothing_moves_the_terminal() -> None:
    with pytest.raises(ConvertError) as caught:
        worker.run("tasks:wrapped", {}, 30, what="converting x")
    assert caught.value.message == "converting x failed: RuntimeError: mat1 and mat2 shapes cannot be multiplied"
    assert "goodbye?" in caught.value.log_tail and "This is step 1/3" in caught.value.log_tail
    assert "\x1b" not in caught.value.log_tail and "\a" not in caught.value.log_tail
    with pytest.raises(ConvertError, match=r"failed: ValueError: red and a bell \?$"):
        worker.run("tasks:colourful", {}, 30, what="converting x")


def test_a_foreign_error_is_not_taken_for_ours_by_its_name() -> None:
    with pytest.raises(ConvertError, match="failed: UserError: torch has one of this name"):
        worker.run("tasks:masquerade", {}, 30)


def test_a_function_that_does_not_exist_is_told() -> None:
    with pytest.raises(ConvertError, match="ModuleNotFoundError"):
        worker.run("nowhere:nothing", {}, 30)


def test_lack_of_memory_and_of_disk_are_told_apart_from_refusals() -> None:
    with pytest.raises(WorkerCrashed, match="ran out of memory"):
        worker.run("tasks:starve", {}, 30)
    with pytest.raises(errors.SetupError, match="No space left on device"):
        worker.run("tasks:full", {}, 30)


@pytest.mark.parametrize(("function", "status"), [("leave", 3), ("vanish", 7)])
def test_an_exit_without_a_result_is_a_crash(function: str, status: int) -> None:
    with pytest.raises(WorkerCrashed, match=rf"exit status {status} and without a result"):
        worker.run(f"tasks:{function}", {}, 30)


@pytest.mark.parametrize("request_", [{}, {"x": 1}])
def test_a_result_that_is_no_json_object_is_refused(request_: Json) -> None:
    with pytest.raises(ConvertError, match="JSON"):
        worker.run("tasks:strange", request_, 30)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGKILL, "was killed by SIGKILL, most likely out of memory"),
        (signal.SIGSEGV, "was killed by SIGSEGV"),
        (signal.SIGABRT, "was killed by SIGABRT"),
        (signal.SIGILL, "instructions that this CPU does not have"),
    ],
)
def test_death_by_a_signal_names_it_and_keeps_the_last_words(number: int, words: str) -> None:
    with pytest.raises(WorkerCrashed, match=words) as caught:
        worker.run("tasks:die", {"signal": number}, 30, what="converting x")
    assert caught.value.message.startswith("converting x ")
    assert caught.value.log_tail == "last words"


def test_the_deadline_ends_the_worker_and_what_it_started(place: Path) -> None:
    with pytest.raises(WorkerCrashed, match=r"did not finish within 1\.5 s"):
        worker.run("tasks:hang", {"file": str(place / "pids")}, 1.5)
    assert ended(pids_in(place / "pids"))


def test_an_interrupt_ends_the_worker_and_what_it_started(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "HEARTBEAT_S", 0.05)
    heard = []

    def say(message: str) -> None:
        heard.append(message)
        if (place / "pids").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        worker.run("tasks:hang", {"file": str(place / "pids")}, 30, say, "converting x")
    assert heard[0].startswith("converting x: still at work after")
    assert ended(pids_in(place / "pids"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux can tie a process to its parent's life")
def test_a_worker_does_not_outlive_a_killed_parent(place: Path) -> None:
    code = f"import tasks; tasks.call_nested({{'file': {str(place / 'pids')!r}}})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(place), str(ROOT))), "TMPDIR": str(place)}
    parent = subprocess.Popen([sys.executable, "-c", code], env=environment)
    worker_pid, grandchild = pids_in(place / "pids")
    parent.kill()
    parent.wait()
    assert ended([worker_pid])
    handle = os.pidfd_open(grandchild)  # nobody is left to end it but this test
    signal.pidfd_send_signal(handle, signal.SIGKILL)
    select.select([handle], [], [])
    os.close(handle)


def test_files_in_the_current_folder_do_not_replace_modules(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = place / "cwd"
    folder.mkdir()
    for name in ("json", "edgekit", "tempfile"):
        (folder / f"{name}.py").write_text("raise SystemExit('shadowed')", "utf-8")
    monkeypatch.chdir(folder)
    assert worker.run("tasks:echo", {}, 30)["cwd"] == str(folder)
