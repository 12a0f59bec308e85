"""The device's end of a serial console, typed into a shell there by edgekit/transports/serial.py: it serves one host until it goes.

    R -> A    a request and its answer: JSON, compressed; one at a time, both with its number. `Console.do_*` are the requests
    D         a file's bytes, compressed, to the host (with the number of the request) or from it; an empty one ends it
    F         the file that comes cannot be written: why, as JSON
    I         stdin of a program, an empty one closes it;    O, E its stdout and stderr;    X how it ended, as JSON
    K         end a program

The terminal is raw meanwhile. A second process does nothing but wait to put it back, whatever happens to the first.
Standard library only, Python 3.9.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import select
import shutil
import signal
import stat
import subprocess
import sys
import termios
import time
import zlib

from . import frames

AHEAD_BYTES = 16384  # what waits to be sent before more is read from files and programs
PRINTK = "/proc/sys/kernel/printk"
GATHER_S = 0.004  # for more of a frame: every look at the terminal costs a slow board as much as many bytes do
RESTORE_S = 5  # for what was written last to leave


def sha256(path):
    """The hash of a file's content, in hex."""
    total = hashlib.sha256()
    with open(path, "rb") as stream:
        for data in iter(lambda: stream.read(1 << 16), b""):
            total.update(data)
    return total.hexdigest()


class Incoming:
    """A file that the host sends: written under another name until it is whole, and found there again by the next try."""

    def __init__(self, path, size, digest, mode):
        self.path, self.size, self.digest, self.mode = path, size, digest, mode
        self.part = path + ".part"
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        self.stream = open(self.part, "ab")  # noqa: SIM115
        self.offset = self.stream.tell()
        if self.offset > size:
            self.stream.truncate(0)
            self.offset = 0
        self.unpack = zlib.decompressobj()

    def write(self, data):
        """Some more of it. Raises OSError."""
        self.stream.write(self.unpack.decompress(data))
        self.stream.flush()

    def end(self):
        """Give it its name. Raises ValueError when it is not what was promised; the next try then starts anew."""
        self.stream.close()
        if os.path.getsize(self.part) != self.size or sha256(self.part) != self.digest:
            os.unlink(self.part)
            raise ValueError("the file arrived damaged")
        os.chmod(self.part, self.mode)
        os.replace(self.part, self.path)


