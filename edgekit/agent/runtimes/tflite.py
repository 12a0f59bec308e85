"""LiteRT (TensorFlow Lite) through the C API of libLiteRt.so. Standard library only, Python 3.9.

Types, values and signatures are those of the headers under litert/c/ in LiteRT's repository. That interface is young
and has no stability promise yet, so only the minor version it was checked with is accepted.
"""

import ctypes
from ctypes import POINTER, byref, c_bool, c_char_p, c_int, c_int32, c_int64, c_size_t, c_uint, c_uint32, c_void_p

from ..protocol import Fault
from . import _library, _litert_profile
from ._tflite_file import check

__all__ = ["FORMATS", "Loaded", "check", "load", "probe"]

FORMATS = ("tflite",)
CHECKED_MINOR = "2.3"

# LiteRtStatus (litert_common.h)
STATUS = {
    1: "InvalidArgument",
    2: "MemoryAllocationFailure",
    3: "RuntimeFailure",
    4: "MissingInputTensor",
    5: "Unsupported",
    6: "NotFound",
    7: "TimeoutExpired",
    8: "WrongVersion",
    9: "Unknown",
    10: "AlreadyExists",
    100: "Cancelled",
    500: "FileIO",
    501: "InvalidFlatbuffer",
    502: "DynamicLoading",
    503: "Serialization",
    504: "Compilation",
    1000: "IndexOOB",
    1001: "InvalidIrType",
    1002: "InvalidGraphInvariant",
    1003: "GraphModification",
    1500: "InvalidToolConfig",
    2000: "LegalizeNoMatch",
    2001: "InvalidLegalization",
    3000: "PatternNoMatch",
    3001: "InvalidTransformation",
    4000: "UnsupportedRuntimeVersion",
    4001: "UnsupportedCompilerVersion",
    4002: "IncompatibleByteCodeVersion",
    5000: "UnsupportedOpShapeInferer",
    5001: "ShapeInferenceFailed",
}
OUT_OF_MEMORY = 2

# LiteRtElementType (litert_model_types.h); the types packed below one byte and strings are left out
DTYPES = {
    1: "float32",
    2: "int32",
    3: "uint8",
    4: "int64",
    6: "bool",
    7: "int16",
    8: "complex64",
    9: "int8",
    10: "float16",
    11: "float64",
    12: "complex128",
    13: "uint64",
    16: "uint32",
    17: "uint16",
    19: "bfloat16",
}

HARDWARE_CPU = 1  # LiteRtHwAccelerators
OPTION_ACCELERATORS, OPTION_LOG_SEVERITY = 24, 25  # LiteRtEnvOptionTag
SEVERITY_ERROR = 3  # LiteRtLogSeverity
ANY_INT = 2  # LiteRtAnyType
LOCK_READ, LOCK_WRITE = 0, 1  # LiteRtTensorBufferLockMode


class Layout(ctypes.Structure):
    """LiteRtLayout: the rank in the low 7 bits of the first word."""

    _fields_ = [("rank_and_flags", c_uint), ("dimensions", c_int32 * 8), ("strides", c_uint32 * 8)]


class RankedType(ctypes.Structure):
    """LiteRtRankedTensorType, 72 bytes."""

    _fields_ = [("element_type", c_int), ("layout", Layout)]


class Any(ctypes.Structure):
    """LiteRtAny holding an integer."""

    _fields_ = [("type", c_int), ("value", c_int64)]


class EnvironmentOption(ctypes.Structure):
    """LiteRtEnvOption, 24 bytes."""

    _fields_ = [("tag", c_int), ("value", Any)]


