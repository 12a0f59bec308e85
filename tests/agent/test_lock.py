"""The lock on a device as its agents keep it: one holder at a time, freed by the kernel however the holder ends; and patience."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Agent, wait_gone, wait_until, write_fake_model

ME = {"who": "me@here", "what": "profile mine", "since": "2026-11-22 20:00:00 UTC"}
YOU = {"who": "you@there", "what": "profile yours", "since": "2026-11-22 20:00:01 UTC"}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Agent]]:
    """Starts agents in the same folder, as several runs do on one device."""
    with contextlib.ExitStack() as stack:
        yield lambda *options: stack.enter_context(contextlib.closing(Agent(tmp_path, *options)))


def held(agent: Agent, who: dict[str, str], wait_s: float = 0) -> Any:
    """What an agent answers that is asked for the lock."""
    return agent.call("lock", who=who, wait_s=wait_s)["ok"]


def test_one_holds_it_and_the_other_is_told_who(start: Callable[..., Agent]) -> None:
    mine, yours = start(), start()
    assert held(mine, ME) == {"held": True}
    answer = held(yours, YOU)
    assert answer["held"] is False
    assert answer["holder"]["pid"] == mine.process.pid
    assert {key: answer["holder"][key] for key in ME} == ME
    assert 0 <= answer["holder"]["held_s"] < 60
    assert held(mine, ME) == {"held": True}, "asked again it says so again"


@pytest.mark.parametrize("end", ["killed", "bye", "host gone"])
def test_it_is_free_as_soon_as_the_holder_has_ended(start: Callable[..., Agent], end: str) -> None:
    mine, yours = start(), start()
    held(mine, ME)
    if end == "killed":
        os.kill(mine.process.pid, signal.SIGKILL)
    elif end == "bye":
        mine.call("bye")
    else:
        assert mine.process.stdin
        mine.process.stdin.close()
    assert wait_gone(mine.process.pid)
    assert held(yours, YOU) == {"held": True}
    assert held(start(), ME)["holder"]["who"] == "you@there", "and nobody hears of the one before"


def test_whoever_waits_gets_it_when_the_holder_is_killed(start: Callable[..., Agent]) -> None:
    mine, yours = start(), start()
    held(mine, ME)
    yours.send({"id": 1, "op": "lock", "args": {"who": YOU, "wait_s": 60}})
    os.kill(mine.process.pid, signal.SIGKILL)
    assert yours.reply() == {"id": 1, "ok": {"held": True}}


def test_waiting_ends_at_its_deadline_and_with_the_host(start: Callable[..., Agent]) -> None:
    mine, yours = start(), start()
    held(mine, ME)
    assert held(yours, YOU, 0.1)["held"] is False
    yours.send({"id": 1, "op": "lock", "args": {"who": YOU, "wait_s": 600}})
    yours.send({"alive": True})
    assert yours.process.stdin
    yours.process.stdin.close()
    assert wait_gone(yours.process.pid)


def test_a_holder_whose_file_was_removed_does_not_believe_in_its_lock(
    start: Callable[..., Agent], tmp_path: Path
) -> None:
    mine, yours = start(), start()
    held(mine, ME)
    (tmp_path / "lock").unlink()
    assert held(yours, YOU) == {"held": True}
    assert held(mine, ME)["holder"]["who"] == "you@there"


@pytest.mark.parametrize("text", ["", "no JSON", "[]", "{}", '{"pid": "x", "clock": 1}'])
def test_a_holder_that_cannot_be_read_is_a_holder(start: Callable[..., Agent], tmp_path: Path, text: str) -> None:
    mine, yours = start(), start()
    held(mine, ME)
    (tmp_path / "lock").write_text(text, "utf-8")
    assert held(yours, YOU) == {"held": False, "holder": {}}


def test_what_a_dead_holder_left_is_read_again_until_the_new_one_has_written(
    start: Callable[..., Agent], tmp_path: Path
) -> None:
    mine, yours = start(), start()
    held(mine, ME)
    right = (tmp_path / "lock").read_bytes()
    stale = {**json.loads(right), "who": "a ghost", "pid": 2**22 + 1}
    (tmp_path / "lock").write_text(json.dumps(stale), "utf-8")
    timer = threading.Timer(0.05, (tmp_path / "lock").write_bytes, (right,))
    timer.start()
    assert held(yours, YOU)["holder"]["who"] == "me@here"
    timer.join()


def test_a_place_that_cannot_be_locked_is_an_error(start: Callable[..., Agent], tmp_path: Path) -> None:
    (tmp_path / "elsewhere").touch()
    (tmp_path / "lock").symlink_to("elsewhere")
    assert start().call("lock", who=ME)["error"]["message"].startswith("cannot lock the device: ")
    (tmp_path / "lock").unlink()
    (tmp_path / "lock").mkdir()
    assert start().call("lock", who=ME)["error"]["kind"] == "internal"


def test_many_at_once_have_it_one_after_the_other(start: Callable[..., Agent], tmp_path: Path) -> None:
    agents = [start() for _ in range(4)]
    inside: list[int] = []
    most: list[int] = []

    def use(agent: Agent) -> None:
        assert agent.call("lock", who=ME, wait_s=60)["ok"] == {"held": True}
        inside.append(agent.process.pid)
        most.append(len(inside))
        time.sleep(0.02)
        inside.remove(agent.process.pid)
        os.kill(agent.process.pid, signal.SIGKILL)  # the worst way to leave

    users = [threading.Thread(target=use, args=(agent,)) for agent in agents]
    for user in users:
        user.start()
    for user in users:
        user.join(60)
    assert most == [1] * len(agents)


def test_whoever_gets_it_clears_away_what_killed_agents_left(start: Callable[..., Agent], tmp_path: Path) -> None:
    (tmp_path / "lent/.push-0").mkdir(parents=True)
    left = [tmp_path / name for name in ("lent/0123456789abcdef-1.bin", f"output-{'0f' * 8}.bin")]
    kept = [tmp_path / name for name in ("output", "output-mine.bin", "blob.bin")]
    for path in left + kept:
        path.touch()
    mine, yours = start(), start()
    assert all(path.exists() for path in left)
    held(mine, ME)
    assert [path.exists() for path in left + kept] == [False] * len(left) + [True] * len(kept)
    for path in left:
        path.touch()
    held(yours, YOU)
    held(mine, ME)
    assert all(path.exists() for path in left), "they may be at work now"


def request(folder: Path, **changes: Any) -> dict[str, Any]:
    """A prediction of a fake model."""
    (folder / "input").write_bytes(bytes(40))
    name = write_fake_model(folder / "model.fake", **changes)
    args = {"runtime": "fake", "model": name, "input": "input", "output": "output", "deadline_s": 60}
    return {"id": 7, "op": "predict", "args": args}


def test_without_a_word_of_the_host_an_agent_ends_in_time(start: Callable[..., Agent]) -> None:
    agent = start("--patience", "0.3")
    assert agent.process.wait(20) == 0
    assert "nothing was heard from the host" in agent.said()


def test_without_a_word_of_the_host_the_work_ends_too(start: Callable[..., Agent], tmp_path: Path) -> None:
    agent, other = start("--patience", "1"), start()
    held(agent, ME)
    agent.send(request(tmp_path, fault="hang"))
    (child,) = wait_until(agent.children)
    assert agent.process.wait(20) == 0
    assert wait_gone(child)
    assert held(other, YOU) == {"held": True}


def test_a_word_now_and_then_is_enough_and_has_no_answer(start: Callable[..., Agent], tmp_path: Path) -> None:
    agent = start("--patience", "0.6")
    agent.send(request(tmp_path, fault="hang"))
    for _ in range(10):
        agent.send({"alive": True})
        time.sleep(0.1)
    assert agent.process.poll() is None
    assert agent.children()


def test_when_the_agent_is_killed_its_work_is_killed_too(start: Callable[..., Agent], tmp_path: Path) -> None:
    agent = start()
    agent.send(request(tmp_path, fault="hang"))
    (child,) = wait_until(agent.children)
    wait_until((tmp_path / "output").exists)  # it is at work
    os.kill(agent.process.pid, signal.SIGKILL)
    assert wait_gone(child)
