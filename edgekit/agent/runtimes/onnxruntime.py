"""ONNX Runtime through the C API of libonnxruntime.so. Standard library only, Python 3.9.

OrtApi is a table of function pointers that only ever grows at its end, so the positions below (the order of
onnxruntime_c_api.h) hold for every release from 1.16 on.
"""

import ctypes
import os
import re
from ctypes import POINTER, byref, c_char_p, c_int, c_int64, c_size_t, c_uint32, c_void_p

from ..protocol import Fault
from . import _library, _ort_profile

FORMATS = ("onnx",)
API_VERSION = 16

Handle = POINTER(c_void_p)
# name -> (position in OrtApi, argument types); all of these return an OrtStatus pointer, NULL when all is well
FUNCTIONS = {
    "CreateEnv": (3, c_int, c_char_p, Handle),
    "CreateSession": (7, c_void_p, c_char_p, c_void_p, Handle),
    "Run": (9, c_void_p, c_void_p, POINTER(c_char_p), Handle, c_size_t, POINTER(c_char_p), c_size_t, Handle),
    "CreateSessionOptions": (10, Handle),
    "SetSessionExecutionMode": (13, c_void_p, c_int),
    "EnableProfiling": (14, c_void_p, c_char_p),
    "SetSessionLogSeverityLevel": (22, c_void_p, c_int),
    "SetSessionGraphOptimizationLevel": (23, c_void_p, c_int),
    "SetIntraOpNumThreads": (24, c_void_p, c_int),
    "SetInterOpNumThreads": (25, c_void_p, c_int),
    "SessionGetInputCount": (30, c_void_p, POINTER(c_size_t)),
    "SessionGetOutputCount": (31, c_void_p, POINTER(c_size_t)),
    "SessionGetInputTypeInfo": (33, c_void_p, c_size_t, Handle),
    "SessionGetOutputTypeInfo": (34, c_void_p, c_size_t, Handle),
    "SessionGetInputName": (36, c_void_p, c_size_t, c_void_p, Handle),
    "SessionGetOutputName": (37, c_void_p, c_size_t, c_void_p, Handle),
    "CreateTensorWithDataAsOrtValue": (49, c_void_p, c_void_p, c_size_t, POINTER(c_int64), c_size_t, c_int, Handle),
    "GetTensorMutableData": (51, c_void_p, Handle),
    "CastTypeInfoToTensorInfo": (55, c_void_p, Handle),
    "GetTensorElementType": (60, c_void_p, POINTER(c_int)),
    "GetDimensionsCount": (61, c_void_p, POINTER(c_size_t)),
    "GetDimensions": (62, c_void_p, POINTER(c_int64), c_size_t),
    "GetTensorTypeAndShape": (65, c_void_p, Handle),
    "CreateCpuMemoryInfo": (69, c_int, c_int, Handle),
    "AllocatorFree": (76, c_void_p, c_void_p),
    "GetAllocatorWithDefaultOptions": (78, Handle),
    "SessionEndProfiling": (110, c_void_p, c_void_p, Handle),
    "AddSessionConfigEntry": (130, c_void_p, c_char_p, c_char_p),
}
# name -> position; these return nothing
RELEASES = {
    "Env": 92,
    "Status": 93,
    "MemoryInfo": 94,
    "Session": 95,
    "Value": 96,
    "TypeInfo": 98,
    "TensorTypeAndShapeInfo": 99,
    "SessionOptions": 100,
}
GET_ERROR_CODE, GET_ERROR_MESSAGE = 1, 2

