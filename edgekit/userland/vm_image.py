"""What the VM boots: Debian's arm64 kernel, an initramfs of our own and a disk, made from Debian packages. Cached by hash."""

from __future__ import annotations

import lzma
import re
import shutil
import stat
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgekit import cache
from edgekit.errors import SetupError
from edgekit.userland import apt, bundles, python, targets, tools

HERE = Path(__file__).parent
KERNEL = "linux-image-cloud-arm64"  # the package that depends on the newest
PACKAGES = ("busybox-static", "dropbear-bin", "openssh-sftp-server")
# program in its package -> where it lies in the VM
PROGRAMS = {
    "bin/busybox": "bin/busybox",
    "usr/sbin/dropbear": "bin/dropbear",
    "usr/lib/openssh/sftp-server": "usr/lib/sftp-server",
}
MODULES = ("virtio_pci", "virtio_net", "virtio_blk")  # all else that is needed is in Debian's kernel
DISK = "16G"  # of which only what is written takes space, and that in a temporary file
USER = "pi"
PASSWORD = "edgekit"  # for the console alone; SSH takes only the key
PASSWORD_HASH = "$6$edgekit$fkTUO8hsH5k95cZUtDEQ88/rHxilbv822yDRMuASvtqFhQpabSVo/luf3QJ7fnEQxomY0BRifw3JBqVMZTfYw/"
SECRET = ("shadow", "dropbear_host_key")
PYTHON = """#!/bin/sh
exec /disk/python/lib/{loader} --library-path /disk/python/lib /disk/python/bin/{interpreter} "$@"
"""
FILES = {
    "etc/passwd": f"root:x:0:0:root:/root:/bin/sh\n{USER}:x:1000:1000:{USER}:/home/{USER}:/bin/sh\n",
    "etc/shadow": f"root:{PASSWORD_HASH}:19000:0:99999:7:::\n{USER}:{PASSWORD_HASH}:19000:0:99999:7:::\n",
    "etc/group": f"root:x:0:\ntty:x:5:\n{USER}:x:1000:\n",
    "etc/shells": "/bin/sh\n",
    "etc/os-release": 'PRETTY_NAME="a VM of edgekit: the Linux kernel of Debian, busybox"\n',
    "etc/inittab": "ttyAMA0::respawn:/bin/getty -L 115200 ttyAMA0 vt100\n::shutdown:/bin/umount -a -r\n",
    "etc/profile": "export PATH=/bin:/usr/bin\n",
}


@dataclass(frozen=True)
class Image:
    """What lies in its folder. `identity` is the private key that the user "pi" of the VM is reached with."""

    folder: Path

    @property
    def kernel(self) -> Path:
        return self.folder / "kernel"

    @property
    def initramfs(self) -> Path:
        return self.folder / "initramfs"

    @property
    def disk(self) -> Path:
        return self.folder / "disk"

    @property
    def identity(self) -> Path:
        return self.folder / "identity"

    @property
    def host_key(self) -> str:
        """The public key that the VM proves itself with, as in a known_hosts file: "ssh-ed25519 AAAA..."."""
        return (self.folder / "host_key").read_text(encoding="ascii").strip()


def image(say: Callable[[str], None]) -> Image:
    """The image, built on first use (network), afterwards only looked up. Raises SetupError when it cannot be built here."""
    target = targets.target("aarch64")
    land = bundles.base(target, say)
    key = cache.digest([cache.source_sha256(Path(__file__), HERE / "vm_init.sh", HERE / "apt.py"), land.name])
    folder = cache.cache_dir() / "userland" / f"vm-aarch64-{key[:16]}"

    def make(fresh: Path) -> None:
        find_mke2fs()  # before a minute of downloading
        say("building the VM from Debian's arm64 kernel and packages (first use, about a minute)")
        build(fresh, target, land)

    def read(there: Path) -> Image | None:
        found = Image(there)
        parts = (found.kernel, found.initramfs, found.disk, found.identity, there / "host_key")
        return found if all(part.is_file() and part.stat().st_size for part in parts) else None

    return cache.fetch(folder, make, read, "VM image", say)


def build(folder: Path, target: targets.Target, land: Path) -> None:
    """Fill `folder` with kernel, initramfs, disk and keys; `land` is the base bundle, whose Python goes onto the disk."""
    with tempfile.TemporaryDirectory(prefix="edgekit-") as name:
        work = Path(name)
        packages, tree = work / "packages", work / "tree"
        packages.mkdir()
        apt.unpack(PACKAGES, target.debian, work / "apt", packages)
        unpack_kernel(work, packages)
        shutil.copy(next((packages / "boot").glob("vmlinuz-*")), folder / "kernel")
        host, public = new_keys(folder)
        fill(tree, packages, target)
        (tree / "etc/dropbear_host_key").write_bytes(host)
        (tree / "etc/authorized_keys").write_text(public, encoding="ascii")
        interpreter = next((land / "bin").iterdir()).name
        script = tree / "usr/bin/python3"
        script.write_text(PYTHON.format(loader=target.loader, interpreter=interpreter), encoding="ascii")
        script.chmod(0o755)
        initramfs = folder / "initramfs"
        initramfs.touch(0o600)  # the VM's private key is in it
        initramfs.write_bytes(archive(tree))
        shutil.copytree(land, work / "disk" / "python")
        make_disk(work / "disk", folder / "disk")


