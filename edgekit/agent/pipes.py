"""Frames over file descriptors: the private stdout, whole writes, lines read as they come. Standard library only, Python 3.9."""

import os
import time

from . import protocol

LINE_LIMIT = 1 << 22


def claim_stdout():
    """Keep the real stdout for the protocol and point fd 1 at stderr: native libraries that print cannot break framing."""
    private = os.dup(1)
    os.dup2(2, 1)
    return private


def send(fd, frame):
    """Write one frame whole."""
    data = protocol.encode(frame)
    while data:
        data = data[os.write(fd, data) :]


class Lines:
    """Reads lines from a file descriptor without ever blocking longer than asked.

    After `patience_s` without a byte the other side counts as gone: a link can be cut without this end ever seeing it.
    """

    def __init__(self, fd, patience_s=None):
        self.fd = fd
        self.patience_s = patience_s
        self.heard = time.monotonic()
        self.buffer = b""
        self.closed = False

    def take(self):
        """The next complete line, or None when there is none in the buffer."""
        line, found, rest = self.buffer.partition(b"\n")
        if not found:
            return None
        self.buffer = rest
        return line

    def patience(self):
        """The seconds left to hear something; None for ever."""
        return None if self.patience_s is None else max(0.0, self.heard + self.patience_s - time.monotonic())

    def ready(self):
        """Wait until there is something to read; False when patience ends before."""
        import select  # a child has no patience to lose, and starts faster without it

        return bool(select.select([self.fd], [], [], self.patience())[0])

    def fill(self):
        """Read what is there (blocks until something is); notes the end of the stream."""
        if self.patience_s is not None and not self.ready():
            os.write(2, b"edgekit-agent: nothing was heard from the host for %d s\n" % self.patience_s)
            self.closed = True
            return
        data = os.read(self.fd, 65536)
        self.heard = time.monotonic()
        if not data:
            self.closed = True
        self.buffer += data
        if len(self.buffer) > LINE_LIMIT and b"\n" not in self.buffer:
            raise ValueError("a line is longer than 4 MiB")
