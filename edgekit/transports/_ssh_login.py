"""From a device's [connection] to an SSH link that is let in: ~/.ssh/config, jumps, strict host keys, keys and passwords."""

from __future__ import annotations

import contextlib
import getpass
import io
import logging
import os
import re
import shlex
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgekit import prompt
from edgekit.errors import ConnectError, SetupError, UserError
from edgekit.transports import _host_keys
from edgekit.transports._host_keys import HostKey

ANSWER_S = 20.0  # for a connection, a greeting, a log-in; an emulated board needs seconds
KEEPALIVE_S = 10
DEAD_S = 40  # unanswered for so long, a link is given up by the kernel
JUMPS = 8
INCLUDES = 16  # so many files deep
GONE = re.compile(
    "hung up|[Tt]imeout|shut down"
)  # what paramiko says of a server that is no longer there, not of a key
GOODBYE_S = 2.0
KEY_NAMES = ("id_ed25519", "id_ecdsa", "id_rsa")
SYSTEM = (Path("/etc/ssh/ssh_config"), Path("/etc/ssh/ssh_known_hosts"))
NAME_KEY = (
    'name another: identity = "~/.ssh/..." under [DEVICE.connection] in devices.toml, or IdentityFile in ~/.ssh/config'
)
DESTINATION = re.compile(
    r"(?:ssh://)?(?:(?P<user>[^@:]+)@)?(?P<host>\[[^\]@]+\]|[^:@]+|[^:@]*:[^:@]*:[^@]*)(?::(?P<port>\d+))?/?"
)
# Typed once in a process, however many links it makes; asked for by one thread at a time.
SECRETS: dict[str, str] = {}
ASKING = threading.Lock()


@dataclass(frozen=True)
class Destination:
    """Whom to reach and how. `name` is what the user calls it; `identities` that were chosen come before the agent's keys."""

    name: str
    host: str
    user: str
    port: int
    identities: tuple[Path, ...] = ()
    chosen_only: bool = False  # no agent, no default keys
    jumps: tuple[str, ...] = ()
    proxy: str = ""
    known_hosts: tuple[Path, ...] = ()
    key_name: str = ""  # of its host key, where that is not its address
    private: bool = False  # of the user's files only the named key is used; the first of known_hosts is all believed
    device: str = ""  # for whose sake all this is

    @property
    def keyed(self) -> str:
        """The name under which known_hosts files know it."""
        return self.key_name or (self.host if self.port == 22 else f"[{self.host}]:{self.port}")

    @property
    def label(self) -> str:
        """For messages: whom we try to be where."""
        return f"{self.user}@{self.host}" + (f":{self.port}" if self.port != 22 else "")

    @property
    def account(self) -> str:
        """What its password is remembered by: the same address behind another jump is another machine."""
        return "\n".join((self.label, self.key_name, self.proxy, *self.jumps))


@dataclass
class Link:
    """A live, authenticated paramiko Transport, and what it goes through."""

    transport: Any
    through: list[Any] = field(default_factory=list)

    def close(self) -> None:
        """Hang up, the nearest last; never raises."""
        for part in (self.transport, *reversed(self.through)):
            try:
                part.close()
            except (OSError, EOFError):
                continue


