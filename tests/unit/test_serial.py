"""The serial transport against a real shell on a pseudo-terminal, through a line that loses, garbles, stops and is cut."""

from __future__ import annotations

import os
import random
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import ROOT, wait_until
from lab.lines import Board, Noise

from edgekit.agent import frames
from edgekit.errors import ConnectError, DeviceError, TransportClosed, TransportTimeout
from edgekit.transports import _console, _login, serial
from edgekit.transports._port import Port
from edgekit.types import Device


@pytest.fixture(autouse=True)
def no_boot_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here counts down for seconds, but where a test says so."""
    monkeypatch.setattr(_login, "FIRST_S", 0.05)


def device(place: str, **connection: object) -> Device:
    """A device on a port."""
    return Device("board", "", "aarch64", "serial", ("tflite",), {"tty": place, **connection})


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    """A shell at a prompt. Nothing that was started from it may be left when the test is over."""
    home = tmp_path / "home"
    home.mkdir()
    found = Board(home, "bash", "--norc", "--noprofile", "-i")
    try:
        yield found
        wait_until(lambda: not found.processes())
    finally:
        found.close()


@pytest.fixture
def reached(board: Board) -> Iterator[serial.Serial]:
    """The transport to it."""
    transport = serial.connect(device(board.line.name), None)
    yield transport
    transport.close()


def is_back(board: Board, before: list[object]) -> bool:
    """Whether a shell reads the terminal again, as it was set."""
    now = board.settings()
    return now[:4] == before[:4] and not board.processes()


def test_files_and_programs_go_over_it_and_the_console_is_given_back(board: Board, tmp_path: Path) -> None:
    with Port(board.line.name, 115200) as port:  # let the shell get to its prompt
        _login.Dialogue(port, "root").shell()
    before = board.settings()
    transport = serial.connect(device(board.line.name), None)
    data = random.Random(1).randbytes(50_000) + bytes(range(256)) * 20
    (tmp_path / "data").write_bytes(data)
    transport.push(tmp_path / "data", "blobs/data")
    assert (board.home / ".edgekit/blobs/data").read_bytes() == data
    assert (board.home / ".edgekit").stat().st_mode & 0o777 == 0o700
    transport.pull("blobs/data", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data
    channel = transport.spawn(["/bin/sh", "-c", "pwd; cat; echo problem >&2; exit 3"])
    assert channel.read_line(5).decode().strip() == str(board.home / ".edgekit")
    channel.write(b"\x03\x04 hello \xff\n")
    assert channel.read_line(5) == b"\x03\x04 hello \xff\n"
    channel.write(b"")
    channel.console.send(b"I", channel.number)  # type: ignore[attr-defined]
    with pytest.raises(TransportClosed, match="ended with code 3") as caught:
        channel.read_line(5)
    assert caught.value.hint == "problem"
    transport.close()
    assert wait_until(lambda: is_back(board, before))


def test_what_is_there_already_is_not_sent_again(board: Board, reached: serial.Serial, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub dir").mkdir(parents=True)
    (tree / "program").write_bytes(random.Random(1).randbytes(30_000))
    (tree / "program").chmod(0o755)
    (tree / "sub dir" / "$(touch hit) 'ä\n\"").write_bytes(b"x")
    (tree / "link").symlink_to("program")
    reached.push(tree, "userland/one")
    there = board.home / ".edgekit/userland/one"
    assert (there / "program").stat().st_mode & 0o777 == 0o755
    assert (there / "link").readlink() == Path("program")
    assert (there / "sub dir" / "$(touch hit) 'ä\n\"").read_bytes() == b"x"
    sent = board.line.counted
    reached.push(tree, "userland/one")
    assert board.line.counted - sent < 1000
    # Another userland has a file of the same name and content: it is had from there.
    (tree / "more").write_bytes(b"y")
    sent = board.line.counted
    reached.push(tree, "userland/two")
    assert board.line.counted - sent < 2000
    assert (there.parent / "two/program").read_bytes() == (tree / "program").read_bytes()
    assert not list(there.parent.glob(".push-*"))
    # What has another size is damaged, and sent again.
    (there / "program").write_bytes(b"short")
    reached.push(tree, "userland/one")
    assert (there / "program").read_bytes() == (tree / "program").read_bytes()


@pytest.mark.parametrize("rate", [1e-4, pytest.param(1e-3, marks=pytest.mark.emulated)])
def test_nothing_is_lost_on_a_line_that_loses_and_garbles_bytes(
    rate: float, board: Board, reached: serial.Serial, tmp_path: Path
) -> None:
    board.line.to_host, board.line.to_device = noise = Noise(rate / 2, rate / 2, 1), Noise(rate / 2, rate / 2, 2)
    for one in noise:
        one.on = True
    data = random.Random(1).randbytes(60_000)
    (tmp_path / "data").write_bytes(data)
    reached.push(tmp_path / "data", "blobs/data")
    assert (board.home / ".edgekit/blobs/data").read_bytes() == data
    reached.pull("blobs/data", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data
    channel = reached.spawn(["/bin/cat"])
    for number in range(20):
        channel.write(b"line %d\n" % number)
        assert channel.read_line(10) == b"line %d\n" % number
    assert all(one.hits for one in noise)
    for one in noise:
        one.on = False


@pytest.mark.emulated
def test_a_bootstrap_on_a_line_with_noise_is_tried_again(board: Board) -> None:
    noise = Noise(2e-4, 2e-4, 3)
    noise.on = True
    board.line.to_device = noise
    transport = serial.connect(device(board.line.name), None)
    assert noise.hits
    noise.on = False
    transport.close()


def cut_after(board: Board, count: int) -> Callable[[bytes], bytes]:
    """A filter that lets so many bytes pass, and then none."""
    limit = board.line.counted + count

    def cut(data: bytes) -> bytes:
        return data if board.line.counted < limit else b""

    return cut


@pytest.mark.emulated
def test_a_push_that_was_cut_is_an_error_in_time_and_the_next_goes_on_where_it_was(
    board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_console, "GONE_S", 1.5)
    monkeypatch.setattr(_login, "HOST_GONE_S", 3.0)
    monkeypatch.setattr(frames, "PING_S", 0.3)
    monkeypatch.setattr(serial, "RETRIES", 0)
    (tmp_path / "data").write_bytes(random.Random(1).randbytes(100_000))
    transport = serial.connect(device(board.line.name), None)
    board.line.to_device = cut_after(board, 60_000)
    started = time.monotonic()
    with pytest.raises(DeviceError, match="silent") as caught:
        transport.push(tmp_path / "data", "blobs/data")
    assert caught.value.transient
    assert time.monotonic() - started < 8
    transport.close()
    assert not (board.home / ".edgekit/blobs/data").exists()
    wait_until(lambda: not board.processes())  # the device's end has noticed too
    board.line.to_device = bytes
    transport = serial.connect(device(board.line.name), None)
    sent = board.line.counted
    transport.push(tmp_path / "data", "blobs/data")
    assert board.line.counted - sent < 70_000
    assert (board.home / ".edgekit/blobs/data").read_bytes() == (tmp_path / "data").read_bytes()
    transport.close()


@pytest.mark.slow
def test_a_push_over_a_link_that_ended_is_done_over_a_new_one(
    board: Board, reached: serial.Serial, tmp_path: Path
) -> None:
    (tmp_path / "data").write_bytes(b"content")
    (server,) = set(board.processes()) - {parent_of(pid) for pid in board.processes()}
    os.kill(server, signal.SIGKILL)
    wait_until(lambda: not reached.console.alive)
    reached.push(tmp_path / "data", "blobs/data")
    assert (board.home / ".edgekit/blobs/data").read_bytes() == b"content"


def parent_of(pid: int) -> int:
    """The process that started another."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


