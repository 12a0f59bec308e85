"""Device to live agent: connect, push by hash, greet, call with a deadline."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import marshal
import secrets
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from importlib.util import MAGIC_NUMBER
from pathlib import Path
from types import TracebackType
from typing import Any

from edgekit import answers, plugins, userland
from edgekit.agent import protocol
from edgekit.cache import cache_dir, content_sha256, digest, fetch, is_file, source_sha256
from edgekit.errors import (
    AgentError,
    ConnectError,
    DeviceError,
    EdgekitError,
    ProtocolError,
    TransportTimeout,
    Unsupported,
)
from edgekit.transports import Channel, Transport
from edgekit.types import Device, Json

GREETING_S = 60.0
PATIENCE_S = 120  # an agent that hears nothing for so long ends: the link may have been cut without its noticing
GRACE_S = 15.0  # how much longer than the agent's own deadline the host waits for its answer
GOODBYE_S = 2.0  # for the answer to a goodbye, which is a courtesy
AGENT = Path(__file__).parent / "agent"
# What a child of the agent is started with: to run an archive takes longer than to import from it.
CHILD = "import sys; sys.path.insert(0, 'agents/%s'); from edgekit_agent.child import main; main()"


def agent_archive() -> bytes:
    """The agent as a zip that is the same for the same source: fixed times, sorted names.

    Byte code of this interpreter's version lies beside each source; another version falls back to the source.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:

        def add(name: str, data: bytes) -> None:
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)

        start = b"from edgekit_agent.__main__ import main\n\nmain()\n"
        sources = {
            f"edgekit_agent/{p.relative_to(AGENT).as_posix()}": p.read_bytes() for p in sorted(AGENT.rglob("*.py"))
        }
        for name, source in sorted({"__main__.py": start, **sources}.items()):
            code = marshal.dumps(compile(source, name, "exec", dont_inherit=True, optimize=0))
            add(name, source)
            # PEP 552: flags 0b01 = hash-based, not checked against the source
            add(name + "c", MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8) + code)
    return buffer.getvalue()


def agent_file() -> Path:
    """The agent archive in the cache, named by its hash; compiled once for each source and each Python."""

    def name_of(data: bytes) -> str:
        return f"edgekit-agent-{hashlib.sha256(data).hexdigest()[:12]}.pyz"

    def make(folder: Path) -> None:
        data = agent_archive()
        (folder / name_of(data)).write_bytes(data)

    def read(folder: Path) -> Path | None:
        found = [path for path in folder.glob("*.pyz") if is_file(path) and path.name == name_of(path.read_bytes())]
        return found[0] if len(found) == 1 else None

    key = digest([source_sha256(AGENT), sys.version])
    return fetch(cache_dir() / "agents" / key[:16], make, read, "agent", None)