Deleter = ctypes.CFUNCTYPE(None, c_void_p)
Handle = POINTER(c_void_p)
FUNCTIONS = {
    "LiteRtCreateEnvironment": (c_int, c_int, POINTER(EnvironmentOption), Handle),
    "LiteRtCreateModelFromFile": (c_int, c_void_p, c_char_p, Handle),
    "LiteRtCreateOptions": (c_int, Handle),
    "LiteRtSetOptionsHardwareAccelerators": (c_int, c_void_p, c_int),
    "LiteRtCreateOpaqueOptions": (c_int, c_char_p, c_void_p, Deleter, Handle),
    "LiteRtAddOpaqueOptions": (c_int, c_void_p, c_void_p),
    "LiteRtCreateCompiledModel": (c_int, c_void_p, c_void_p, c_void_p, Handle),
    "LiteRtCompiledModelIsFullyAccelerated": (c_int, c_void_p, POINTER(c_bool)),
    "LiteRtGetNumModelSignatures": (c_int, c_void_p, POINTER(c_size_t)),
    "LiteRtGetModelSignature": (c_int, c_void_p, c_size_t, Handle),
    "LiteRtGetNumSignatureInputs": (c_int, c_void_p, POINTER(c_size_t)),
    "LiteRtGetNumSignatureOutputs": (c_int, c_void_p, POINTER(c_size_t)),
    "LiteRtGetSignatureInputName": (c_int, c_void_p, c_size_t, POINTER(c_char_p)),
    "LiteRtGetSignatureOutputName": (c_int, c_void_p, c_size_t, POINTER(c_char_p)),
    "LiteRtGetSignatureInputTensorByIndex": (c_int, c_void_p, c_size_t, Handle),
    "LiteRtGetSignatureOutputTensorByIndex": (c_int, c_void_p, c_size_t, Handle),
    "LiteRtGetRankedTensorType": (c_int, c_void_p, POINTER(RankedType)),
    "LiteRtGetCompiledModelInputBufferRequirements": (c_int, c_void_p, c_size_t, c_size_t, Handle),
    "LiteRtGetCompiledModelOutputBufferRequirements": (c_int, c_void_p, c_size_t, c_size_t, Handle),
    "LiteRtCompiledModelResizeInputTensor": (c_int, c_void_p, c_size_t, c_size_t, POINTER(c_int), c_size_t),
    "LiteRtCreateManagedTensorBufferFromRequirements": (c_int, c_void_p, POINTER(RankedType), c_void_p, Handle),
    "LiteRtLockTensorBuffer": (c_int, c_void_p, Handle, c_int),
    "LiteRtUnlockTensorBuffer": (c_int, c_void_p),
    "LiteRtRunCompiledModel": (c_int, c_void_p, c_size_t, c_size_t, Handle, c_size_t, Handle),
    **_litert_profile.FUNCTIONS,
    "LiteRtDestroyTensorBuffer": (None, c_void_p),
    "LiteRtDestroyCompiledModel": (None, c_void_p),
    "LiteRtDestroyOptions": (None, c_void_p),
    "LiteRtDestroyModel": (None, c_void_p),
    "LiteRtDestroyEnvironment": (None, c_void_p),
}


@Deleter
def keep(payload):
    """The payload of an opaque option belongs to Python; LiteRT must not free it."""


def open_runtime(libraries):
    """Load and check the library; returns (library, version)."""
    library = _library.open_library(libraries, "LiteRT")
    version = _library.shipped_version(libraries["runtime"], "ai_edge_litert")
    if version is None:
        raise Fault("unavailable", "cannot tell which version of LiteRT %s is" % libraries["runtime"])
    if version.split(".")[:2] != CHECKED_MINOR.split("."):
        raise Fault(
            "unavailable", "LiteRT %s is there, but its C interface is known only for %s" % (version, CHECKED_MINOR)
        )
    _library.declare(library, FUNCTIONS, "LiteRT")
    return library, version


def probe(libraries):
    """The version of the library, loaded."""
    return {"version": open_runtime(libraries)[1]}


def load(path, options):
    """Load a .tflite file for `options["threads"]` CPU threads (XNNPACK, LiteRT's own choice of kernels).

    The file is checked first, unless `options["checked"]` says that the caller has done so (outside its clock).
    """
    library, version = open_runtime(options.get("libraries", {}))
    if not options.get("checked"):
        check(path, options.get("libraries", {}))
    loaded = Loaded(library, version)
    try:
        loaded.open(path, int(options.get("threads", 1)), bool(options.get("profile")))
    except Fault as fault:
        loaded.close()
        raise said_aloud(library, version, path, options, fault) from fault
    return loaded


