"""The serial transport against a real shell on a pseudo-terminal, through a line that loses, garbles, stops and is cut."""

from __future__ import annotations

import os
import random
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
from edgekit.errors import ConnectError, DeviceError, TransportClosed, UserError
from edgekit.transports import _console, _login, serial
from edgekit.transports._port import Port
from edgekit.types import Device


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
    processes = board.processes()
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
_login.HOST_GONE_S = 1.0
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


def test_a_device_that_is_reset_is_an_error_of_the_program_and_of_the_link(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_console, "GONE_S", 1.5)
    monkeypatch.setattr(_login, "HOST_GONE_S", 2.0)
    monkeypatch.setattr(frames, "PING_S", 0.3)
    transport = serial.connect(device(board.line.name), None)
    channel = transport.spawn(["/bin/cat"])
    board.line.to_device = lambda data: b""
    board.line.to_host = lambda data: b"U-Boot 2023.01\r\nHit any key to stop autoboot\r\n"
    with pytest.raises(TransportClosed, match="out of reach: the device has been silent"):
        channel.read_line(10)
    with pytest.raises(DeviceError, match="silent"):
        transport.spawn(["/bin/true"])
    transport.close()


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


def test_a_port_that_went_away_and_came_back_is_gone_on_with(board: Board, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        stop = threading.Event()
        current: list[socket.socket] = []

        def carry() -> None:
            while not stop.is_set():
                connection, _ = server.accept()
                current.append(connection)
                port = os.open(board.line.name, os.O_RDWR | os.O_NOCTTY)
                pumps = [
                    threading.Thread(target=pump, args=(connection.fileno(), port), daemon=True),
                    threading.Thread(target=pump, args=(port, connection.fileno()), daemon=True),
                ]
                for one in pumps:
                    one.start()
                pumps[0].join()
                os.close(port)

        def pump(source: int, sink: int) -> None:
            try:
                while data := os.read(source, 4096):
                    os.write(sink, data)
            except OSError:
                return

        threading.Thread(target=carry, daemon=True).start()
        transport = serial.connect(device(f"socket://127.0.0.1:{server.getsockname()[1]}"), None)
        channel = transport.spawn(["/bin/cat"])
        channel.write(b"one\n")
        assert channel.read_line(5) == b"one\n"
        stop.set()
        current[0].shutdown(socket.SHUT_RDWR)
        stop.clear()
        channel.write(b"two\n")
        assert channel.read_line(10) == b"two\n"
        assert len(current) >= 1
        transport.close()
        stop.set()


class Scripted:
    """The other end of a line as a script: what is typed, and what it answers to that."""

    def __init__(self, *turns: tuple[bytes, bytes]) -> None:
        import pty
        import tty

        self.master, slave = pty.openpty()
        tty.setraw(slave)
        self.slave, self.name = slave, os.ttyname(slave)
        self.turns = list(turns)
        self.typed = b""
        self.thread = threading.Thread(target=self._play, daemon=True)
        self.thread.start()

    def _play(self) -> None:
        for wait_for, answer in self.turns:
            while wait_for not in self.typed:
                try:
                    self.typed += os.read(self.master, 4096)
                except OSError:
                    return
            self.typed = b""
            os.write(self.master, answer)
        try:
            while os.read(self.master, 4096):
                pass
        except OSError:
            return


@pytest.mark.parametrize(
    ("turns", "message", "hint"),
    [
        ([(b"\r", b"board login: "), (b"root\r", b"root\r\nPassword: "), (b"secret\r", b"\r\nLogin incorrect\r\nboard login: ")],
         "root may not log in", "EDGEKIT_SERIAL_PASSWORD"),
        ([(b"\r", b"=> "), (b"\r", b"=> ")], "is no shell", "boot loader"),
        ([(b"\r", b"\xe0\xfe\x80\x1c\xf8\x80\xff\xf0") for _ in range(8)], "is no shell", "speed"),
        ([(b"\r", b"# "), (b"42", b""), ], "nothing answers", "TX and RX"),
        ([(b"\r", b"# "), (b"kit-", b"edgekit-42\r\n# "), (b":\"\r", b"edgekit::\r\n# ")], "no Python 3", "install python3"),
        ([(b"\r", b"# "), (b"kit-", b"edgekit-42\r\n# "), (b":\"\r", b"edgekit:python3:\r\n# "),
          (b"\r", b"sh: syntax error\r\n# ")] * 3, "did not start", ""),
    ],
    ids=["password", "boot loader", "speed", "silence", "python", "bootstrap"],
)  # fmt: skip
def test_a_console_that_will_not_have_us_says_what_is_wrong(
    turns: list[tuple[bytes, bytes]], message: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKIT_SERIAL_PASSWORD", "secret")
    monkeypatch.setattr(_login, "ANSWER_S", 1.5)
    monkeypatch.setattr(_login, "TRIES", 1)
    scripted = Scripted(*turns)
    with pytest.raises(ConnectError, match=message) as caught:
        serial.connect(device(scripted.name), None)
    assert hint in caught.value.hint
    assert str(ROOT) not in str(caught.value)


def test_a_port_that_cannot_be_had_says_why(tmp_path: Path) -> None:
    with pytest.raises(ConnectError, match="there is no /dev/ttyNOWHERE"):
        serial.connect(device("/dev/ttyNOWHERE"), None)
    with pytest.raises(ConnectError, match=r"nothing listens at socket://127\.0\.0\.1:1"):
        serial.connect(device("socket://127.0.0.1:1"), None)
    with pytest.raises(UserError, match="no serial port"):
        serial.connect(device("http://127.0.0.1:1"), None)
    with pytest.raises(UserError, match="not known on which port"):
        serial.connect(Device("board", "", "aarch64", "serial", ("tflite",)), None)
    scripted = Scripted()
    with Port(scripted.name, 115200), pytest.raises(ConnectError, match="another program has"):
        serial.connect(device(scripted.name), None)
    assert serial.look(device("/dev/ttyNOWHERE")) == (False, "there is no /dev/ttyNOWHERE")
    assert serial.look(device(scripted.name))[0]


def test_the_line_that_is_typed_fits_the_smallest_shells() -> None:
    program = _login.program(0xFFFF, 115200)
    first = _login.FIRST.format(size=len(program), piece=_login.PIECE_BYTES)
    assert len(first) + 200 < _login.LINE_BYTES
    assert "'" not in first
    assert len(program) < 8192
