"""An SSH server in a thread of the test, for what a real one does not do to order: refuse, ask for passwords, be silent, lie."""

from __future__ import annotations

import os
import select
import socket
import threading
from types import TracebackType
from typing import Any

import paramiko

from .sshd import free_port


class Rules(paramiko.ServerInterface):
    """Lets in by the given ways only: way -> the secret, or the public key's base64, that it takes; "none" takes nothing."""

    def __init__(self, ways: dict[str, str], programs: bool) -> None:
        self.ways, self.programs = ways, programs

    def get_allowed_auths(self, username: str) -> str:
        return ",".join(self.ways)

    def verdict(self, way: str, shown: str) -> int:
        return paramiko.AUTH_SUCCESSFUL if self.ways.get(way) == shown else paramiko.AUTH_FAILED

    def check_auth_none(self, username: str) -> int:
        return self.verdict("none", "")

    def check_auth_password(self, username: str, password: str) -> int:
        return self.verdict("password", password)

    def check_auth_publickey(self, username: str, key: Any) -> int:
        return self.verdict("publickey", key.get_base64())

    def check_auth_interactive(self, username: str, submethods: str) -> Any:
        if "keyboard-interactive" not in self.ways:
            return paramiko.AUTH_FAILED
        return paramiko.InteractiveQuery("", "", ("Password: ", False))

    def check_auth_interactive_response(self, responses: list[str]) -> int:
        return self.verdict("keyboard-interactive", responses[0])

    def check_channel_request(self, kind: str, chanid: int) -> int:
        refused = paramiko.OPEN_FAILED_RESOURCE_SHORTAGE
        return paramiko.OPEN_SUCCEEDED if self.programs else int(refused)

    def check_channel_exec_request(self, channel: Any, command: bytes) -> bool:
        """Every command prints a folder when it has read all its input, and ends well."""

        def answer() -> None:
            while channel.recv(4096):
                pass
            channel.sendall(b"/home/fake/.edgekit\n")
            channel.send_exit_status(0)
            channel.close()

        threading.Thread(target=answer, daemon=True).start()
        return True


class FakeServer:
    """A server on a port of the loopback. `greeting` is sent in place of SSH's; None says nothing at all."""

    def __init__(self, ways: dict[str, str], greeting: bytes | bool | None = True, programs: bool = True) -> None:
        self.ways, self.greeting, self.programs = ways, greeting, programs
        self.key = paramiko.ECDSAKey.generate()
        self.port = free_port()
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._stop, self._stopped = os.pipe()
        self._live: list[Any] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def known_host(self) -> str:
        """Its line of known_hosts."""
        return f"[127.0.0.1]:{self.port} {self.key.get_name()} {self.key.get_base64()}\n"

    def _serve(self) -> None:
        while select.select([self._listener, self._stop], [], [])[0] == [self._listener]:
            client, _ = self._listener.accept()
            self.connections += 1
            if self.greeting is True:
                transport = paramiko.Transport(client)
                transport.add_server_key(self.key)
                self._live.append(transport)
                transport.start_server(threading.Event(), Rules(self.ways, self.programs))
                continue
            self._live.append(client)
            if self.greeting is not None:
                assert isinstance(self.greeting, bytes)
                client.sendall(self.greeting)
                client.close()

    def __enter__(self) -> FakeServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.write(self._stopped, b"x")
        self._thread.join(5)
        for end in (*self._live, self._listener):
            end.close()
        os.close(self._stop)
        os.close(self._stopped)
