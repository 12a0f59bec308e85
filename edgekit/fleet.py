"""Several devices side by side: a job, a lock and a run folder for each. What `bench` does with one of them is not here."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from edgekit import bench, convert, plan, prompt, session, verification
from edgekit.cache import disk_errors
from edgekit.errors import DeviceError, EdgekitError, UserError
from edgekit.report import Report, Reports
from edgekit.transports import Transport
from edgekit.types import Artifact

Say = Callable[[str], None]
ENDING_S = 5.0  # for a device to let go when all is ended; a link that has not done so by then is torn down


@dataclass(eq=False)
class Share:
    """One device's share of the work: what is done there, and `error`, why it ended early."""

    job: bench.Job
    error: BaseException | None = None
    thread: threading.Thread = field(default_factory=threading.Thread)

    @property
    def name(self) -> str:
        return self.job.subject.device.name

    @property
    def alone(self) -> bool:
        """Whether its latency is this machine's own, which all that drives the other devices would disturb."""
        device = self.job.subject.device
        return device.transport == "local" and not device.emulated


class Ordered(convert.Artifacts):
    """The artifacts of all devices, made by the main thread, which alone hears Ctrl-C. The others order them here, and wait."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.mail: queue.Queue[Share | None] = queue.Queue()  # a share that has ended; None is an order
        self.ready = threading.Event()

    def get(self, format_: str, precision: str, batch: int) -> Artifact:
        """As of one device. Raises DeviceError when all was ended before they were made."""
        if not self.ready.is_set():
            self.mail.put(None)
            self.ready.wait()
        if not self.found:
            raise DeviceError("ended before anything was converted")
        return super().get(format_, precision, batch)


def run(
    request: plan.Request,
    devices: Sequence[str],
    say: Say,
    on_start: Callable[[list[Share]], None] = lambda _: None,
) -> list[Share]:
    """Do what is asked on each of the devices, and return their shares.

    Nothing is converted while something is timed, and `local` devices are measured last, each by itself. What ends the work on
    one device is its share's `error` and does not stop the others. `on_start` receives the shares as soon as the runs are on
    the disk. Raises UserError and SetupError for what concerns all devices; then, and after Ctrl-C, nothing is left running.
    """
    if request.resume is not None:
        raise UserError("--resume finishes the run of one device", "resume each run by its own name")
    if request.connection:
        message = f"--host, --serial, --port and --baud say where one device is, and {len(devices)} are asked for"
        raise UserError(message, "write each one's place into your devices.toml: docs/devices.md")
    if not devices:
        raise UserError("no devices are left to measure on", "leave device out to have the default")
    say = in_turn(say)
    jobs = bench.prepare([replace(request, device=name) for name in devices], say, None, Ordered)
    shares = [Share(job) for job in jobs]
    on_start(shares)
    artifacts = jobs[0].subject.artifacts
    assert isinstance(artifacts, Ordered)
    try:
        for group in [[share for share in shares if not share.alone], *([share] for share in shares if share.alone)]:
            side_by_side(group, jobs, artifacts, say)
    except BaseException as error:
        with prompt.unanswered():
            end(shares, artifacts, error)
        raise
    return shares


def side_by_side(group: list[Share], jobs: list[bench.Job], artifacts: Ordered, say: Say) -> None:
    """Start the shares of a group, make what the first that has an agent asks for, and wait for the end of all."""
    for share in group:
        share.thread = threading.Thread(target=work, args=(share, artifacts.mail), name=share.name, daemon=True)
        share.thread.start()
    left = set(group)
    while left:
        ended = artifacts.mail.get()
        if ended is not None:
            left.remove(ended)
        elif not artifacts.ready.is_set():
            make(jobs, artifacts, say)
            artifacts.ready.set()


def work(share: Share, mail: queue.Queue[Share | None]) -> None:
    """One device, in a thread of its own."""
    try:
        bench.carry_out(share.job)
    except BaseException as error:
        share.error = error
        if isinstance(error, EdgekitError) and not share.job.line.ended:
            share.job.say(f"ended: {error.message}")
    finally:
        mail.put(share)


def make(jobs: list[bench.Job], artifacts: Ordered, say: Say) -> None:
    """All that this machine would otherwise make while a device is timed. What fails here fails its cells, or its device, there."""
    with disk_errors("temporary files"):
        artifacts.make()
        seen = set()
        for made in artifacts.found.values():
            if isinstance(made, Artifact) and made.framework not in seen:
                seen.add(made.framework)
                with contextlib.suppress(EdgekitError):
                    verification.reference_of(jobs[0].subject, made, say)
        for job in jobs:
            for runtime in dict.fromkeys(cell.runtime for cell in job.left):
                with contextlib.suppress(EdgekitError):
                    session.userland_of(job.subject.device, runtime, job.say)


def end(shares: list[Share], artifacts: Ordered, reason: BaseException) -> None:
    """End the work on every device. A thread that does not let go even so is left to the end of this process."""
    going = [share for share in shares if share.thread.is_alive()]
    for share in going:
        threading.Thread(target=share.job.line.cut, daemon=True).start()
    artifacts.ready.set()
    if not wait(going):
        for share in going:
            transport = share.job.line.transport
            if share.thread.is_alive() and transport is not None:
                threading.Thread(target=tear_down, args=(transport,), daemon=True).start()
        wait(going)
    for share in shares:
        unfinished = len(share.job.run.lines) < len(share.job.run.header["plan"]["cells"])
        if share in going or (unfinished and share.error is None):
            share.error = reason if unfinished else None


def tear_down(transport: Transport) -> None:
    """Close a link that another thread uses, which may fail in any way."""
    with contextlib.suppress(Exception):
        transport.close()


def wait(shares: list[Share]) -> bool:
    """Whether all have ended in good time."""
    deadline = time.monotonic() + ENDING_S
    for share in shares:
        share.thread.join(max(0.0, deadline - time.monotonic()))
    return not any(share.thread.is_alive() for share in shares)


def in_turn(say: Say) -> Say:
    """`say` from any thread."""
    lock = threading.Lock()

    def tell(text: str) -> None:
        with lock:
            say(text)

    return tell


def report(shares: list[Share]) -> Reports:
    """What was found on each device. Raises an error that is no device's but a bug of ours."""
    for share in shares:
        if isinstance(share.error, Exception) and not isinstance(share.error, EdgekitError):
            raise share.error
    errors = {share.name: share.error for share in shares if isinstance(share.error, EdgekitError)}
    return Reports([Report.of(share.job.run) for share in shares], errors)
