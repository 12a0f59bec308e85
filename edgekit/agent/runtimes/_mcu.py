"""The serial commands of EEMBC's and MLPerf Tiny's firmware: one line each, ended by '%', answered in lines up to "m-ready".

The firmware's side: github.com/mlcommons/tiny, benchmark/api/internally_implemented.cpp. A line that is lost or garbled is
noticed where the protocol allows it, and the command repeated. Standard library only, Python 3.9.
"""

import fcntl
import os
import re
import select
import socket
import termios
import time
import tty

from ..protocol import Fault

ANSWER_S = 5.0
FIRST_S = 60.0  # for an inference of which it is not known yet how long it takes
SETTLE_S = 1.0
TRIES = 3
ANSWER_BYTES = 1 << 17  # more than any answer has: a line of another speed goes on and on
BUSY_S = 3.0  # for the port, when the process before this one has just ended
CHUNK_BYTES = 31  # of hex digits in one command: the firmware's buffer takes 80 characters
READ_BACK_BYTES = 4096  # an input up to this size is read back after it was sent: nothing else tells a garbled digit
CLOCK_TOLERANCE = 0.1
CLOCK_SLACK_S = 0.5  # the commands and lines around the timed part, on a slow line
READY = "m-ready"
LAP = re.compile(r"m-lap-us-(\d+)$")
RESULTS = re.compile(r"m-results-\[([^\[\]]*)\]$")
BUFFER = re.compile(r"m-buffer-((?:[0-9a-f]{2}-?)+)$")
WRAP_US = 1 << 32


class Garbled(Exception):
    """An answer that is not whole; the command is repeated."""