def unpack_kernel(work: Path, root: Path) -> None:
    """Fetch the newest kernel of the mirror, without all that it depends on, and unpack it into `root`."""
    settings = {"APT_CONFIG": str(work / "apt" / "apt.conf")}  # of the packages that were fetched before
    what = "fetching the arm64 kernel with apt"
    cache_ = tools.find("apt", "apt-cache")
    listed = tools.run([cache_, "depends", KERNEL], what, apt.HINT, env=settings)
    name = re.findall(r"Depends: (linux-image-\S+)", listed)[0]
    tools.run([tools.find("apt", "apt-get"), "download", name], what, apt.HINT, cwd=work, env=settings)
    tools.run([tools.find("dpkg", "dpkg-deb"), "-x", next(work.glob("*.deb")), root], f"unpacking {name}")


def fill(tree: Path, packages: Path, target: targets.Target) -> None:
    """The root of the VM in `tree`: programs with the libraries they need, kernel modules, configuration."""
    for name in (
        "bin",
        "lib",
        "lib/modules",
        "usr/bin",
        "usr/lib",
        "etc",
        "root",
        "disk",
        "home",
        "tmp",
        "proc",
        "sys",
        "dev",
    ):
        (tree / name).mkdir(parents=True, exist_ok=True)
    for name, place in PROGRAMS.items():
        shutil.copy(packages / name, tree / place)
    source = python.Debian(packages, target)
    shutil.copy(source.library(target.loader), tree / "lib" / target.loader)
    python.close(tree, source)
    found = modules(packages / "lib/modules")
    for name, data in found:
        (tree / "lib/modules" / name).write_bytes(data)
    (tree / "lib/modules/order").write_text("".join(f"{name}\n" for name, _ in found), encoding="ascii")
    for name, text in FILES.items():
        (tree / name).write_text(text, encoding="ascii")
    shutil.copy(HERE / "vm_init.sh", tree / "init")
    (tree / "init").chmod(0o755)


def modules(folder: Path) -> list[tuple[str, bytes]]:
    """MODULES and what they need in turn, as (file name, bytes), each after those it needs."""
    there = {path.name.split(".")[0].replace("-", "_"): path for path in folder.rglob("*.ko*")}
    done: dict[str, bytes] = {}

    def add(name: str) -> None:
        if name in done or name not in there:  # not there: part of the kernel itself
            return
        data = there[name].read_bytes()
        if there[name].suffix == ".xz":
            data = lzma.decompress(data)
        needed = re.search(rb"\0depends=([^\0]*)\0", data)
        for other in needed.group(1).decode().split(",") if needed else ():
            add(other.replace("-", "_"))
        done[name] = data

    for name in MODULES:
        add(name)
    return [(f"{name}.ko", data) for name, data in done.items()]


def archive(tree: Path) -> bytes:
    """A folder as an uncompressed cpio archive that the kernel unpacks as its root file system; all in it is root's.

    Format "newc": Documentation/driver-api/early-userspace/buffer-format.rst of the kernel.
    """
    result = bytearray()

    def add(number: int, name: str, mode: int, data: bytes) -> None:
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name.encode()) + 1, 0)
        result.extend(b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0")
        result.extend(bytes(-len(result) % 4) + data)
        result.extend(bytes(-len(result) % 4))

    for number, path in enumerate(sorted(tree.rglob("*")), 1):
        mode = path.lstat().st_mode
        allowed = 0o600 if path.name in SECRET else 0o755 if mode & 0o100 else 0o644
        data = b"" if path.is_dir() else path.read_bytes()
        add(number, path.relative_to(tree).as_posix(), stat.S_IFMT(mode) | allowed, data)
    add(0, "TRAILER!!!", 0, b"")
    return bytes(result)


def new_keys(folder: Path) -> tuple[bytes, str]:
    """Write the user's private key and the VM's public one into `folder`; returns the VM's private key in dropbear's form
    and the user's public one."""
    try:
        from cryptography.hazmat.primitives import serialization as form
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError as error:
        raise SetupError(
            f"the VM is reached by SSH, which needs paramiko: {error}", "pip install 'edgekit[ssh]'"
        ) from error

    def public(key: Ed25519PrivateKey) -> str:
        return key.public_key().public_bytes(form.Encoding.OpenSSH, form.PublicFormat.OpenSSH).decode("ascii") + "\n"

    user, host = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    identity = folder / "identity"
    identity.touch(0o600)
    identity.write_bytes(user.private_bytes(form.Encoding.PEM, form.PrivateFormat.OpenSSH, form.NoEncryption()))
    (folder / "host_key").write_text(public(host), encoding="ascii")
    # dropbear's signkey.c and ed25519.c: the name, then the private and the public half together, each with its length
    halves = host.private_bytes_raw() + host.public_key().public_bytes_raw()
    name = b"ssh-ed25519"
    return struct.pack(">I", len(name)) + name + struct.pack(">I", len(halves)) + halves, public(user)


def find_mke2fs() -> str:
    """The program that makes a file system; it lies where not every user's PATH leads."""
    found = shutil.which("mke2fs") or shutil.which("mke2fs", path="/usr/sbin:/sbin")
    return found or tools.find("e2fsprogs", "mke2fs")


def make_disk(content: Path, out: Path) -> None:
    """A file system of DISK bytes with a folder's content in a sparse file, which every VM starts from and none changes."""
    features = ("-O", "^has_journal", "-E", "lazy_itable_init=1,root_owner=0:0")
    tools.run([find_mke2fs(), "-q", "-t", "ext4", *features, "-d", content, out, DISK], "making the VM's disk")
