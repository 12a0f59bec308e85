"""A device for a whole run: the lock, its loss, the words for who has it, and the beat that says the host lives."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import FAKE_DEVICE, wait_gone, wait_until

from edgekit import config, link
from edgekit.errors import ConnectError, DeviceBusy, DeviceError
from edgekit.link import Link, described, duration
from edgekit.transports import ProcessChannel, Transport, local
from edgekit.types import Json

DEVICE = config.device(str(FAKE_DEVICE))


@pytest.fixture
def said() -> list[str]:
    """What the user hears."""
    return []


@pytest.fixture
def line(cold_cache: Path, said: list[str]) -> Iterator[Link]:
    """A link to the fake device."""
    with Link(DEVICE, said.append, "profile one") as made:
        yield made


def pid(live: link.Session) -> int:
    """The process of an agent on this machine."""
    assert isinstance(live.channel, ProcessChannel)
    return live.channel.process.pid


def test_nothing_is_connected_before_it_is_wanted(line: Link, cold_cache: Path) -> None:
    assert line.transport is None
    assert not line.held()
    line.close()
    assert not cold_cache.exists()


def test_the_first_agent_locks_and_the_last_does_not_free(line: Link, said: list[str]) -> None:
    for _ in range(2):
        live = line.session("fake")
        assert live.call("probe", {"runtime": "fake"}, 20) == {"version": "1"}
        assert line.held()
        line.drop(live)
    assert line.held(), "between two runtimes the device is still ours"
    with pytest.raises(DeviceBusy) as caught, Link(DEVICE, said.append, "profile two") as second:
        second.session("fake")
    assert "runs profile one on it since 20" in caught.value.message
    assert f"process {os.getpid()}" in caught.value.message
    assert second.transport is None and not second.sessions, "and nothing is left of the attempt"
    line.close()
    with Link(DEVICE, said.append, "profile two") as second:
        second.session("fake")


def test_a_holder_that_was_killed_is_noticed_and_replaced(line: Link) -> None:
    live = line.session("fake")
    assert line.holder is not None and pid(line.holder) != pid(live)
    os.kill(pid(line.holder), signal.SIGKILL)
    assert wait_gone(pid(line.holder))
    assert not line.held()
    line.lost(live)
    line.session("fake")
    assert line.held()


def test_an_agent_that_was_killed_costs_neither_lock_nor_connection(line: Link) -> None:
    live, transport = line.session("fake"), line.transport
    os.kill(pid(live), signal.SIGKILL)
    line.lost(live)
    assert line.held()
    assert line.session("fake").call("probe", {"runtime": "fake"}, 20) == {"version": "1"}
    assert line.transport is transport


def test_where_each_connection_has_a_device_of_its_own_nothing_is_locked(
    line: Link, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local.Local, "shared", False)
    live = line.session("fake")
    assert line.holder is None and line.held()
    with Link(DEVICE, said.append, "profile two") as second:
        second.session("fake")
    line.lost(live)
    assert line.transport is None, "nobody tells whether such a link is well, so it is made anew"


def test_agents_behind_a_link_that_can_be_cut_unseen_hear_the_host_beat(
    line: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    beats: list[link.Session] = []
    monkeypatch.setattr(local.Local, "seamless", False)
    monkeypatch.setattr(link, "BEAT_S", 0.02)
    monkeypatch.setattr(link.Session, "reassure", lambda live: beats.append(live))
    live = line.session("fake")
    wait_until(lambda: {line.holder, live} <= set(beats))
    assert link.session.PATIENCE_S > 4 * 20, "a beat may come late, and some may be lost"
    assert [thread.name for thread in threading.enumerate()].count(link.BEAT) == 1
    line.close()
    wait_until(lambda: link.BEAT not in [thread.name for thread in threading.enumerate()])


def test_a_beat_reaches_the_agent_and_has_no_answer(line: Link) -> None:
    live = line.session("fake")
    for _ in range(3):
        live.reassure()
    assert live.call("probe", {"runtime": "fake"}, 20) == {"version": "1"}
    os.kill(pid(live), signal.SIGKILL)
    assert wait_gone(pid(live))
    live.reassure()  # never raises


def test_a_holder_of_our_own_that_has_not_noticed_the_cut_is_waited_for(line: Link, said: list[str]) -> None:
    """A pulled cable: the device still believes in the last link, and it is nobody else who has the lock."""
    line.session("fake")
    ghost = line.holder
    assert ghost is not None
    line.holder = None
    line.sessions.clear()
    began = threading.Event()
    line.say = lambda text: (said.append(text), began.set() if "has not noticed yet" in text else None)[0]
    threading.Thread(target=lambda: began.wait(20) and ghost.close(), daemon=True).start()
    line.session("fake")
    assert any("fake has not noticed yet that the last link was cut" in text for text in said)
    assert line.held()


def test_a_holder_of_our_own_is_not_waited_for_without_an_end(line: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    line.session("fake")
    ghost, line.holder = line.holder, None
    assert ghost is not None
    line.sessions.clear()
    monkeypatch.setattr(link, "WAIT_S", 0.1)
    monkeypatch.setattr(link, "ASK_S", 1.0)
    monkeypatch.setattr(link.session, "PATIENCE_S", 0)
    with pytest.raises(DeviceBusy, match="runs profile one on it"):
        line.session("fake")
    ghost.close()


def test_another_device_under_the_same_name_is_refused(line: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local.Local, "identity", "one")
    told = line.session("fake").greeting
    assert link.identity_in([{"status": "failed"}, {"environment": {"greeting": told}}]) == "one"
    line.close()
    monkeypatch.setattr(local.Local, "identity", "two")
    for _ in range(2):
        with pytest.raises(DeviceError, match="another device than before answers as fake") as caught:
            line.session("fake")
        assert line.transport is None
    assert "it was one and is two now" in caught.value.hint
    monkeypatch.setattr(local.Local, "identity", "")
    line.session("fake")
    assert link.identity_in([]) == ""


def test_a_device_that_was_there_is_waited_for_and_one_that_never_was_is_not(
    line: Link, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[Exception] = [ConnectError("no answer", transient=True)]
    real = link.session.connect

    def connect(*given: Any) -> Transport:
        if answers:
            raise answers.pop(0)
        return real(*given)

    monkeypatch.setattr(link.session, "connect", connect)
    monkeypatch.setattr(link, "AGAIN_S", 0.01)
    with pytest.raises(ConnectError, match="no answer"):
        line.session("fake")
    line.session("fake")
    line.close()
    answers += [ConnectError("no answer", transient=True)] * 3
    line.session("fake")
    assert said.count("waiting until fake is back: no answer") == 3
    line.close()
    answers += [ConnectError("no answer", transient=True), ConnectError("the host key has changed")]
    with pytest.raises(ConnectError, match="has changed"):
        line.session("fake")
    monkeypatch.setattr(link, "BACK_S", 0.05)
    answers += [ConnectError("no answer", transient=True)] * 100
    with pytest.raises(ConnectError, match="no answer"):
        line.session("fake")
    assert len(answers) > 80


def test_an_ended_link_waits_for_nothing(line: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    line.session("fake")
    line.close()
    lost = ConnectError("no answer", transient=True)
    monkeypatch.setattr(link.session, "connect", lambda *_: raise_(lost))
    monkeypatch.setattr(link, "AGAIN_S", 0.01)
    line.say = lambda text: line.cut()
    with pytest.raises(DeviceError, match="was ended"):
        line.session("fake")


def raise_(error: Exception) -> Any:
    raise error


@pytest.mark.parametrize(
    ("holder", "words"),
    [
        ({}, "somebody runs something on it since some time"),
        (
            {"who": "a@b", "what": "profile m", "since": "noon", "held_s": 61},
            "a@b runs profile m on it since noon (61 s)",
        ),
        ({"who": "\x1b[31m\n" + "x" * 200, "held_s": "long"}, "?[31m"),
        ({"who": ["a"], "what": None}, "['a'] runs None on it since some time"),
    ],
)
def test_who_has_it_in_words_that_harm_no_terminal(holder: Json, words: str) -> None:
    found = described(holder)
    assert found.startswith(words)
    assert found.isprintable() and len(found) < 300


def test_durations() -> None:
    assert [duration(s) for s in (0, 61, 100, 3600, 5400, 86400)] == [
        "0 s",
        "61 s",
        "2 min",
        "60 min",
        "1.5 h",
        "24.0 h",
    ]
