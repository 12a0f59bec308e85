"""The agent: reads requests, runs each in a fresh child process of itself, answers. Standard library only, Python 3.9.

Started as `python -I -S edgekit-agent-<sha>.pyz [--spawn JSON] [--patience SECONDS]`; `--spawn` is the argv that starts
a child on this device (an emulated device needs its emulator there; without it, this interpreter is used). After `--patience`
without a word of the host the agent ends as if the link had.
"""

import json
import os
import re
import select
import signal
import sys
import time

from . import child, protocol, sysinfo
from .child import answer_for
from .children import Child
from .lock import Lock
from .pipes import Lines, claim_stdout, send
from .protocol import Fault
from .watch import Told, Watch

WATCHED = ("measure", "sustain")  # what happens on the device meanwhile is evidence for or against the figures
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


class Agent:
    """Answers the host's requests, each in a child: a fresh one, or with `continue` the one that a request with `keep` left.

    One is kept for each `slot` that a request names, so that two launches can be measured in turns. At the end of a
    request with `another` the next one starts already, while nothing is measured and the host is busy with the answer.
    """

    def __init__(self, out, spawn, patience_s=None):
        self.out = out
        self.spawn = spawn
        self.host = Lines(0, patience_s)
        self.kept = {}
        self.spare = None
        self.told = Told()
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
            for process in [*self.kept.values(), *([self.spare] if self.spare else [])]:
                process.end()
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
        if op not in child.OPERATIONS:
            raise Fault("unsupported", "this agent has no operation '%s'" % op)
        slot = args.get("slot", "")
        if args.get("continue"):
            if slot not in self.kept:
                raise Fault("internal", "there is no process to continue")
        else:
            self.drop(slot)
            self.kept[slot] = self.fresh()
        if "output" in args:
            self.written.add(args["output"])
        if args.get("discard"):
            self.written.add(args["input"])
        keep = False

        def emit(event):
            send(self.out, {"id": number, "event": event})

        try:
            result = self.ask(self.kept[slot], op, args, emit)
            keep = bool(args.get("keep"))
            return result
        finally:
            if args.get("discard"):
                self.remove(args["input"])
            if not keep:
                if args.get("another") and list(self.kept) == [slot]:
                    self.spare = Child(self.spawn)
                self.drop(slot)

    def ask(self, child, op, args, emit):
        """One operation of a child, watched and weighed where that is wanted.

        Under qemu-user neither is done: /proc and /sys are partly the host's there, and a plug-in weighs.
        """
        here = not args.get("emulated")
        watch = Watch(child.pid, self.told) if here and op in WATCHED else None
        weighed = here and op == "predict"
        watchers = [watch] if watch else [child.weigher] if weighed else []

        def tell(event):
            emit(dict(event, evidence=watch.latest()) if watch and "window" in event else event)

        result = child.ask({"op": op, "args": args}, float(args.get("deadline_s", 600)), tell, self.host, watchers)
        if weighed:
            child.weigher.add_to(result["memory"])
        if watch and result.get("timer") != "device":  # nor is this machine's state evidence of what runs elsewhere
            result["evidence"] = watch.end()
        return result

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

    def fresh(self):
        """A process that was never asked anything."""
        spare, self.spare = self.spare, None
        if spare is not None and spare.lives():
            return spare
        if spare is not None:
            spare.end()
        return Child(self.spawn)

    def drop(self, slot):
        """End the child of a slot, if there is one."""
        if slot in self.kept:
            self.kept.pop(slot).end()


def main(argv=None):
    """Entry point of the pushed archive."""
    argv = sys.argv[1:] if argv is None else argv
    out = claim_stdout()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the host's business; it closes the link
    if "--child" in argv:
        child.main(out)
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
