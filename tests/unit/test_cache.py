"""The cache: an entry is made once whoever asks, is there whole or not at all, and a full disk is one clear sentence."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pwd
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from harness import PATIENCE_S, ROOT, forbid

from edgekit import cache
from edgekit.errors import SetupError, UserError


def fill(path: Path, text: str = "content") -> bool:
    """Make an entry of one file; whether it was ours to make."""
    with cache.entry(path) as temporary:
        if temporary is not None:
            (temporary / "file").write_text(text)
        return temporary is not None


def left(folder: Path) -> set[str]:
    """What lies in a folder beside lock files."""
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}


def test_an_entry_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "kind" / "key"
    assert fill(path, "first")
    assert not fill(path, "second")
    assert (path / "file").read_text() == "first"
    assert left(path.parent) == {"key"}


def test_an_entry_is_not_there_before_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "key"
    with cache.entry(path) as temporary:
        assert temporary is not None
        (temporary / "file").write_text("half")
        assert not path.exists()
    assert path.exists()
    assert path.stat().st_mode & 0o777 == 0o755, "others who share the cache can read it"


@pytest.mark.parametrize("error", [ValueError("no"), UserError("no"), KeyboardInterrupt(), SystemExit(1)], ids=repr)
def test_an_exception_leaves_nothing_and_the_next_may_try(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "key"
    with pytest.raises(type(error)), cache.entry(path) as temporary:
        assert temporary is not None
        (temporary / "file").write_text("half")
        raise error
    assert left(tmp_path) == set()
    assert fill(path)


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG, errno.ENAMETOOLONG]
)
def test_a_full_or_closed_disk_is_one_clear_sentence_and_leaves_nothing(tmp_path: Path, number: int) -> None:
    path = tmp_path / "key"
    with pytest.raises(SetupError) as caught, cache.entry(path) as temporary:
        assert temporary is not None
        raise OSError(number, os.strerror(number), str(temporary / "file"))
    assert caught.value.message.startswith("cannot write the cache at ")
    assert os.strerror(number) in caught.value.message
    assert "--cache-dir" in caught.value.hint
    assert left(tmp_path) == set()


@pytest.mark.parametrize("kind", [ConnectionResetError, FileNotFoundError])
def test_other_errors_of_the_system_are_left_as_they_are(tmp_path: Path, kind: type[OSError]) -> None:
    with pytest.raises(kind), cache.entry(tmp_path / "key"):
        raise kind(errno.ENOENT if kind is FileNotFoundError else errno.ECONNRESET, "of whoever fills it")


@pytest.mark.parametrize("place", ["/proc/foo", "x" * 300, "/proc/foo/" + "x" * 300])
def test_a_place_where_nothing_can_be_made_is_one_clear_sentence(tmp_path: Path, place: str) -> None:
    with pytest.raises(SetupError, match="cannot write the cache at"), cache.entry(tmp_path / place / "key"):
        pass
    with pytest.raises(SetupError, match=r"cannot write run\.json at"):
        cache.write_text(tmp_path / place / "run.json", "{}")


def test_a_folder_that_one_may_not_look_into_is_one_clear_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid(monkeypatch, tmp_path)
    with pytest.raises(SetupError, match=r"cannot write the cache.*Permission denied"), cache.entry(tmp_path / "key"):
        pass
    assert not cache.is_file(tmp_path / "key")


@pytest.mark.parametrize("place", ["file/below", "file"])
def test_a_cache_that_is_a_file_is_one_clear_sentence(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="cannot write the cache"), cache.entry(tmp_path / place / "key"):
        pass


def test_whoever_comes_second_waits_for_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key"
    at_the_lock = threading.Event()
    made: list[bool] = []
    lock = fcntl.flock

    def flock(stream: int, how: int) -> None:
        if threading.current_thread() is second:
            at_the_lock.set()
        lock(stream, how)

    second = threading.Thread(target=lambda: made.append(fill(path, "second")))
    monkeypatch.setattr(fcntl, "flock", flock)
    with cache.entry(path) as temporary:
        assert temporary is not None
        second.start()
        assert at_the_lock.wait(PATIENCE_S)
        assert second.is_alive()
        (temporary / "file").write_text("first")
    second.join(PATIENCE_S)
    assert made == [False]
    assert (path / "file").read_text() == "first"


def test_when_the_first_fails_the_second_makes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key"
    at_the_lock = threading.Event()
    made: list[bool] = []
    lock = fcntl.flock

    def flock(stream: int, how: int) -> None:
        if threading.current_thread() is second:
            at_the_lock.set()
        lock(stream, how)

    second = threading.Thread(target=lambda: made.append(fill(path, "second")))
    monkeypatch.setattr(fcntl, "flock", flock)
    with contextlib.suppress(ValueError), cache.entry(path):
        second.start()
        assert at_the_lock.wait(PATIENCE_S)
        raise ValueError
    second.join(PATIENCE_S)
    assert made == [True]
    assert (path / "file").read_text() == "second"


def test_processes_that_ask_at_once_make_it_once(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from edgekit import cache
path = Path(sys.argv[1])
sys.stdin.read()  # the pipe is closed for all of them at the same moment
with cache.entry(path) as temporary:
    if temporary:
        for number in range(200):
            (temporary / str(number)).write_text("x")
        print("made")
print(len(list(path.iterdir())))
"""
    reading, writing = os.pipe()
    command = [sys.executable, "-c", code, str(tmp_path / "kind" / "key")]
    asking = [
        subprocess.Popen(command, cwd=ROOT, stdin=reading, stdout=subprocess.PIPE, text=True, close_fds=True)
        for _ in range(4)
    ]
    os.close(reading)
    os.close(writing)
    said = [process.communicate(timeout=PATIENCE_S)[0].split() for process in asking]
    assert sorted(said, key=len) == [["200"], ["200"], ["200"], ["made", "200"]]


