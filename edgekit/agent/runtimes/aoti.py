"""AOTInductor packages (.pt2 with machine code for this very kind of machine) by the installed PyTorch, from Python."""

import zipfile

from ..protocol import Fault
from . import _library, _torch

FORMATS = ("aoti",)
NO_PROFILER = "AOTInductor's code is compiled as a whole and tells nothing of its operators"
PACKAGE = "torch._inductor.package"


def probe(libraries):
    """The version of PyTorch, imported."""
    torch = _torch.open_torch(libraries)
    _library.open_package(libraries, PACKAGE, "AOTInductor")
    return {"version": torch.__version__}


def check(path, libraries):
    """Raise Fault("bad_model") when the file is no archive or holds no compiled model."""
    _torch.check_archive(path, "AOTInductor")
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise Fault("bad_model", "the AOTInductor file is damaged: %s" % error) from error
    if not any(name.endswith(".so") for name in names):
        raise Fault("bad_model", "there is no compiled model in the file; it may be a torch.export program")


def load(path, options):
    """Load a package for `options["threads"]` CPU threads. PyTorch tries this CPU's instruction sets out meanwhile."""
    libraries = options.get("libraries", {})
    torch = _torch.open_torch(libraries, int(options.get("threads", 1)))
    _library.open_package(libraries, PACKAGE, "AOTInductor")
    if not options.get("checked"):
        check(path, libraries)
    try:
        model = torch._inductor.aoti_load_package(path)
    except (RuntimeError, OSError) as error:
        raise _torch.refused(error, "AOTInductor") from error
    return Loaded(torch, model, options)


class Loaded(_torch.Loaded):
    """A compiled model."""
