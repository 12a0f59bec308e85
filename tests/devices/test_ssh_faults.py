"""Faults of an SSH link, by somebody in the middle and a real OpenSSH server: each ends in its own error, and in time."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import fake_request, fake_session, wait_gone, wait_until
from lab import sshd
from lab.middle import Fault, Middle

from edgekit import session, userland
from edgekit.errors import AgentError, ConnectError, DeviceError, TransportClosed, TransportTimeout
from edgekit.session import Session
from edgekit.transports import _ssh_login, ssh
from edgekit.transports.ssh import Ssh
from edgekit.types import Device

pytestmark = pytest.mark.emulated
NASTY = "a b'\"$(touch hacked)`touch hacked`;*\n-ä"
NO_PAUSE = ("MaxStartups 100", "MaxSessions 100")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sshd.Server]:
    """OpenSSH's server of this machine, once for all tests here; its user's home has a name that needs quoting."""
    with sshd.openssh(tmp_path_factory.mktemp("server") / "open ssh", *NO_PAUSE) as started:
        yield started


@pytest.fixture
def middle(server: sshd.Server) -> Iterator[Middle]:
    """Somebody between us and the server."""
    with Middle(server.port) as between:
        yield between


@pytest.fixture
def reach(server: sshd.Server, middle: Middle, tmp_path: Path) -> Iterator[Callable[[], Ssh]]:
    """Makes a link through the middle."""
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text(f"[127.0.0.1]:{middle.port} {server.host_key}\n")
    connection = {"host": "127.0.0.1", "port": middle.port, "user": server.user, "identity": str(server.identity)}
    made: list[Ssh] = []

    def make() -> Ssh:
        made.append(Ssh(Device("board", "", "host", "ssh", ("fake",), connection), known_hosts))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines that a test can wait for."""
    monkeypatch.setattr(ssh, "STALL_S", 1.0)
    monkeypatch.setattr(ssh, "COMMAND_S", 1.0)
    monkeypatch.setattr(_ssh_login, "ANSWER_S", 2.0)
    monkeypatch.setattr(session, "GRACE_S", 1.0)
    monkeypatch.setattr("edgekit.transports._remote.COMMAND_S", 1.0)


@pytest.fixture
def live(reach: Callable[[], Ssh]) -> Iterator[Session]:
    """The agent of the fake runtime behind the link."""
    opened = fake_session(reach())
    yield opened
    opened.close()


def agents(live: Session) -> list[int]:
    """The agent's process and its children, which run on this machine after all."""
    mark = live.transport.root.encode()  # type: ignore[attr-defined]
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes()
            if (
                b"edgekit-agent-" in words
                and not words.startswith(b"sh\0")
                and mark == os.fsencode((folder / "cwd").readlink())
            ):
                found.append(int(folder.name))
    return found


# ---- names ----


def test_names_go_through_unharmed_and_unexecuted(
    reach: Callable[[], Ssh], tmp_path: Path, server: sshd.Server
) -> None:
    device = reach()
    assert " " in device.root
    (tmp_path / NASTY).mkdir()
    (tmp_path / NASTY / NASTY).write_text("content")
    device.push(tmp_path / NASTY, f"userland/{NASTY}")
    device.push(tmp_path / NASTY / NASTY, f"blobs/{NASTY}")
    for remote in (f"userland/{NASTY}/{NASTY}", f"blobs/{NASTY}"):
        device.pull(remote, tmp_path / "back")
        assert (tmp_path / "back").read_text() == "content"
    channel = device.spawn(["printf", "%s|\\n", NASTY])
    assert channel.read_line(10) + channel.read_line(10) == f"{NASTY}|\n".encode()
    channel.close()
    assert not list(server.home.rglob("hacked"))


# ---- push and pull ----


