"""ONNX Runtime's profile: a JSON file of trace events, read and gone. Standard library only, Python 3.9.

The events are not a documented format; they are as ONNX Runtime 1.32 writes them: one "model_run" of category "Session"
for each inference, and for each node of the optimized graph one "<node>_kernel_time" of category "Node" inside it.
"""

import json
import os

from ..protocol import Fault

SUFFIX = "_kernel_time"
HOST = "CPUExecutionProvider"
NS = 1000  # its times are whole microseconds
# Nodes with graphs of their own, whose nodes are in the profile too.
BODIES = ("If", "Loop", "Scan", "SequenceMap")


class Profiler:
    """The profile of a session; `finish` ends it. The file has no name any more, so it is gone whatever happens."""

    name = "ONNX Runtime profile"
    resolution_ns = NS

    def __init__(self, prefix, finish):
        self.finish = finish
        folder, start = os.path.split(os.path.abspath(prefix))
        names = [name for name in os.listdir(folder) if name.startswith(start)]
        if len(names) != 1:
            raise Fault("internal", "ONNX Runtime made %d profiles, not one" % len(names))
        path = os.path.join(folder, names[0])
        self.stream = open(path, encoding="utf-8", errors="replace")  # noqa: SIM115
        os.unlink(path)

    def begin(self):
        """Nothing: every inference since the session was made is in the profile."""

    def end(self):
        """Nothing."""

    def runs(self):
        """(nanoseconds, events) of each inference, the warm-up's included. Ends the profile."""
        self.finish()
        with self.stream:
            try:
                return inferences(json.load(self.stream))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise Fault("internal", "ONNX Runtime's profile is not as it is known: %s" % error) from error


def inferences(trace):
    """The inferences in a list of trace events."""
    runs = sorted(
        (event["ts"], event["ts"] + event["dur"])
        for event in trace
        if event.get("cat") == "Session" and event["name"] == "model_run"
    )
    nodes = [event for event in trace if event.get("cat") == "Node" and event["name"].endswith(SUFFIX)]
    nodes.sort(key=lambda event: (event["ts"], -event["dur"]))
    found, index = [], 0
    for begin, end in runs:
        events, until = [], begin
        while index < len(nodes) and nodes[index]["ts"] <= end:
            event = nodes[index]
            index += 1
            if event["ts"] < until:  # inside the node before
                continue
            if event["args"]["op_name"] in BODIES:
                until = event["ts"] + event["dur"]
            if event["ts"] >= begin:
                events.append(described(event))
        found.append(((end - begin) * NS, events))
    return found


def described(event):
    """A node's event."""
    told = event["args"]
    provider = told.get("provider", HOST)
    made = [list(shape) for entry in told.get("output_type_shape", ()) for shape in entry.values()]
    return {
        "name": event["name"][: -len(SUFFIX)],
        "type": told["op_name"],
        "delegate": None if provider == HOST else provider,
        "output": made[0] if made else None,
        "ns": event["dur"] * NS,
    }
