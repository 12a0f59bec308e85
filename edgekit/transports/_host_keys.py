"""Which host key is believed: the known_hosts files of SSH, and the refusal of any other key.

Format of the files: OpenSSH, sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT". Lines of certificate authorities are not used.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import fnmatch
import hashlib
import hmac
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import ConnectError


@dataclass(frozen=True)
class HostKey:
    """A public key: its type, and its bytes as SSH sends them."""

    kind: str
    blob: bytes

    @property
    def shown(self) -> str:
        """Type and fingerprint, as ssh-keygen -l shows them."""
        digest = base64.b64encode(hashlib.sha256(self.blob).digest()).decode().rstrip("=")
        return f"{self.kind.removeprefix('ssh-').upper()} SHA256:{digest}"

    @property
    def text(self) -> str:
        """As it stands in a file."""
        return f"{self.kind} {base64.b64encode(self.blob).decode()}"


@dataclass(frozen=True)
class Known:
    """What the files say of one host. `certified`: an authority vouches for it, which edgekit does not ask."""

    trusted: tuple[HostKey, ...] = ()
    revoked: tuple[HostKey, ...] = ()
    certified: bool = False


def known(files: Iterable[Path], name: str) -> Known:
    """What the files say of the host that they call `name`; lines that cannot be read are passed over."""
    found: dict[str, list[HostKey]] = {"": [], "@revoked": [], "@cert-authority": []}
    for path in files:
        with contextlib.suppress(OSError):
            for marker, names, key in entries(path.read_text(encoding="utf-8", errors="replace")):
                if marker in found and is_named(names, name):
                    found[marker].append(key)
    return Known(tuple(found[""]), tuple(found["@revoked"]), bool(found["@cert-authority"]))


def entries(text: str) -> Iterator[tuple[str, str, HostKey]]:
    """Marker ("" for none), names and key of each line that has all of them."""
    for line in text.splitlines():
        words = line.split()
        marker = words.pop(0) if words and words[0].startswith("@") else ""
        if len(words) < 3 or words[0].startswith("#"):
            continue
        names, kind, data = words[:3]
        with contextlib.suppress(binascii.Error, ValueError):
            blob = base64.b64decode(data, validate=True)
            if blob[4 : 4 + int.from_bytes(blob[:4], "big")] == kind.encode():
                yield marker, names, HostKey(kind, blob)


def is_named(names: str, name: str) -> bool:
    """Whether a host is meant by the first field of a line: patterns, of which one with "!" before it forbids, or a hash."""
    name = name.lower()
    if names.startswith("|1|"):
        salt, _, hashed = names[3:].partition("|")
        with contextlib.suppress(binascii.Error, ValueError):
            found = hmac.new(base64.b64decode(salt), name.encode(), "sha1").digest()
            return hmac.compare_digest(found, base64.b64decode(hashed))
        return False
    patterns = names.lower().split(",")
    forbidden = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    allowed = [pattern for pattern in patterns if not pattern.startswith("!")]
    return any(fits(name, one) for one in allowed) and not any(fits(name, one) for one in forbidden)


def fits(name: str, pattern: str) -> bool:
    """Whether a name fits a pattern in which "*" and "?" stand for others, and brackets for themselves."""
    return fnmatch.fnmatchcase(name, re.sub(r"\[", "[[]", pattern))


def check(key: HostKey, said: Known, name: str, keyed: str, file: Path) -> None:
    """Refuse a host key that is not a known one. Raises ConnectError with its fingerprint and what accepts it.

    `name` is what the user calls the host, `keyed` what the files call it; `file` is where a new key belongs.
    """
    if key in said.revoked:
        hint = (
            "whoever wrote @revoked into known_hosts knows that this key was stolen: set the device up with a new one"
        )
        raise ConnectError(f"the host key of {name} is revoked: {key.shown}", hint)
    if key in said.trusted:
        return
    accept = f"echo {shlex.quote(f'{keyed} {key.text}')} >> {shlex.quote(str(file))}"
    if not said.trusted:
        unused = "; the authority that vouches for it in known_hosts is not asked" if said.certified else ""
        raise ConnectError(
            f"the host key of {name} is unknown: {key.shown}{unused}",
            f"compare it with what the device itself shows (ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub there), then: {accept}",
        )
    raise ConnectError(
        f"the host key of {name} has changed: it is now {key.shown}, known is {', '.join(k.shown for k in said.trusted)}",
        "somebody may stand between, or the device was set up anew; if you know that it was: "
        f"ssh-keygen -f {shlex.quote(str(file))} -R {shlex.quote(keyed)} && {accept}",
    )
