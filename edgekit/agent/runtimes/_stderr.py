"""What a library prints on stderr when it refuses a model, caught and shortened to its reason.

Standard library only, Python 3.9. Imported only when something went wrong, for every import costs time under emulation.
"""

import contextlib
import os
import re
import tempfile


@contextlib.contextmanager
def captured():
    """Catch what native code writes to fd 2 meanwhile; yields a function that returns it as text."""
    with tempfile.TemporaryFile() as sink:
        saved = os.dup(2)
        os.dup2(sink.fileno(), 2)

        def text():
            sink.seek(0)
            return sink.read().decode("utf-8", "replace")

        try:
            yield text
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def reason(text, limit=400):
    """The error lines among a library's messages as one line, file names and line numbers of its sources taken out."""
    lines = [re.sub(r"\[[\w./-]+:\d+\] ?", "", line).strip() for line in text.splitlines()]
    errors = [line[len("ERROR:") :].strip() for line in lines if line.startswith("ERROR:")]
    kept = list(dict.fromkeys(line for line in errors or lines if line))
    return "; ".join(kept)[:limit]
