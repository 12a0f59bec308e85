"""One device for a whole run: one connection, the lock held through it, and the agents that are started over it."""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

from edgekit import session
from edgekit.errors import AgentError, DeviceBusy, DeviceError
from edgekit.session import Session
from edgekit.transports import Transport, check_same, printable
from edgekit.types import Device, Json

BEAT = "edgekit-beat"  # the thread's name
BEAT_S = 20.0  # well below session.PATIENCE_S
ASK_S = 10.0  # for the holder's answer, which costs it nothing
WAIT_S = 15.0  # how long one request waits for the lock; between two of them the user hears of it
BACK_S = 90.0  # for a device to be back after its link was lost: a board that restarts is away for a minute
AGAIN_S = 2.0


class Link:
    """The connection is made, and the device locked, when the first agent is wanted. Use as a context manager.

    The lock is held by an agent of its own on the device until the link is closed, whichever agents come and go meanwhile; it
    is free as soon as that process ends, however it ends. `what` says to others what the device is used for. `identity` is that
    of the device which is meant, where the link can tell one from another; without it, that of the first that answers.
    """

    def __init__(
        self, device: Device, say: Callable[[str], None], what: str, wait: bool = False, identity: str = ""
    ) -> None:
        self.device, self.say, self.what, self.wait, self.identity = device, say, what, wait, identity
        self.token = secrets.token_hex(8)  # by which a holder is known for our own
        self.met = False  # the device has answered before
        self.transport: Transport | None = None
        self.holder: Session | None = None
        self.sessions: list[Session] = []
        self.ended = False  # by cut()
        self._closed = threading.Event()
        self._closed.set()

    def connect(self) -> Transport:
        """The connection, made now when there is none. Raises SetupError, UserError or DeviceError."""
        if self.transport is None:
            transport = self._reached()
            try:
                check_same(self.device.name, self.identity, transport.identity)
            except DeviceError:
                transport.close()
                raise
            self.transport, self.met, self.identity = transport, True, transport.identity or self.identity
            if not self.transport.seamless:
                self._closed = threading.Event()
                threading.Thread(target=self._reassure, args=(self._closed,), name=BEAT, daemon=True).start()
        return self.transport

    def _reached(self) -> Transport:
        """A new connection. A device that was there before is waited for: it may have been restarted."""
        deadline = time.monotonic() + (BACK_S if self.met else 0)
        while True:
            try:
                return session.connect(self.device, self.say)
            except DeviceError as error:
                if not error.transient or time.monotonic() >= deadline:
                    raise
                self.say(f"waiting until {self.device.name} is back: {error.message}")
            time.sleep(AGAIN_S)
            self.check()

    def session(self, runtime: str) -> Session:
        """A live agent for a runtime on the locked device; a link that was lost is made anew.

        Raises DeviceBusy when somebody else has the device, ConnectError or ProtocolError when no agent can be started.
        """
        if not self.held():
            self.close()
        self.check()
        transport = self.connect()
        if transport.shared and self.holder is None:
            self.holder = self._start(runtime)
            try:
                self._lock(self.holder)
            except BaseException:
                self.close()
                raise
        return self._start(runtime)

    def held(self) -> bool:
        """Whether the device is still ours: the holder of the lock is asked. True as well where nothing has to be locked."""
        if self.holder is None:
            return self.transport is not None and not self.transport.shared
        with contextlib.suppress(DeviceError, AgentError):
            return bool(self.holder.call("lock", {"who": self._who()}, ASK_S).get("held"))
        return False

    def confirm(self) -> None:
        """Nobody else can have used the device meanwhile. Raises DeviceError."""
        if not self.held():
            message = f"the lock on {self.device.name} was lost while this was measured"
            raise DeviceError(message, "another run may have disturbed it: measure it again")

    def drop(self, live: Session) -> None:
        """End one agent; the link stays."""
        if live in self.sessions:
            self.sessions.remove(live)
        self._end(live)

    def lost(self, live: Session) -> None:
        """End an agent after an error of the device. Where the lock's holder does not tell that the link is well, so is that."""
        self.drop(live)
        if self.holder is None:
            self.close()

    def _start(self, runtime: str) -> Session:
        assert self.transport is not None
        live = Session.over(self.transport, self.device, runtime, self.say)
        live.owns_transport = False
        self.sessions.append(live)
        self.check()
        return live

    def _lock(self, holder: Session) -> None:
        """Take the lock, now or when it becomes free. Raises DeviceBusy.

        A holder of our own from before a cable was cut, unnoticed there, is waited for: it ends when it has not heard of us.
        """
        wait_s, started = 0.0, time.monotonic()
        while True:
            try:
                answer = holder.call("lock", {"who": self._who(), "wait_s": wait_s}, wait_s + ASK_S)
            except AgentError as error:
                raise DeviceError(f"{self.device.name} cannot be locked: {error.message}", error.hint) from error
            if answer.get("held"):
                return
            found = answer.get("holder") or {}
            busy = f"{self.device.name} is in use: {described(found)}"
            ours = found.get("token") == self.token and time.monotonic() - started < session.PATIENCE_S + ASK_S
            if ours:
                busy = f"{self.device.name} has not noticed yet that the last link was cut"
            elif not self.wait:
                raise DeviceBusy(busy, "wait for it with --wait, or choose another device")
            self.say(f"waiting, {busy}")
            wait_s = WAIT_S

    def _who(self) -> Json:
        """What others may read of this run while it lasts."""
        try:
            user = getpass.getuser()
        except (KeyError, OSError):  # a user without a name
            user = str(os.getuid())
        now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        who = f"{user}@{socket.gethostname()}, process {os.getpid()}"
        return {"who": who, "what": self.what, "since": now, "token": self.token}

    def _reassure(self, closed: threading.Event) -> None:
        """From time to time tell all agents that this process lives: a device cannot see that a cable was pulled."""
        while not closed.wait(BEAT_S):
            for live in list(self.sessions):
                live.reassure()

    def cut(self) -> None:
        """End all agents for good, from another thread: whoever waits for one gets a DeviceError, and then closes the link."""
        self.ended = True
        for live in list(self.sessions):
            live.channel.close()

    def check(self) -> None:
        """Raise DeviceError when the link was cut."""
        if self.ended:
            raise DeviceError(f"the work on {self.device.name} was ended")

    def _end(self, live: Session) -> None:
        """End one agent, which hears no goodbye over a link that was cut."""
        if self.ended:
            live.channel.close()
        else:
            live.close()

    def close(self) -> None:
        """End what is left, the lock last; never raises."""
        self._closed.set()
        others = [live for live in self.sessions if live is not self.holder]
        for live in [*others, *([self.holder] if self.holder else [])]:
            self._end(live)
        self.sessions, self.holder = [], None
        if self.transport is not None:
            self.transport.close()
            self.transport = None

    def __enter__(self) -> Link:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def identity_in(lines: Iterable[Json]) -> str:
    """The identity of the device that these measurements are of; "" where none of them tells."""
    told = (line.get("environment", {}).get("greeting", {}).get("identity") for line in lines)
    return next((str(one) for one in told if one), "")


def described(holder: Json) -> str:
    """Who has the lock, from the holder's own words; they come from a device and are shown on a terminal."""

    def words(key: str, otherwise: str) -> str:
        return printable(str(holder.get(key, otherwise)).encode("utf-8", "replace"))[:80]

    age: Any = holder.get("held_s")
    ago = f" ({duration(age)})" if isinstance(age, (int, float)) else ""
    return (
        f"{words('who', 'somebody')} runs {words('what', 'something')} on it since {words('since', 'some time')}{ago}"
    )


def duration(seconds: float) -> str:
    """5 s, 3 min, 2.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
