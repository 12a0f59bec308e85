"""From what is at the other end of a serial line to a shell there: logins, boot loaders and silence, as a script has them."""

from __future__ import annotations

import os
import pty
import re
import socket
import threading
import time
import tty

import pytest
from harness import ROOT, wait_until

from edgekit.errors import ConnectError, UserError
from edgekit.transports import _login, _port, serial
from edgekit.transports._port import Port
from edgekit.types import Device


@pytest.fixture(autouse=True)
def no_boot_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here counts down for seconds, but where a test says so."""
    monkeypatch.setattr(_login, "FIRST_S", 0.05)


def device(place: str, **connection: object) -> Device:
    """A device on a port."""
    return Device("board", "", "aarch64", "serial", ("tflite",), {"tty": place, **connection})


PAUSE, PAUSE_S = b"<pause>", 0.15


class Scripted:
    """The other end of a line as a script: what is typed, and what it answers to that, with a PAUSE here and there."""

    def __init__(self, *turns: tuple[bytes, bytes]) -> None:
        self.master, slave = pty.openpty()
        tty.setraw(slave)
        self.slave, self.name = slave, os.ttyname(slave)
        self.turns = list(turns)
        self.typed = self.all_typed = b""
        self.thread = threading.Thread(target=self._play, daemon=True)
        self.thread.start()

    def _play(self) -> None:
        try:
            for wait_for, answer in self.turns:
                while wait_for not in self.typed:
                    self.typed += self._read()
                self.typed = b""
                for number, part in enumerate(answer.split(PAUSE)):
                    if number:
                        time.sleep(PAUSE_S)
                    os.write(self.master, part)
            while self._read():
                pass
        except OSError:
            return

    def _read(self) -> bytes:
        data = os.read(self.master, 4096)
        self.all_typed += data
        return data


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is waited for long, and tried once."""
    for name, seconds in (("ANSWER_S", 0.9), ("QUIET_S", 0.1), ("NUDGE_S", 0.3), ("LOGIN_S", 0.6), ("ECHO_S", 0.2)):
        monkeypatch.setattr(_login, name, seconds)
    monkeypatch.setattr(_login, "TRIES", 1)


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
        ([(b"\r", b"board login: "), (b"root\r", b"root\r\nPassword: "), (b"secret\r", b"\r\nIt has expired.\r\nNew password: ")],
         "wants root to have a new password", "by hand"),
        ([(b"\r", b"Password: ")] + [(b"\r", b"\r\nPassword: ")] * 3, "root may not log in", "EDGEKIT_SERIAL_PASSWORD"),
    ],
    ids=["password", "boot loader", "speed", "silence", "python", "bootstrap", "expired", "password again and again"],
)  # fmt: skip
def test_a_console_that_will_not_have_us_says_what_is_wrong(
    turns: list[tuple[bytes, bytes]], message: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKIT_SERIAL_PASSWORD", "secret")
    hurry(monkeypatch)
    scripted = Scripted(*turns)
    with pytest.raises(ConnectError, match=message) as caught:
        serial.connect(device(scripted.name), None)
    assert hint in caught.value.hint
    assert str(ROOT) not in str(caught.value)


SHELL = (b"kit-", b"edgekit-42\r\n# ")


@pytest.mark.parametrize(
    ("turns", "typed"),
    [
        # its name and password prompts take their time, and what is typed before they come is taken for the answer
        ([(b"\r", b"board login: "), (b"root\r", b"root\r\n<pause><pause>Password: "), (b"secret\r", b"\r\n<pause># "), SHELL],
         b"\rroot\rsecret\r"),
        # the line is slow enough for a word to be looked at before the next has come
        ([(b"\r", b"board login: "), (b"root\r", b"root\r\nLast login: <pause>Mon Nov 23 00:18:55 on ttyS0\r\n# "), SHELL],
         b"\rroot\r"),
        ([(b"\r", b"board login: "), (b"root\r", b"root\r\nPassword: "),
          (b"secret\r", b"\r\n-sh: /etc/issue: Permission denied\r\n# "), SHELL], b"\rroot\rsecret\r"),
        # somebody has typed another name and gone
        ([(b"\r", b"\r\nPassword: "), (b"\r", b"\r\nLogin incorrect\r\nboard login: "), (b"root\r", b"root\r\n# "), SHELL],
         b"\r\rroot\r"),
    ],
    ids=["slow", "last login", "denied", "left over"],
)  # fmt: skip
def test_a_login_is_read_as_it_is_meant(
    turns: list[tuple[bytes, bytes]], typed: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKIT_SERIAL_PASSWORD", "secret")
    hurry(monkeypatch)
    monkeypatch.setattr(_login, "LOGIN_S", 5.0)
    scripted = Scripted(*turns)
    with Port(scripted.name, 115200) as port:
        dialogue = _login.Dialogue(port, "root")
        dialogue.shell()
    assert dialogue.logged_in
    probe = re.escape(b"\x15" + _login.PROBE)
    assert re.fullmatch(re.escape(typed) + b"(%b)+" % probe, scripted.all_typed)


@pytest.mark.slow
def test_no_key_is_pressed_while_a_boot_loader_counts_down(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)
    monkeypatch.setattr(_login, "FIRST_S", 0.3)
    count = b"<pause>".join(b"\x08\x08\x08%2d " % left for left in (3, 2, 1, 0))
    boots = b"<pause>U-Boot 2023.01\r\nHit any key to stop autoboot: " + count
    lines = [b"[    0.%d] one more driver\r\n<pause>" % number for number in range(8)]
    kernel = b"\r\nStarting kernel ...\r\n" + b"".join(lines)
    scripted = Scripted((b"", boots), (b"", kernel + b"# "), SHELL)
    with Port(scripted.name, 115200) as port:
        dialogue = _login.Dialogue(port, "root")
        seen = []
        say = dialogue.say

        def watched(data: bytes) -> None:
            seen.append(dialogue.text)
            say(data)

        monkeypatch.setattr(dialogue, "say", watched)
        dialogue.shell()
    assert seen and b"Starting kernel" in seen[0]
    assert not dialogue.logged_in


def test_who_logged_in_for_nothing_logs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)
    none = (b':"\r', b"edgekit::\r\n# ")
    scripted = Scripted((b"\r", b"board login: "), (b"root\r", b"root\r\n# "), SHELL, none, (b"exit\r", b"\r\n"))
    with pytest.raises(ConnectError, match="no Python 3"):
        serial.connect(device(scripted.name), None)
    wait_until(lambda: scripted.all_typed.endswith(b"\x15exit\r"))
    scripted = Scripted((b"\r", b"# "), SHELL, none)  # a shell that was there before stays
    with pytest.raises(ConnectError, match="no Python 3"):
        serial.connect(device(scripted.name), None)
    assert not scripted.all_typed.endswith(b"exit\r")


def test_a_line_that_takes_nothing_is_an_error_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_port, "STUCK_S", 0.2)
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        Port(f"socket://127.0.0.1:{server.getsockname()[1]}", 115200) as port,
        pytest.raises(ConnectError, match="takes no data"),
    ):
        port.put(bytes(100_000_000))


def test_a_port_that_cannot_be_had_says_why() -> None:
    with pytest.raises(ConnectError, match="there is no /dev/ttyNOWHERE"):
        serial.connect(device("/dev/ttyNOWHERE"), None)
    with pytest.raises(ConnectError, match=r"nothing listens at socket://127\.0\.0\.1:1"):
        serial.connect(device("socket://127.0.0.1:1"), None)
    for name in ("http://127.0.0.1:1", "socket://127.0.0.1", "socket://127.0.0.1:99999", "socket://:5"):
        with pytest.raises(UserError, match="no serial port"):
            serial.connect(device(name), None)
    with pytest.raises(UserError, match="not known on which port"):
        serial.connect(Device("board", "", "aarch64", "serial", ("tflite",)), None)
    scripted = Scripted()
    for baud in (0xFFFFFFFFFF, -1):
        with pytest.raises(UserError, match="cannot be opened at"):
            serial.connect(device(scripted.name, baud=baud), None)
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