class Proxy:
    """A ProxyCommand under way."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(GOODBYE_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def split(text: str) -> tuple[str, str, int | None]:
    """User, host and port of [USER@]HOST[:PORT]; "" and None for what is not said. Raises UserError."""
    found = DESTINATION.fullmatch(text.strip())
    if not found or found["host"].startswith("-"):
        raise UserError(f"'{text}' is no address of a device", "it is written [USER@]HOST[:PORT]")
    return found["user"] or "", found["host"].strip("[]"), int(found["port"]) if found["port"] else None


def resolve(text: str, connection: Mapping[str, Any], known_hosts: Path | None = None) -> Destination:
    """The destination of [USER@]HOST[:PORT] or an alias of ~/.ssh/config; what `connection` says comes first.

    With `known_hosts`, that file alone is believed, and neither ~/.ssh nor the user's agent is looked at.
    """
    user, name, port = split(text)
    user, port = connection.get("user") or user, connection.get("port") or port
    identities = tuple(Path(path).expanduser() for path in [connection.get("identity")] if path)
    jumps = tuple(part for part in str(connection.get("jump", "")).split(",") if part)
    if known_hosts:
        return Destination(
            name, name, user or getpass.getuser(), port or 22, identities, True, jumps, "", (known_hosts,), "", True
        )
    said = settings(name, user)
    named = shlex.split(said.get("userknownhostsfile", ""))
    # Boards are often given /dev/null there; a key that is accepted has to be kept somewhere.
    files = [file for file in named if file not in ("none", os.devnull)] or [
        "~/.ssh/known_hosts",
        "~/.ssh/known_hosts2",
    ]
    proxied = said.get("proxyjump", "none")
    if not jumps and proxied != "none":
        jumps = tuple(part.strip() for part in proxied.split(","))
    listed = tuple(Path(path).expanduser() for path in said.get("identityfile", ()))
    return Destination(
        name=name,
        host=said.get("hostname", name),
        user=user or said.get("user") or getpass.getuser(),
        port=int(port or said.get("port", 22)),
        identities=identities or listed,
        chosen_only=said.get("identitiesonly", "no") == "yes",
        jumps=jumps,
        proxy="" if jumps else said.get("proxycommand", "none").removeprefix("none"),
        known_hosts=(*(Path(path).expanduser() for path in files), SYSTEM[1]),
        key_name=said.get("hostkeyalias", ""),
    )


def settings(name: str, user: str) -> Mapping[str, Any]:
    """What ~/.ssh/config and the system's say of a host; the user's comes first."""
    paramiko = library()
    config = paramiko.SSHConfig()
    for path in (Path.home() / ".ssh" / "config", SYSTEM[0]):
        try:
            config.parse(io.StringIO("\n".join(lines_of(path, path.parent))))
        except OSError:
            continue
        except (paramiko.SSHException, ValueError) as error:
            raise UserError(
                f"cannot read {path.name} of SSH: {error}", "mend that line: `ssh` itself should accept it"
            ) from error
    try:
        found: Mapping[str, Any] = config.lookup(name)
    except (paramiko.SSHException, ImportError) as error:
        raise UserError(
            f"cannot tell what ~/.ssh/config says of {name}: {error}",
            "give --host the address itself, and mend what stands there",
        ) from error
    return found


def lines_of(path: Path, base: Path, under: str = "Host *", depth: int = 0) -> Iterator[str]:
    """The lines of a config file, in place of each Include those of the files meant; the lines after it are `under` the same
    Host as before. Relative names start at `base`. Raises OSError."""
    for line in path.read_text(encoding="utf-8").splitlines():
        word, _, rest = line.strip().replace("=", " ", 1).partition(" ")
        if word.lower() in ("host", "match"):
            under = line
        if word.lower() != "include" or depth >= INCLUDES:
            yield line
            continue
        for pattern in shlex.split(rest):
            meant = base / Path(pattern).expanduser()
            for found in sorted(Path(meant.anchor).glob(str(meant.relative_to(meant.anchor)))):
                with contextlib.suppress(OSError):
                    yield from lines_of(found, base, under, depth + 1)
        yield under


def library() -> Any:
    """paramiko, quiet: what goes wrong is an exception already. Raises SetupError without it."""
    try:
        import paramiko
    except ImportError as error:
        raise SetupError(f"devices behind SSH need paramiko: {error}", "pip install 'edgekit[ssh]'") from error
    logging.getLogger("paramiko").setLevel(logging.CRITICAL + 1)
    return paramiko


def open_link(to: Destination, depth: int = 0) -> Link:
    """Connect, check the host key, log in. Raises ConnectError; its `transient` ones may be tried again."""
    paramiko = library()
    through: list[Any] = []
    try:
        link = Link(paramiko.Transport(reach(to, through, depth)), through)
    except BaseException:
        for part in reversed(through):
            part.close()
        raise
    try:
        shake_hands(link.transport, to)
        log_in(link.transport, to)
        link.transport.set_keepalive(KEEPALIVE_S)
    except BaseException:
        link.close()
        raise
    return link


def reach(to: Destination, through: list[Any], depth: int) -> Any:
    """A socket, or what is as good as one, that leads to the SSH server; what it needs is added to `through`."""
    paramiko = library()
    if to.jumps:
        if depth >= JUMPS:
            raise ConnectError(f"the jumps on the way to {to.name} go in a circle", "mend ProxyJump in ~/.ssh/config")
        if to.private:
            last = resolve(to.jumps[-1], {"identity": to.identities[0]} if to.identities else {}, to.known_hosts[0])
        else:
            last = resolve(to.jumps[-1], {})
        if len(to.jumps) > 1:
            last = replace(last, jumps=to.jumps[:-1])
        last = replace(last, device=to.device)
        before = open_link(last, depth + 1)
        through.append(before)
        try:
            return before.transport.open_channel("direct-tcpip", (to.host, to.port), ("127.0.0.1", 0), timeout=ANSWER_S)
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise ConnectError(
                f"{last.label} does not lead on to {to.host}:{to.port}: {error}", "", transient=True
            ) from error
    if to.proxy:
        ours, its = socket.socketpair()
        with its:
            # As OpenSSH starts it: the user's own line, by a shell.
            end, line = its.fileno(), f"exec {to.proxy}"
            process = subprocess.Popen(line, shell=True, stdin=end, stdout=end, start_new_session=True)
        through.append(Proxy(process))
        return ours
    try:
        plain = socket.create_connection((to.host, to.port), ANSWER_S)
    except (socket.gaierror, UnicodeError) as error:  # UnicodeError: it cannot even be asked for
        hint = "give --host with an address that `ping` finds, or an alias of ~/.ssh/config"
        why = error.strerror if isinstance(error, OSError) else "that is no name of a machine"
        # A board that restarts loses its name in .local for a while.
        raise ConnectError(
            f"no machine is called {to.host}: {why}", hint, transient=isinstance(error, OSError)
        ) from error
    except ConnectionRefusedError as error:
        hint = "the device is up: start its SSH server (on a Raspberry Pi: sudo raspi-config nonint do_ssh 0), or give its port"
        raise ConnectError(f"nothing listens on port {to.port} of {to.host}", hint, transient=True) from error
    except OSError as error:
        why = "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
        hint = "is the device on, and in this network?"
        raise ConnectError(f"cannot reach {to.host}:{to.port}: {why}", hint, transient=True) from error
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_S * 1000)
    return plain


def shake_hands(transport: Any, to: Destination) -> None:
    """Agree on keys with the server, and refuse it unless its own is known. Raises ConnectError."""
    paramiko = library()
    said = _host_keys.known(to.known_hosts, to.keyed)
    options = transport.get_security_options()
    kinds = {key.kind for key in said.trusted if key not in said.revoked}
    wanted = {name for kind in kinds for name in (("rsa-sha2-512", "rsa-sha2-256") if kind == "ssh-rsa" else (kind,))}
    options.key_types = sorted(options.key_types, key=lambda name: name not in wanted)
    options.ciphers = sorted(options.ciphers, key=lambda name: not name.startswith("aes128-gcm"))
    transport.banner_timeout = transport.auth_timeout = transport.channel_timeout = ANSWER_S
    try:
        transport.start_client(timeout=ANSWER_S)
        if not transport.initial_kex_done:
            raise TimeoutError("no answer")
        key = transport.get_remote_server_key()
    except paramiko.IncompatiblePeer as error:
        message = f"{to.host} and paramiko have no algorithm in common: {error}"
        raise ConnectError(message, "update the SSH server there") from error
    except Exception as error:  # whatever paramiko's reader died of: it reads what anybody may send
        passing = isinstance(error, (EOFError, OSError)) or "banner" in str(error)
        why = f": {error}" if str(error) else ""
        message = f"{to.host}:{to.port} did not answer as an SSH server does{why}"
        raise ConnectError(message, f"is it the SSH server that listens on port {to.port}?", passing) from error
    _host_keys.check(host_key(key), said, to.name, to.keyed, to.known_hosts[0])


def host_key(key: Any) -> HostKey:
    """A key of paramiko's."""
    return HostKey(key.get_name(), key.asbytes())


