"""A device for a whole run: the lock, its loss, the words for who has it, and the beat that says the host lives."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import FAKE_DEVICE, wait_gone, wait_until

from edgekit import config, link
from edgekit.errors import DeviceBusy
from edgekit.link import Link, described, duration
from edgekit.transports import ProcessChannel, local
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