def open_port(name, baud):
    """A serial line, or a socket://HOST:PORT that stands for one, as a file descriptor. Raises Fault("unavailable")."""
    try:
        if name.startswith("socket://"):
            host, _, port = name[len("socket://") :].rpartition(":")
            connection = socket.create_connection((host, int(port)), ANSWER_S)
            connection.setblocking(False)
            return connection.detach()
        if not hasattr(termios, "B%d" % baud):
            raise ValueError("this machine has no speed of %d baud" % baud)
        port = os.open(name, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            reserve(port)
            tty.setraw(port)
            settings = termios.tcgetattr(port)
            # No modem, no second stop bit, no RTS; and DTR stays as it is at the end: many a board is reset by it.
            settings[2] &= ~(termios.HUPCL | termios.CSTOPB | termios.CRTSCTS)
            settings[2] |= termios.CLOCAL | termios.CREAD
            settings[4] = settings[5] = getattr(termios, "B%d" % baud)
            termios.tcsetattr(port, termios.TCSANOW, settings)
            termios.tcflush(port, termios.TCIFLUSH)
        except BaseException:
            os.close(port)
            raise
        return port
    except (OSError, ValueError, termios.error) as error:
        raise Fault("unavailable", "the microcontroller cannot be reached at %s: %s" % (name, error)) from error


def reserve(port):
    """Have the line for this process alone. Raises OSError when another has it."""
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            fcntl.flock(port, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise OSError("another program uses it") from None
            time.sleep(0.05)


class Firmware:
    """A microcontroller that was flashed with a model and the benchmark's firmware."""

    def __init__(self, name, baud):
        self.port = open_port(name, baud)
        self.line_s = 10.0 / baud
        self.pending = b""
        self.name = self.retried("name", self.get_name)
        self.profile, self.model = self.retried("profile", self.get_profile)

    def close(self):
        """Let go of the port."""
        os.close(self.port)

    def retried(self, what, ask):
        """What `ask` returns; it may be garbled twice. Raises Fault."""
        tries = 0
        while True:
            try:
                return ask()
            except Garbled as error:
                tries += 1
                if tries == TRIES:
                    message = "the microcontroller's answer to '%s' is garbled: %s" % (what, error)
                    raise Fault("unavailable", message) from error
                self.settle()

    def settle(self):
        """End a command that was cut short, and let what is still said pass."""
        self.write(b"%")
        deadline = time.monotonic() + SETTLE_S
        while time.monotonic() < deadline and select.select([self.port], [], [], 0.2)[0]:
            self.read()
        self.pending = b""

    def read(self):
        """What has arrived. Raises Fault when the port is gone."""
        try:
            data = os.read(self.port, 4096)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise Fault("unavailable", "the microcontroller's port is gone: %s" % error) from error
        if not data:
            raise Fault("unavailable", "the microcontroller's port is gone")
        return data

    def write(self, data):
        """Write all. Raises Fault when the port is gone or takes nothing."""
        while data:
            if not select.select([], [self.port], [], ANSWER_S)[1]:
                raise Fault("unavailable", "the microcontroller's port takes no data")
            try:
                data = data[os.write(self.port, data) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise Fault("unavailable", "the microcontroller's port is gone: %s" % error) from error

    def lines(self, command, patience_s):
        """Yields the lines of an answer, up to the one that says it is over. Raises Garbled in a silence, or when it never is."""
        self.write(command.encode("ascii") + b"%")
        count = 0
        while True:
            line, found, rest = self.pending.partition(b"\n")
            if found:
                self.pending = rest
                text = line.decode("ascii", "replace").strip()
                if text == READY:
                    return
                if text:
                    yield text
            elif count > ANSWER_BYTES:
                raise Garbled("no '%s' in %d bytes" % (READY, count))
            elif select.select([self.port], [], [], patience_s)[0]:
                data = self.read()
                count += len(data)
                self.pending += data
            else:
                raise Garbled("no '%s' within %g s" % (READY, patience_s))

    def command(self, text):
        """The lines of an answer. Raises Garbled."""
        found = list(self.lines(text, ANSWER_S))
        errors = [line for line in found if line.startswith("e-")]
        if errors:
            raise Garbled(errors[0])
        return found

    def get_name(self):
        """Who it says it is."""
        return self.one(self.command("name"), r"m-name-dut-\[([^\]]*)\]$")

    def get_profile(self):
        """Its firmware and the name of the model that was flashed."""
        found = self.command("profile")
        return self.one(found, r"m-profile-\[([^\]]*)\]$"), self.one(found, r"m-model-\[([^\]]*)\]$")

    def one(self, lines, pattern):
        """The only match among the lines. Raises Garbled."""
        found = [match.group(1) for match in (re.match(pattern, line) for line in lines) if match]
        if len(found) != 1:
            raise Garbled(repr(lines[-1][:60]) if lines else "nothing was said")
        return found[0]

    def load(self, data):
        """Put an input into its buffer. Raises Fault."""
        self.retried("db", lambda: self.try_load(data))

    def try_load(self, data):
        """The same, once. Raises Garbled."""
        if not self.command("db load %d" % len(data))[-1:] == ["m-[Expecting %d bytes]" % len(data)]:
            raise Garbled("it does not expect %d bytes" % len(data))
        said = []
        for start in range(0, len(data), CHUNK_BYTES):
            said += self.command("db " + data[start : start + CHUNK_BYTES].hex())
        if said != ["m-load-done"]:
            raise Garbled("the input did not arrive whole")
        if len(data) <= READ_BACK_BYTES:
            rows = [match.group(1) for match in map(BUFFER.match, self.command("db print")) if match]
            if "".join(rows).replace("-", "") != data.hex():
                raise Garbled("the input did not arrive as it was sent")

    def infer(self, count, warmup, expected_s):
        """So many inferences: microseconds by its own clock, and the last results. Raises Fault.

        `expected_s` is about how long they take, 0 where that is not known.
        """
        patience_s = ANSWER_S + 3 * expected_s if expected_s else FIRST_S
        return self.retried("infer", lambda: self.try_infer(count, warmup, patience_s))

    def try_infer(self, count, warmup, patience_s):
        """The same, once. Raises Garbled."""
        laps, seen, said = [], [], []
        for line in self.lines("infer %d %d" % (count, warmup), patience_s):
            lap = LAP.match(line)
            if lap:
                laps.append(int(lap.group(1)))
                seen.append(time.monotonic())
            said.append(line)
        errors = [line for line in said if line.startswith("e-")]
        if errors or len(laps) != 2 or "m-infer-start-%d" % count not in said or "m-infer-done" not in said:
            raise Garbled(errors[0] if errors else "an inference without two time stamps")
        spent_us = (laps[1] - laps[0]) % WRAP_US
        waited_s = seen[1] - seen[0]
        if abs(spent_us / 1e6 - waited_s) > CLOCK_TOLERANCE * waited_s + CLOCK_SLACK_S:
            raise Garbled("%.3f s by its clock, %.3f s by ours" % (spent_us / 1e6, waited_s))
        return spent_us, self.values(said)

    def values(self, lines):
        """The results among the lines, the same as when they are asked for again. Raises Garbled."""
        first = self.one(lines, RESULTS.pattern)
        if first != self.one(self.command("results"), RESULTS.pattern):
            raise Garbled("the results differ when they are asked for again")
        try:
            return [float(value) for value in first.split(",")]
        except ValueError:
            raise Garbled("a result that is no number") from None
