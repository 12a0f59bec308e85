"""The pushed agent as a device runs it: its archive, its greeting, its framing, and every way in which a child can end."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import ROOT, Agent, wait_gone, wait_until, write_fake_model

from edgekit import plugins, session
from edgekit.agent import protocol

ROWS = 3


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    """A live agent in a folder that holds three input rows."""
    (tmp_path / "input").write_bytes(struct.pack(f"<{10 * ROWS}f", *range(10 * ROWS)))
    with contextlib.closing(Agent(tmp_path)) as live:
        yield live


def asked(folder: Path, **model: Any) -> dict[str, Any]:
    """The arguments that every operation shares, for a fake model."""
    name = write_fake_model(folder / "model.fake", **model)
    effort = {"warmup_calls": 2, "warmup_s": 0.0, "calls": 10, "min_calls": 3, "max_seconds": 5}
    return {"runtime": "fake", "model": name, "input": "input", "output": "output", "deadline_s": 30, **effort}


class Blocked:
    """An operation that is under way and cannot end: its model is a pipe that the test holds open."""

    def __init__(self, agent: Agent, folder: Path, **args: object) -> None:
        os.mkfifo(folder / "pipe")
        write_fake_model(folder / "model.fake")
        self.content = (folder / "model.fake").read_bytes()
        asking = {"runtime": "fake", "model": "pipe", "input": "input", "output": "output", "deadline_s": 60, **args}
        agent.send({"id": 7, "op": "predict", "args": asking})
        self.pipe = wait_until(lambda: self._open(folder / "pipe"))
        (self.child,) = agent.children()

    def _open(self, path: Path) -> int | None:
        try:
            return os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return None  # nobody reads it yet

    def let_go(self) -> None:
        """Give the child its model, so that it goes on."""
        os.write(self.pipe, self.content)
        os.close(self.pipe)


def test_the_archive_is_the_same_for_the_same_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = session.agent_archive()
    copy = tmp_path / "elsewhere" / "agent"
    shutil.copytree(session.AGENT, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for path in copy.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    monkeypatch.setattr(session, "AGENT", copy)
    monkeypatch.chdir(tmp_path)
    assert session.agent_archive() == first
    with (copy / "sysinfo.py").open("a") as stream:
        stream.write("\n")
    assert session.agent_archive() != first


@pytest.mark.parametrize("seed", ["1", "2"])
def test_the_archive_is_the_same_in_another_process(seed: str, tmp_path: Path) -> None:
    code = "import asyncio, hashlib, rich.table, edgekit.session as s; print(hashlib.sha256(s.agent_archive()).hexdigest())"
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == hashlib.sha256(session.agent_archive()).hexdigest()


def test_the_archive_names_no_place_of_this_machine() -> None:
    assert str(ROOT).encode() not in session.agent_archive()


def test_the_archive_in_the_cache_is_named_by_its_content(cold_cache: Path) -> None:
    path = session.agent_file()
    assert path.is_relative_to(cold_cache)
    assert path.name == f"edgekit-agent-{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}.pyz"
    assert session.agent_key() in path.name
    before = path.stat().st_mtime_ns
    assert session.agent_file().stat().st_mtime_ns == before


def test_another_python_runs_the_source(tmp_path: Path) -> None:
    """Its byte code is of this Python's version; for any other the magic number is wrong, and the source counts."""
    import io
    import zipfile

    with zipfile.ZipFile(io.BytesIO(session.agent_archive())) as old, zipfile.ZipFile(tmp_path / "a.pyz", "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, b"\xff\xff\r\n" + data[4:] if name.endswith(".pyc") else data)
    done = subprocess.run(
        [sys.executable, "-I", "-S", "a.pyz"], input=b'{"id":1,"op":"bye"}\n', cwd=tmp_path, capture_output=True
    )
    assert [protocol.decode(line).get("greeting") for line in done.stdout.splitlines()] == [protocol.GREETING, None]


def test_the_agent_runs_without_site_packages_and_greets(agent: Agent) -> None:
    assert agent.greeting["greeting"] == "edgekit-agent"
    assert agent.greeting["protocol"] == protocol.PROTOCOL
    assert agent.greeting["python"] == ".".join(map(str, sys.version_info[:3]))
    assert agent.greeting["system"]["machine"] == os.uname().machine
    assert agent.greeting["system"]["cores"] == os.cpu_count()
    assert agent.call("hello")["ok"]["runtimes"] == plugins.names("runtime")


def test_predict_answers_through_a_file(agent: Agent, tmp_path: Path) -> None:
    answer = agent.call("predict", **asked(tmp_path))
    assert answer["id"] == 7
    assert answer["ok"]["samples"] == ROWS
    assert (tmp_path / "output").read_bytes() == (tmp_path / "input").read_bytes()


def test_every_operation_has_a_process_of_its_own(agent: Agent, tmp_path: Path) -> None:
    for _ in range(2):
        agent.call("predict", **asked(tmp_path))
        assert not agent.children()
    assert agent.process.poll() is None


def test_another_process_starts_before_it_is_asked_for(agent: Agent, tmp_path: Path) -> None:
    def other_than(before: list[int]) -> list[int]:
        return wait_until(lambda: found if len(found := agent.children()) == 1 and found != before else [])

    agent.call("predict", **asked(tmp_path), another=True)
    (spare,) = other_than([])
    agent.call("predict", **asked(tmp_path), keep=True)
    assert agent.children() == [spare]
    agent.call("predict", **asked(tmp_path), another=True)
    (killed,) = other_than([spare])
    os.kill(killed, signal.SIGKILL)
    assert agent.call("predict", **asked(tmp_path))["ok"]["samples"] == ROWS
    assert not agent.children()


def test_a_process_that_is_kept_is_the_one_that_goes_on(agent: Agent, tmp_path: Path) -> None:
    """What is timed is what was verified: the fake clock has gone on by the inferences of predict."""
    asking = asked(tmp_path, latency_ns=2_000_000, jitter=0.01)
    assert agent.call("predict", **asking, keep=True)["ok"]["samples"] == ROWS
    (kept,) = agent.children()
    answer = agent.call("measure", **{**asking, "continue": True})["ok"]
    assert not agent.children()
    assert wait_gone(kept)
    expected = [round(2_000_000 * (1 + 0.01 * (call % 5 - 2))) for call in range(15)]
    assert answer["first_ns"] == expected[0]
    assert answer["samples_ns"] == expected[ROWS + 2 :], "after three inferences and two calls of warm-up"


def test_a_child_offers_itself_when_memory_runs_out_and_the_agent_does_not(agent: Agent, tmp_path: Path) -> None:
    def score(pid: int | str) -> int:
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text("ascii"))

    agent.call("predict", **asked(tmp_path), keep=True)
    (kept,) = agent.children()
    assert score(kept) == 1000
    assert score(agent.process.pid) == score("self")