@pytest.mark.parametrize("victim", ["the server", "its guardian"])
def test_the_console_is_given_back_when_the_devices_end_is_killed(victim: str, board: Board) -> None:
    with Port(board.line.name, 115200) as port:
        _login.Dialogue(port, "root").shell()
    before = board.settings()
    transport = serial.connect(device(board.line.name), None)
    channel = transport.spawn(["/bin/sleep", "1000"])
    # The program may be just starting.
    processes = wait_until(lambda: found if len(found := board.processes()) == 3 else None)
    guardian = next(pid for pid in processes if parent_of(pid) == board.pid)
    server = next(pid for pid in processes if parent_of(pid) == guardian)
    os.kill(server if victim == "the server" else guardian, signal.SIGKILL)
    if victim == "the server":  # what it started is an orphan, and ends with its stdin at the latest
        os.kill(next(pid for pid in processes if pid not in (guardian, server)), signal.SIGKILL)
    with pytest.raises(TransportClosed):
        channel.read_line(10)
    transport.close()
    assert wait_until(lambda: is_back(board, before))


def test_the_console_is_given_back_when_the_host_is_killed(board: Board) -> None:
    with Port(board.line.name, 115200) as port:
        _login.Dialogue(port, "root").shell()
    before = board.settings()
    code = f"""
import time
from edgekit.transports import _login, serial
from edgekit.types import Device
_login.HOST_GONE_S, _login.FIRST_S = 1.0, 0.05
transport = serial.connect(Device("board", "", "aarch64", "serial", ("tflite",), {{"tty": {board.line.name!r}}}), None)
transport.spawn(["/bin/sleep", "1000"])
print("up", flush=True)
time.sleep(1000)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment) as host:
        assert host.stdout and host.stdout.readline() == b"up\n"
        assert board.settings()[:4] != before[:4]
        host.kill()
    assert wait_until(lambda: is_back(board, before))


@pytest.mark.emulated
def test_a_session_that_a_dead_host_left_behind_gives_way(board: Board, tmp_path: Path) -> None:
    first = serial.connect(device(board.line.name), None)
    first.console.leaving = True  # as if it were killed: no bye, no more answers
    first.console._leave = lambda out: None  # type: ignore[method-assign]
    first.console.close()
    second = serial.connect(device(board.line.name), None)
    (tmp_path / "data").write_bytes(b"content")
    second.push(tmp_path / "data", "blobs/data")
    second.close()


@pytest.mark.slow
def test_a_device_that_is_reset_is_an_error_of_the_program_and_of_the_link(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_login, "HOST_GONE_S", 1.0)
    monkeypatch.setattr(frames, "PING_S", 0.3)
    transport = serial.connect(device(board.line.name), None)
    channel = transport.spawn(["/bin/cat"])
    board.line.to_device = lambda data: b""
    board.line.to_host = lambda data: b"U-Boot 2023.01\r\nHit any key to stop autoboot\r\n"
    with pytest.raises(TransportClosed, match="out of reach: the device was reset"):
        channel.read_line(10)
    counted = board.line.counted
    with pytest.raises(DeviceError, match="was reset") as caught:
        transport.spawn(["/bin/true"])
    assert caught.value.transient
    transport.close()
    assert board.line.counted == counted  # a goodbye would stop its boot loader


def test_a_device_that_falls_silent_is_an_error_of_the_program_and_of_the_link(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_console, "GONE_S", 0.8)
    monkeypatch.setattr(_login, "HOST_GONE_S", 1.0)
    monkeypatch.setattr(frames, "PING_S", 0.2)
    transport = serial.connect(device(board.line.name), None)
    channel = transport.spawn(["/bin/cat"])
    board.line.to_device = lambda data: b""
    with pytest.raises(TransportClosed, match="out of reach: the device has been silent"):
        channel.read_line(10)
    with pytest.raises(DeviceError, match="silent"):
        transport.spawn(["/bin/true"])
    transport.close()


def test_a_link_may_be_closed_twice_and_is_of_no_use_then(board: Board) -> None:
    transport = serial.connect(device(board.line.name), None)
    channel = transport.spawn(["/bin/cat"])
    transport.close()
    transport.close()
    channel.close()
    with pytest.raises(TransportClosed, match="given back"):
        channel.write(b"x")
    with pytest.raises(TransportClosed, match="given back"):
        channel.read_line(1)
    with pytest.raises(DeviceError, match="given back"):
        transport.spawn(["/bin/true"])


def test_a_program_that_ends_at_once_has_said_all_the_same(
    reached: serial.Serial, monkeypatch: pytest.MonkeyPatch
) -> None:
    console, ended = reached.console, threading.Event()
    sort, request = console._sort, console.request

    def watched(kind: bytes, channel: int, payload: bytes) -> None:
        sort(kind, channel, payload)
        if kind == b"X":
            ended.set()

    def late(op: str, **args: object) -> object:
        answer = request(op, **args)
        assert op != "spawn" or ended.wait(10)  # the program is over before its number is looked at
        return answer

    monkeypatch.setattr(console, "_sort", watched)
    monkeypatch.setattr(console, "request", late)
    for word in (b"one", b"two"):
        ended.clear()
        channel = reached.spawn(["/bin/echo", word.decode()])
        assert channel.read_line(5) == word + b"\n"
        with pytest.raises(TransportClosed, match="ended with code 0"):
            channel.read_line(5)
    assert not console.channels


def test_an_answer_that_came_too_late_is_not_the_next_ones(
    board: Board, reached: serial.Serial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (server,) = set(board.processes()) - {parent_of(pid) for pid in board.processes()}
    os.kill(server, signal.SIGSTOP)
    with monkeypatch.context() as short:
        short.setattr(_console, "REQUEST_S", 0.05)
        with pytest.raises(TransportTimeout, match="'whole'"):
            reached.console.request("whole", path="nowhere", files=[("", 1)])
    os.kill(server, signal.SIGCONT)
    (tmp_path / "data").write_bytes(b"content")
    reached.push(tmp_path / "data", "blobs/data")
    assert (board.home / ".edgekit/blobs/data").read_bytes() == b"content"


def test_what_is_left_of_a_file_that_nobody_waits_for_is_not_the_next_file(
    board: Board, reached: serial.Serial, tmp_path: Path
) -> None:
    folder = board.home / ".edgekit"
    (folder / "first").write_bytes(random.Random(1).randbytes(60_000))
    (folder / "second").write_bytes(random.Random(2).randbytes(20_000))
    reached.console.request("get", path="first")
    pieces = reached.console.download()
    next(pieces)
    pieces.close()  # as when the disk here is full
    reached.pull("second", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (folder / "second").read_bytes()


@pytest.mark.slow
def test_a_request_that_takes_longer_than_a_host_may_be_silent_is_answered(
    board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_login, "HOST_GONE_S", 0.5)
    monkeypatch.setattr(frames, "PING_S", 0.1)
    transport = serial.connect(device(board.line.name), None)
    os.mkfifo(board.home / ".edgekit/slow")  # to open it takes until somebody writes
    writer = threading.Timer(1.0, lambda: (board.home / ".edgekit/slow").write_bytes(b"content"))
    writer.start()
    transport.pull("slow", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"content"
    assert transport.spawn(["/bin/echo", "alive"]).read_line(5) == b"alive\n"
    writer.join()
    transport.close()


def test_a_program_is_ended_while_somebody_else_sends_a_file(
    reached: serial.Serial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_console, "END_S", 0.3)
    channel = reached.spawn(["/bin/sh", "-c", "trap '' TERM; exec sleep 1000"])
    go = threading.Event()

    def hold() -> None:
        with reached.console.turn:
            go.wait(20)

    other = threading.Thread(target=hold)
    other.start()
    channel.close()
    with pytest.raises(TransportClosed, match="signal 9"):
        channel.read_line(0)
    assert other.is_alive()
    go.set()
    other.join()


def test_a_file_that_cannot_be_written_is_said_at_once(board: Board, tmp_path: Path) -> None:
    os.write(board.line.slave, b"")
    with Port(board.line.name, 115200) as port:
        dialogue = _login.Dialogue(port, "root")
        dialogue.shell()
        dialogue.say(b"ulimit -f 20\r")
        dialogue.listen(2, _login.never)
    transport = serial.connect(device(board.line.name), None)
    (tmp_path / "data").write_bytes(random.Random(1).randbytes(400_000))
    sent = board.line.counted
    with pytest.raises(DeviceError, match="File too large"):
        transport.push(tmp_path / "data", "blobs/data")
    assert board.line.counted - sent < 150_000
    (tmp_path / "small").write_bytes(b"content")
    transport.push(tmp_path / "small", "blobs/small")  # the link lives on
    with pytest.raises(DeviceError, match="No such file"):
        transport.pull("blobs/nowhere", tmp_path / "back")
    with pytest.raises(ConnectError, match="cannot start nonsense"):
        transport.spawn(["nonsense"])
    transport.close()


class Adapter:
    """A socket:// port that stands for a serial line, and may be pulled out: whoever is connected is cut off."""

    def __init__(self, line: str) -> None:
        self.tty = os.open(line, os.O_RDWR | os.O_NOCTTY)
        self.server = socket.create_server(("127.0.0.1", 0))
        self.name = f"socket://127.0.0.1:{self.server.getsockname()[1]}"
        self.clients: list[socket.socket] = []
        self.stop_read, self.stop_write = os.pipe()
        self.thread = threading.Thread(target=self._carry)
        self.thread.start()

    def _carry(self) -> None:
        while True:
            client = self.clients[-1] if self.clients and self.clients[-1].fileno() >= 0 else None
            watched = [self.server.fileno(), self.tty, self.stop_read, *([client.fileno()] if client else [])]
            ready = select.select(watched, [], [])[0]
            if self.stop_read in ready:
                if os.read(self.stop_read, 1) == b"!":
                    return
                self.clients[-1].close()
                continue
            if self.server.fileno() in ready:
                self.clients.append(self.server.accept()[0])
            if self.tty in ready:
                data = os.read(self.tty, 4096)
                if client:
                    client.sendall(data)
            if client and client.fileno() in ready:
                os.write(self.tty, client.recv(4096))

    def pull_out(self) -> None:
        os.write(self.stop_write, b"x")

    def close(self) -> None:
        os.write(self.stop_write, b"!")
        self.thread.join()
        for client in self.clients:
            client.close()
        self.server.close()
        for handle in (self.tty, self.stop_read, self.stop_write):
            os.close(handle)


def test_a_port_that_went_away_and_came_back_is_gone_on_with(board: Board) -> None:
    adapter = Adapter(board.line.name)
    transport = serial.connect(device(adapter.name), None)
    channel = transport.spawn(["/bin/cat"])
    for number in range(2):
        channel.write(b"%d\n" % number)
        assert channel.read_line(10) == b"%d\n" % number
        adapter.pull_out()
        wait_until(lambda n=number: len(adapter.clients) == n + 2)
    transport.close()
    adapter.close()
