"""Real SSH servers on the loopback: OpenSSH's of this machine, and a Raspberry Pi in a namespace with ARM's own dropbear."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgekit import cache, config
from edgekit.transports.emulator import board_files
from edgekit.userland import apt, python, targets, tools

from . import namespace

PACKAGES = ("busybox-static", "dropbear-bin", "openssh-sftp-server")
FIRST_PORT = 15000
LAST_PORT = 32000  # above it the kernel hands out ports of its own accord


@dataclass(frozen=True)
class Server:
    """An SSH server under test. `home` is the home folder of its user as this machine sees it."""

    port: int
    user: str
    home: Path
    identity: Path
    host_key: str  # "ssh-ed25519 AAAA..."
    stop: Callable[[], None]
    start: Callable[[], None]

    def trust(self, known_hosts: Path, host: str = "127.0.0.1") -> Path:
        """Write a known_hosts file in which it is known."""
        known_hosts.parent.mkdir(parents=True, exist_ok=True)
        known_hosts.write_text(f"[{host}]:{self.port} {self.host_key}\n", "utf-8")
        return known_hosts


def free_port() -> int:
    """A port of the loopback on which nothing listens; adb takes those below 15000 for emulators."""
    for port in range(FIRST_PORT + os.getpid() * 7 % 9000, LAST_PORT):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def new_key(path: Path) -> str:
    """Make a key pair without a passphrase; returns the public one, without its comment."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)], check=True)
    return " ".join(path.with_name(path.name + ".pub").read_text("utf-8").split()[:2])


@contextlib.contextmanager
def openssh(folder: Path, *options: str) -> Iterator[Server]:
    """OpenSSH's server of this machine, for the user who runs the tests; its home is `folder`/home."""
    program = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin")
    assert program, "the tests of SSH need its server: apt-get install openssh-server"
    home, port = folder / "home", free_port()
    home.mkdir(parents=True)
    host_key, user_key = new_key(folder / "host_key"), new_key(folder / "identity")
    (folder / "authorized_keys").write_text(user_key + "\n", "utf-8")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # the package's service makes it when it starts
    lines = [
        f"Port {port}",
        "ListenAddress 127.0.0.1",
        f'HostKey "{folder}/host_key"',
        f'AuthorizedKeysFile "{folder}/authorized_keys"',
        "StrictModes no",
        "UsePAM no",
        "PidFile none",
        "PasswordAuthentication no",
        "PermitRootLogin yes",
        f'SetEnv "HOME={home}"',
        "Subsystem sftp internal-sftp",
        *options,
    ]
    (folder / "sshd_config").write_text("\n".join(lines) + "\n", "utf-8")
    running: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        with (folder / "log").open("ab") as log:
            argv = [program, "-D", "-e", "-f", str(folder / "sshd_config")]
            running.append(
                subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
            )
        wait_for_greeting(port, lambda: (folder / "log").read_text("utf-8"))

    def stop() -> None:
        while running:
            end_family(running.pop())

    try:
        start()
        yield Server(port, getpass.getuser(), home, folder / "identity", host_key, stop, start)
    finally:
        stop()


def end_family(process: subprocess.Popen[bytes]) -> None:
    """End a server and the processes it has for its connections."""
    for child in family(process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, 9)
    process.kill()
    process.wait()


def family(pid: int) -> list[int]:
    """The processes that descend from one, children first."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, task.read_text("utf-8").split()):
                found += [child, *family(child)]
    return found


def wait_for_greeting(port: int, said: Callable[[], str], tries: int = 400) -> None:
    """Return when an SSH server answers on a port of the loopback."""
    for _ in range(tries):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as link:
            link.settimeout(5)
            if link.recv(4) == b"SSH-":
                return
        namespace.pause()
    raise AssertionError(f"no SSH server on port {port}: {said()}")


# ---- a Raspberry Pi in a namespace ----


def pi_root(say: Callable[[str], None] = print) -> Path:
    """The root of the Pi: busybox, dropbear and OpenSSH's sftp-server, all of them ARM programs; made once."""
    emulation = config.device("pi4").emulation
    assert emulation
    files = {name: text for name, text in board_files(emulation).items() if not name.startswith("proc/device-tree")}
    target = targets.target("aarch64")
    key = cache.digest([PACKAGES, files, cache.source_sha256(Path(__file__))])
    folder = cache.cache_dir() / "lab" / f"pi-{key[:16]}"
    with cache.entry(folder) as fresh:
        if fresh:
            say("unpacking busybox and dropbear for arm64 (first use)")
            with tempfile.TemporaryDirectory(prefix="edgekit-") as work:
                apt.unpack(PACKAGES, target.debian, Path(work), fresh)
            for name, text in files.items():
                path = fresh / ("board" if name.startswith("proc/") else "") / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, "utf-8")
            for name in ("root", "proc", "dev", "tmp", "etc"):
                (fresh / name).mkdir(exist_ok=True)
            (fresh / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n", "utf-8")
            (fresh / "etc/group").write_text("root:x:0:\n", "utf-8")
            (fresh / "etc/shells").write_text("/bin/sh\n", "utf-8")
            busybox = fresh / "bin/busybox"
            for name in tools.run([*python.emulator(target), busybox, "--list"], "asking busybox what it has").split():
                if not (fresh / "bin" / name).exists():
                    (fresh / "bin" / name).symlink_to("busybox")
    return folder


def dropbear_key(path: Path) -> str:
    """Make a host key in dropbear's own format; returns the public one."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    def text(data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + data

    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes_raw()
    path.write_bytes(text(b"ssh-ed25519") + text(key.private_bytes_raw() + public))
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


@contextlib.contextmanager
def pi(folder: Path, disk_bytes: int = 0) -> Iterator[Server]:
    """A Raspberry Pi 4 with nothing but busybox and dropbear; its home is `folder`/home, or a disk of so many bytes."""
    namespace.require()
    assert os.geteuid() == 0, "dropbear changes users, so the namespace needs several: run this test as root"
    root, port, home = pi_root(), free_port(), folder / "home"
    (home / ".ssh").mkdir(parents=True)
    (folder / "keys").mkdir()
    host_key, user_key = dropbear_key(folder / "keys/host"), new_key(folder / "identity")
    (folder / "keys/authorized_keys").write_text(user_key + "\n", "utf-8")
    for place in (folder / "keys", home, home / ".ssh"):
        place.chmod(0o700)
    binds = {"/root": home, "/etc/dropbear": folder / "keys"}
    binds |= {f"/proc/{name}": root / "board/proc" / name for name in ("cpuinfo", "meminfo")}
    scratch = {"/root/.edgekit": disk_bytes} if disk_bytes else {}
    shutil.copy(folder / "keys/authorized_keys", home / ".ssh/authorized_keys")
    server = f"exec /usr/sbin/dropbear -F -E -s -p 127.0.0.1:{port} -r /etc/dropbear/host"
    device = namespace.NamespaceDevice(root, ["/bin/sh", "-c", server], folder / "log", binds, scratch)

    def start() -> None:
        device.start()
        wait_for_greeting(port, device.said)

    try:
        start()
        yield Server(port, "root", home, folder / "identity", host_key, device.stop, start)
    finally:
        device.stop()