@pytest.mark.parametrize("then", ["predict", "bye", "gone"])
def test_a_process_that_is_kept_but_not_wanted_ends(agent: Agent, tmp_path: Path, then: str) -> None:
    asking = asked(tmp_path)
    agent.call("predict", **asking, keep=True)
    (kept,) = agent.children()
    if then == "gone":
        assert agent.process.stdin
        agent.process.stdin.close()
    else:
        assert "ok" in agent.call(then, **asking)
    assert wait_gone(kept)


def test_a_process_that_was_not_kept_cannot_go_on(agent: Agent, tmp_path: Path) -> None:
    asking = asked(tmp_path)
    agent.call("predict", **asking)
    error = agent.call("measure", **{**asking, "continue": True})["error"]
    assert error == {"kind": "internal", "message": "there is no process to continue"}


def test_a_process_that_died_while_it_was_kept_is_named(agent: Agent, tmp_path: Path) -> None:
    asking = asked(tmp_path)
    agent.call("predict", **asking, keep=True)
    (kept,) = agent.children()
    os.kill(kept, signal.SIGKILL)
    assert agent.call("measure", **{**asking, "continue": True})["error"]["kind"] == "out_of_memory"
    assert not agent.children()
    assert "ok" in agent.call("predict", **asking)


def test_a_fault_leaves_no_process_although_it_was_to_be_kept(agent: Agent, tmp_path: Path) -> None:
    assert "error" in agent.call("predict", **asked(tmp_path, fault="bad_model"), keep=True)
    assert not agent.children()


