"""The agent: reads requests, runs each in a fresh child process of itself, answers. Standard library only, Python 3.9.

Started as `python -I -S edgekit-agent-<sha>.pyz [--spawn JSON]`; `--spawn` is the argv that starts another copy of
this program on this device (an emulated device needs its emulator there). Without it, this interpreter is used.
"""

import json
import os
import select
import signal
import sys
import time

from . import protocol, sysinfo
from .protocol import Fault

CHILD_OPERATIONS = ("probe", "predict", "measure", "memory")
# Signals that a host, an operator or a closing terminal sends on purpose; everything else is a crash.
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


def runtimes():
    """The names of the runtime modules in this agent, by file name."""
    import zipimport

    loader = globals().get("__loader__")
    if isinstance(loader, zipimport.zipimporter):
        import zipfile

        with zipfile.ZipFile(loader.archive) as archive:
            files = archive.namelist()
    else:
        files = ["runtimes/" + name for name in os.listdir(os.path.join(os.path.dirname(__file__), "runtimes"))]
    found = [f.split("/")[-1][:-3] for f in files if "runtimes/" in f and f.endswith(".py")]
    return sorted(name for name in found if not name.startswith("_"))


def greeting():
    """The first frame: who speaks, which protocol, on what."""
    return {
        "greeting": protocol.GREETING,
        "protocol": protocol.PROTOCOL,
        "python": ".".join(str(part) for part in sys.version_info[:3]),
        "system": sysinfo.system(),
    }


def describe_death(status, deadline_passed, deadline_s):
    """The Fault for a child that ended without an answer; `status` is what waitpid returned."""
    if deadline_passed:
        return Fault("timeout", "the process did not finish within %g s and was ended" % deadline_s)
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


def start_child(spawn):
    """Start another agent process; returns (pid, fd to write the request to, fd to read its answers from)."""
    request_read, request_write = os.pipe()
    answer_read, answer_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(request_read, 0)
            os.dup2(answer_write, 1)
            os.execv(spawn[0], [*spawn, "--child"])
        except OSError as error:
            os.write(2, ("edgekit-agent: cannot start %s: %s\n" % (spawn[0], error)).encode())
        finally:
            os._exit(127)
    os.close(request_read)
    os.close(answer_write)
    return pid, request_write, answer_read


def run_in_child(spawn, request, deadline_s, emit, host):
    """Run one operation in a fresh process; returns its answer. Raises Fault, or EOFError when the host went away."""
    pid, to_child, from_child = start_child(spawn)
    lines = Lines(from_child)
    deadline = time.monotonic() + deadline_s
    late = False
    reaped = False
    try:
        try:
            send(to_child, request)
        except BrokenPipeError:
            pass  # it died already; the end of its answers says how
        os.close(to_child)
        while not lines.closed:
            left = deadline - time.monotonic()
            ready = select.select([from_child, host.fd], [], [], max(0, left))[0] if left > 0 else []
            if not ready:
                late = True
                break
            if host.fd in ready:
                host.fill()
                if host.closed:
                    raise EOFError
            if from_child not in ready:
                continue
            lines.fill()
            line = lines.take()
            while line is not None:
                answer = protocol.decode(line)
                if "event" in answer:
                    emit(answer["event"])
                elif "ok" in answer:
                    return answer["ok"]
                else:
                    raise Fault(answer["error"]["kind"], answer["error"]["message"])
                line = lines.take()
        if late:
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        reaped = True
        raise describe_death(status, late, deadline_s)
    finally:
        os.close(from_child)
        if not reaped:
            end(pid)


def end(pid):
    """Make sure a child is gone and reaped: it has answered, so it gets a moment to leave by itself."""
    for _ in range(50):
        if os.waitpid(pid, os.WNOHANG)[0]:
            return
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def answer_for(call):
    """Turn what `call` returns or raises into the body of a reply."""
    try:
        return {"ok": call()}
    except Fault as fault:
        return {"error": {"kind": fault.kind, "message": fault.message}}
    except MemoryError:
        return {"error": {"kind": "out_of_memory", "message": "the process ran out of memory"}}
    except (EOFError, KeyboardInterrupt):
        raise
    except Exception as error:
        import traceback

        traceback.print_exc()
        return {"error": {"kind": "internal", "message": "%s: %s" % (type(error).__name__, error)}}


def child(out):
    """A child's whole life: one request on stdin, events and one answer on `out`."""
    from . import measure

    lines = Lines(0)
    while b"\n" not in lines.buffer and not lines.closed:
        lines.fill()
    request = protocol.decode(lines.take() or b"{}")
    operation = getattr(measure, request["op"])
    body = answer_for(lambda: operation(request["args"], lambda event: send(out, {"event": event})))
    send(out, body)


def serve(out, spawn):
    """Greet, then answer requests until `bye` or the host goes away."""
    host = Lines(0)
    send(out, greeting())
    while True:
        line = host.take()
        if line is None:
            if host.closed:
                return
            host.fill()
            continue
        try:
            request = protocol.decode(line)
            number, op, args = request["id"], request["op"], request.get("args", {})
        except (ValueError, KeyError) as error:
            send(out, {"id": None, "error": {"kind": "internal", "message": "not a request: %s" % error}})
            continue
        if op == "bye":
            send(out, {"id": number, "ok": {}})
            return

        def emit(event, number=number):
            send(out, {"id": number, "event": event})

        def call(op=op, args=args, emit=emit):
            if op == "hello":
                return dict(greeting(), runtimes=runtimes())
            if op not in CHILD_OPERATIONS:
                raise Fault("unsupported", "this agent has no operation '%s'" % op)
            deadline_s = float(args.get("deadline_s", 600))
            return run_in_child(spawn, {"op": op, "args": args}, deadline_s, emit, host)

        send(out, dict(answer_for(call), id=number))


def main(argv=None):
    """Entry point of the pushed archive."""
    argv = sys.argv[1:] if argv is None else argv
    out = claim_stdout()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the host's business; it closes the link
    if "--child" in argv:
        child(out)
        # Native libraries may hang or crash in their exit handlers; the answer is out, so leave at once.
        os._exit(0)
    spawn = [sys.executable, "-I", "-S", os.path.abspath(sys.argv[0])]
    if "--spawn" in argv:
        spawn = json.loads(argv[argv.index("--spawn") + 1])
    try:
        serve(out, spawn)
    except (EOFError, BrokenPipeError):
        pass


if __name__ == "__main__":
    main()
