"""Somebody in the middle of a TCP connection: passes bytes on until a fault is due, then cuts, stalls or talks nonsense."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import threading
from dataclasses import dataclass
from types import TracebackType

from .sshd import free_port

GARBAGE = bytes(range(256)) * 16


@dataclass
class Fault:
    """What happens after `after` bytes in a direction ("up" to the server, "down" from it), to so many connections.

    The bytes are counted from when the fault is set, or from the start of a connection that is made later.
    """

    kind: str  # "cut", "stall" or "garbage"
    after: int
    way: str = "up"
    times: int = 1


class Middle:
    """A proxy on a port of its own before a server's. Use as a context manager."""

    def __init__(self, server_port: int) -> None:
        self.server_port = server_port
        self.fault: Fault | None = None
        self.connections = 0
        self.passed = {"up": 0, "down": 0}  # by all connections
        self.port = free_port()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._stop, self._stopped = os.pipe()
        self._live: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._serve, daemon=True)]
        self._threads[0].start()

    def cut(self) -> None:
        """Cut every connection now, without a goodbye."""
        for end in list(self._live):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        while True:
            with selectors.DefaultSelector() as waiting:
                waiting.register(self._listener, selectors.EVENT_READ)
                waiting.register(self._stop, selectors.EVENT_READ)
                if any(key.fd == self._stop for key, _ in waiting.select()):
                    return
            client, _ = self._listener.accept()
            self.connections += 1
            try:
                server = socket.create_connection(("127.0.0.1", self.server_port), 5)
            except OSError:
                client.close()
                continue
            self._live += [client, server]
            self._threads.append(threading.Thread(target=self._pass_on, args=(client, server), daemon=True))
            self._threads[-1].start()

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        fault, count = self.fault, {"up": 0, "down": 0}
        other = {client: ("up", server), server: ("down", client)}
        with client, server, selectors.DefaultSelector() as waiting, contextlib.suppress(OSError):
            for end in (client, server):
                waiting.register(end, selectors.EVENT_READ)
            waiting.register(self._stop, selectors.EVENT_READ)
            while True:
                for key, _ in waiting.select():
                    if key.fd == self._stop:
                        return
                    assert isinstance(key.fileobj, socket.socket)
                    way, to = other[key.fileobj]
                    data = key.fileobj.recv(65536)
                    if not data:
                        return
                    if fault is not self.fault:
                        fault, count = self.fault, {"up": 0, "down": 0}
                    if fault and fault.times > 0 and way == fault.way and count[way] + len(data) > fault.after:
                        fault.times -= 1
                        to.sendall(data[: fault.after - count[way]])
                        if fault.kind == "cut":
                            return
                        if fault.kind == "garbage":
                            to.sendall(GARBAGE)
                        waiting.unregister(key.fileobj)  # nothing more that way
                        continue
                    count[way] += len(data)
                    self.passed[way] += len(data)
                    to.sendall(data)

    def __enter__(self) -> Middle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.write(self._stopped, b"x")
        self.cut()
        for thread in self._threads:
            thread.join(5)
        self._listener.close()
        os.close(self._stop)
        os.close(self._stopped)