def log_in(transport: Any, to: Destination) -> None:
    """Try no key at all, the chosen keys, the agent's, the usual ones, then a password. Raises ConnectError."""
    paramiko = library()
    try:
        allowed = attempt(transport.auth_none, to.user)
        for key in keys_for(to) if allowed and "publickey" in allowed else ():
            allowed = attempt(transport.auth_publickey, to.user, key)
            if not allowed:
                return
        if allowed and not {"password", "keyboard-interactive"}.isdisjoint(allowed):
            secret = ask(f"{to.label}'s password", to.account, to)
            if secret is not None:
                allowed = attempt(transport.auth_password, to.user, secret)
                if allowed:
                    SECRETS.pop(to.account, None)
        if allowed:
            hint = f"let your key in: ssh-copy-id -p {to.port} {to.user}@{to.host}; or {NAME_KEY}"
            raise ConnectError(f"{to.host} does not let {to.user} in (it takes: {', '.join(sorted(allowed))})", hint)
    except (paramiko.SSHException, EOFError, OSError) as error:
        raise ConnectError(f"{to.host} hung up while {to.user} logged in: {error}", "", transient=True) from error


def attempt(method: Callable[..., Any], *args: Any) -> set[str]:
    """One way of logging in: what the server takes besides, or nothing when that was enough."""
    paramiko = library()
    try:
        return set(method(*args))
    except paramiko.BadAuthenticationType as error:
        return set(error.allowed_types) or {"nothing else"}
    except paramiko.AuthenticationException as error:
        if not args[1:] or GONE.search(str(error)):
            raise
        return {"publickey", "password"}


