"""The look at a .tflite file that both of its runtimes take first. Standard library only, Python 3.9."""

from .. import flatbuffer
from ..protocol import Fault
from . import _library


def check(path, libraries):
    """Raise Fault("bad_model") when the file is no .tflite file or is damaged; the interpreter would crash on it."""
    # A flatbuffer's file identifier; a file without it would be taken apart as if it were one.
    if _library.head(path)[4:8] != b"TFL3":
        raise Fault("bad_model", "not a TensorFlow Lite file: it has no TFL3 identifier")
    try:
        flatbuffer.verify(path)
    except flatbuffer.Damaged as error:
        raise Fault("bad_model", "the TensorFlow Lite file is truncated or damaged: %s" % error) from error
