"""What the runtimes inside PyTorch share: the import, tensors from bytes and back, one inference. Python 3.9."""

import ctypes

from ..protocol import Fault
from . import _library


def open_torch(libraries, threads=1):
    """Import PyTorch for inference with so many threads. Raises Fault("unavailable")."""
    torch = _library.open_package(libraries, "torch", "PyTorch")
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    return torch


def check_archive(path, what):
    """Raise Fault("bad_model") when the file is no zip archive, which all of PyTorch's files are."""
    if _library.head(path)[:4] != b"PK\x03\x04":
        raise Fault("bad_model", "not a %s file: it is no zip archive" % what)


def refused(error, what):
    """The Fault for PyTorch's own words: the first line, the rest is its stack."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return Fault("bad_model", "PyTorch refused the %s file: %s" % (what, lines[0] if lines else type(error).__name__))


class Loaded:
    """A function of tensors. The host says what goes in and comes out, because these files do not."""

    inputs, outputs, version, delegation = (), (), None, None

    def __init__(self, torch, function, options):
        self.torch, self.function = torch, function
        self.version = torch.__version__
        self.inputs, self.outputs = options.get("inputs", []), options.get("outputs", [])
        if not self.inputs or not self.outputs:
            raise Fault("unsupported", "the shapes of this model's inputs and outputs are not known")
        self.values = [torch.zeros(spec["shape"], dtype=getattr(torch, spec["dtype"])) for spec in self.inputs]
        self.results = None

    def set_input(self, index, data):
        """Copy `data` into an input."""
        value = self.values[index]
        ctypes.memmove(value.data_ptr(), _library.checked(self.inputs[index], data), value.nbytes)

    def run(self):
        """One inference; the outputs exist on return."""
        self.results = self.function(*self.values)

    def output(self, index):
        """The bytes of an output. Raises Fault("bad_model") when it is not what the host was told."""
        results = self.results if isinstance(self.results, (tuple, list)) else (self.results,)
        spec = self.outputs[index]
        value = results[index].detach().contiguous() if index < len(results) else None
        if value is None or list(value.shape) != list(spec["shape"]) or str(value.dtype) != "torch." + spec["dtype"]:
            found = "nothing" if value is None else "%s %s" % (value.dtype, list(value.shape))
            raise Fault(
                "bad_model", "output '%s' is %s, not %s %s" % (spec["name"], found, spec["dtype"], spec["shape"])
            )
        return ctypes.string_at(value.data_ptr(), value.nbytes)

    def close(self):
        """Let go of the model; may be called twice."""
        self.function = self.results = None
