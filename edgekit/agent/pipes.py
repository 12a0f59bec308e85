"""Frames over file descriptors: the private stdout, whole writes, lines read as they come. Standard library only, Python 3.9."""

import os

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
    """Reads lines from a file descriptor without ever blocking longer than asked."""

    def __init__(self, fd):
        self.fd = fd
        self.buffer = b""
        self.closed = False

    def take(self):
        """The next complete line, or None when there is none in the buffer."""
        line, found, rest = self.buffer.partition(b"\n")
        if not found:
            return None
        self.buffer = rest
        return line

    def fill(self):
        """Read what is there (blocks until something is); notes the end of the stream."""
        data = os.read(self.fd, 65536)
        if not data:
            self.closed = True
        self.buffer += data
        if len(self.buffer) > LINE_LIMIT and b"\n" not in self.buffer:
            raise ValueError("a line is longer than 4 MiB")
