"""The host's end of a serial console: a thread that keeps the link alive, and on it requests, files and programs."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import select
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any

from edgekit.agent import frames
from edgekit.errors import DeviceError, EdgekitError, TransportClosed, TransportTimeout
from edgekit.transports._port import Port
from edgekit.transports._remote import REMEDIES, FedChannel

GONE_S = 30.0  # without a frame of the device; it answers every three seconds
REQUEST_S = 120.0
LEAVE_S = 4.0  # for the device to put its terminal back
AHEAD_BYTES = 32768  # what waits for the line before more of a file is read
PIECE_BYTES = 8192
TELL_S = 5.0


class SerialChannel(FedChannel):
    """The pipes of a program on the device."""

    def __init__(self, console: Console, number: int) -> None:
        super().__init__()
        self.console = console
        self.number = number
        self.ended = threading.Event()

    def finish(self, ending: str) -> None:
        super().finish(ending)
        self.ended.set()

    def write(self, data: bytes) -> None:
        if self.ended.is_set():
            raise self.closed()
        for start in range(0, len(data), PIECE_BYTES):
            self.console.send(b"I", self.number, data[start : start + PIECE_BYTES])

    def close(self) -> None:
        with contextlib.suppress(DeviceError):
            if not self.ended.is_set():
                self.console.send(b"I", self.number)
            if not self.ended.wait(2):
                self.console.request("kill", program=self.number)
                self.ended.wait(2)


class Console:
    """The live link. Whatever ends it becomes the error of all who wait for something."""

    def __init__(self, port: Port, session: int) -> None:
        self.port = port
        self.link = frames.Link(session, "host", port.baud, time.monotonic())
        self.messages = frames.Messages()
        self.turn = threading.RLock()  # one request, or one file, at a time
        self.state = threading.Condition()  # guards link, error and channels; told of every progress
        self.error: DeviceError | None = None
        self.channels: dict[int, SerialChannel] = {}
        self.answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.pieces: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.failure: str | None = None  # why the file that is being sent cannot be written there
        self.leaving = False
        self.wake_read, self.wake_write = os.pipe()
        self.thread = threading.Thread(target=self._serve, daemon=True, name=f"console {port.name}")
        self.thread.start()

    def send(self, kind: bytes, channel: int, payload: bytes = b"") -> None:
        """Queue one message. Raises the error that ended the link."""
        with self.state:
            if self.error:
                raise self.error
            self.link.send(frames.message(kind, channel, payload))
        os.write(self.wake_write, b"\0")

    def request(self, op: str, **args: Any) -> Any:
        """A request and its answer. Raises DeviceError."""
        with self.turn:
            self.send(b"R", 0, zlib.compress(json.dumps({"op": op, **args}).encode("ascii")))
            try:
                answer = self.answers.get(timeout=REQUEST_S)
            except queue.Empty:
                raise TransportTimeout(f"the device did not answer '{op}' for {REQUEST_S:g} s", "", True) from None
            if answer is None:
                raise self.ended()
            if "error" in answer:
                raise refusal(answer["error"])
            return answer["ok"]

    def upload(self, read: Callable[[int], bytes]) -> None:
        """Send the rest of a file that was announced, and make sure that it is there whole. Raises DeviceError."""
        with self.turn:
            self.failure = None
            pack = zlib.compressobj(9)
            for data in iter(lambda: read(PIECE_BYTES), b""):
                self._wait(lambda: self.link.backlog < AHEAD_BYTES)
                if self.failure:
                    break
                self._send_packed(pack.compress(data))
            self._send_packed(pack.flush())
            self._wait(lambda: self.link.backlog == 0)
            try:
                self.request("end")
            except DeviceError as error:
                raise refusal(self.failure) if self.failure else error from None

    def download(self) -> Iterator[bytes]:
        """The bytes of a file that was asked for. Raises DeviceError."""
        with self.turn:
            unpack = zlib.decompressobj()
            while True:
                try:
                    data = self.pieces.get(timeout=GONE_S + 5)
                except queue.Empty:
                    raise TransportTimeout("the device stopped sending a file", "", True) from None
                if data is None:
                    raise self.ended()
                if not data:
                    return
                yield unpack.decompress(data)

    def spawn(self, argv: list[str]) -> SerialChannel:
        """Start a program there. Raises DeviceError."""
        with self.turn:
            number = self.request("spawn", argv=argv)
            with self.state:
                return self._channel(number)

    def ended(self) -> DeviceError:
        """The error that ended the link."""
        with self.state:
            return self.error or TransportClosed("the link to the device ended")

    @property
    def alive(self) -> bool:
        return self.error is None

    def close(self) -> None:
        """Let go of the device, which then puts its terminal back; never raises."""
        with self.state:
            self.state.wait_for(lambda: self.error or self.link.backlog == 0, LEAVE_S)
            self.leaving = True
        os.write(self.wake_write, b"\0")
        self.thread.join()
        self.port.close()
        for handle in (self.wake_read, self.wake_write):
            os.close(handle)

    def _send_packed(self, data: bytes) -> None:
        if data:
            self.send(b"D", 0, data)

    def _wait(self, ready: Callable[[], bool]) -> None:
        """Until the line has got so far; silence is noticed elsewhere. Raises the error that ends the link."""
        with self.state:
            self.state.wait_for(lambda: bool(self.error) or ready())
            if self.error:
                raise self.error

    def _channel(self, number: int) -> SerialChannel:
        if number not in self.channels:
            self.channels[number] = SerialChannel(self, number)
        return self.channels[number]

    def _serve(self) -> None:
        """The thread: bytes in and out until the link ends or the host lets go."""
        out = b""
        try:
            while not self.leaving:
                try:
                    out = self._turn(out)
                except TransportClosed as error:
                    self._plug_in_again(error)
                    out = b""
            self._leave(out)
        except EdgekitError as error:
            self._end(error if isinstance(error, DeviceError) else TransportClosed(error.message, error.hint))
        except Exception as error:  # what would otherwise be waited for for ever
            self._end(TransportClosed(f"the link ended: {type(error).__name__}: {error}"))

    def _turn(self, out: bytes) -> bytes:
        """Wait for the line, read and write it once; returns what is still to be written."""
        with self.state:
            now = time.monotonic()
            out = out or self.link.output(now)
            wait = self.link.wake(now)
            self.state.notify_all()
        readable, writable, _ = select.select(
            [self.port.fileno(), self.wake_read], [self.port.fileno()] if out else [], [], 1.0 if out else wait
        )
        if self.wake_read in readable:
            os.read(self.wake_read, 4096)
        if self.port.fileno() in readable:
            self._take(self.port.read())
        if writable:
            out = out[self.port.write(out) :]
        silent = time.monotonic() - self.link.heard
        if self.link.bye and not self.leaving:
            raise DeviceError("our program on the device ended", "was the device reset, or its memory full?", True)
        if silent > GONE_S:
            message = f"the device has been silent for {silent:.0f} s"
            raise DeviceError(message, "was it reset or unplugged?", True)
        return out

    def _take(self, data: bytes) -> None:
        with self.state:
            try:
                found = self.messages.feed(self.link.receive(data, time.monotonic()))
            except ValueError as error:
                raise DeviceError(f"the device speaks nonsense: {error}") from error
            for kind, channel, payload in found:
                self._sort(kind, channel, payload)

    def _sort(self, kind: bytes, channel: int, payload: bytes) -> None:
        """One message to whom it is for."""
        if kind == b"A":
            self.answers.put(json.loads(zlib.decompress(payload)))
        elif kind == b"D":
            self.pieces.put(payload)
        elif kind == b"F":
            self.failure = json.loads(zlib.decompress(payload))["error"]
        elif kind == b"O":
            self._channel(channel).feed(payload)
        elif kind == b"E":
            self._channel(channel).feed_error(payload)
        elif kind == b"X":
            code = json.loads(zlib.decompress(payload))["code"]
            how = "ended" if code is None else f"was killed (signal {-code})" if code < 0 else f"ended with code {code}"
            self._channel(channel).finish(how)
            del self.channels[channel]

    def _plug_in_again(self, error: TransportClosed) -> None:
        """Open a port that went away anew: the device waits for us a while, and the link goes on where it was."""
        for tries in itertools.count():
            if self.leaving or time.monotonic() - self.link.heard > GONE_S / 2 or tries > GONE_S:
                raise error
            time.sleep(0.5)
            with contextlib.suppress(EdgekitError):
                self.port.open()
                return

    def _end(self, error: DeviceError) -> None:
        """Everybody who waits learns why the link is no more."""
        with self.state:
            self.error = error
            self.state.notify_all()
            for channel in self.channels.values():
                channel.finish(f"is out of reach: {error.message}")
            self.channels.clear()
        self.answers.put(None)
        self.pieces.put(None)

    def _leave(self, out: bytes) -> None:
        """Say bye until the device does."""
        deadline, again = time.monotonic() + LEAVE_S, 0.0
        while not self.link.bye and (now := time.monotonic()) < deadline:
            if not out and now >= again:
                out, again = self.link.farewell(), now + 0.5
            readable, writable, _ = select.select([self.port.fileno()], [self.port.fileno()] if out else [], [], 0.1)
            if readable:
                self._take(self.port.read())
            if writable:
                out = out[self.port.write(out) :]


class Progress:
    """Tells the user from time to time how far a long transfer is."""

    def __init__(self, what: str, total: int, say: Callable[[str], None]) -> None:
        self.what, self.total, self.say = what, max(1, total), say
        self.done = 0
        self.started = self.told = time.monotonic()

    def watch(self, stream: IO[bytes]) -> Callable[[int], bytes]:
        """A read of the stream that is counted."""
        self.done += stream.tell()

        def read(count: int) -> bytes:
            data = stream.read(count)
            self.done += len(data)
            now = time.monotonic()
            if now - self.told >= TELL_S:
                self.told = now
                left = (now - self.started) * (self.total / self.done - 1)
                size = f"{self.done / 1e6:.1f} of {self.total / 1e6:.1f} MB"
                self.say(f"sending {self.what} over the serial line: {size}, about {left / 60:.0f} min left")
            return data

        return read


def refusal(said: str) -> DeviceError:
    """The error of a request that the device could not do, and what to do about it where that is known."""
    hint = next((remedy for known, remedy in REMEDIES.items() if known in said), "")
    return DeviceError(f"the device says: {said}", hint)
