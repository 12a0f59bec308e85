"""Bench: a whole run over SSH and over adb, each beside the same run by a child process inside that very device.

.venv/bin/python tools/bench/run_over_links.py [--rounds 3] [--link ssh]

The child process is started in the device's namespace and spoken to by pipes: programs, emulated CPU, bundle, memory pass
and effort are the same, so what differs is the link. (The `pi4` profile is a child process too, but counts instructions, by
another build of QEMU: beside it every link would look fast.)
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from side_by_side import by_turns, show

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from lab import phone, sshd  # noqa: E402

from edgekit import cache, cli  # noqa: E402
from edgekit.transports import Channel, ProcessChannel, adb, ssh  # noqa: E402
from edgekit.transports._folder import FolderTransport  # noqa: E402
from edgekit.types import Device  # noqa: E402

RUN_LIMIT = 1.15
EFFORT = ("--launches", "3", "--calls", "10", "--max-seconds", "60")


class Inside(FolderTransport):
    """Programs run in the namespace of a process, and the edgekit folder there is a folder here."""

    def __init__(self, device: Device, pid: str, shell: str, there: str, here: str) -> None:
        self.device, self.root = device, Path(here)
        self.enter = ["nsenter", "-t", pid, "-U", "-m", "-p", "-r", shell, "-c", 'cd "$0" && exec "$@"', there]
        self.environment = {"PATH": "/usr/bin:/usr/sbin:/bin:/system/bin", "TMPDIR": there}

    def spawn(self, argv: Sequence[str]) -> Channel:
        return ProcessChannel([*self.enter, *argv], Path("/"), self.environment)


def inside(pid: str, shell: str, there: str, here: str, *arguments: str) -> int:
    """The command line of edgekit, for which SSH and adb are such a child process."""
    for module in (ssh, adb):
        module.connect = lambda device, counter: Inside(device, pid, shell, there, here)  # type: ignore[assignment]
    return cli.main(arguments)


@dataclass(frozen=True)
class Way:
    """How a device is named on the command line, the pid of a process of it, its shell, its edgekit folder there and here."""

    device: tuple[str, ...]
    pid: int
    shell: str
    there: str
    here: Path


def is_inside(pid: int) -> bool:
    """Whether a process has another / than this machine."""
    return Path(f"/proc/{pid}/root").readlink() != Path("/")


def process_of(port: int) -> int:
    """The server in a namespace that listens on a port of the loopback."""
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (place / "cmdline").read_bytes().split(b"\0")
            if f"127.0.0.1:{port}".encode() in words and is_inside(int(place.name)):
                return int(place.name)
    raise AssertionError(f"nothing in a namespace listens on port {port}")


@contextlib.contextmanager
def ways(folder: Path) -> Iterator[dict[str, Way]]:
    """The Pi behind SSH and the phone behind adb, both turned on."""
    with sshd.pi(folder / "pi") as pi, phone.server(folder) as environment, phone.phone(folder) as one:
        os.environ.update(environment)
        places = {
            "EDGEKIT_CACHE_DIR": cache.cache_dir(),
            "EDGEKIT_CONFIG_DIR": folder / "home",
            "HOME": folder / "home",
        }
        os.environ.update({name: str(place) for name, place in places.items()})
        pi.trust(folder / "home/.ssh/known_hosts")
        (folder / "home/devices.toml").write_text(
            f'[pi5.connection]\nhost = "{pi.user}@127.0.0.1:{pi.port}"\nidentity = "{pi.identity}"\n', "utf-8"
        )
        assert one.machine.process is not None
        there = next(pid for pid in sshd.family(one.machine.process.pid) if is_inside(pid))
        yield {
            "ssh": Way(("pi5",), process_of(pi.port), "/bin/sh", "/root/.edgekit", pi.home / ".edgekit"),
            "adb": Way(
                ("android", "--serial", one.serial),
                there,
                "/system/bin/sh",
                adb.PLACE,
                Path(f"{one.root}{adb.PLACE}"),
            ),
        }


def profile(folder: Path, device: Sequence[str], start: Sequence[str] = ("-m", "edgekit")) -> None:
    """A run of digits_cnn: six cells."""
    argv = [
        sys.executable,
        *start,
        "profile",
        "--quiet",
        "--output",
        str(folder / "results"),
        "--device",
        *device,
        *EFFORT,
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(argv, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--link", choices=("ssh", "adb"), help="this one alone")
    parser.add_argument("--inside", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.inside:
        return inside(*chosen.inside)
    ratios = []
    with tempfile.TemporaryDirectory(prefix="edgekit-") as name, ways(Path(name)) as both:
        folder = Path(name)
        for link, way in both.items():
            if chosen.link not in (None, link):
                continue
            start = (__file__, "--inside", str(way.pid), way.shell, way.there, str(way.here))
            profile(folder, way.device)  # fills the caches, here and there
            profile(folder, way.device, start)
            figures = by_turns(
                chosen.rounds,
                **{link: lambda w=way: profile(folder, w.device)},
                child_process=lambda w=way, s=start: profile(folder, w.device, s),
            )
            ratios.append(show(f"a profile of digits_cnn over {link}, six cells", figures, "s", RUN_LIMIT))
    return 0 if max(ratios) <= RUN_LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
