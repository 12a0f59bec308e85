"""The tflite-runtime package of TensorFlow Lite: LiteRT's predecessor, which most boards in the field still run.

Its Python interpreter, with the NumPy it was built against, from a folder of their own. Python 3.9.
"""

import ctypes
import re
import sys

from ..protocol import Fault
from . import _library
from ._tflite_file import check

__all__ = ["FORMATS", "Loaded", "check", "load", "probe"]

FORMATS = ("tflite",)
PACKAGE = "tflite_runtime"
NO_PROFILER = "tflite-runtime's profiler cannot be reached from Python; LiteRT (tflite) runs the same file and tells its operators"
# tflite::impl::Interpreter::Invoke() and ::HasDelegates(), ::IsFullyDelegated() const, as the wheel's library exports them
INVOKE = "_ZN6tflite4impl11Interpreter6InvokeEv"
HAS_DELEGATES = "_ZN6tflite4impl11Interpreter12HasDelegatesEv"
FULLY_DELEGATED = "_ZNK6tflite4impl11Interpreter16IsFullyDelegatedEv"
# A kernel that meets a tensor type which it was not made for, as it says so itself.
NO_SUCH_TYPE = re.compile(r"->type ==.* was not true\. ?Node number \d+ \((\w+)\) failed to prepare")


def open_runtime(libraries):
    """Import the package; returns (its interpreter module, version)."""
    module = _library.open_package(libraries, PACKAGE + ".interpreter", "tflite-runtime")
    return module, sys.modules[PACKAGE].__version__


def probe(libraries):
    """The version of the package, imported."""
    return {"version": open_runtime(libraries)[1]}


def load(path, options):
    """Load a .tflite file for `options["threads"]` CPU threads, with the delegates that the package applies by itself."""
    libraries = options.get("libraries", {})
    module, version = open_runtime(libraries)
    if not options.get("checked"):
        check(path, libraries)
    return Loaded(module, version, path, int(options.get("threads", 1)))


def refusal(version, error):
    """The Fault for the interpreter's own words; operators that came after it are no damage of the file."""
    words = " ".join(str(error).split())
    if "Didn't find op for builtin opcode" in words or "Op builtin_code out of range" in words:
        return Fault("unsupported", "tflite-runtime %s is older than an operator of this model: %s" % (version, words))
    node = NO_SUCH_TYPE.search(words)
    if node:
        text = "tflite-runtime %s has no kernel for a tensor type of this model (%s): use LiteRT, or another precision"
        return Fault("unsupported", text % (version, node.group(1)))
    return Fault("bad_model", "tflite-runtime refused the model: %s" % words)


class Loaded:
    """An interpreter with its tensors allocated."""

    def __init__(self, module, version, path, threads):
        self.version = version
        try:
            self.interpreter = module.Interpreter(model_path=path, num_threads=threads)
            self.interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise refusal(version, error) from error
        self.numpy = sys.modules["numpy"]
        self.places = {"in": self.interpreter.get_input_details(), "out": self.interpreter.get_output_details()}
        self.inputs, self.outputs = self.tensors("in"), self.tensors("out")
        self.library = ctypes.CDLL(sys.modules[PACKAGE + "._pywrap_tensorflow_interpreter_wrapper"].__file__)
        self.delegation = {
            "delegate": "XNNPACK" if self.ask(HAS_DELEGATES) else None,
            "fully_accelerated": self.ask(FULLY_DELEGATED),
        }

    def tensors(self, side):
        """Descriptions of the inputs or outputs."""
        specs = []
        for place in self.places[side]:
            shape = [int(extent) for extent in place["shape"]]
            specs.append({"name": place["name"], "shape": shape, "dtype": self.numpy.dtype(place["dtype"]).name})
        return specs

    @property
    def handle(self):
        """The address of the C++ interpreter."""
        return self.interpreter._native_handle()

    def ask(self, symbol):
        """What a member function without arguments that returns a bool says."""
        function = getattr(self.library, symbol)
        function.restype = ctypes.c_bool
        return function(ctypes.c_void_p(self.handle))

    @property
    def native(self):
        """One inference for the timing loop, which is made for 64-bit devices only: the C++ interpreter's own Invoke()."""
        if sys.maxsize < 1 << 32:
            return None
        address = ctypes.cast(getattr(self.library, INVOKE), ctypes.c_void_p).value
        return address, (self.handle, 0, 0, 0, 0, 0, 0, 0), 0xFFFFFFFF

    def set_input(self, index, data):
        """Copy `data` into an input."""
        place, spec = self.places["in"][index], self.inputs[index]
        value = self.numpy.frombuffer(_library.checked(spec, data), place["dtype"]).reshape(spec["shape"])
        self.interpreter.set_tensor(place["index"], value)

    def run(self):
        """One inference; the outputs exist on return."""
        self.interpreter.invoke()

    def output(self, index):
        """The bytes of an output."""
        return self.interpreter.get_tensor(self.places["out"][index]["index"]).tobytes()

    def close(self):
        """Let go of the interpreter; may be called twice."""
        self.interpreter = None
