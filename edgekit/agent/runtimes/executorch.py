"""ExecuTorch through our shim (edgekit/native/executorch_shim.cpp) over its C++ runtime. Standard library only, Python 3.9."""

import ctypes
from ctypes import POINTER, byref, c_char_p, c_int, c_int64, c_uint64, c_void_p

from ..protocol import Fault
from . import _library

FORMATS = ("executorch",)
# executorch::runtime::Error (runtime/core/error.h)
NOT_SUPPORTED, NOT_IMPLEMENTED, OPERATOR_MISSING = 0x10, 0x11, 0x14
MEMORY_ALLOCATION_FAILED, DELEGATE_MEMORY_FAILED = 0x21, 0x31
KINDS = {
    NOT_SUPPORTED: "unsupported",
    NOT_IMPLEMENTED: "unsupported",
    OPERATOR_MISSING: "unsupported",
    MEMORY_ALLOCATION_FAILED: "out_of_memory",
    DELEGATE_MEMORY_FAILED: "out_of_memory",
}

# PyTorch's ScalarType (runtime/core/portable_type/scalar_type.h)
DTYPES = {
    0: "uint8",
    1: "int8",
    2: "int16",
    3: "int32",
    4: "int64",
    5: "float16",
    6: "float32",
    7: "float64",
    9: "complex64",
    10: "complex128",
    11: "bool",
    15: "bfloat16",
    27: "uint16",
    28: "uint32",
    29: "uint64",
}
MAX_RANK = 16

# What the runtime calls what it tells the profiler of.
METHOD, KERNEL, DELEGATE, NAMED = "Method::execute", "OPERATOR_CALL", "DELEGATE_CALL", "native_call_"
BACKENDS = {"XnnpackBackend": "XNNPACK"}

FUNCTIONS = {
    "ek_et_version": (c_char_p,),
    "ek_et_message": (c_char_p,),
    "ek_et_threads": (c_int, c_int),
    "ek_et_check": (c_int, c_char_p),
    "ek_et_load": (c_int, c_char_p, c_int, POINTER(c_void_p)),
    "ek_et_free": (None, c_void_p),
    "ek_et_count": (c_int, c_void_p, c_int),
    "ek_et_describe": (
        c_int,
        c_void_p,
        c_int,
        c_int,
        POINTER(c_int),
        POINTER(c_int),
        POINTER(c_int64),
        POINTER(c_uint64),
    ),
    "ek_et_backend": (c_char_p, c_void_p, c_int),
    "ek_et_set": (c_int, c_void_p, c_int, c_char_p, c_uint64),
    "ek_et_run": (c_int, c_void_p),
    "ek_et_event": (
        c_int,
        c_void_p,
        c_uint64,
        POINTER(c_char_p),
        POINTER(c_int64),
        POINTER(c_int),
        POINTER(c_uint64),
        POINTER(c_uint64),
    ),
    "ek_et_forget": (None, c_void_p),
    "ek_et_output_bytes": (c_uint64, c_void_p, c_int),
    "ek_et_get": (c_int, c_void_p, c_int, c_void_p, c_uint64),
}


def open_runtime(libraries):
    """Load the shim, and with it ExecuTorch's libraries."""
    library = _library.open_library(libraries, "ExecuTorch")
    _library.declare(library, FUNCTIONS, "ExecuTorch")
    return library


def probe(libraries):
    """The version of ExecuTorch that the shim was compiled for, loaded."""
    return {"version": open_runtime(libraries).ek_et_version().decode()}


def check(path, libraries):
    """Raise Fault("bad_model") when the file is no ExecuTorch program or evidently damaged."""
    start = _library.head(path)
    # A flatbuffer's file identifier: ET followed by the two digits of the schema's version.
    if start[4:6] != b"ET" or not start[6:8].isdigit():
        raise Fault("bad_model", "not an ExecuTorch program: it has no ET.. identifier")
    library = open_runtime(libraries)
    call(library, "ek_et_check", path.encode())


def call(library, name, *arguments):
    """Call a function of the shim that returns an error code. Raises Fault with ExecuTorch's own words."""
    code = getattr(library, name)(*arguments)
    if code:
        message = (library.ek_et_message() or b"").decode("utf-8", "replace")
        raise Fault(KINDS.get(code, "bad_model"), "ExecuTorch refused the model: %s (0x%x)" % (message, code))


def load(path, options):
    """Load a .pte file for `options["threads"]` CPU threads.

    The file is checked first, unless `options["checked"]` says that the caller has done so (outside its clock).
    """
    libraries = options.get("libraries", {})
    if not options.get("checked"):
        check(path, libraries)
    library = open_runtime(libraries)
    threads = int(options.get("threads", 1))
    if library.ek_et_threads(threads) != threads:
        raise Fault("unsupported", "ExecuTorch's thread pool does not take %d threads" % threads)
    model = c_void_p()
    call(library, "ek_et_load", path.encode(), int(bool(options.get("profile"))), byref(model))
    loaded = Loaded(library, model)
    try:
        loaded.describe()
    except Fault:
        loaded.close()
        raise
    return loaded