def test_a_process_that_is_killed_leaves_no_entry_and_holds_up_nobody(tmp_path: Path) -> None:
    code = """
import os, sys
from pathlib import Path
from edgekit import cache
with cache.entry(Path(sys.argv[1])) as temporary:
    (temporary / "file").write_text("half")
    os.kill(os.getpid(), 9)
"""
    path = tmp_path / "key"
    assert subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT).returncode == -9
    assert not path.exists()
    assert fill(path)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "file.json"
    cache.write_text(path, "first")
    cache.write_text(path, "second")
    assert path.read_text() == "second"

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SetupError, match=r"cannot write file\.json"):
        cache.write_text(path, "third")
    assert path.read_text() == "second"
    assert left(path.parent) == {"file.json"}


def test_the_place_of_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE_DIR", "~/somewhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_dir() == tmp_path / "somewhere"
    monkeypatch.setenv("EDGEKIT_CACHE_DIR", "here")
    monkeypatch.chdir(tmp_path)
    assert cache.cache_dir() == tmp_path / "here"
    monkeypatch.delenv("EDGEKIT_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.cache_dir() == tmp_path / "xdg" / "edgekit"


@pytest.mark.parametrize("chosen", [None, "~/somewhere"])
def test_a_user_without_a_home_is_asked_for_a_folder(monkeypatch: pytest.MonkeyPatch, chosen: str | None) -> None:
    for name in ("EDGEKIT_CACHE_DIR", "HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    if chosen:
        monkeypatch.setenv("EDGEKIT_CACHE_DIR", chosen)

    def nobody(_: int) -> None:
        raise KeyError("uid not found")

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    with pytest.raises(SetupError, match=r"no home folder.*--cache-dir or EDGEKIT_CACHE_DIR"):
        cache.cache_dir()


def test_a_digest_is_of_the_content_and_not_of_its_order() -> None:
    assert cache.digest({"a": 1, "b": [1, 2]}) == cache.digest({"b": [1, 2], "a": 1})
    assert cache.digest({"a": 1}) != cache.digest({"a": "1"})
    assert cache.digest([1, 2]) != cache.digest([2, 1])


def test_the_hash_of_sources_is_of_names_and_bytes(tmp_path: Path) -> None:
    folder = tmp_path / "one" / "package"
    (folder / "__pycache__").mkdir(parents=True)
    (folder / "a.py").write_text("a")
    (folder / "b.py").write_text("b")
    before = cache.source_sha256(folder)
    (folder / "__pycache__" / "a.pyc").write_text("compiled")
    os.utime(folder / "a.py", (0, 0))
    assert cache.source_sha256(folder) == before
    elsewhere = tmp_path / "two" / "package"
    elsewhere.parent.mkdir()
    (tmp_path / "one").rename(tmp_path / "moved")
    (tmp_path / "moved" / "package").rename(elsewhere)
    assert cache.source_sha256(elsewhere) == before, "the place does not count"
    (elsewhere / "a.py").rename(elsewhere / "c.py")
    assert cache.source_sha256(elsewhere) != before, "the name does"
    (elsewhere / "c.py").rename(elsewhere / "a.py")
    (elsewhere / "a.py").write_text("A")
    assert cache.source_sha256(elsewhere) != before, "the content does"
