"""The host's end of a serial console: a thread that keeps the link alive, and on it requests, files and programs."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import re
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
END_S = 2.0  # for a program to end when its stdin does
LEAVE_S = 4.0  # for the device to put its terminal back
AHEAD_BYTES = 32768  # what waits for the line before more of a file is read
PIECE_BYTES = 8192
TELL_S = 5.0
NUMBERS = 256  # of requests, over and over
# A device that starts anew takes every byte for a key that stops its boot loader.
RESET = re.compile(rb"U-Boot (SPL )?20\d\d|stop autoboot|Booting Linux on physical CPU")
RESET_BYTES = 40


class SerialChannel(FedChannel):
    """The pipes of a program on the device."""

    def __init__(self, console: Console, number: int) -> None:
        super().__init__()
        self.console = console
        self.number = number
        self.claimed = False  # by whoever started the program, which may have ended before
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
            if not self.ended.wait(END_S):
                self.console.send(b"K", self.number)  # no request: somebody may be sending a file for half an hour
                self.ended.wait(END_S)


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
        self.asked = 0  # the number of the last request; an answer to one that was given up is not taken for another's
        self.answers: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        self.pieces: queue.SimpleQueue[tuple[int, bytes | None]] = queue.SimpleQueue()
        self.failure: str | None = None  # why the file that is being sent cannot be written there
        self.text = b""  # the last bytes that came
        self.leaving = False
        self.closing = threading.Lock()
        self.closed = False
        self.wake_read, self.wake_write = os.pipe()
        os.set_blocking(self.wake_write, False)
        self.thread = threading.Thread(target=self._serve, daemon=True, name=f"console {port.name}")
        self.thread.start()

    def send(self, kind: bytes, channel: int, payload: bytes = b"") -> None:
        """Queue one message. Raises the error that ended the link."""
        with self.state:
            if self.error:
                raise self.error
            self.link.send(frames.message(kind, channel, payload))
            self._wake()

    def request(self, op: str, **args: Any) -> Any:
        """A request and its answer. Raises DeviceError."""
        with self.turn:
            self.asked = (self.asked + 1) % NUMBERS
            self.send(b"R", self.asked, zlib.compress(json.dumps({"op": op, **args}).encode("ascii")))
            deadline, number = time.monotonic() + REQUEST_S, -1
            answer: Any = None
            while number != self.asked:
                try:
                    number, answer = self.answers.get(timeout=max(0.0, deadline - time.monotonic()))
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
        """The bytes of the file that was asked for last. Raises DeviceError."""
        with self.turn:
            unpack, wanted = zlib.decompressobj(), self.asked
            while True:
                try:
                    number, data = self.pieces.get(timeout=GONE_S + 5)
                except queue.Empty:
                    raise TransportTimeout("the device stopped sending a file", "", True) from None
                if data is None:
                    raise self.ended()
                if number != wanted:  # of a file that nobody waits for any more
                    continue
                if not data:
                    return
                yield unpack.decompress(data)

    def spawn(self, argv: list[str]) -> SerialChannel:
        """Start a program there. Raises DeviceError."""
        with self.turn:
            number = self.request("spawn", argv=argv)
            with self.state:
                channel = self._channel(number)
                channel.claimed = True
                if channel.ended.is_set():
                    del self.channels[number]
                return channel

    def ended(self) -> DeviceError:
        """The error that ended the link."""
        with self.state:
            return self.error or TransportClosed("the link to the device ended")

    @property
    def alive(self) -> bool:
        return self.error is None

    def close(self) -> None:
        """Let go of the device, which then puts its terminal back; never raises, may be called again."""
        with self.closing:
            if self.closed:
                return
            with self.state:
                self.state.wait_for(lambda: self.error or self.link.backlog == 0, LEAVE_S)
                self.leaving = True
                self._wake()
            self.thread.join()
            self.port.close()
            for handle in (self.wake_read, self.wake_write):
                os.close(handle)
            self.closed = True

    def _wake(self) -> None:
        """Tell the thread that there is something to do. It has been told already when the pipe is full."""
        with contextlib.suppress(BlockingIOError):
            os.write(self.wake_write, b"\0")

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
            self._end(TransportClosed("the console was given back"))
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
        self.text = self.text[-RESET_BYTES:] + data
        if RESET.search(self.text):
            raise DeviceError("the device was reset", "was its power cut, or did its watchdog bite?", True)

    def _sort(self, kind: bytes, channel: int, payload: bytes) -> None:
        """One message to whom it is for."""
        if kind == b"A":
            self.answers.put((channel, json.loads(zlib.decompress(payload))))
        elif kind == b"D":
            self.pieces.put((channel, payload))
        elif kind == b"F":
            self.failure = json.loads(zlib.decompress(payload))["error"]
        elif kind == b"O":
            self._channel(channel).feed(payload)
        elif kind == b"E":
            self._channel(channel).feed_error(payload)
        elif kind == b"X":
            code = json.loads(zlib.decompress(payload))["code"]
            how = "ended" if code is None else f"was killed (signal {-code})" if code < 0 else f"ended with code {code}"
            program = self._channel(channel)
            program.finish(how)
            if program.claimed:
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
        self.answers.put((0, None))
        self.pieces.put((0, None))

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