class Loaded:
    """One method of a program, with a buffer for each input."""

    def __init__(self, library, model):
        self.library = library
        self.model = model
        self.version = library.ek_et_version().decode()
        self.inputs, self.outputs = [], []
        self.delegation = None
        self.profiler = Profiler(self)

    def describe(self):
        """Learn inputs, outputs and the backends that were attached."""
        self.inputs = [self.tensor(False, index) for index in range(self.library.ek_et_count(self.model, 0))]
        self.outputs = [self.tensor(True, index) for index in range(self.library.ek_et_count(self.model, 1))]
        backends = []
        while True:
            name = self.library.ek_et_backend(self.model, len(backends))
            if name is None:
                break
            backends.append(name.decode("utf-8", "replace"))
        self.delegation = {"backends": backends}

    def tensor(self, output, index):
        """Name, shape and dtype of an input or output; a program has no names for them."""
        dtype, rank, sizes, size = c_int(), c_int(), (c_int64 * MAX_RANK)(), c_uint64()
        arguments = (self.model, int(output), index, byref(dtype), byref(rank), sizes, byref(size))
        call(self.library, "ek_et_describe", *arguments)
        name = "%s_%d" % ("output" if output else "input", index)
        if dtype.value not in DTYPES:
            raise Fault("unsupported", "%s has PyTorch's scalar type %d" % (name, dtype.value))
        return {"name": name, "shape": list(sizes[: rank.value]), "dtype": DTYPES[dtype.value]}

    @property
    def native(self):
        """One inference for the timing loop: (function, its arguments, mask of a failure)."""
        function = ctypes.cast(self.library.ek_et_run, c_void_p).value
        return function, (self.model.value, 0, 0, 0, 0, 0, 0, 0), 0xFFFFFFFF

    def set_input(self, index, data):
        """Copy `data` into an input's buffer."""
        data = _library.checked(self.inputs[index], data)
        call(self.library, "ek_et_set", self.model, index, data, len(data))

    def run(self):
        """One inference; the outputs exist on return."""
        call(self.library, "ek_et_run", self.model)

    def output(self, index):
        """The bytes of an output."""
        size = self.library.ek_et_output_bytes(self.model, index)
        data = ctypes.create_string_buffer(max(1, size))
        call(self.library, "ek_et_get", self.model, index, data, size)
        return data.raw[:size]

    def close(self):
        """Free everything; may be called twice."""
        if self.model:
            self.library.ek_et_free(self.model)
            self.model = c_void_p()


class Profiler:
    """What the runtime tells of the inferences of a model that was loaded for it."""

    name = "ExecuTorch event tracer"
    resolution_ns = 1000  # of XNNPACK's times; the runtime's own have the clock's

    def __init__(self, loaded):
        self.loaded = loaded
        self.kept = []

    def begin(self):
        """Forget what was told so far."""
        self.loaded.library.ek_et_forget(self.loaded.model)

    def end(self):
        """Read what was told of the inference."""
        backends = self.loaded.delegation["backends"]
        delegate = BACKENDS.get(backends[0], backends[0]) if len(set(backends)) == 1 else "delegate"
        self.kept.append(inference(self.events(), delegate))

    def events(self):
        """Name, instruction, whether it is inside a delegate and nanoseconds of everything that was told."""
        name, instruction, inside = c_char_p(), c_int64(), c_int()
        start, end = c_uint64(), c_uint64()
        places = [byref(place) for place in (name, instruction, inside, start, end)]
        found = []
        while self.loaded.library.ek_et_event(self.loaded.model, len(found), *places) == 0:
            text = (name.value or b"").decode("utf-8", "replace")
            found.append((text, instruction.value, bool(inside.value), end.value - start.value))
        return found

    def runs(self):
        """(nanoseconds, events) of each inference."""
        return self.kept


def inference(events, delegate):
    """The inference in what was told of it: kernels by their instruction, operators of a delegate by that of its call.

    A delegate that tells nothing of its operators is one operator. Raises Fault("internal") without an inference.
    """
    total = next((ns for name, _, _, ns in events if name == METHOD), None)
    if total is None:
        raise Fault("internal", "ExecuTorch's event tracer was told of no inference")
    telling = {place for _, place, inside, _ in events if inside}
    found = []
    for name, place, inside, ns in events:
        if inside:
            found.append({"name": name, "delegate": delegate, "place": place, "ns": ns})
        elif name == KERNEL or (name == DELEGATE and place not in telling):
            found.append({"name": name, "delegate": delegate if name == DELEGATE else None, "place": place, "ns": ns})
        elif name.startswith(NAMED) and found and found[-1]["place"] == place:
            found[-1]["name"] = name[len(NAMED) :]
    return total, found