def said_aloud(library, version, path, options, fault):
    """The same fault with LiteRT's own reason, which it only prints: the load is repeated to catch it."""
    from . import _stderr

    again = Loaded(library, version)
    with _stderr.captured() as text:
        try:
            again.open(path, int(options.get("threads", 1)))
        except Fault:
            pass
        again.close()
        reason = _stderr.reason(text())
    return Fault(fault.kind, "%s: %s" % (fault.message, reason)) if reason else fault


class Loaded:
    """A compiled model, signature 0, with one buffer for each input and output."""

    def __init__(self, library, version):
        self.library = library
        self.version = version
        self.inputs, self.outputs = [], []
        self.delegation = None
        self.environment, self.model, self.options, self.compiled = (c_void_p() for _ in range(4))
        self.buffers = {"Input": [], "Output": []}
        self.handles = set()
        self.payloads = []
        self.profiler = None

    def call(self, name, *arguments):
        """Call a function that returns a status. Raises Fault when it is not OK."""
        status = getattr(self.library, name)(*arguments)
        if status:
            word = STATUS.get(status, "unknown status")
            kind = "out_of_memory" if status == OUT_OF_MEMORY else "bad_model"
            raise Fault(kind, "LiteRT refused the model: %s returned %s (%d)" % (name, word, status))

    def open(self, path, threads, profile=False):
        """Everything from the file to buffers that are ready to run; with the profiler where it is wanted."""
        # Without the first option LiteRT looks for GPU and NPU plug-ins and loads those it finds into the process.
        settings = (EnvironmentOption * 2)(
            EnvironmentOption(OPTION_ACCELERATORS, Any(ANY_INT, HARDWARE_CPU)),
            EnvironmentOption(OPTION_LOG_SEVERITY, Any(ANY_INT, SEVERITY_ERROR)),
        )
        self.call("LiteRtCreateEnvironment", len(settings), settings, byref(self.environment))
        self.call("LiteRtCreateModelFromFile", self.environment, path.encode(), byref(self.model))
        self.call("LiteRtCreateOptions", byref(self.options))
        self.call("LiteRtSetOptionsHardwareAccelerators", self.options, HARDWARE_CPU)
        self.option(b"xnnpack", b"num_threads = %d\n" % threads)
        if profile:
            self.option(b"runtime_options_string", b"enable_profiling = true\n")
        self.call("LiteRtCreateCompiledModel", self.environment, self.model, self.options, byref(self.compiled))
        whole = c_bool()
        self.call("LiteRtCompiledModelIsFullyAccelerated", self.compiled, byref(whole))
        self.delegation = {"delegate": "XNNPACK", "fully_accelerated": whole.value}
        self.inputs = self.tensors("Input")
        self.outputs = self.tensors("Output")
        self.arrays = {kind: (c_void_p * len(found))(*found) for kind, found in self.buffers.items()}
        if profile:
            self.profiler = _litert_profile.Profiler(self.call, self.compiled)

    def option(self, group, text):
        """Set options of a group, in TOML."""
        self.payloads.append(ctypes.create_string_buffer(text))
        opaque, payload = c_void_p(), ctypes.cast(self.payloads[-1], c_void_p)
        self.call("LiteRtCreateOpaqueOptions", group, payload, keep, byref(opaque))
        self.call("LiteRtAddOpaqueOptions", self.options, opaque)

    def tensors(self, kind):
        """Make the buffers of all inputs ("Input") or outputs ("Output"); returns their descriptions."""
        signature, count = c_void_p(), c_size_t()
        self.call("LiteRtGetModelSignature", self.model, 0, byref(signature))
        self.call("LiteRtGetNumSignature%ss" % kind, signature, byref(count))
        specs = []
        for index in range(count.value):
            name, tensor, ranked = c_char_p(), c_void_p(), RankedType()
            requirements, buffer = c_void_p(), c_void_p()
            self.call("LiteRtGetSignature%sName" % kind, signature, index, byref(name))
            self.call("LiteRtGetSignature%sTensorByIndex" % kind, signature, index, byref(tensor))
            self.call("LiteRtGetRankedTensorType", tensor, byref(ranked))
            shape = list(ranked.layout.dimensions[: ranked.layout.rank_and_flags & 0x7F])
            label = (name.value or b"").decode("utf-8", "replace")
            if tensor.value in self.handles:
                # Seen with 2.3: only one of the buffers of such a tensor is filled, and the other holds whatever lay there.
                reason = "the %s '%s' is another output or an input too, and LiteRT leaves it empty" % (
                    kind.lower(),
                    label,
                )
                raise Fault("unsupported", reason)
            self.handles.add(tensor.value)
            if ranked.element_type not in DTYPES:
                raise Fault(
                    "unsupported", "%s '%s' has LiteRT's element type %d" % (kind.lower(), label, ranked.element_type)
                )
            if shape and shape[0] < 0:  # a free batch: one sample at a time is what is measured
                shape[0] = ranked.layout.dimensions[0] = 1
                if kind == "Input":
                    sizes = (c_int * len(shape))(*shape)
                    self.call("LiteRtCompiledModelResizeInputTensor", self.compiled, 0, index, sizes, len(shape))
            if any(extent < 0 for extent in shape):
                raise Fault("unsupported", "%s '%s' has a shape that is not fixed: %s" % (kind.lower(), label, shape))
            place = (self.compiled, 0, index, byref(requirements))
            self.call("LiteRtGetCompiledModel%sBufferRequirements" % kind, *place)
            arguments = (self.environment, byref(ranked), requirements, byref(buffer))
            self.call("LiteRtCreateManagedTensorBufferFromRequirements", *arguments)
            self.buffers[kind].append(buffer)
            specs.append({"name": label, "shape": shape, "dtype": DTYPES[ranked.element_type]})
        return specs

    @property
    def native(self):
        """One inference for the timing loop: (function, its arguments, mask of a failure)."""
        function = ctypes.cast(self.library.LiteRtRunCompiledModel, c_void_p).value
        inputs, outputs = self.arrays["Input"], self.arrays["Output"]
        places = ctypes.addressof(inputs), ctypes.addressof(outputs)
        return function, (self.compiled.value, 0, len(inputs), places[0], len(outputs), places[1], 0, 0), 0xFFFFFFFF

    def set_input(self, index, data):
        """Copy `data` into an input's buffer."""
        data = _library.checked(self.inputs[index], data)
        buffer, place = self.buffers["Input"][index], c_void_p()
        self.call("LiteRtLockTensorBuffer", buffer, byref(place), LOCK_WRITE)
        ctypes.memmove(place, data, len(data))
        self.call("LiteRtUnlockTensorBuffer", buffer)

    def run(self):
        """One inference; the outputs exist on return."""
        inputs, outputs = self.arrays["Input"], self.arrays["Output"]
        self.call("LiteRtRunCompiledModel", self.compiled, 0, len(inputs), inputs, len(outputs), outputs)

    def output(self, index):
        """The bytes of an output."""
        buffer, place = self.buffers["Output"][index], c_void_p()
        self.call("LiteRtLockTensorBuffer", buffer, byref(place), LOCK_READ)
        data = ctypes.string_at(place, _library.size_bytes(self.outputs[index]))
        self.call("LiteRtUnlockTensorBuffer", buffer)
        return data

    def close(self):
        """Free everything; may be called twice."""
        for buffer in self.buffers["Input"] + self.buffers["Output"]:
            self.library.LiteRtDestroyTensorBuffer(buffer)
        self.buffers = {"Input": [], "Output": []}
        owned = (("CompiledModel", self.compiled), ("Options", self.options), ("Model", self.model))
        for kind, handle in (*owned, ("Environment", self.environment)):
            if handle:
                getattr(self.library, "LiteRtDestroy" + kind)(handle)
                handle.value = None