# ONNXTensorElementDataType; strings and the types packed below one byte are left out
DTYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    14: "complex64",
    15: "complex128",
    16: "bfloat16",
}
LOG_FATAL = 4  # OrtLoggingLevel: errors come back as a status, and nothing else is of use on a device
SEQUENTIAL, ALL_OPTIMIZATIONS = 0, 99  # ExecutionMode, GraphOptimizationLevel
ARENA_ALLOCATOR, DEFAULT_MEMORY = 1, 0  # OrtAllocatorType, OrtMemType
UNSUPPORTED_CODES = {9: "not implemented"}  # OrtErrorCode
# How CreateSession says that the file is newer than the library, with the file's version and the newest known.
NEWER_OPSET = re.compile(r"Opset (\d+) is under development.*support for domain (\S+) is till opset (\d+)", re.DOTALL)
NEWER_FORMAT = re.compile(r"Unsupported model IR version: (\d+), max supported IR version: (\d+)")


class Api:
    """The functions of one loaded library, by name."""

    def __init__(self, library):
        library.OrtGetApiBase.restype = c_void_p
        base = ctypes.cast(library.OrtGetApiBase(), POINTER(c_void_p))
        self.version = ctypes.CFUNCTYPE(c_char_p)(base[1])().decode()
        table = ctypes.CFUNCTYPE(c_void_p, c_uint32)(base[0])(API_VERSION)
        if not table:
            raise Fault("unavailable", "ONNX Runtime %s is older than 1.%d" % (self.version, API_VERSION))
        entries = ctypes.cast(table, POINTER(c_void_p))
        self.addresses = {name: entries[place] for name, (place, *_) in FUNCTIONS.items()}
        self.functions = {
            name: ctypes.CFUNCTYPE(c_void_p, *types)(self.addresses[name]) for name, (_, *types) in FUNCTIONS.items()
        }
        self.releases = {kind: ctypes.CFUNCTYPE(None, c_void_p)(entries[place]) for kind, place in RELEASES.items()}
        self.error_code = ctypes.CFUNCTYPE(c_int, c_void_p)(entries[GET_ERROR_CODE])
        self.error_message = ctypes.CFUNCTYPE(c_char_p, c_void_p)(entries[GET_ERROR_MESSAGE])

    def call(self, name, *arguments):
        """Call a function. Raises Fault with ONNX Runtime's own message when it says no."""
        status = self.functions[name](*arguments)
        if status:
            code = self.error_code(status)
            message = (self.error_message(status) or b"").decode("utf-8", "replace").strip()
            self.releases["Status"](status)
            if "bad_alloc" in message or "Failed to allocate memory" in message:
                raise Fault("out_of_memory", "ONNX Runtime ran out of memory: " + message)
            raise_if_newer(message, self.version)
            kind = "unsupported" if code in UNSUPPORTED_CODES else "bad_model"
            raise Fault(kind, "ONNX Runtime refused the model: %s" % message)

    def make(self, name, *arguments):
        """Call a function whose last argument receives a handle; returns the handle."""
        handle = c_void_p()
        self.call(name, *arguments, byref(handle))
        return handle


def raise_if_newer(message, version):
    """Raise Fault("unsupported") when ONNX Runtime's message means that it is too old for the file."""
    found = NEWER_OPSET.search(message)
    if found:
        opset, domain, newest = found.groups()
        text = "the file has opset %s of %s, and ONNX Runtime %s knows it up to %s: export it with opset %s"
        raise Fault("unsupported", text % (opset, domain, version, newest, newest))
    found = NEWER_FORMAT.search(message)
    if found:
        form, newest = found.groups()
        text = "the file has ONNX IR version %s, and ONNX Runtime %s knows it up to %s: save it with ir_version = %s"
        raise Fault("unsupported", text % (form, version, newest, newest))


def open_runtime(libraries):
    """Load the library; returns its Api."""
    library = _library.open_library(libraries, "ONNX Runtime")
    if not hasattr(library, "OrtGetApiBase"):
        raise Fault("unavailable", "%s is not a library of ONNX Runtime" % libraries["runtime"])
    return Api(library)


def probe(libraries):
    """The version of the library, loaded."""
    return {"version": open_runtime(libraries).version}


def start(libraries):
    """Make the environment, which the library has once in a process: its operator schemas are there whatever the model is."""
    open_runtime(libraries).make("CreateEnv", LOG_FATAL, b"edgekit")  # never released