class Session:
    """A live agent on a device, started from the userland of one runtime. Use as a context manager."""

    def __init__(
        self, device: Device, transport: Transport, land: userland.Userland, channel: Channel, greeting: Json
    ) -> None:
        self.device = device
        self.transport = transport
        self.channel = channel
        self.greeting = greeting
        self.owns_transport = True
        self.versions = dict(land.versions)
        self.python = place(list(land.python), land)
        self.libraries = place(dict(land.libraries), land)
        # Another session may use the device too, and one that was killed may have left its files there.
        self._mark = secrets.token_hex(8)
        self._output = f"output-{self._mark}.bin"
        self._writing = threading.Lock()
        self._last_id = self._lent = 0
        self._waiting = False  # for an answer that may still come, and that the next request must not take for its own

    @classmethod
    def open(cls, device: Device, runtime: str, say: Callable[[str], None]) -> Session:
        """Connect to the device and start the agent. Raises SetupError, ConnectError or ProtocolError."""
        transport = connect(device, say)
        try:
            return cls.over(transport, device, runtime, say)
        except BaseException:
            transport.close()
            raise

    @classmethod
    def over(cls, transport: Transport, device: Device, runtime: str, say: Callable[[str], None]) -> Session:
        """Start the agent over a connection, which is closed with the session unless `owns_transport` is taken from it."""
        return cls._start(device, transport, userland_of(device, runtime, say), say)

    @classmethod
    def _start(
        cls, device: Device, transport: Transport, land: userland.Userland, say: Callable[[str], None]
    ) -> Session:
        say(f"starting the agent on {device.name}")
        if land.root is not None:
            transport.push(land.root, f"userland/{land.key[:16]}")
        agent = agent_file()
        transport.push(agent, f"agents/{agent.name}")
        python = [*place(list(land.python), land), "-I", "-S"]
        argv = [*python, f"agents/{agent.name}"]
        child = [*python, "-c", CHILD % agent.name]
        patience = [] if transport.seamless else ["--patience", str(PATIENCE_S)]
        channel = transport.spawn([*argv, "--spawn", json.dumps(transport.command(child)), *patience])
        try:
            greeting = greet(channel)
            greeting["system"] |= transport.facts()
            greeting |= {"identity": transport.identity} if transport.identity else {}
        except BaseException:
            channel.close()
            raise
        return cls(device, transport, land, channel, greeting)

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def push(self, path: Path, suffix: str = "") -> str:
        """Put a file or a folder on the device under its content's hash; returns its name there."""
        remote = f"blobs/{content_sha256(path)}{suffix or path.suffix}"
        self.transport.push(path, remote)
        return remote

    def lend(self, path: Path) -> str:
        """Put a file on the device for one request with `discard`, after which the agent removes it; returns its name there."""
        self._lent += 1
        remote = f"lent/{self._mark}-{self._lent}{path.suffix}"
        self.transport.push(path, remote)
        return remote

    def call(
        self,
        op: str,
        args: Json,
        deadline_s: float,
        on_event: Callable[[Json], None] | None = None,
        grace_s: float | None = None,
    ) -> Json:
        """One request and its reply, at the latest `grace_s` after the deadline, which the agent itself is to keep.

        Raises AgentError (from a reply), else a DeviceError.
        """
        self._last_id += 1
        request = {"id": self._last_id, "op": op, "args": {**args, "deadline_s": deadline_s}}
        self._waiting = True
        patience_s = deadline_s + (GRACE_S if grace_s is None else grace_s)
        deadline = time.monotonic() + patience_s
        self._write(request, patience_s)
        while True:
            frame = read_frame(self.channel, max(0.01, deadline - time.monotonic()))
            if frame.get("id") != self._last_id:
                raise ProtocolError(
                    f"the agent answered request {frame.get('id')}, not {self._last_id}", self.channel.stderr_tail()
                )
            if "event" in frame:
                if on_event:
                    on_event(frame["event"])
                continue
            answer = frame.get("ok", frame.get("error"))
            if not isinstance(answer, dict):
                raise ProtocolError("the agent answered neither a result nor an error", self.channel.stderr_tail())
            self._waiting = False
            if "ok" in frame:
                return answer
            raise self._refusal(answer)

    def _write(self, frame: Json, deadline_s: float) -> None:
        """Send one frame whole. Raises TransportTimeout when another thread's does not get through."""
        if not self._writing.acquire(timeout=deadline_s):
            raise TransportTimeout("the link to the device takes no more data")
        try:
            self.channel.write(protocol.encode(frame))
        finally:
            self._writing.release()

    def reassure(self) -> None:
        """Tell the agent that the host is there; never raises, and may be called by another thread."""
        with contextlib.suppress(DeviceError):
            self._write({"alive": True}, 1)

    def fetch(
        self, op: str, args: Json, deadline_s: float, local: Path, on_event: Callable[[Json], None] | None = None
    ) -> Json:
        """A request that writes a file on the device: its reply, and the file at `local`."""
        reply = self.call(op, {**args, "output": self._output}, deadline_s, on_event)
        self.transport.pull(self._output, local)
        return reply

    def _refusal(self, error: Json) -> AgentError:
        kind, message = str(error.get("kind")), str(error.get("message"))
        if kind not in protocol.ERROR_KINDS:
            kind = "internal"
        if kind == "unsupported":
            return Unsupported(message)
        return AgentError(kind, message, self.channel.stderr_tail() if kind in ("crashed", "internal") else "")

    def close(self) -> None:
        """Say goodbye and let go; never raises."""
        try:
            if not self._waiting:
                self.call("bye", {}, GOODBYE_S, None, 0)
        except EdgekitError:
            pass
        finally:
            self.channel.close()
            if self.owns_transport:
                self.transport.close()


def connect(device: Device, say: Callable[[str], None]) -> Transport:
    """A connection to the device. Raises SetupError, UserError or ConnectError."""
    prepared = userland.prepare(device, say)
    transport: Transport = plugins.load("transport", device.transport).connect(device, prepared)
    transport.say = say
    return transport


def userland_of(device: Device, runtime: str, say: Callable[[str], None]) -> userland.Userland:
    """What one runtime needs on the device, made on first use. Raises SetupError or Unsupported."""
    native = device.arch == "host"
    return userland.native(runtime, say) if native else userland.bundle(device.arch, runtime, say)


def place(value: Any, land: userland.Userland) -> Any:
    """Fill "{root}" with where the userland lies on the device."""
    root = f"userland/{land.key[:16]}"
    if isinstance(value, dict):
        return {key: text.replace("{root}", root) for key, text in value.items()}
    return [text.replace("{root}", root) for text in value]


def read_frame(channel: Channel, deadline_s: float) -> Json:
    """The next frame. Raises ProtocolError when the line is not one."""
    line = channel.read_line(deadline_s)
    try:
        return dict(protocol.decode(line))
    except ValueError as error:
        shown = line[:80].decode("utf-8", "replace").strip()
        raise ProtocolError(
            f"the device answered something that is not our protocol: {shown!r}", channel.stderr_tail()
        ) from error


def greet(channel: Channel) -> Json:
    """The agent's greeting, believed only when it is whole. Raises ConnectError or ProtocolError."""
    try:
        frame = read_frame(channel, GREETING_S)
    except ProtocolError:
        raise
    except DeviceError as error:
        raise ConnectError(f"the agent did not start: {error.message}", error.hint) from error
    if frame.get("greeting") != protocol.GREETING or not isinstance(frame.get("system"), dict):
        raise ProtocolError("what answered on the device is not the edgekit agent", channel.stderr_tail())
    if frame.get("protocol") != protocol.PROTOCOL:
        raise ProtocolError(f"the agent speaks protocol {frame.get('protocol')}, this edgekit {protocol.PROTOCOL}")
    return answers.greeting(frame)


def agent_key() -> str:
    """The agent's short name in a run's record: the hash that also names its archive."""
    return agent_file().stem.rpartition("-")[2]
