"""JSON without the module `json`, which imports `re` and `enum`: a third of what the start of a child costs.

These are the C functions that `json` itself is built on. They are private to CPython, so they are believed only after a
self-test, and what they do not take is left to `json`. Standard library only, Python 3.9.
"""

try:
    import _json
except ImportError:
    pass  # then the self-test fails

SAMPLE = '{"text":"a\\"\\u00e9\\n","list":[1,-2.5,1e+300,true,null,{}],"huge":123456789012345678901234567890}'


class Settings:
    """What json.JSONDecoder tells its scanner; later Pythons also ask for `array_hook`."""

    strict = True
    object_hook = object_pairs_hook = array_hook = None
    parse_float, parse_int = float, int
    parse_constant = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}.__getitem__


def refuse(value):
    """What json.JSONEncoder does with what is no JSON. Raises TypeError."""
    raise TypeError("Object of type %s is not JSON serializable" % type(value).__name__)


def written(value):
    """The text of a value, by the C functions."""
    plain = _json.encode_basestring_ascii
    return "".join(_json.make_encoder({}, refuse, plain, None, ":", ",", False, False, True)(value, 0))


def scanned(text):
    """The value in a text or in bytes, by the C functions. Raises ValueError, StopIteration or SystemError."""
    plain = text if isinstance(text, str) else text.decode("ascii")
    value, end = _json.make_scanner(Settings)(plain, 0)
    if plain[end:].strip(" \t\r\n"):
        raise ValueError
    return value


def works():
    """Whether the C functions of this Python do what is expected here."""
    try:
        return written(scanned(SAMPLE)) == SAMPLE
    except Exception:
        return False


LEAN = works()


def dumps(value):
    """A value as ASCII JSON without spaces. Raises TypeError for what is none, ValueError for what holds itself."""
    if LEAN:
        return written(value)
    import json

    return json.dumps(value, separators=(",", ":"))


def loads(text):
    """The value in a text or in bytes. Raises what json.loads does: ValueError, or RecursionError when it is too deep."""
    if LEAN:
        try:
            return scanned(text)
        except (ValueError, StopIteration, SystemError):
            pass  # json takes it, or says what is wrong; SystemError: the scanner did not find json's own exception
    import json

    return json.loads(text)
