"""PyTorch Mobile's lite interpreter (.ptl) by the installed PyTorch, from Python. Legacy, for the local device."""

from . import _library, _torch

FORMATS = ("ptl",)
NO_PROFILER = "PyTorch is measured whole here: the profile of its operators is not read"


def probe(libraries):
    """The version of PyTorch, imported."""
    torch = _torch.open_torch(libraries)
    _library.open_package(libraries, "torch.jit.mobile", "PyTorch Mobile")
    return {"version": torch.__version__}


def check(path, libraries):
    """Raise Fault("bad_model") when the file is no archive."""
    _torch.check_archive(path, "PyTorch Mobile")


def load(path, options):
    """Load a .ptl file for `options["threads"]` CPU threads."""
    libraries = options.get("libraries", {})
    torch = _torch.open_torch(libraries, int(options.get("threads", 1)))
    mobile = _library.open_package(libraries, "torch.jit.mobile", "PyTorch Mobile")
    if not options.get("checked"):
        check(path, libraries)
    try:
        module = mobile._load_for_lite_interpreter(path, map_location="cpu")
    except RuntimeError as error:
        raise _torch.refused(error, "PyTorch Mobile") from error
    return Loaded(torch, module, options)


class Loaded(_torch.Loaded):
    """A module of the lite interpreter."""
