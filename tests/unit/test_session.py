"""The host's side of the conversation: faults by a scripted channel, and the real local transport beside it."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from harness import FAKE_DEVICE, wait_gone, write_fake_model

from edgekit import config, plugins, session, transports, userland
from edgekit.agent import protocol
from edgekit.errors import (
    AgentError,
    ConnectError,
    DeviceError,
    ProtocolError,
    TransportClosed,
    TransportTimeout,
    Unsupported,
)
from edgekit.transports import Channel, ProcessChannel, Transport
from edgekit.types import Device

GREETING = {"greeting": "edgekit-agent", "protocol": protocol.PROTOCOL, "python": "3.9.2", "system": {"machine": "z80"}}
LAND = userland.Userland("k" * 64, None, (sys.executable,), {"runtime": "{root}/lib/librt.so"}, {"runtime": "1"})
TAIL = "last words\nof the agent"


class ScriptedChannel(Channel):
    """Answers what the script says: bytes are a line, a dict is a frame, an exception is raised."""

    def __init__(self, *script: bytes | dict[str, Any] | BaseException) -> None:
        self.script = list(script)
        self.written: list[dict[str, Any]] = []
        self.deadlines: list[float] = []
        self.closed = 0

    def write(self, data: bytes) -> None:
        self.written.append(json.loads(data))

    def read_line(self, deadline_s: float) -> bytes:
        self.deadlines.append(deadline_s)
        step = self.script.pop(0) if self.script else TransportClosed("the program on the device ended", TAIL)
        if isinstance(step, BaseException):
            raise step
        return step if isinstance(step, bytes) else protocol.encode(step)

    def close(self) -> None:
        self.closed += 1

    def stderr_tail(self) -> str:
        return TAIL


class ScriptedTransport(Transport):
    """Hands out one scripted channel and notes what is asked of it."""

    def __init__(self, device: Device, channel: Channel | Exception) -> None:
        super().__init__(device)
        self.channel = channel
        self.pushed: list[str] = []
        self.spawned: list[list[str]] = []
        self.closed = 0

    def push(self, local: Path, remote: str) -> None:
        self.pushed.append(remote)

    def pull(self, remote: str, local: Path) -> None:
        raise DeviceError(f"the device has no file {remote}")

    def spawn(self, argv: Sequence[str]) -> Channel:
        self.spawned.append(list(argv))
        if isinstance(self.channel, Exception):
            raise self.channel
        return self.channel

    def close(self) -> None:
        self.closed += 1


DEVICE = config.device(str(FAKE_DEVICE))


def silent(text: str) -> None:
    """Progress that nobody reads."""


def live(*script: bytes | dict[str, Any] | BaseException) -> tuple[session.Session, ScriptedChannel, ScriptedTransport]:
    """A session that has been greeted, and the two ends it talks to."""
    channel = ScriptedChannel(*script)
    transport = ScriptedTransport(DEVICE, channel)
    return session.Session(DEVICE, transport, LAND, channel, GREETING), channel, transport


@pytest.fixture
def opening(monkeypatch: pytest.MonkeyPatch) -> Callable[..., ScriptedTransport]:
    """opening(script...) makes Session.open meet a scripted device; returns its transport."""

    def prepare(*script: Any, spawn: Exception | None = None) -> ScriptedTransport:
        transport = ScriptedTransport(DEVICE, spawn or ScriptedChannel(*script))

        class Module:
            @staticmethod
            def connect(device: Device, counter: Path | None) -> Transport:
                return transport

        monkeypatch.setattr(plugins, "load", lambda kind, name: Module)
        monkeypatch.setattr(userland, "native", lambda runtime, say: LAND)
        return transport

    return prepare


@pytest.mark.parametrize(
    ("first", "error", "words"),
    [
        (b"Welcome to Debian GNU/Linux 12!\n", ProtocolError, "not our protocol: 'Welcome to Debian"),
        (b'{"hello": 1}\n', ProtocolError, "not the edgekit agent"),
        (b"[]\n", ProtocolError, "not our protocol"),
        (b"\xff\xfe\n", ProtocolError, "not our protocol"),
        (b"[" * 100_000 + b"\n", ProtocolError, "not our protocol"),
        ({**GREETING, "protocol": 99}, ProtocolError, f"speaks protocol 99, this edgekit {protocol.PROTOCOL}"),
        ({**GREETING, "system": None}, ProtocolError, "not the edgekit agent"),
        (TransportClosed("the program on the device ended with code 1", TAIL), ConnectError, "did not start"),
        (TransportTimeout("the device said nothing for 60 s", TAIL), ConnectError, "did not start"),
    ],
    ids=["banner", "other object", "list", "binary", "deep", "version", "half", "died", "silent"],
)
def test_a_greeting_that_is_none_is_a_typed_error_and_nothing_stays_open(
    opening: Callable[..., ScriptedTransport], first: Any, error: type[DeviceError], words: str
) -> None:
    transport = opening(first)
    with pytest.raises(error) as caught:
        session.Session.open(DEVICE, "fake", silent)
    assert words in caught.value.message
    assert isinstance(transport.channel, ScriptedChannel)
    assert (transport.channel.closed, transport.closed) == (1, 1)
    assert transport.channel.deadlines == [session.GREETING_S]
    if "speaks protocol" not in words:
        assert TAIL in caught.value.hint


def test_a_program_that_cannot_start_is_a_connect_error(opening: Callable[..., ScriptedTransport]) -> None:
    transport = opening(spawn=ConnectError("cannot start python"))
    with pytest.raises(ConnectError, match="cannot start python"):
        session.Session.open(DEVICE, "fake", silent)
    assert transport.closed == 1


def test_opening_pushes_by_hash_and_starts_without_a_shell(opening: Callable[..., ScriptedTransport]) -> None:
    transport = opening(GREETING, {"id": 1, "ok": {}})
    with session.Session.open(DEVICE, "fake", silent) as opened:
        assert opened.greeting == GREETING
        assert opened.libraries == {"runtime": f"userland/{'k' * 16}/lib/librt.so"}
    agent = f"agents/edgekit-agent-{session.agent_key()}.pyz"
    assert transport.pushed == [agent]  # no userland: this machine has its own
    command = [sys.executable, "-I", "-S", agent]
    child = [*command[:-1], "-c", session.CHILD % agent.removeprefix("agents/")]
    # A cut cable goes unnoticed on such a link, so the agent is told how long to wait for a word of the host.
    assert transport.spawned == [[*command, "--spawn", json.dumps(child), "--patience", str(session.PATIENCE_S)]]


def test_a_reply_comes_after_any_number_of_events() -> None:
    talk, channel, _ = live({"id": 1, "event": {"done": 1}}, {"id": 1, "event": {"done": 2}}, {"id": 1, "ok": {"a": 1}})
    seen: list[Any] = []
    assert talk.call("predict", {"runtime": "fake"}, 5, seen.append) == {"a": 1}
    assert seen == [{"done": 1}, {"done": 2}]
    assert channel.written == [{"id": 1, "op": "predict", "args": {"runtime": "fake", "deadline_s": 5}}]
    assert all(0 < wait <= 5 + session.GRACE_S for wait in channel.deadlines)


def test_events_do_not_extend_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    talk, channel, _ = live(*[{"id": 1, "event": {}}] * 3, {"id": 1, "ok": {}})
    now = iter([100.0, 101.0, 110.0, 119.5, 119.9])
    monkeypatch.setattr(session.time, "monotonic", lambda: next(now))
    talk.call("predict", {}, 5)
    assert channel.deadlines == pytest.approx([19.0, 10.0, 0.5, 0.1])


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (b"Segmentation fault\n", ProtocolError, "not our protocol: 'Segmentation fault'"),
        ({"id": 9, "ok": {}}, ProtocolError, "answered request 9, not 1"),
        ({"ok": {}}, ProtocolError, "answered request None, not 1"),
        ({"id": None, "error": {"kind": "internal", "message": "not a request"}}, ProtocolError, "request None"),
        ({"id": 1}, ProtocolError, "neither"),
        ({"id": 1, "ok": 5}, ProtocolError, "neither"),
        ({"id": 1, "error": "no"}, ProtocolError, "neither"),
        (TransportClosed("the program on the device died of SIGKILL", TAIL), TransportClosed, "SIGKILL"),
        (TransportTimeout("the device said nothing for 20 s", TAIL), TransportTimeout, "said nothing"),
    ],
)
def test_what_is_no_answer_is_a_typed_error_with_the_last_words(
    answer: Any, error: type[DeviceError], words: str
) -> None:
    talk, _, _ = live(answer)
    with pytest.raises(error) as caught:
        talk.call("measure", {}, 5)
    assert words in caught.value.message
    assert TAIL in caught.value.hint


@pytest.mark.parametrize("kind", sorted(protocol.ERROR_KINDS))
def test_the_agents_own_word_keeps_its_kind(kind: str) -> None:
    talk, _, _ = live({"id": 1, "error": {"kind": kind, "message": "so it is"}})
    with pytest.raises(AgentError) as caught:
        talk.call("measure", {}, 5)
    assert (caught.value.kind, caught.value.message) == (kind, "so it is")
    assert isinstance(caught.value, Unsupported) == (kind == "unsupported")
    assert (TAIL in caught.value.hint) == (kind in ("crashed", "internal"))


def test_a_kind_that_no_table_knows_is_internal() -> None:
    talk, _, _ = live({"id": 1, "error": {"kind": "tired", "message": "later"}})
    with pytest.raises(AgentError) as caught:
        talk.call("measure", {}, 5)
    assert caught.value.kind == "internal"


@pytest.mark.parametrize(
    "goodbye",
    [
        b"garbage\n",
        {"id": 99, "ok": {}},
        {"id": 1, "error": {"kind": "internal", "message": "I stay"}},
        {"id": 1, "error": {"kind": "unsupported", "message": "I stay"}},
        TransportClosed("gone"),
        TransportTimeout("silent"),
    ],
    ids=["garbage", "other id", "error", "unsupported", "closed", "timeout"],
)
def test_close_never_raises_and_lets_go_of_both_ends(goodbye: Any) -> None:
    talk, channel, transport = live(goodbye)
    talk.close()
    assert channel.written[0]["op"] == "bye"
    assert (channel.closed, transport.closed) == (1, 1)


def test_close_lets_go_even_when_it_is_interrupted() -> None:
    talk, channel, transport = live(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        talk.close()
    assert (channel.closed, transport.closed) == (1, 1)


def test_a_goodbye_is_not_waited_for_as_long_as_an_answer() -> None:
    talk, channel, _ = live({"id": 1, "ok": {}})
    talk.close()
    assert channel.deadlines == [pytest.approx(session.GOODBYE_S, abs=0.5)]
    assert session.GOODBYE_S < session.GRACE_S / 2


def test_what_is_lent_has_a_name_that_no_other_session_gives(tmp_path: Path) -> None:
    """The process ids of containers are the same every time, and what an agent that was killed left would be taken for whole."""
    (tmp_path / "input").write_bytes(b"1234")
    names = []
    for _ in range(2):
        talk, _, transport = live()
        names += [talk.lend(tmp_path / "input"), talk.lend(tmp_path / "input"), talk._output]
        assert transport.pushed == names[-3:-1]
    assert len(set(names)) == 6
    assert re.fullmatch(r"output-[0-9a-f]{16}\.bin", names[2]), "the agent clears away what is called so"
    assert str(os.getpid()) not in "".join(names).replace("-", ".").split(".")


@pytest.mark.parametrize("how", [KeyboardInterrupt(), TransportTimeout("silent"), b"garbage\n"], ids=repr)
def test_close_does_not_wait_for_an_agent_that_is_still_at_work(how: Any) -> None:
    """Its answer to `bye` would come after the answer nobody waits for any more: Ctrl-C would take as long as the work."""
    talk, channel, _ = live(how, {"id": 1, "ok": {}}, {"id": 2, "ok": {}})
    with pytest.raises((KeyboardInterrupt, DeviceError)):
        talk.call("predict", {}, 5)
    talk.close()
    assert len(channel.deadlines) == 1, "it waited for another line"
    assert channel.closed == 1


def test_the_local_transport_does_it_for_real(tmp_path: Path) -> None:
    with session.Session.open(DEVICE, "fake", silent) as talk:
        assert isinstance(talk.channel, ProcessChannel)
        process = talk.channel.process
        write_fake_model(tmp_path / "m.fake")
        (tmp_path / "in").write_bytes(bytes(40))
        request = {"runtime": "fake", "model": talk.push(tmp_path / "m.fake"), "input": talk.push(tmp_path / "in")}
        assert talk.fetch("predict", request, 20, tmp_path / "out")["samples"] == 1
        assert (tmp_path / "out").read_bytes() == bytes(40)
        assert talk.call("probe", {"runtime": "fake"}, 20) == {"version": "1"}
    assert process.returncode == 0  # it said goodbye, nobody had to kill it


def test_two_sessions_on_one_device_do_not_take_each_others_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_fake_model(tmp_path / "m.fake")
    with session.Session.open(DEVICE, "fake", silent) as one, session.Session.open(DEVICE, "fake", silent) as two:
        request = {"runtime": "fake", "model": one.push(tmp_path / "m.fake")}

        def ask(talk: session.Session, value: bytes) -> bytes:
            (tmp_path / value.hex()).write_bytes(value * 40)
            asking = {**request, "input": talk.push(tmp_path / value.hex())}
            talk.fetch("predict", asking, 20, tmp_path / f"{value.hex()}.out")
            return (tmp_path / f"{value.hex()}.out").read_bytes()

        pull = one.transport.pull

        def between(remote: str, local: Path) -> None:
            assert ask(two, b"\2") == b"\2" * 40  # the other asks between this one's answer and its fetching
            pull(remote, local)

        monkeypatch.setattr(one.transport, "pull", between)
        assert ask(one, b"\1") == b"\1" * 40


def test_a_device_that_dies_in_the_middle_is_a_closed_transport_with_its_last_words(tmp_path: Path) -> None:
    with session.Session.open(DEVICE, "fake", silent) as talk:
        assert isinstance(talk.channel, ProcessChannel)
        os.kill(talk.channel.process.pid, 9)
        with pytest.raises(TransportClosed, match="died of SIGKILL"):
            talk.call("probe", {"runtime": "fake"}, 20)
            talk.call("probe", {"runtime": "fake"}, 20)


def python(code: str, tmp_path: Path) -> ProcessChannel:
    """A channel to a program of a few lines."""
    return ProcessChannel([sys.executable, "-I", "-S", "-c", code], tmp_path)


def test_a_channel_ends_with_the_code_and_the_last_lines_of_stderr(tmp_path: Path) -> None:
    code = "import sys\nfor n in range(100): print('line', n, file=sys.stderr)\nprint('one'); sys.exit(7)"
    with contextlib.closing(python(code, tmp_path)) as channel:
        assert channel.read_line(20) == b"one\n"
        for _ in range(2):  # asking again gives the same answer
            with pytest.raises(TransportClosed) as caught:
                channel.read_line(20)
            assert caught.value.message == "the program on the device ended with code 7"
            assert caught.value.hint.splitlines() == [f"line {n}" for n in range(60, 100)]


def test_a_channel_that_says_nothing_times_out(tmp_path: Path) -> None:
    code = "import sys; print('thinking', file=sys.stderr, flush=True); print('up', flush=True); sys.stdin.read()"
    with contextlib.closing(python(code, tmp_path)) as channel:
        channel.read_line(20)
        with pytest.raises(TransportTimeout) as caught:
            channel.read_line(0.05)
        assert caught.value.message == "the device said nothing for 0.05 s"


def test_writing_to_a_program_that_has_ended_is_a_closed_transport(tmp_path: Path) -> None:
    with contextlib.closing(python("import sys; sys.exit('no room')", tmp_path)) as channel:
        channel.process.wait(20)
        with pytest.raises(TransportClosed) as caught:
            channel.write(b"x")
        assert caught.value.hint == "no room"


def test_closing_a_channel_ends_a_program_that_does_not_listen_and_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = """
import os, signal, time
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
child = os.fork()
if child:
    print(child, flush=True)
time.sleep(600)
"""
    channel = python(code, tmp_path)
    child = int(channel.read_line(20))
    clock = itertools.count(0, 10)  # its patience is over at once
    monkeypatch.setattr(transports.time, "monotonic", lambda: next(clock))
    channel.close()
    monkeypatch.undo()
    assert channel.process.returncode == -9
    assert wait_gone(child)


def test_a_program_that_is_not_there_cannot_be_started(tmp_path: Path) -> None:
    with pytest.raises(ConnectError, match="cannot start nothing"):
        ProcessChannel([str(tmp_path / "nothing")], tmp_path)