class Program:
    """A program of the host's, in a session of its own."""

    def __init__(self, argv):
        self.process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            bufsize=0,
        )
        self.open = {self.process.stdout.fileno(): b"O", self.process.stderr.fileno(): b"E"}
        self.stdin = self.process.stdin.fileno()
        self.waiting = bytearray()
        self.closing = False
        os.set_blocking(self.stdin, False)

    def feed(self):
        """Write what stdin takes."""
        try:
            if self.waiting:
                del self.waiting[: os.write(self.stdin, self.waiting)]
        except BlockingIOError:
            return
        except OSError:
            self.waiting.clear()
            self.closing = True
        if self.closing and not self.waiting and self.stdin is not None:
            self.process.stdin.close()
            self.stdin = None

    def kill(self):
        """End it and all that it started."""
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Console:
    """Serves the host at the other end of `terminal`, a file descriptor of its own that does not block."""

    def __init__(self, terminal, link):
        self.terminal = terminal
        self.link = link
        self.messages = frames.Messages()
        self.out = b""
        self.asked = 0  # the number of the last request
        self.programs = {}
        self.incoming = None
        self.outgoing = None
        self.broken = False  # the file that comes cannot be written; what is still on its way is dropped

    def send(self, kind, channel=0, payload=b""):
        """One message to the host."""
        self.link.send(frames.message(kind, channel, payload))

    def tell(self, kind, channel, value):
        """One message of JSON."""
        self.send(kind, channel, zlib.compress(json.dumps(value).encode("ascii")))

    def serve(self, gone_s, orphaned):
        """Until the host says bye, or is silent for `gone_s`, or `orphaned` says that nobody would put the terminal back."""
        try:
            while not self.link.bye and not orphaned():
                self.turn()
                if time.monotonic() - self.link.heard > gone_s and not self.unread():
                    return
        finally:
            for program in self.programs.values():
                program.kill()

    def unread(self):
        """Whether more of what the host said waits, as it does after a request that took long."""
        return bool(select.select([self.terminal], [], [], 0)[0])

    def turn(self):
        """Wait for something to do, and do it."""
        now = time.monotonic()
        ahead = self.link.backlog
        if self.outgoing and ahead < AHEAD_BYTES:
            self.read_file()
        self.out = self.out or self.link.output(now)
        pipes = {fd: number for number, program in self.programs.items() for fd in program.open}
        reads = [self.terminal, *(pipes if ahead < AHEAD_BYTES else ())]
        hungry = [program for program in self.programs.values() if program.waiting]
        writes = [*([self.terminal] if self.out else ()), *(program.stdin for program in hungry)]
        wait = 0.0 if self.outgoing and ahead < AHEAD_BYTES and not self.out else min(1.0, self.link.wake(now))
        readable, writable, _ = select.select(reads, writes, [], wait if not self.out else 1.0)
        if self.terminal in writable:
            self.out = self.out[os.write(self.terminal, self.out) :]
        if self.terminal in readable:
            self.read_terminal()
        for program in hungry:
            program.feed()
        for fd in readable:
            if fd in pipes and pipes[fd] in self.programs:
                self.read_program(pipes[fd], fd)

    def read_terminal(self):
        """What the host says."""
        try:
            data = os.read(self.terminal, 4096)
        except BlockingIOError:
            return
        if not data:
            self.link.bye = True  # the line was hung up
        elif data[-1] != frames.FLAG:
            time.sleep(GATHER_S)
        for kind, channel, payload in self.messages.feed(self.link.receive(data, time.monotonic())):
            self.take(kind, channel, payload)

    def read_program(self, number, fd):
        """What a program says; how it ended, when it says no more."""
        program = self.programs[number]
        data = os.read(fd, 4096)
        if data:
            self.send(program.open[fd], number, data)
            return
        del program.open[fd]
        if not program.open:
            del self.programs[number]
            with contextlib.suppress(subprocess.TimeoutExpired):
                program.process.wait(2)
            code = program.process.poll()
            program.kill()
            self.tell(b"X", number, {"code": code})

    def read_file(self):
        """The next bytes of the file that the host wants."""
        stream, pack, number = self.outgoing
        data = stream.read(8192)
        packed = pack.compress(data) if data else pack.flush()
        if packed:
            self.send(b"D", number, packed)
        if not data:
            stream.close()
            self.outgoing = None
            self.send(b"D", number)

    def take(self, kind, channel, payload):
        """One message of the host."""
        if kind == b"R":
            self.asked = channel
            self.tell(b"A", channel, self.answer(json.loads(zlib.decompress(payload))))
        elif kind == b"D" and self.incoming and not self.broken:
            try:
                self.incoming.write(payload)
            except (OSError, zlib.error) as error:
                self.broken = True
                self.tell(b"F", 0, {"error": why(error)})
        elif kind == b"I" and channel in self.programs:
            program = self.programs[channel]
            if program.stdin is not None:
                program.waiting += payload
                program.closing = not payload
                program.feed()
        elif kind == b"K" and channel in self.programs:
            self.programs[channel].kill()

    def answer(self, request):
        """The answer to a request."""
        try:
            return {"ok": getattr(self, "do_" + request.pop("op"))(**request)}
        except (OSError, ValueError) as error:
            return {"error": why(error)}
        except Exception as error:  # a bug here, which the host is to hear of
            return {"error": "%s: %s" % (type(error).__name__, error)}

    def do_hello(self, root):
        """Work in the folder `root`, for this user alone."""
        root = os.path.expanduser(root)
        os.umask(0o077)
        os.makedirs(root, exist_ok=True)
        os.chmod(root, 0o700)
        os.chdir(root)
        return {"root": os.getcwd(), "machine": os.uname().machine}

    def do_whole(self, path, files):
        """Whether every file (name, size) lies below `path` with its size."""
        try:
            return all(os.lstat(os.path.join(path, name) if name else path).st_size == size for name, size in files)
        except OSError:
            return False

    def do_plan(self, holder, siblings, folders, links, files):
        """Get ready for the files (name, size, sha256, mode) below `holder`; which of them are to be sent, by their place.

        What a neighbour in the folder `siblings` has under the same name with the same content is not sent again.
        A single file has no name and no `folders`: it becomes `holder` itself.
        """
        os.makedirs(siblings, exist_ok=True)
        if folders is None:
            return [] if os.path.exists(holder) else [0]
        for folder in ["", *folders]:
            os.makedirs(os.path.join(holder, folder), exist_ok=True)
        for name, target in links:
            with contextlib.suppress(FileExistsError):
                os.symlink(target, os.path.join(holder, name))
        neighbours = [os.path.join(siblings, name) for name in os.listdir(siblings) if not name.startswith(".")]
        neighbours.append(sys.prefix)  # a userland needs a Python much like the one that runs this
        return [
            place for place, file in enumerate(files) if not self.have(os.path.join(holder, file[0]), neighbours, *file)
        ]

    def have(self, path, neighbours, name, size, digest, mode):
        """Whether a file is there already, or can be had from a neighbour."""
        if os.path.exists(path):
            return True  # it got its name when it was whole
        for neighbour in neighbours:
            there = os.path.join(neighbour, name)
            try:
                found = os.lstat(there)
                if stat.S_ISREG(found.st_mode) and found.st_size == size and sha256(there) == digest:
                    copy(there, path, mode)
                    return True
            except OSError:
                continue
        return False

    def do_put(self, path, size, digest, mode):
        """A file comes; returns how much of it is here from an earlier try."""
        self.broken = False
        self.incoming = Incoming(path, size, digest, mode)
        return self.incoming.offset

    def do_end(self):
        """All of it was sent."""
        incoming, self.incoming = self.incoming, None
        if self.broken:
            raise ValueError("the file could not be written")
        incoming.end()

    def do_commit(self, holder, path):
        """Give what was sent whole its name; what is there already is damaged and goes."""
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        if os.path.isdir(path):
            damaged = holder + ".damaged"
            os.rename(path, damaged)
            shutil.rmtree(damaged, ignore_errors=True)
        os.replace(holder, path)

    def do_get(self, path):
        """Send a file; returns its size."""
        stream = open(path, "rb")  # noqa: SIM115
        self.outgoing = stream, zlib.compressobj(6), self.asked
        return os.fstat(stream.fileno()).st_size

    def do_spawn(self, argv):
        """Start a program; returns its number."""
        number = next(n for n in range(1, 256) if n not in self.programs)
        self.programs[number] = Program(argv)
        return number


