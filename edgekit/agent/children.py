"""A fresh process of this agent for each launch: a crash, an illegal instruction or an OOM kill ends that process alone.

Standard library only, Python 3.9.
"""

import ctypes
import os
import select
import signal
import time

from . import protocol
from .pipes import Lines, send
from .protocol import Fault
from .weigh import Weigher

LEAVE_S = 0.5
LIBC = ctypes.CDLL(None)


class Child:
    """Another agent process, asked one thing after the other until it is ended. `spawn` is the argv that starts it."""

    def __init__(self, spawn):
        request_read, self.to_child = os.pipe()
        self.from_child, answer_write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.dup2(request_read, 0)
                os.dup2(answer_write, 1)
                LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no native code runs on when the agent was killed
                offer()
                os.execv(spawn[0], [*spawn, "--child"])
            except OSError as error:
                os.write(2, ("edgekit-agent: cannot start %s: %s\n" % (spawn[0], error)).encode())
            finally:
                os._exit(127)
        os.close(request_read)
        os.close(answer_write)
        self.lines = Lines(self.from_child)
        self.reaped = False
        self.weigher = Weigher(self.pid)

    def ask(self, request, deadline_s, emit, host, watchers=()):
        """One request and its answer. Raises Fault, or EOFError when the host went away meanwhile.

        A watcher says how soon it is `due()` (None: not now), and is to `look()` then.
        """
        deadline = time.monotonic() + deadline_s
        try:
            send(self.to_child, request)
        except BrokenPipeError:
            pass  # it died already; the end of its answers says how
        while not self.lines.closed:
            left, patience = deadline - time.monotonic(), host.patience()
            if patience is not None and patience <= 0:
                host.fill()  # notes that the host is gone, unless it has spoken just now
                if host.closed:
                    raise EOFError
                continue
            soonest = min(s for s in (left, patience, *(watcher.due() for watcher in watchers)) if s is not None)
            ready = select.select([self.from_child, host.fd], [], [], soonest)[0] if left > 0 else []
            for watcher in watchers:
                watcher.look()
            if not ready and time.monotonic() < deadline:
                continue
            if not ready:
                os.kill(self.pid, signal.SIGKILL)
                self.wait()
                raise Fault("timeout", "the process did not finish within %g s and was ended" % deadline_s)
            if host.fd in ready:
                host.fill()
                if host.closed:
                    raise EOFError
            if self.from_child not in ready:
                continue
            self.lines.fill()
            line = self.lines.take()
            while line is not None:
                answer = protocol.decode(line)
                if "event" in answer:
                    if not self.weigher.takes(answer["event"]):
                        emit(answer["event"])
                elif "ok" in answer:
                    return answer["ok"]
                else:
                    raise Fault(answer["error"]["kind"], answer["error"]["message"])
                line = self.lines.take()
        raise death(self.wait())

    def lives(self):
        """Whether it has not ended by itself."""
        if not self.reaped:
            self.reaped = os.waitpid(self.pid, os.WNOHANG)[0] != 0
        return not self.reaped

    def wait(self):
        """Reap it; returns what waitpid says of its end."""
        self.reaped = True
        return os.waitpid(self.pid, 0)[1]

    def end(self):
        """Make sure it is gone and reaped: without a further request it leaves by itself, and gets a moment to."""
        os.close(self.to_child)
        if not self.reaped and not self.leaves():
            os.kill(self.pid, signal.SIGKILL)
        os.close(self.from_child)
        if not self.reaped:
            self.wait()

    def leaves(self):
        """Whether it leaves in good time: then its end of the pipe closes, whatever it still had to say."""
        deadline = time.monotonic() + LEAVE_S
        while select.select([self.from_child], [], [], max(0.0, deadline - time.monotonic()))[0]:
            if not os.read(self.from_child, 65536):
                return True
        return False


def offer():
    """When memory runs out, the kernel is to kill this process first: not the agent, nor what the device is reached by."""
    try:
        with open("/proc/self/oom_score_adj", "w") as stream:
            stream.write("1000")
    except OSError:
        pass  # some kernels forbid it; then the largest process goes, which is this one most of the time


def death(status):
    """The Fault for a child that ended without an answer; `status` is what waitpid returned."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = "signal %d" % number
        if name == "SIGKILL":
            return Fault("out_of_memory", "the process was killed (SIGKILL), most likely because memory ran out")
        if name == "SIGILL":
            return Fault("crashed", "the process died of SIGILL: the library uses instructions this CPU does not have")
        return Fault("crashed", "the process died of %s" % name)
    return Fault("crashed", "the process ended with code %d and no answer" % os.WEXITSTATUS(status))
