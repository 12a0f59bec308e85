"""The part of a serial console that is text: from whatever is at the other end to our own program there, started by one line."""

from __future__ import annotations

import ast
import contextlib
import os
import re
import secrets
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from edgekit import prompt
from edgekit.agent import frames
from edgekit.errors import ConnectError, DeviceError, EdgekitError
from edgekit.transports._port import Port

AGENT = Path(frames.__file__).parent
PASSWORD_VARIABLE = "EDGEKIT_SERIAL_PASSWORD"
ANSWER_S = 20.0  # for a shell, while nothing comes
BOOT_S = 120.0  # for a shell, while the device still says something new
HOST_GONE_S = 20.0  # without a word of us the device puts its terminal back; we speak every three seconds
QUIET_S = 0.4  # of silence: the other side waits for us
FIRST_S = 1.1  # of silence before the first key: boot loaders count down in seconds, and any key stops them
NUDGE_S = 1.5  # of silence before another
LOGIN_S = 6.0  # the same after a name or a password: small boards take their time with these
ECHO_S = 2.0
PIECE_BYTES = 256  # of the program that is sent before there are frames
LINE_BYTES = 1000  # what the line editors of small shells take
TRIES = 4

COLOURS = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|\x1b[=>78]")
WRAPPED = re.compile(rb"(.)\r\1")  # how readline goes on to the next line of the screen
SPACE = re.compile(rb"[\x00-\x20]")
OURS = re.compile(rb"~[adnpb][^~]{8,}~|<\d+>$", re.DOTALL)  # frames, or our first program that waits for the second
LOGIN = re.compile(rb"[\w.-]*\s*(?<!last )(?<!failed )login: *$", re.IGNORECASE)
PASSWORD = re.compile(rb"password[^\n]{0,40}: *$", re.IGNORECASE)
EXPIRED = re.compile(rb"(new|current)\)?[^\n]{0,20} password[^\n]{0,10}: *$", re.IGNORECASE)
COUNTDOWN = re.compile(rb"(autoboot|executed automatically)[^\n]*$", re.IGNORECASE)
REFUSED = re.compile(rb"login incorrect|authentication failure|permission denied", re.IGNORECASE)
NO_SHELL = re.compile(rb"(^|\n)(=> *|U-Boot> *|grub> *|>>> *|mysql> *)$")
PROBE = b' echo edge""kit-$((6*7))\r'
PROBED = re.compile(rb"edgekit-42")
WAITS = re.compile(
    rb"(?m)[#$] $|(?<!last )(?<!failed )login: $|password: $|^edgekit-42", re.IGNORECASE
)  # surely for us
# Python may be on the device, or in a userland that was sent before: the first that has all the device's end imports.
MODULES = "contextlib,fcntl,hashlib,json,select,shutil,signal,subprocess,termios,tty,zlib"
FIND = (
    " for p in python3 {root}/userland/*/bin/python3*; do"
    ' case $p in /*) d=${{p%/bin/*}}; p="$(echo $d/lib/ld-*) --library-path $d/lib $p";; esac;'
    ' $p -ISc "import {modules}" 2>/dev/null && break; p=; done; echo "edge""kit:$p:"'
)
FOUND = re.compile(rb"edgekit:([^:\r\n]*):")
# Reads the real program raw, {size} bytes in pieces with a checksum each, and says how much it has; gives up after a while.
FIRST = r"""import os,select,sys,termios,tty,zlib
s=termios.tcgetattr(0)
tty.setraw(0)
try:
 d=b=b""
 i=0
 while len(d)<{size} and i<15:
  if not b:os.write(1,b"<%d>"%len(d))
  n=min({piece},{size}-len(d))+4
  r=select.select([0],[],[],1)[0]
  if r:b+=os.read(0,n-len(b))
  if len(b)==n and zlib.crc32(b[4:])==int.from_bytes(b[:4],"big"):
   d+=b[4:]
   b=b""
  elif len(b)==n or not r:
   b=b""
   i+=1
 if len(d)=={size}:
  os.write(1,b"<%d>"%len(d))
  exec(zlib.decompress(d))
finally:
 termios.tcsetattr(0,2,s)
"""
LOADER = """import sys,types
for n,t in {sources!r}:
 m=types.ModuleType("edgekit_agent."+n)
 m.__package__="edgekit_agent"
 sys.modules.setdefault("edgekit_agent",types.ModuleType("edgekit_agent")).__path__=[]
 sys.modules[m.__name__]=m
 setattr(sys.modules["edgekit_agent"],n,m)
 exec(compile(t,n,"exec"),m.__dict__)
m.main(s,{session},{baud},{gone})
"""


