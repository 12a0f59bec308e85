"""A virtual ARM machine: QEMU with the image of vm_image.py, started, waited for, stopped. It needs no privileges."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from edgekit.errors import ConnectError, SetupError
from edgekit.userland import tools
from edgekit.userland.vm_image import PASSWORD, USER, Image, image

__all__ = ["PASSWORD", "USER", "Image", "Machine", "boot", "image"]

READY = "EDGEKIT-VM-READY"  # the last word of vm_init.sh
BOOT_S = 120.0  # it takes 2 to 5; a machine that does ten other things is slow, and one that hangs says nothing
LOG_LINES = 400
TAKEN = re.compile(r"Could not set up host forwarding|Address already in use")
TRIES = 3


class Machine:
    """A VM that is up. `ssh_port` and `console` (the port of its serial console, one client at a time) are of 127.0.0.1."""

    def __init__(self, of: Image, options: Mapping[str, Any], append: str) -> None:
        qemu = tools.find("qemu-system-arm", "qemu-system-aarch64")
        self.image = of
        self.ssh_port, self.console = free_ports(2)
        self.log: deque[str] = deque(maxlen=LOG_LINES)
        self._ready: queue.Queue[bool] = queue.Queue()
        reading, writing = os.pipe()
        try:
            # In a thread of its own: setpriv's order lasts as long as the thread that gave it.
            started: queue.Queue[subprocess.Popen[bytes] | OSError] = queue.Queue()
            argv = command(qemu, of, self.ssh_port, self.console, writing, options, append)
            self.keeper = threading.Thread(target=self._keep, args=(argv, writing, reading, started), daemon=True)
            self.keeper.start()
            process = started.get()
        finally:
            os.close(writing)
        if isinstance(process, OSError):
            raise SetupError(
                f"cannot start {Path(argv[0]).name}: {process.strerror}", "edgekit doctor says what is missing"
            )
        self.process = process

    def _keep(self, argv: Sequence[str], writing: int, reading: int, started: queue.Queue[Any]) -> None:
        """Start QEMU and read what the VM prints until it is gone."""
        with open(reading, encoding="utf-8", errors="replace") as stream:
            try:
                process = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=writing,
                    stderr=writing,
                    pass_fds=(writing,),
                    env={**os.environ, "TMPDIR": tempfile.gettempdir()},
                    start_new_session=True,  # Ctrl-C is for edgekit, which stops it
                )
            except OSError as error:
                started.put(error)
                return
            started.put(process)
            for line in stream:
                self.log.append("".join(mark for mark in line.rstrip() if mark.isprintable() or mark == "\t"))
                if line.startswith(READY):
                    self._ready.put(True)
            process.wait()
            self._ready.put(False)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def wait_ready(self, deadline_s: float) -> None:
        """Wait until the VM is up. Raises ConnectError with its last lines."""
        try:
            if self._ready.get(timeout=deadline_s):
                return
            how = "ended while it started"
        except queue.Empty:
            how = f"did not start within {deadline_s:g} s"
        raise ConnectError(f"the VM {how}", "\n".join([*self.log][-15:]))

    def stop(self) -> None:
        """Switch it off, and what was on its disk is gone; never raises, may be called again."""
        with contextlib.suppress(ProcessLookupError):
            if self.running:
                self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.keeper.join()

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def boot(
    of: Image,
    memory_mb: int = 1024,
    cores: int = 4,
    cpu: str = "cortex-a72",
    append: str = "",
    deadline_s: float = BOOT_S,
) -> Machine:
    """Start a VM and wait until it is up; `append` goes to its kernel's command line.

    Its memory is `memory_mb`, whatever this machine has free: what is over that meets the kernel's OOM killer. It ends with
    this process, however that ends. Raises SetupError without QEMU, ConnectError when it does not come up.
    """
    options = {"memory_mb": memory_mb, "cores": cores, "cpu": cpu}
    for attempt in range(TRIES):
        machine = Machine(of, options, append)
        try:
            machine.wait_ready(deadline_s)
        except ConnectError as error:
            machine.stop()
            if attempt == TRIES - 1 or not TAKEN.search(error.hint):
                raise
        except BaseException:
            machine.stop()
            raise
        else:
            return machine
    raise AssertionError("the last try either returned or raised")


def command(
    qemu: str, of: Image, ssh_port: int, console: int, log: int, options: Mapping[str, Any], append: str
) -> list[str]:
    """The command line of QEMU; `log` is the file descriptor that gets all that the console prints."""
    # The kernel ends it with the thread that started it: nothing is left running, however edgekit ends.
    guard = shutil.which("setpriv")
    return [
        *([guard, "--pdeathsig", "KILL"] if guard else []),
        *(qemu, "-M", "virt", "-cpu", str(options["cpu"]), "-smp", str(options["cores"]), "-m", str(options["memory_mb"])),
        *("-accel", "tcg,thread=multi", "-display", "none", "-nodefaults", "-no-reboot"),
        *("-kernel", str(of.kernel), "-initrd", str(of.initramfs)),
        *("-append", f"console=ttyAMA0 quiet panic=-1 {append}".strip()),
        *("-chardev", f"socket,id=console,host=127.0.0.1,port={console},server=on,wait=off,logfile=/dev/fd/{log}"),
        *("-serial", "chardev:console"),
        *("-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{ssh_port}-:22"),
        *("-device", "virtio-net-pci,netdev=net,romfile="),
        # What the VM writes goes to a temporary file that has no name any more.
        *("-drive", f"file={of.disk},format=raw,if=none,id=disk,snapshot=on", "-device", "virtio-blk-pci,drive=disk"),
    ]  # fmt: skip


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        holders = [stack.enter_context(socket.socket()) for _ in range(count)]
        for holder in holders:
            holder.bind(("127.0.0.1", 0))
        return [int(holder.getsockname()[1]) for holder in holders]