@pytest.mark.parametrize("after", [0, 10, 1000, 3000, 5000, 20_000, 500_000, 2_000_000])
def test_a_push_that_is_cut_once_is_done_by_a_second_link(
    reach: Callable[[], Ssh], middle: Middle, tmp_path: Path, after: int
) -> None:
    content = os.urandom(1 << 20)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/file").write_bytes(content)
    middle.fault = Fault("cut", after)
    device = reach()
    device.push(tmp_path / "folder", f"userland/cut-{after}")
    assert middle.connections == (1 if after == 2_000_000 else 2)
    device.pull(f"userland/cut-{after}/file", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content
    assert device.run(f"find {ssh.shlex.quote(device.root)} -name '.push-*'", 5)[1] == b""


@pytest.mark.parametrize("kind", ["cut", "garbage"])
def test_a_push_that_always_breaks_is_a_closed_link_and_never_looks_whole(
    reach: Callable[[], Ssh], middle: Middle, tmp_path: Path, server: sshd.Server, kind: str, impatient: None
) -> None:
    (tmp_path / "file").write_bytes(os.urandom(1 << 20))
    middle.fault = Fault(kind, 200_000, times=9)
    with pytest.raises((TransportClosed, TransportTimeout), match=r"the link to board was lost|in time"):
        reach().push(tmp_path / "file", f"blobs/broken-{kind}")
    assert not (server.home / f".edgekit/blobs/broken-{kind}").exists()


def test_a_push_that_stalls_ends_at_its_deadline(
    reach: Callable[[], Ssh], middle: Middle, tmp_path: Path, server: sshd.Server, impatient: None
) -> None:
    (tmp_path / "file").write_bytes(os.urandom(32 << 20))
    middle.fault = Fault("stall", 200_000, times=9)
    device, start = reach(), time.monotonic()
    with pytest.raises(TransportTimeout, match="board did not answer in time while sending file"):
        device.push(tmp_path / "file", "blobs/stalled")
    assert time.monotonic() - start < 15
    assert not (server.home / ".edgekit/blobs/stalled").exists()


@pytest.mark.parametrize("kind", ["cut", "stall", "garbage"])
def test_a_pull_that_breaks_is_an_error_and_leaves_no_half_file(
    reach: Callable[[], Ssh], middle: Middle, tmp_path: Path, kind: str, impatient: None
) -> None:
    (tmp_path / "file").write_bytes(os.urandom(1 << 20))
    reach().push(tmp_path / "file", "blobs/pulled")
    middle.fault = Fault(kind, 300_000, "down")
    device, start = reach(), time.monotonic()
    with pytest.raises((TransportClosed, TransportTimeout)):
        device.pull("blobs/pulled", tmp_path / "back")
    assert time.monotonic() - start < 15
    assert not (tmp_path / "back").exists()


def test_a_file_that_is_not_there_cannot_be_pulled(reach: Callable[[], Ssh], tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="the device has no file nothing"):
        reach().pull("nothing", tmp_path / "back")


# ---- the link ----


@pytest.mark.parametrize("after", [0, 100, 2000])
def test_a_connection_that_stalls_ends_at_its_deadline(
    reach: Callable[[], Ssh], middle: Middle, after: int, impatient: None
) -> None:
    middle.fault = Fault("stall", after, "down", times=9)
    start = time.monotonic()
    with pytest.raises(DeviceError):
        reach()
    assert time.monotonic() - start < 15


def test_a_command_that_does_not_end_is_left_at_its_deadline(reach: Callable[[], Ssh]) -> None:
    device, start = reach(), time.monotonic()
    with pytest.raises(TransportTimeout, match="board did not answer in time while running a command"):
        device.run("read line; sleep 5 < /dev/null", 0.3)
    assert time.monotonic() - start < 3
    assert device.run("echo still here", 5)[:2] == (0, b"still here\n")


@pytest.fixture
def starts_with(server: sshd.Server) -> Iterator[Path]:
    """The file that the user's shell there runs first."""
    path = server.home / ".bashrc"
    yield path
    path.unlink()


def test_a_shell_that_prints_before_every_command_is_named(reach: Callable[[], Ssh], starts_with: Path) -> None:
    """It would stand before the content of every file that is fetched."""
    starts_with.write_text("echo Welcome to the board\n")
    with pytest.raises(ConnectError, match="board prints 'Welcome to the board' before") as caught:
        reach()
    assert ".bashrc" in caught.value.hint


def test_a_shell_that_warns_before_every_command_disturbs_nothing(
    reach: Callable[[], Ssh], starts_with: Path, tmp_path: Path
) -> None:
    starts_with.write_text("echo 'bash: warning: setlocale: LC_ALL: cannot change locale' >&2; printf '> ' >&2\n")
    device = reach()
    (tmp_path / "file").write_text("content")
    device.push(tmp_path / "file", "blobs/warned")
    channel = device.spawn(["sh", "-c", "trap '' TERM HUP INT; echo $$; while :; do sleep 1; done"])
    pid = int(channel.read_line(10))
    channel.close()
    assert wait_gone(pid)
    assert "cannot change locale" in channel.stderr_tail() and "edgekit-group" not in channel.stderr_tail()


def test_a_folder_that_cannot_be_made_is_a_connect_error(tmp_path: Path) -> None:
    with sshd.openssh(tmp_path / "server") as server:
        pass
    config = tmp_path / "server/sshd_config"
    config.write_text(config.read_text().replace(str(server.home), "/proc"))
    server.start()
    try:
        connection = {"host": "127.0.0.1", "port": server.port, "user": server.user, "identity": str(server.identity)}
        with pytest.raises(ConnectError, match="making the edgekit folder failed on the device: mkdir"):
            Ssh(Device("board", "", "host", "ssh", (), connection), server.trust(tmp_path / "known_hosts"))
    finally:
        server.stop()


def test_a_jump_leads_to_a_host_that_is_not_in_reach(server: sshd.Server, tmp_path: Path) -> None:
    with sshd.openssh(tmp_path / "inner") as inner:
        keys = (tmp_path / "inner/authorized_keys", Path(server.identity.parent / "authorized_keys"))
        public = inner.identity.with_suffix(".pub").read_text()
        for path in keys:
            path.write_text(path.read_text() + public)
        known_hosts = server.trust(tmp_path / "known_hosts")
        known_hosts.write_text(known_hosts.read_text() + f"[localhost]:{inner.port} {inner.host_key}\n")
        connection = {
            "host": "localhost",
            "port": inner.port,
            "user": inner.user,
            "identity": str(inner.identity),
            "jump": f"{server.user}@127.0.0.1:{server.port}",
        }
        device = Ssh(Device("board", "", "host", "ssh", (), connection), known_hosts)
        assert device.root == str(inner.home / ".edgekit")
        device.close()


# ---- the agent ----


def test_outputs_come_back_whole(live: Session, tmp_path: Path) -> None:
    reply = live.fetch("predict", fake_request(live, tmp_path), 30, tmp_path / "output")
    assert reply["outputs"] and (tmp_path / "output").stat().st_size == 40


@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("kind", ["cut", "stall", "garbage"])
def test_a_link_that_breaks_within_a_frame_ends_the_call_and_the_agent(
    live: Session, middle: Middle, tmp_path: Path, way: str, kind: str, impatient: None
) -> None:
    job = {**fake_request(live, tmp_path, fault="hang"), "output": "output-x.bin"}
    running = agents(live)
    assert running
    middle.fault = Fault(kind, 30, way)
    start = time.monotonic()
    with pytest.raises((TransportClosed, TransportTimeout)):
        live.call("predict", job, 1)
    assert time.monotonic() - start < 12
    middle.cut()
    assert all(wait_gone(pid) for pid in running)


def test_an_agent_that_is_killed_is_named(live: Session, tmp_path: Path) -> None:
    agent = min(agents(live))
    os.kill(agent, signal.SIGKILL)
    with pytest.raises(TransportClosed, match="the program on the device died of SIGKILL"):
        live.call("hello", {}, 10)


def test_a_program_that_does_not_end_by_itself_is_ended(reach: Callable[[], Ssh]) -> None:
    channel = reach().spawn(["sh", "-c", "trap '' TERM HUP INT; echo $$; while :; do sleep 1; done"])
    pid = int(channel.read_line(10))
    channel.close()
    assert wait_gone(pid)


def test_a_program_that_cannot_be_started_says_why(reach: Callable[[], Ssh]) -> None:
    device = reach()
    channel = device.spawn(["./nothing"])
    with pytest.raises(TransportClosed, match="ended with code 127") as caught:
        channel.read_line(10)
    assert "not found" in caught.value.hint
    channel.close()


def test_the_wrong_architecture_is_told(reach: Callable[[], Ssh], tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    header = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xf3\x00" + bytes(100)  # for a RISC-V
    (tmp_path / "bin/python").write_bytes(header)
    (tmp_path / "bin/python").chmod(0o755)
    land = userland.Userland("e" * 64, tmp_path / "bin", ("{root}/python",), {}, {})
    device = reach()
    with pytest.raises(
        ConnectError, match="the agent did not start: the program on the device ended with code 126"
    ) as it:
        Session._start(device.device, device, land, lambda text: None)
    assert "xec format error" in it.value.hint


def test_the_agents_own_errors_are_no_faults_of_the_link(live: Session, tmp_path: Path) -> None:
    with pytest.raises(AgentError, match="SIG"):
        live.fetch("predict", fake_request(live, tmp_path, fault="segfault"), 30, tmp_path / "output")
    assert wait_until(lambda: live.call("hello", {}, 10)["runtimes"])