def never(text: bytes) -> bool:
    """Nothing is enough."""
    return False


def bare(source: str) -> str:
    """A program without its comments and docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def program(session: int, baud: int) -> bytes:
    """The device's end, compressed."""
    sources = [(name, bare((AGENT / f"{name}.py").read_text("utf-8"))) for name in ("frames", "console")]
    return zlib.compress(
        LOADER.format(sources=sources, session=session, baud=baud, gone=HOST_GONE_S).encode("ascii"), 9
    )


class Dialogue:
    """Typing at a console and reading what comes back."""

    def __init__(self, port: Port, user: str) -> None:
        self.port = port
        self.user = user
        self.logged_in = False  # by us, who then leave no shell behind
        self.text = b""  # since the last thing typed, without colours
        self.typed = b""

    def listen(self, seconds: float, enough: Callable[[bytes], object]) -> tuple[bool, bool]:
        """Read until nothing comes for a moment, or it is `enough`, for so long at the most.

        Whether anything came, and whether the other side waits for us now.
        """
        deadline, came = time.monotonic() + seconds, False
        while (left := deadline - time.monotonic()) > 0:
            if came and enough(self.text):
                return True, True
            data = self.port.wait(min(QUIET_S, left) if came else left)
            if not data:
                return came, left >= QUIET_S
            came = True
            self.text = COLOURS.sub(b"", self.text + data)[-20000:]
        return came, False

    def say(self, data: bytes) -> None:
        """Type something; what came before it is forgotten."""
        self.text, self.typed = b"", data
        self.port.type(data)

    def enter(self, line: bytes) -> None:
        """Type a line, and run it when its echo shows that it has arrived as it was typed."""

        def arrived(text: bytes) -> bool:
            return SPACE.sub(b"", WRAPPED.sub(rb"\1", text)).endswith(SPACE.sub(b"", line))

        for _ in range(TRIES):
            self.say(line)
            self.listen(ECHO_S, arrived)
            if arrived(self.text):
                break
            self.port.type(b"\x15")  # forget the line
            self.listen(0.1, never)
        else:
            self.say(line)  # on a terminal without an echo there is nothing to look at
        self.port.type(b"\r")

    def until(self, pattern: re.Pattern[bytes], seconds: float) -> re.Match[bytes] | None:
        """Wait for a pattern in what comes; None when it does not."""
        deadline = time.monotonic() + seconds
        while not (found := pattern.search(self.text)):
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            self.text += self.port.wait(left)
        return found

    def shell(self) -> None:
        """Get to a shell, by a login where one is asked for. Raises ConnectError."""
        names = passwords = probes = 0
        ends: Counter[bytes] = Counter()  # the last lines of what came, after which nothing did
        nudges = [b"\r", b"\r", 2 * frames.frame(b"B", 0, 0) + b"\x15\r", b"\r"]
        started = heard = time.monotonic()
        wait = FIRST_S
        while True:
            came, quiet = self.listen(max(wait, QUIET_S), WAITS.search)
            now, tail = time.monotonic(), self.text[-200:]
            if came:
                heard = now
            if PROBED.search(self.text):
                return
            asks = PASSWORD.search(tail) or LOGIN.search(tail)
            if asks and ((names and REFUSED.search(self.text)) or max(names, passwords) > TRIES):
                raise ConnectError(
                    f"{self.user} may not log in on {self.port.name}",
                    f"mend login, or the password in {PASSWORD_VARIABLE}",
                )
            if EXPIRED.search(tail):
                message = f"{self.port.name} wants {self.user} to have a new password"
                raise ConnectError(message, "log in there once by hand and choose one")
            if PASSWORD.search(tail):
                passwords, wait = passwords + 1, LOGIN_S
                # The first may be for a name that somebody else has typed and left.
                self.say((self.password() if names or passwords > 1 else b"") + b"\r")
                now = started = heard = time.monotonic()  # who was asked may have thought for long
            elif asks:
                names, wait, self.logged_in = names + 1, LOGIN_S, True
                self.say(self.user.encode() + b"\r")
            elif OURS.search(self.text):
                self.say(2 * frames.frame(b"B", 0, 0) + b"\x15\r")  # somebody who is gone has left it behind
            elif COUNTDOWN.search(tail):
                pass
            elif came and quiet and tail.strip() not in (b"", self.typed.strip()):
                end = tail.strip().splitlines()[-1]
                ends[end] += 1
                if NO_SHELL.search(tail) or ends[end] > TRIES or (strange(tail) and probes >= TRIES):
                    shown = end[:60].decode("utf-8", "replace")
                    raise ConnectError(f"what answers on {self.port.name} is no shell: {shown!r}", self.advice(tail))
                probes, wait = probes + 1, NUDGE_S
                self.say(b"\x15" + PROBE)
            elif nudges and now - heard >= wait:
                self.say(nudges.pop(0))
                wait = NUDGE_S
            if now - started > BOOT_S and tail.strip():
                message = f"there was no shell on {self.port.name} within {BOOT_S:g} s"
                raise ConnectError(f"{message}, but: {self.last_words()}", self.advice(tail), True)
            if now - heard > ANSWER_S or now - started > BOOT_S:
                raise ConnectError(
                    f"nothing answers on {self.port.name} at {self.port.baud} baud",
                    "is it on, are TX and RX crossed, is the speed right, and is there a login on this console?",
                    True,
                )

    def log_out(self) -> None:
        """Leave no shell behind that was not there before; never raises."""
        if self.logged_in:
            with contextlib.suppress(DeviceError):
                self.port.type(b"\x15exit\r")

    def advice(self, tail: bytes) -> str:
        """What may be wrong with a console that speaks in tongues."""
        if strange(tail):
            return f"that looks like another speed than {self.port.baud} baud: --baud"
        return "leave the boot loader or the program that runs there, and have a shell or a login on this console"

    def password(self) -> bytes:
        """The user's password. Raises ConnectError where nobody can be asked."""
        if PASSWORD_VARIABLE in os.environ:
            return os.environ[PASSWORD_VARIABLE].encode()
        typed = prompt.secret(f"Password of {self.user} on {self.port.name}: ")
        if typed is None:
            raise ConnectError(f"{self.port.name} asks for the password of {self.user}", f"set {PASSWORD_VARIABLE}")
        return typed.encode()

    def python(self, root: str) -> str:
        """The command that starts a Python there. Raises ConnectError when there is none."""
        self.enter(FIND.format(root=root, modules=MODULES).encode())
        found = self.until(FOUND, ANSWER_S)
        if found is None:
            raise ConnectError(f"the shell on {self.port.name} does not answer", "reset the device", True)
        if not found.group(1):
            raise ConnectError(
                f"the device on {self.port.name} has no Python 3",
                f"install python3 there, or a userland in {root}/userland: a serial line is too slow to send one first",
            )
        return found.group(1).decode("utf-8", "replace")

    def start(self, python: str, leave: bool) -> int:
        """Start our program; returns the session it was given. `leave`: the shell goes with it. Raises ConnectError."""
        session = 1 + secrets.randbelow(frames.NUMBERS - 1)
        data = program(session, self.port.baud)
        code = FIRST.format(size=len(data), piece=PIECE_BYTES).replace("\\", "\\\\").replace("\n", "\\n")
        line = f' {"exec " if leave else ""}{python} -ISc \'exec("""{code}""")\''
        assert len(line) < LINE_BYTES, len(line)
        self.enter(line.encode())
        if not self.until(re.compile(b"<0>"), ANSWER_S) or not self.send(data):
            raise ConnectError(f"our program did not start on {self.port.name}: {self.last_words()}", "", True)
        return session

    def send(self, data: bytes) -> bool:
        """The program itself, piece by piece, each when the one before it is there; False when that does not come about."""
        start, deadline = 0, time.monotonic() + ANSWER_S
        while start < len(data):
            piece = data[start : start + PIECE_BYTES]
            self.text = b""
            self.port.put(zlib.crc32(piece).to_bytes(4, "big") + piece)
            after = start + len(piece)
            found = self.until(re.compile(b"<(%d|%d)>" % (start, after)), deadline - time.monotonic())
            if not found:
                return False
            start = int(found.group(1))
        return True

    def last_words(self) -> str:
        """The last line that came."""
        lines = [line for line in self.text.decode("utf-8", "replace").splitlines() if line.strip()]
        return "".join(mark if mark.isprintable() else "?" for mark in lines[-1])[-100:] if lines else "it said nothing"


def strange(text: bytes) -> bool:
    """Whether much of a text is none."""
    odd = sum(byte >= 0x80 or (byte < 0x20 and byte not in b"\r\n\t\x07\x08") for byte in text)
    return odd > len(text) / 4


def open_console(port: Port, user: str, root: str) -> int:
    """From whatever is at the other end to our program; returns the session of the link. Raises ConnectError."""
    dialogue = Dialogue(port, user)
    try:
        for left in reversed(range(TRIES)):
            dialogue.shell()
            try:
                return dialogue.start(dialogue.python(root), dialogue.logged_in)
            except EdgekitError as error:
                if not left or not getattr(error, "transient", False):
                    raise
    except BaseException:
        dialogue.log_out()
        raise
    raise AssertionError("unreachable")
