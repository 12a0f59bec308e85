"""TorchScript by the installed PyTorch, from Python. For the local device."""

from . import _torch

FORMATS = ("torchscript",)
NO_PROFILER = "PyTorch is measured whole here: the profile of its operators is not read"


def probe(libraries):
    """The version of PyTorch, imported."""
    return {"version": _torch.open_torch(libraries).__version__}


def check(path, libraries):
    """Raise Fault("bad_model") when the file is no archive."""
    _torch.check_archive(path, "TorchScript")


def load(path, options):
    """Load a TorchScript file for `options["threads"]` CPU threads; its code runs in PyTorch's own interpreter."""
    torch = _torch.open_torch(options.get("libraries", {}), int(options.get("threads", 1)))
    if not options.get("checked"):
        check(path, {})
    try:
        module = torch.jit.load(path, map_location="cpu").eval()
    except RuntimeError as error:
        raise _torch.refused(error, "TorchScript") from error
    return Loaded(torch, module, options)


class Loaded(_torch.Loaded):
    """A TorchScript module."""
