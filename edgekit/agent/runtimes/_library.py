"""What the runtimes share: loading a library or a Python package, its version, tensor sizes.

Standard library only, Python 3.9. Not a runtime itself: names with an underscore are no plug-ins.
"""

import importlib
import os
import sys

from ..lean_json import loads
from ..protocol import Fault

# Bytes of one element, by numpy's name of the type.
WIDTHS = {
    "bool": 1,
    "int8": 1,
    "uint8": 1,
    "int16": 2,
    "uint16": 2,
    "float16": 2,
    "bfloat16": 2,
    "int32": 4,
    "uint32": 4,
    "float32": 4,
    "int64": 8,
    "uint64": 8,
    "float64": 8,
    "complex64": 8,
    "complex128": 16,
}


def open_library(libraries, runtime):
    """Load the runtime's library. Raises Fault("unavailable") with the loader's own words when that does not work."""
    path = libraries.get("runtime")
    if not path:
        raise Fault("unavailable", "no library of %s was named" % runtime)
    if not os.path.exists(path):
        raise Fault("unavailable", "the library of %s is not there: %s" % (runtime, path))
    import ctypes

    try:
        return ctypes.CDLL(path)
    except OSError as error:
        raise Fault("unavailable", "the library of %s does not load: %s" % (runtime, error)) from error


def open_package(libraries, name, runtime):
    """Import a Python package from the folder that `libraries` names. Raises Fault("unavailable") when that does not work."""
    folder = libraries.get("runtime")
    if not folder:
        raise Fault("unavailable", "no folder with %s was named" % runtime)
    if not os.path.isdir(folder):
        raise Fault("unavailable", "the folder with %s is not there: %s" % (runtime, folder))
    folder = os.path.abspath(folder)
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:
        raise Fault("unavailable", "%s does not import: %s" % (runtime, error)) from error


def declare(library, table, runtime):
    """Set result and argument types of the functions in `table` (name -> (result, argument, ...)).

    Raises Fault("unavailable") when the library lacks one: it is another version than the one this was written for.
    """
    for name, (result, *arguments) in table.items():
        try:
            function = getattr(library, name)
        except AttributeError:
            raise Fault("unavailable", "this library of %s has no function %s" % (runtime, name)) from None
        function.restype = result
        function.argtypes = arguments


def shipped_version(path, distribution):
    """The version a library was shipped as, for one that cannot tell itself; None when nothing beside it says so.

    A pushed bundle has it in manifest.json above lib/, a wheel in the name of its .dist-info folder.
    """
    folder = os.path.dirname(os.path.abspath(path))
    try:
        with open(os.path.join(os.path.dirname(folder), "manifest.json"), encoding="utf-8") as stream:
            return loads(stream.read())["versions"]["runtime"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    for name in sorted(os.listdir(os.path.dirname(folder))):
        if name.startswith(distribution + "-") and name.endswith(".dist-info"):
            return name[len(distribution) + 1 : -len(".dist-info")]
    return None


def size_bytes(spec):
    """Bytes of a tensor with this "shape" and "dtype"."""
    count = WIDTHS[spec["dtype"]]
    for extent in spec["shape"]:
        count *= extent
    return count


def checked(spec, data):
    """`data`, if it is exactly one value of the tensor `spec`. Raises Fault("bad_model") when it is not."""
    if len(data) != size_bytes(spec):
        values = (spec["name"], size_bytes(spec), spec["dtype"], spec["shape"], len(data))
        raise Fault("bad_model", "input '%s' takes %d bytes (%s %s), not %d" % values)
    return bytes(data)


def head(path, size=64):
    """The first bytes of a model file. Raises Fault("bad_model") when it cannot be read or is empty."""
    try:
        with open(path, "rb") as stream:
            data = stream.read(size)
    except OSError as error:
        raise Fault("bad_model", "cannot read the model: %s" % error) from error
    if not data:
        raise Fault("bad_model", "the model file is empty")
    return data