def keys_for(to: Destination) -> Iterator[Any]:
    """The user's keys, best first; one that is locked by a passphrase is unlocked only when it was chosen."""
    paramiko = library()
    for path in to.identities:
        yield from load(path, to, asked=True)
    if to.chosen_only:
        return
    # An agent that cannot be talked to is none.
    with contextlib.suppress(paramiko.SSHException), contextlib.closing(paramiko.Agent()) as agent:
        yield from agent.get_keys()
    if not to.identities:
        for name in KEY_NAMES:
            yield from load(Path.home() / ".ssh" / name, to, asked=False)


def load(path: Path, to: Destination, asked: bool) -> Iterator[Any]:
    """The private key in a file; nothing when the file is not there or its passphrase is not known."""
    paramiko = library()
    try:
        yield paramiko.PKey.from_path(path)
    except FileNotFoundError:
        if asked:
            raise ConnectError(f"there is no key {path.name}", NAME_KEY) from None
    except (paramiko.PasswordRequiredException, TypeError):
        secret = ask(f"passphrase of {path}", str(path), to) if asked else None
        if secret is not None:
            try:
                yield paramiko.PKey.from_path(path, secret.encode())
            except (paramiko.SSHException, ValueError) as error:
                SECRETS.pop(str(path), None)
                raise ConnectError(
                    f"that is not the passphrase of {path.name}", "try again, or load the key with ssh-add"
                ) from error
    except (paramiko.SSHException, ValueError, OSError) as error:
        if asked:
            raise ConnectError(f"{path.name} is no private key that can be read: {error}", NAME_KEY) from error


def ask(what: str, name: str, to: Destination) -> str | None:
    """A secret that the user types, once for each `name`; None where there is nobody to ask. Several devices are told apart."""
    with ASKING:
        if name not in SECRETS:
            told = prompt.secret(f"{what} ({to.device}): " if to.device else f"{what}: ")
            if told is None:
                return None
            SECRETS[name] = told
        return SECRETS[name]
