"""A process in which one operation after the other runs, until its agent ends it. A new one starts for each launch.

Standard library only, Python 3.9.
"""

import importlib
import os

from . import protocol
from .pipes import Lines, claim_stdout, send
from .protocol import Fault

# operation -> the module with the function of that name; each runs in a child
OPERATIONS = {
    "probe": "measure",
    "predict": "measure",
    "measure": "measure",
    "operators": "operators",
    "sustain": "sustain",
}


def main(out=None):
    """A child's whole life: requests on stdin until it ends, events and an answer to each on `out`, by default its stdout."""
    out = claim_stdout() if out is None else out
    lines = Lines(0)
    while not lines.closed:
        line = lines.take()
        if line is None:
            lines.fill()
            continue
        send(out, answer_for(work, protocol.decode(line), out))
    # Native libraries may hang or crash in their exit handlers; the answer is out, so leave at once.
    os._exit(0)


def work(request, out):
    """The result of one operation, in a child. Raises Fault and whatever a runtime raises."""
    module = importlib.import_module("." + OPERATIONS[request["op"]], __package__)
    return getattr(module, request["op"])(request["args"], lambda event: send(out, {"event": event}))


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