@pytest.mark.parametrize("level", [0.0, 0.01])
def test_measure_keeps_raw_nanoseconds(agent: Agent, tmp_path: Path, level: float) -> None:
    answer = agent.call("measure", **asked(tmp_path, latency_ns=2_000_000, jitter=level))["ok"]
    expected = [round(2_000_000 * (1 + level * (call % 5 - 2))) for call in range(13)]
    assert answer["first_ns"] == expected[0]
    assert answer["warmup_calls"] == 2
    assert answer["samples_ns"] == expected[3:]
    assert answer["batch"] == 1
    assert answer["capped"] is False
    assert answer["timer"] == "in-process"
    assert answer["counts"][0][0] == 123_456


def test_measure_batches_what_is_too_short_to_time(agent: Agent, tmp_path: Path) -> None:
    answer = agent.call("measure", **asked(tmp_path, latency_ns=300, jitter=0, instructions=10))["ok"]
    assert answer["batch"] == -(-1_000_000 // 300)
    assert answer["samples_ns"] == [300 * answer["batch"]] * 10
    assert answer["counts"][0][0] == 10 * answer["batch"]


def test_measure_stops_at_the_time_cap_but_not_before_the_least_number(agent: Agent, tmp_path: Path) -> None:
    asking = asked(tmp_path, latency_ns=1_000_000_000, jitter=0)
    answer = agent.call("measure", **{**asking, "max_seconds": 4.5})["ok"]
    assert answer["capped"] is True
    assert len(answer["samples_ns"]) == 5
    answer = agent.call("measure", **{**asking, "max_seconds": 0.001, "min_calls": 6})["ok"]
    assert len(answer["samples_ns"]) == 6


def test_warm_up_lasts_as_long_as_asked(agent: Agent, tmp_path: Path) -> None:
    """Two calls, and windows of twenty of them that agree, until half a second is over."""
    answer = agent.call("measure", **{**asked(tmp_path, latency_ns=10_000_000, jitter=0), "warmup_s": 0.5})["ok"]
    assert answer["warmup_calls"] == 62
    assert answer["warmup_ns"] == 620_000_000
    assert answer["warmup_steady"] is True
    answer = agent.call("measure", **asked(tmp_path, latency_ns=10_000_000, jitter=0))["ok"]
    assert (answer["warmup_calls"], answer["warmup_steady"]) == (2, None)


def test_memory_has_one_definition(agent: Agent, tmp_path: Path) -> None:
    found = agent.call("predict", **asked(tmp_path))["ok"]["memory"]
    assert found["model_file_bytes"] == (tmp_path / "model.fake").stat().st_size
    assert found["model_mapped"] is False
    assert 1_000_000 < found["baseline_bytes"] <= found["load_peak_bytes"]
    assert found["delta_bytes"] == max(found["load_peak_bytes"], found["run_peak_bytes"]) - found["baseline_bytes"]


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        ("crash", "crashed", "SIGABRT"),
        ("segfault", "crashed", "SIGSEGV"),
        ("exit", "crashed", "ended with code 3 and no answer"),
        ("oom", "out_of_memory", "memory"),
        ("bad_model", "bad_model", "the file says it is bad"),
    ],
)
@pytest.mark.parametrize("op", ["predict", "measure"])
def test_each_fault_has_its_kind_and_the_agent_lives_on(
    agent: Agent, tmp_path: Path, op: str, fault: str, kind: str, words: str
) -> None:
    answer = agent.call(op, **asked(tmp_path, fault=fault))
    assert answer["id"] == 7
    assert answer["error"]["kind"] == kind
    assert words in answer["error"]["message"]
    assert not agent.children()
    assert agent.call("probe", runtime="fake")["ok"] == {"version": "1"}


def test_past_its_deadline_a_child_is_ended(agent: Agent, tmp_path: Path) -> None:
    answer = agent.call("predict", **{**asked(tmp_path, fault="hang"), "deadline_s": 0.2})
    assert answer["error"] == {"kind": "timeout", "message": "the process did not finish within 0.2 s and was ended"}
    assert not agent.children()


def test_a_killed_child_most_likely_had_no_memory_left(agent: Agent, tmp_path: Path) -> None:
    blocked = Blocked(agent, tmp_path)
    os.kill(blocked.child, signal.SIGKILL)
    assert agent.reply()["error"]["kind"] == "out_of_memory"


def test_an_instruction_the_cpu_does_not_have_is_named(agent: Agent, tmp_path: Path) -> None:
    blocked = Blocked(agent, tmp_path)
    os.kill(blocked.child, signal.SIGILL)
    error = agent.reply()["error"]
    assert error["kind"] == "crashed"
    assert "instructions this CPU does not have" in error["message"]


