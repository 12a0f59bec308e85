"""The agent: reads requests, runs each in a fresh child process of itself, answers. Standard library only, Python 3.9.

Started as `python -I -S edgekit-agent-<sha>.pyz [--spawn JSON] [--patience SECONDS]`; `--spawn` is the argv that starts
another copy of this program on this device (an emulated device needs its emulator there; without it, this interpreter is
used). After `--patience` without a word of the host the agent ends as if the link had.
"""

import json
import os
import re
import select
import signal
import sys
import time

from . import protocol, sysinfo
from .children import Child, die_with_parent
from .lock import Lock
from .pipes import Lines, claim_stdout, send
from .protocol import Fault

CHILD_OPERATIONS = ("probe", "predict", "measure")
LOCK_POLL_S = 0.5


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


def answer_for(call, *arguments):
    """Turn what `call` returns or raises into the body of a reply."""
    try:
        return {"ok": call(*arguments)}
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
    """A child's whole life: requests on stdin until it ends, events and an answer to each on `out`."""
    die_with_parent()
    lines = Lines(0)
    while not lines.closed:
        line = lines.take()
        if line is None:
            lines.fill()
            continue
        send(out, answer_for(work, protocol.decode(line), out))


def work(request, out):
    """The result of one operation, in a child. Raises Fault and whatever a runtime raises."""
    from . import measure

    return getattr(measure, request["op"])(request["args"], lambda event: send(out, {"event": event}))


class Agent:
    """Answers the host's requests, each in a child: a fresh one, or with `continue` the one that a request with `keep` left."""

    def __init__(self, out, spawn, patience_s=None):
        self.out = out
        self.spawn = spawn
        self.host = Lines(0, patience_s)
        self.kept = None
        self.lock = Lock()
        self.written = set()  # files for the host to fetch, or lent by it; gone with the agent

    def serve(self):
        """Greet, then answer until `bye` or until the host goes away."""
        send(self.out, greeting())
        try:
            while True:
                line = self.host.take()
                if line is not None:
                    if not self.answer(line):
                        return
                elif self.host.closed:
                    return
                else:
                    self.host.fill()
        finally:
            self.drop()
            for path in list(self.written):
                self.remove(path)
            self.lock.release()  # last: the device is free when nothing of this run is left at work

    def answer(self, line):
        """Answer one line; False after a goodbye."""
        try:
            request = protocol.decode(line)
            if "alive" in request:
                return True
            number, op, args = request["id"], request["op"], request.get("args", {})
        except (ValueError, KeyError) as error:
            send(self.out, {"id": None, "error": {"kind": "internal", "message": "not a request: %s" % error}})
            return True
        if op == "bye":
            send(self.out, {"id": number, "ok": {}})
            return False
        send(self.out, dict(answer_for(self.do, number, op, args), id=number))
        return True

    def do(self, number, op, args):
        """The result of one operation. Raises Fault."""
        if op == "hello":
            return dict(greeting(), runtimes=runtimes(), state=sysinfo.state())
        if op == "lock":
            return self.hold(args["who"], float(args.get("wait_s", 0)))
        if op not in CHILD_OPERATIONS:
            raise Fault("unsupported", "this agent has no operation '%s'" % op)
        if args.get("continue"):
            if self.kept is None:
                raise Fault("internal", "there is no process to continue")
        else:
            self.drop()
            self.kept = Child(self.spawn)
        if "output" in args:
            self.written.add(args["output"])
        if args.get("discard"):
            self.written.add(args["input"])
        keep = False

        def emit(event):
            send(self.out, {"id": number, "event": event})

        try:
            result = self.kept.ask({"op": op, "args": args}, float(args.get("deadline_s", 600)), emit, self.host)
            keep = bool(args.get("keep"))
            return result
        finally:
            if args.get("discard"):
                self.remove(args["input"])
            if not keep:
                self.drop()

    def hold(self, who, wait_s):
        """Take the device's lock, waiting for it if need be. Raises EOFError when the host goes away meanwhile."""
        deadline = time.monotonic() + wait_s
        had = self.lock.fd is not None
        while True:
            holder = self.lock.take(who)
            if holder is None:
                if not had:
                    self.sweep()
                return {"held": True}
            if time.monotonic() >= deadline:
                return {"held": False, "holder": holder}
            if select.select([self.host.fd], [], [], LOCK_POLL_S)[0] or self.host.patience() == 0:
                self.host.fill()
                if self.host.closed:
                    raise EOFError

    def sweep(self):
        """Delete what agents that were killed had been lent or had written: with the lock, nobody else works here."""
        lent = ["lent/" + name for name in os.listdir("lent")] if os.path.isdir("lent") else []
        for path in lent + [name for name in os.listdir(".") if re.match(r"output-[0-9a-f]{16}\.bin$", name)]:
            try:
                os.unlink(path)
            except OSError:
                pass  # a file that is only in the way is no reason to fail

    def remove(self, path):
        """Delete a file that was lent or written for the host."""
        self.written.discard(path)
        if os.path.exists(path):
            os.unlink(path)

    def drop(self):
        """End the child, if there is one."""
        if self.kept is not None:
            self.kept.end()
            self.kept = None


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
    patience_s = float(argv[argv.index("--patience") + 1]) if "--patience" in argv else None
    try:
        Agent(out, spawn, patience_s).serve()
    except (EOFError, BrokenPipeError):
        pass


if __name__ == "__main__":
    main()
