"""Bench: a push over SSH beside OpenSSH's own `sftp put`, by turns in one run; a second push; connecting and greeting.

.venv/bin/python tools/bench/push.py [--rounds 5] [--megabytes 100]
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from side_by_side import pushes, seconds

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from lab import sshd  # noqa: E402

from edgekit.session import Session  # noqa: E402
from edgekit.transports.ssh import Ssh  # noqa: E402
from edgekit.types import Device  # noqa: E402

GREET_LIMIT_S = 2.0


def compare(name: str, server: sshd.Server, folder: Path, rounds: int, megabytes: int) -> bool:
    """Both ways to one server, with the cipher that both have agreed on; whether all limits are kept."""
    connection = {"host": "127.0.0.1", "port": server.port, "user": server.user, "identity": str(server.identity)}
    known_hosts = server.trust(folder / f"known_hosts-{server.port}")
    device = Device("board", "", "aarch64", "ssh", ("tflite",), connection)
    source = folder / "content"
    with contextlib.closing(Ssh(device, known_hosts)) as link:
        assert link.link is not None
        cipher, mac = link.link.transport.local_cipher, link.link.transport.local_mac
        options = [f"Ciphers={cipher}", *([] if "gcm" in cipher else [f"MACs={mac}"])]
        options += [f"UserKnownHostsFile={known_hosts}", "IdentitiesOnly=yes"]
        argv = ["sftp", "-q", "-b", "-", "-P", str(server.port), "-i", str(server.identity)]
        argv += [part for option in options for part in ("-o", option)]

        def sftp() -> None:
            line = f"put {source} {link.root}/content\n"
            target = [*argv, f"{server.user}@127.0.0.1"]
            subprocess.run(target, input=line, text=True, check=True, stdout=subprocess.DEVNULL)

        return pushes(
            f"{name}: {megabytes} MB, {cipher}",
            rounds,
            source,
            megabytes,
            push=lambda: link.push(source, "blobs/content"),
            clear=lambda: link.run(f"rm -rf {link.root}/blobs", 60),
            sftp=sftp,
        )


def greet(server: sshd.Server, folder: Path, rounds: int) -> bool:
    """Connecting, and starting the agent on the Pi, once the bundle is there."""
    connection = {"host": "127.0.0.1", "port": server.port, "user": server.user, "identity": str(server.identity)}
    device = Device("pi4", "", "aarch64", "ssh", ("tflite",), connection)
    known_hosts = server.trust(folder / "known_hosts")

    def once() -> None:
        transport = Ssh(device, known_hosts)
        try:
            Session.over(transport, device, "tflite", lambda _: None).close()
        finally:
            transport.close()

    once()
    median = statistics.median(seconds(once) for _ in range(rounds))
    print(f"connect, greet and say goodbye on the Pi: {median:.2f} s (limit {GREET_LIMIT_S:g} s)")
    return median <= GREET_LIMIT_S


@contextlib.contextmanager
def servers(folder: Path) -> Iterator[dict[str, sshd.Server]]:
    """OpenSSH's of this machine, and the Pi in a namespace."""
    with sshd.openssh(folder / "openssh") as openssh, sshd.pi(folder / "pi") as pi:
        yield {"OpenSSH on this machine": openssh, "dropbear on an emulated Pi": pi}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=100)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgekit-") as name:
        folder = Path(name)
        with servers(folder) as both:
            kept = [compare(what, one, folder, chosen.rounds, chosen.megabytes) for what, one in both.items()]
            kept.append(greet(both["dropbear on an emulated Pi"], folder, chosen.rounds))
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