def check(path, libraries):
    """Raise Fault("bad_model") when there is nothing to load; ONNX Runtime itself says no to a damaged file."""
    _library.head(path)


def load(path, options):
    """Load an .onnx file for `options["threads"]` CPU threads, with all graph optimizations, sequential execution.

    Its threads wait in loops for up to a time, except for `options["counters"]`: how often they go round is not the model's.
    """
    api = open_runtime(options.get("libraries", {}))
    check(path, options.get("libraries", {}))
    loaded = Loaded(api)
    try:
        threads, spinning = int(options.get("threads", 1)), not options.get("counters")
        loaded.open(path, threads, bool(options.get("profile")), spinning)
    except Fault:
        loaded.close()
        raise
    return loaded


class Loaded:
    """A session with one value for each input and output, all allocated once."""

    def __init__(self, api):
        self.api = api
        self.version = api.version
        self.delegation = None
        self.profiler = None
        self.inputs, self.outputs = [], []
        self.handles = []  # (kind, handle) in the order they were made
        self.buffers = []
        self.input_values = self.output_values = None

    def own(self, kind, handle):
        """Remember a handle that close() has to release."""
        self.handles.append((kind, handle))
        return handle

    def open(self, path, threads, profile=False, spinning=True):
        """Everything from the file to values that are ready to run; with a profile in the working folder where it is wanted."""
        api = self.api
        environment = self.own("Env", api.make("CreateEnv", LOG_FATAL, b"edgekit"))
        options = self.own("SessionOptions", api.make("CreateSessionOptions"))
        api.call("SetSessionLogSeverityLevel", options, LOG_FATAL)
        api.call("SetSessionExecutionMode", options, SEQUENTIAL)
        api.call("SetSessionGraphOptimizationLevel", options, ALL_OPTIMIZATIONS)
        api.call("SetIntraOpNumThreads", options, threads)
        api.call("SetInterOpNumThreads", options, 1)
        if threads == 1 or not spinning:
            api.call("AddSessionConfigEntry", options, b"session.intra_op.allow_spinning", b"0")
        prefix = "profile-%d-" % os.getpid()  # no beginning of another process's
        if profile:
            api.call("EnableProfiling", options, prefix.encode())
        self.session = self.own("Session", api.make("CreateSession", environment, path.encode(), options))
        if profile:
            self.profiler = _ort_profile.Profiler(prefix, self.end_profile)
        self.memory = self.own("MemoryInfo", api.make("CreateCpuMemoryInfo", ARENA_ALLOCATOR, DEFAULT_MEMORY))
        self.inputs = self.describe("Input")
        self.outputs = self.describe("Output")
        self.input_names = (c_char_p * len(self.inputs))(*[spec["name"].encode() for spec in self.inputs])
        self.output_names = (c_char_p * len(self.outputs))(*[spec["name"].encode() for spec in self.outputs])
        for spec in self.inputs:
            # A free dimension is the batch or a length; one sample at a time is what is measured.
            spec["shape"] = [extent if extent > 0 else 1 for extent in spec["shape"]]
        self.input_values = (c_void_p * len(self.inputs))(*[self.allocate(spec).value for spec in self.inputs])
        fixed = all(extent > 0 for spec in self.outputs for extent in spec["shape"])
        values = [self.allocate(spec).value for spec in self.outputs] if fixed else [None] * len(self.outputs)
        self.output_values = (c_void_p * len(self.outputs))(*values)
        if not fixed:
            self.settle_outputs()

    def end_profile(self):
        """Write the profile down; what follows is not in it."""
        allocator = self.api.make("GetAllocatorWithDefaultOptions")
        name = self.api.make("SessionEndProfiling", self.session, allocator)
        self.api.call("AllocatorFree", allocator, name)

    def describe(self, kind):
        """Names, shapes (free dimensions as -1) and dtypes of all inputs ("Input") or outputs ("Output")."""
        api, count = self.api, c_size_t()
        api.call("SessionGet%sCount" % kind, self.session, byref(count))
        allocator = api.make("GetAllocatorWithDefaultOptions")  # the library's own, never released
        specs = []
        for index in range(count.value):
            text = api.make("SessionGet%sName" % kind, self.session, index, allocator)
            name = ctypes.string_at(text).decode("utf-8", "replace")
            api.call("AllocatorFree", allocator, text)
            info = api.make("SessionGet%sTypeInfo" % kind, self.session, index)
            try:
                tensor = api.make("CastTypeInfoToTensorInfo", info)  # a part of `info`
                if not tensor:
                    raise Fault("unsupported", "%s '%s' is not a tensor" % (kind.lower(), name))
                specs.append(dict(self.shape_of(tensor, name), name=name))
            finally:
                api.releases["TypeInfo"](info)
        return specs

    def shape_of(self, tensor, name):
        """Shape and dtype of an OrtTensorTypeAndShapeInfo."""
        element, rank = c_int(), c_size_t()
        self.api.call("GetTensorElementType", tensor, byref(element))
        self.api.call("GetDimensionsCount", tensor, byref(rank))
        extents = (c_int64 * rank.value)()
        self.api.call("GetDimensions", tensor, extents, rank.value)
        if element.value not in DTYPES:
            raise Fault("unsupported", "tensor '%s' has ONNX Runtime's element type %d" % (name, element.value))
        return {"shape": list(extents), "dtype": DTYPES[element.value]}

    def allocate(self, spec):
        """A value over a zeroed buffer of our own."""
        size = _library.size_bytes(spec)
        buffer = ctypes.create_string_buffer(max(size, 1))
        self.buffers.append(buffer)
        extents = (c_int64 * len(spec["shape"]))(*spec["shape"])
        element = next(number for number, name in DTYPES.items() if name == spec["dtype"])
        place = ctypes.cast(buffer, c_void_p)
        arguments = (self.memory, place, size, extents, len(extents), element)
        return self.own("Value", self.api.make("CreateTensorWithDataAsOrtValue", *arguments))

    def settle_outputs(self):
        """One inference that lets ONNX Runtime allocate the outputs, to learn shapes the file does not tell; they stay."""
        self.run()
        for index, spec in enumerate(self.outputs):
            value = c_void_p(self.output_values[index])
            self.own("Value", value)
            info = self.api.make("GetTensorTypeAndShape", value)
            spec["shape"] = self.shape_of(info, spec["name"])["shape"]
            self.api.releases["TensorTypeAndShapeInfo"](info)

    def arguments(self):
        """The arguments of Run."""
        return (
            self.session,
            None,
            self.input_names,
            self.input_values,
            len(self.inputs),
            self.output_names,
            len(self.outputs),
            self.output_values,
        )

    @property
    def native(self):
        """One inference for the timing loop: (function, its arguments, mask of a failure)."""
        places = [
            value if isinstance(value, int) else ctypes.cast(value, c_void_p).value or 0 for value in self.arguments()
        ]
        return self.api.addresses["Run"], tuple(places), 0xFFFFFFFFFFFFFFFF

    def place(self, values, index):
        """The address of a value's data."""
        return self.api.make("GetTensorMutableData", c_void_p(values[index]))

    def set_input(self, index, data):
        """Copy `data` into an input's value."""
        data = _library.checked(self.inputs[index], data)
        ctypes.memmove(self.place(self.input_values, index), data, len(data))

    def run(self):
        """One inference; the outputs exist on return."""
        self.api.call("Run", *self.arguments())

    def output(self, index):
        """The bytes of an output."""
        return ctypes.string_at(self.place(self.output_values, index), _library.size_bytes(self.outputs[index]))

    def close(self):
        """Free everything; may be called twice."""
        while self.handles:
            kind, handle = self.handles.pop()
            self.api.releases[kind](handle)
        self.buffers = []
