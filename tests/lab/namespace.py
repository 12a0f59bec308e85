"""A device in a namespace: a folder of arm64 programs that runs as a whole machine would, with its own users, processes and /proc.

The programs are real ARM ones under user-mode QEMU, each started by the kernel (binfmt_misc of the namespace, Linux 6.7 or newer);
network and kernel are the host's. Started as a program of its own, this file is the process that becomes the device.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

QEMU = "/usr/bin/qemu-aarch64-static"
QEMU_THERE = "/dev/qemu"  # as the device sees it
LIBC = ctypes.CDLL(None, use_errno=True)
NEWNS, NEWUSER, NEWPID = 0x20000, 0x10000000, 0x20000000
BIND, REC, PRIVATE = 0x1000, 0x4000, 0x40000
PDEATHSIG = 1
# An ELF file for AArch64, little endian: magic and mask as binfmt_misc reads them. O and P: see with_cpu.c; F opens the
# interpreter now, before the chroot.
REGISTRATION = (
    r":edgekit:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
    r":\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
)
DEVICES = ("null", "zero", "full", "random", "urandom")


class NamespaceDevice:
    """A device that lives as long as its first program. Use as a context manager.

    `root` becomes /. `binds` are the host's files and folders that the device sees, path there -> path here; `scratch` are
    folders in memory, path there -> size in bytes (a full disk is quickly made). Folders to mount on are made in `root`.
    """

    def __init__(
        self,
        root: Path,
        argv: Sequence[str],
        log: Path,
        binds: Mapping[str, Path] | None = None,
        scratch: Mapping[str, int] | None = None,
        uid: int = 0,
        cpu: str = "cortex-a72",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.log = log
        self.plan: dict[str, Any] = {
            "root": str(root),
            "argv": list(argv),
            "binds": {there: str(here) for there, here in (binds or {}).items()},
            "scratch": dict(scratch or {}),
            "uid": uid,
            "interpreter": str(interpreter(cpu)),
            "environment": {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", **(environment or {})},
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Turn it on."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-I", __file__, json.dumps(self.plan)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop(self) -> None:
        """Pull its plug: every process of it is gone when this returns."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def said(self) -> str:
        """What its first program wrote."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def __enter__(self) -> NamespaceDevice:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def interpreter(cpu: str) -> Path:
    """The program that runs the device's programs, compiled once for each CPU: an environment may be lost on the way, as
    dropbear loses it, and what QEMU takes for a CPU then has every extension that there is."""
    from edgekit import cache
    from edgekit.userland import tools

    source = Path(__file__).with_name("with_cpu.c")
    folder = cache.cache_dir() / "lab" / f"cpu-{cache.digest([cpu, QEMU_THERE, cache.file_sha256(source)])[:16]}"
    with cache.entry(folder) as fresh:
        if fresh:
            told = [f'-DCPU="{cpu}"', f'-DQEMU="{QEMU_THERE}"']
            argv = [tools.find("gcc", "gcc"), "-O2", "-static", *told, source, "-o", fresh / "run"]
            tools.run(argv, "compiling the interpreter of an emulated device")
    return folder / "run"


def require() -> None:
    """Skip the test where the kernel forbids such devices, and say so; what is merely not installed is a failure."""
    import pytest

    assert os.access(QEMU, os.X_OK), f"{QEMU} is missing: apt-get install qemu-user-static"
    reason = obstacle()
    if reason:
        pytest.skip(f"{reason}. The VM takes over: tests/devices/test_vm.py does the main job over SSH in it")


def obstacle() -> str:
    """Why this kernel lets nobody make such a device; "" when it does."""
    plan = {"root": "", "argv": ["/bin/true"], "uid": 0, "interpreter": QEMU, "environment": {}}
    done = subprocess.run(
        [sys.executable, "-I", __file__, json.dumps(plan)], capture_output=True, text=True, timeout=20
    )
    if done.returncode:
        return f"this kernel forbids a device in a user namespace ({done.stderr.strip()[-200:]})"
    return ""


# ---- from here on: the process that becomes the device ----


def check(result: int, what: str) -> None:
    """Raise the error of a system call that failed."""
    if result:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """mount(2)."""
    texts = [text.encode() or None for text in (source, target, kind)]
    check(LIBC.mount(*texts, flags, options.encode() or None), f"mount {source} on {target}")


def die_with_parent() -> None:
    """Nothing of a device outlives whoever started it."""
    LIBC.prctl(PDEATHSIG, signal.SIGKILL)


def furnish(plan: Mapping[str, Any]) -> None:
    """Mount all that the device sees, and make `root` its /."""
    root = plan["root"]
    mount("", "/", flags=REC | PRIVATE)
    mount("none", "/proc/sys/fs/binfmt_misc", "binfmt_misc")
    Path("/proc/sys/fs/binfmt_misc/register").write_text(f"{REGISTRATION}:{plan['interpreter']}:OPF")
    if not root:
        return
    mount(root, root, flags=BIND | REC)
    place(root, "/proc", folder=True)
    try:
        mount("proc", f"{root}/proc", "proc")
    except OSError:  # a container hides parts of /proc, and so the kernel refuses a whole one
        mount("/proc", f"{root}/proc", flags=BIND | REC)
    binds = {QEMU_THERE: QEMU, **{f"/dev/{name}": f"/dev/{name}" for name in DEVICES}, **plan["binds"]}
    for there, here in binds.items():
        place(root, there, folder=Path(here).is_dir())
        mount(here, root + there, flags=BIND | REC)
    for there, size in plan["scratch"].items():
        place(root, there, folder=True)
        mount("tmpfs", root + there, "tmpfs", options=f"size={size},mode=1777")
    os.chroot(root)
    os.chdir("/")


def place(root: str, there: str, folder: bool) -> None:
    """Something to mount on."""
    path = Path(root + there)
    if not path.exists():
        (path if folder else path.parent).mkdir(parents=True, exist_ok=True)
        if not folder:
            path.touch()


def live(plan: Mapping[str, Any]) -> int:
    """The life of process 1: furnish, start the first program, bury the dead until it ends; its exit code."""
    die_with_parent()
    furnish(plan)
    first = os.fork()
    if first == 0:
        os.setsid()
        if plan["uid"] and Path("/proc/self/setgroups").read_text() == "allow\n":
            os.setgroups([])
            os.setgid(plan["uid"])
            os.setuid(plan["uid"])
        os.execve(plan["argv"][0], plan["argv"], plan["environment"])
    while True:
        pid, status = os.wait()
        if pid == first:
            return os.waitstatus_to_exitcode(status) & 255


def become(plan: Mapping[str, Any]) -> int:
    """Leave for the namespaces and live there; the exit code of the first program.

    Root's namespace has all the users of a machine. Anybody else is root there, and the only user.
    """
    uid, gid, parent = os.geteuid(), os.getegid(), os.getpid()
    waiting, go = os.pipe()
    leaving, gone = os.pipe()
    child = os.fork()
    if child == 0:
        check(LIBC.unshare(NEWUSER | NEWNS | NEWPID), "unshare")
        os.write(gone, b"x")
        os.read(waiting, 1)
        os.setgid(0)
        os.setuid(0)
        die_with_parent()
        if os.getppid() != parent:
            os._exit(1)
        first = os.fork()
        if first == 0:
            os._exit(guarded(live, plan))
        os._exit(os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]) & 255)
    os.close(gone)
    if os.read(leaving, 1):
        count = 1 if uid else 65536
        if uid:
            Path(f"/proc/{child}/setgroups").write_text("deny")
        Path(f"/proc/{child}/uid_map").write_text(f"0 {uid} {count}\n")
        Path(f"/proc/{child}/gid_map").write_text(f"0 {gid} {count}\n")
        os.write(go, b"x")
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 255


def guarded(life: Any, plan: Mapping[str, Any]) -> int:
    """Run a part of the process that must never return into its caller's code."""
    try:
        return int(life(plan))
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        return 125


def wait_for_port(port: int, device: NamespaceDevice, deadline_s: float = 20) -> None:
    """Return when something listens on a port of the loopback; fails with the device's words when it ended before."""
    deadline = time.monotonic() + deadline_s
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        assert device.process and device.process.poll() is None, f"the device ended: {device.said()}"
        assert time.monotonic() < deadline, f"nothing listens on port {port}: {device.said()}"
        pause()


def pause() -> None:
    """A moment between two looks at something that has no event of its own."""
    time.sleep(0.02)


if __name__ == "__main__":
    die_with_parent()
    sys.exit(guarded(become, json.loads(sys.argv[1])))
