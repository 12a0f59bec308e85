"""The lock on this device: one run at a time, whoever asks from wherever. Standard library only, Python 3.9.

An flock(2) on a file in the edgekit folder, held by this very process: the kernel frees it however the process ends, so a
lock is never stale. The file says who holds it, and stays there: removing it would let two hold two files of one name.
"""

import errno
import fcntl
import json
import os
import time

from .protocol import Fault

NAME = "lock"
SETTLE_S = 0.2  # a holder writes its name a moment after it has the lock; until then the name is that of the one before


class Lock:
    """The file, and whether it is this process that holds it."""

    def __init__(self, path=NAME):
        self.path = path
        self.fd = None

    def take(self, who):
        """Try to get it, and write who has it; None when this process holds it now, else what the holder wrote."""
        if self.fd is not None:
            if self.in_place():
                return None
            self.let_go()  # somebody removed the file, or the whole folder: another one can be taken there
        while True:
            try:
                self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if self.fd is None or error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    self.let_go()
                    raise Fault("internal", "cannot lock the device: %s" % error.strerror) from error
                holder = self.holder()
                self.let_go()
                return holder
            if self.in_place():
                break
            self.let_go()  # removed between opening and locking
        text = dict(who, pid=os.getpid(), clock=time.monotonic())
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, json.dumps(text).encode("ascii"), 0)
        return None

    def in_place(self):
        """Whether the open file is the one that others find."""
        try:
            there, held = os.stat(self.path), os.fstat(self.fd)
        except OSError:
            return False
        return (there.st_dev, there.st_ino) == (held.st_dev, held.st_ino)

    def holder(self):
        """What the holder wrote, and for how long it has held the lock; {} when that cannot be read."""
        deadline = time.monotonic() + SETTLE_S
        while True:
            try:
                text = json.loads(os.pread(self.fd, 4096, 0))
                alive = os.path.exists("/proc/%d" % text["pid"])
                found = dict(text, held_s=max(0.0, time.monotonic() - text["clock"]))
            except (ValueError, TypeError, KeyError):
                alive, found = False, {}
            if alive or time.monotonic() > deadline:
                return found
            time.sleep(0.01)

    def let_go(self):
        """Free it, if this process holds it."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None

    def release(self):
        """Free it, and leave no name behind."""
        if self.fd is not None:
            try:
                os.ftruncate(self.fd, 0)
            except OSError:
                pass
        self.let_go()
