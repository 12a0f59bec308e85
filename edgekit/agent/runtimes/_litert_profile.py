"""LiteRT's profiler: operators, and those inside the XNNPACK delegate. Standard library only, Python 3.9.

Signatures and the event are those of litert/c/litert_profiler.h and litert_profiler_event.h in LiteRT's repository; the
meaning of an event's metadata is TensorFlow Lite's (core/api/profiler.h): the node's index, and its subgraph's.
"""

import ctypes
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_uint64, c_void_p

from ..protocol import Fault

# EventType (core/api/profiler.h)
DEFAULT, OPERATOR, DELEGATED = 1, 2, 8
INVOKE = b"Invoke"
NS = 1000  # its times are whole microseconds
MOST_EVENTS = 1 << 20


class Memory(ctypes.Structure):
    """What was allocated at an event's begin or end."""

    _fields_ = [("total", c_size_t), ("in_use", c_size_t), ("private", c_size_t)]


class Event(ctypes.Structure):
    """ProfiledEventData: times in microseconds, `node` and `graph` the indices of what ran."""

    _fields_ = [
        ("tag", c_char_p),
        ("type", c_int),
        ("start", c_uint64),
        ("elapsed", c_uint64),
        ("begin", Memory),
        ("end", Memory),
        ("node", c_uint64),
        ("graph", c_uint64),
        ("source", c_int),
    ]


FUNCTIONS = {
    "LiteRtCompiledModelGetProfiler": (c_int, c_void_p, POINTER(c_void_p)),
    "LiteRtResetProfiler": (c_int, c_void_p),
    "LiteRtStartProfiler": (c_int, c_void_p),
    "LiteRtStopProfiler": (c_int, c_void_p),
    "LiteRtGetNumProfilerEvents": (c_int, c_void_p, POINTER(c_int)),
    "LiteRtGetProfilerEvents": (c_int, c_void_p, c_int, POINTER(Event)),
}


class Profiler:
    """The profiler of a compiled model; `call` calls a function of LiteRT that returns a status."""

    name = "LiteRT profiler"
    resolution_ns = NS

    def __init__(self, call, compiled):
        self.call = call
        self.handle = c_void_p()
        call("LiteRtCompiledModelGetProfiler", compiled, byref(self.handle))
        self.kept = []

    def begin(self):
        """From now on events are kept."""
        self.call("LiteRtResetProfiler", self.handle)
        self.call("LiteRtStartProfiler", self.handle)

    def end(self):
        """Read the events of the inference. Raises Fault("internal") when they are not as this file knows them."""
        self.call("LiteRtStopProfiler", self.handle)
        count = c_int()
        self.call("LiteRtGetNumProfilerEvents", self.handle, byref(count))
        if not 0 < count.value <= MOST_EVENTS:
            raise Fault("internal", "LiteRT's profiler kept %d events of an inference" % count.value)
        events = (Event * count.value)()
        self.call("LiteRtGetProfilerEvents", self.handle, count.value, events)
        self.kept.append(inference(list(events)))

    def runs(self):
        """(nanoseconds, events) of each inference."""
        return self.kept


def inference(events):
    """The inference among raw events: what the outermost graph ran, in order.

    What an operator of a loop or a branch runs in another graph is part of its own time.
    """
    outer = next((event for event in events if event.type == DEFAULT and event.tag == INVOKE), None)
    if outer is None:
        raise Fault(
            "unsupported", "LiteRT's profiler lost the beginning of the inference: the model has too many operators"
        )
    found = []
    for event in events:
        if event.graph != outer.graph or event.type not in (OPERATOR, DELEGATED):
            continue
        inside = event.type == DELEGATED
        found.append(
            {
                "name": (event.tag or b"").decode("utf-8", "replace"),
                "delegate": "XNNPACK" if inside else None,
                "place": None if inside else event.node,  # inside it is the delegate's own count
                "ns": event.elapsed * NS,
            }
        )
    return outer.elapsed * NS, found