def test_prints_of_native_code_cannot_break_the_framing(agent: Agent, tmp_path: Path) -> None:
    for op in ("predict", "measure"):
        assert "ok" in agent.call(
            op, **asked(tmp_path, fault="print")
        )  # Agent.receive fails on any line that is no frame
    assert agent.call("hello")["id"] == 7
    for printed in ("a native library printed this", "C stdio printed this", "Python printed this"):
        assert agent.said().count(printed) >= 2, printed


def test_when_the_host_goes_away_agent_and_child_end(agent: Agent, tmp_path: Path) -> None:
    blocked = Blocked(agent, tmp_path)
    assert agent.process.stdin
    agent.process.stdin.close()
    assert wait_gone(blocked.child)
    assert agent.process.wait(20) == 0
    os.close(blocked.pipe)


def test_ctrl_c_is_the_hosts_business(agent: Agent, tmp_path: Path) -> None:
    blocked = Blocked(agent, tmp_path)
    os.killpg(agent.process.pid, signal.SIGINT)
    os.kill(blocked.child, signal.SIGINT)
    blocked.let_go()
    assert agent.reply()["ok"]["samples"] == ROWS
    assert agent.process.poll() is None


def test_requests_that_come_early_wait_their_turn(agent: Agent, tmp_path: Path) -> None:
    blocked = Blocked(agent, tmp_path)
    agent.send({"id": 8, "op": "hello"})
    agent.send({"id": 9, "op": "probe", "args": {"runtime": "fake"}})
    blocked.let_go()
    assert [agent.reply()["id"] for _ in range(3)] == [7, 8, 9]


@pytest.mark.parametrize(
    "line",
    [
        b"hello\n",
        b"\n",
        b"[1, 2]\n",
        b"\xff\xfe\n",
        b"{}\n",
        b'{"id": 1}\n',
        b'{"op": "hello"}\n',
        b"[" * 100_000 + b"\n",
        b'{"id": 7, "op": "predict", "args": null}\n',
        b'{"id": 7, "op": "predict", "args": 5}\n',
        b'{"id": 7, "op": "predict", "args": {"runtime": "fake"}}\n',
        b'{"id": 7, "op": "predict", "args": {"deadline_s": "soon"}}\n',
        b'{"id": 7, "op": ["predict"]}\n',
    ],
    ids=lambda line: line[:40].decode("ascii", "replace").strip(),
)
def test_garbage_gets_an_error_and_harms_nobody(agent: Agent, line: bytes) -> None:
    agent.send(line)
    assert agent.reply()["error"]["kind"] in ("internal", "unsupported")
    assert "ok" in agent.call("hello")


@pytest.mark.parametrize("name", ["nothing", "_library", "../fake", "os.path", "", "__init__"])
def test_what_is_no_runtime_is_unavailable(agent: Agent, name: str) -> None:
    error = agent.call("probe", runtime=name)["error"]
    assert error["kind"] == "unavailable"
    assert repr(name) in error["message"]


def test_an_unknown_operation_is_an_answer(agent: Agent) -> None:
    assert agent.call("dance")["error"] == {"kind": "unsupported", "message": "this agent has no operation 'dance'"}


def test_goodbye_ends_it(agent: Agent) -> None:
    assert agent.call("bye")["ok"] == {}
    assert agent.process.wait(20) == 0


def test_input_of_the_wrong_size_is_named(agent: Agent, tmp_path: Path) -> None:
    asking = asked(tmp_path)
    (tmp_path / "input").write_bytes(bytes(41))
    assert agent.call("predict", **asking)["error"]["message"] == "an input takes 40 bytes, the data has 1 left"
    (tmp_path / "input").write_bytes(b"")
    assert agent.call("measure", **asking)["error"]["kind"] == "bad_model"


def test_children_are_started_by_the_command_that_the_host_names(tmp_path: Path) -> None:
    """An emulated device has its emulator there; a program that does not exist is an error of that operation alone."""
    with contextlib.closing(Agent(tmp_path, "--spawn", '["/nowhere/qemu", "-x"]')) as agent:
        error = agent.call("probe", runtime="fake")["error"]
        assert error == {"kind": "crashed", "message": "the process ended with code 127 and no answer"}
        assert "cannot start /nowhere/qemu" in agent.said()
        assert "ok" in agent.call("hello")
