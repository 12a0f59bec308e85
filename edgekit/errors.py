"""Every error edgekit raises on purpose. An error says whose fault it is, what happened and what to do.

    EdgekitError(message, hint)
    ├── UserError          exit 2   a bad profile, recipe, flag or file
    ├── SetupError         exit 3   this machine lacks something: a Debian package, a pip extra, the network, disk space
    ├── ConvertError       -> cell  a conversion tool said no; carries the worker's log tail
    │   └── WorkerCrashed  -> cell  the worker died (signal, out of memory) or ran past its deadline
    ├── DeviceError        exit 3   the device or the link to it; `transient` says whether a retry makes sense
    │   ├── ConnectError
    │   ├── DeviceBusy
    │   ├── TransportTimeout
    │   ├── TransportClosed
    │   └── ProtocolError
    ├── AgentError         -> cell  raised only from an agent's reply; `kind` is a word of protocol.ERROR_KINDS
    │   └── Unsupported    -> cell  an answer, not a failure: the device or runtime cannot do this
    ├── WrongOutput        -> cell  the outputs on the device are not the model's; nothing was timed
    ├── NotDelegated       -> cell  operators outside the fast backend, and all were to run there
    └── GateFailed         exit 1   a measured figure broke a limit

Some cells failed: exit 4. Interrupted: exit 130. Anything else is a bug of ours: exit 70, with a traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_OK = 0
EXIT_GATE = 1
EXIT_USER = 2
EXIT_DEVICE = 3
EXIT_CELLS = 4
EXIT_BUG = 70
EXIT_INTERRUPTED = 130
WORSE = (
    EXIT_OK,
    EXIT_CELLS,
    EXIT_GATE,
    EXIT_DEVICE,
    EXIT_USER,
    EXIT_INTERRUPTED,
    EXIT_BUG,
)  # of several, the last counts


class EdgekitError(Exception):
    """Base of all. `message` is one sentence for the user, `hint` says what to do about it (may be empty)."""

    exit_code = EXIT_USER

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UserError(EdgekitError):
    """The input is at fault: a profile, a recipe, a flag, a file."""


class SetupError(EdgekitError):
    """This machine lacks something; the hint is the exact command that mends it."""

    exit_code = EXIT_DEVICE


class ConvertError(EdgekitError):
    """A conversion tool refused the model; `log_tail` holds its last lines."""

    exit_code = EXIT_CELLS

    def __init__(self, message: str, hint: str = "", log_tail: str = "") -> None:
        super().__init__(message, hint)
        self.log_tail = log_tail


class WorkerCrashed(ConvertError):
    """A worker process died of a signal, lost its memory or passed its deadline."""


class DeviceError(EdgekitError):
    """The device, or the link to it, is at fault."""

    exit_code = EXIT_DEVICE

    def __init__(self, message: str, hint: str = "", transient: bool = False) -> None:
        super().__init__(message, hint)
        self.transient = transient


class ConnectError(DeviceError):
    """No agent could be started on the device."""


class DeviceBusy(DeviceError):
    """Somebody else's run has the device."""


class TransportTimeout(DeviceError):
    """The device did not answer within the deadline."""


class TransportClosed(DeviceError):
    """The link to the agent ended in the middle of a conversation."""


class ProtocolError(DeviceError):
    """Something answered, but it does not speak our protocol."""


class AgentError(EdgekitError):
    """The agent's own word that a request failed. `kind` is one of `agent.protocol.ERROR_KINDS`."""

    exit_code = EXIT_CELLS

    def __init__(self, kind: str, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.kind = kind


class Unsupported(AgentError):
    """An answer, not a failure: this combination does not exist on this device."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__("unsupported", message, hint)


class WrongOutput(EdgekitError):
    """The outputs on the device do not match the float source; its speed would be the speed of something else."""

    exit_code = EXIT_CELLS


class NotDelegated(EdgekitError):
    """Operators run outside the fast backend, and --require-full-delegation was given."""

    exit_code = EXIT_CELLS


class GateFailed(EdgekitError):
    """A figure broke a limit of the policy."""

    exit_code = EXIT_GATE


def first_line(error: BaseException, limit: int = 300, otherwise: str = "") -> str:
    """The first line of a foreign error's words, so many characters of it; tools put whole graphs into later ones."""
    words = str(error).strip()
    return words.splitlines()[0].rstrip()[:limit] if words else otherwise


def unknown(noun: str, name: str, known: Iterable[str]) -> UserError:
    """A UserError for a name that does not exist, with the nearest existing one or the whole list as its hint."""
    names = sorted(known)
    close = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.6)
    if close:
        return UserError(f"unknown {noun} '{name}'", f"did you mean '{close[0]}'?")
    return UserError(f"unknown {noun} '{name}'", f"known: {', '.join(names)}" if names else "none is known")