def copy(source, target, mode):
    """A hard link where there can be one, else a copy under another name until it is whole."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target + ".copy")
        os.chmod(target + ".copy", mode)
        os.replace(target + ".copy", target)


def why(error):
    """An exception in a few words."""
    if isinstance(error, OSError) and error.strerror:
        return "%s%s" % (error.strerror, ": %s" % error.filename if error.filename else "")
    return str(error)


def quiet():
    """Keep the kernel's own messages off the console, where this user may; returns what puts that back."""
    try:
        with open(PRINTK, "r+") as stream:
            before = stream.read()
            stream.seek(0)
            stream.write("1")
        return before
    except OSError:
        return None


def leave(saved, printk, session):
    """Say bye, so that the host need not wait for silence to know, and put the terminal back as it was.

    What the host still sends is thrown away; the kernel becomes as loud as before. A line that is stuck is not waited for long.
    """
    if printk:
        with contextlib.suppress(OSError), open(PRINTK, "w") as stream:
            stream.write(printk)

    def bye():
        os.write(1, 2 * frames.frame(b"b", session, 0))

    for step in (
        bye,
        lambda: termios.tcsetattr(0, termios.TCSAFLUSH, saved),
        lambda: termios.tcsetattr(0, termios.TCSANOW, saved),
    ):
        signal.alarm(RESTORE_S)
        with contextlib.suppress(OSError, termios.error):
            step()
        signal.alarm(0)


def interrupted(number, context):
    """End what the process waits for."""
    raise InterruptedError(number, "interrupted")


def main(saved, session, baud, gone_s):
    """Serve in a child; wait for its end and put the terminal back, as `saved` by tcgetattr."""
    guardian = os.getpid()
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, interrupted)
    printk = quiet()
    pid = os.fork()
    if pid == 0:
        try:
            terminal = os.open(os.ttyname(0), os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
            fcntl.fcntl(terminal, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
            link = frames.Link(session, "device", baud, time.monotonic())
            Console(terminal, link).serve(gone_s, lambda: os.getppid() != guardian)
        finally:
            if os.getppid() != guardian:
                leave(saved, printk, session)
            os._exit(0)
    try:
        os.waitpid(pid, 0)
    except OSError:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    finally:
        leave(saved, printk, session)
