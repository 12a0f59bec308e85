"""Logging in by SSH: whom an address means, which host keys are believed, keys and passwords, and every way it can fail."""

from __future__ import annotations

import inspect
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paramiko
import pytest
from harness import wait_gone
from lab.fake_sshd import FakeServer
from lab.sshd import free_port, new_key

from edgekit import config
from edgekit.errors import ConnectError, DeviceError, TransportClosed, TransportTimeout, UserError
from edgekit.transports import _ssh_login as login
from edgekit.transports import ssh
from edgekit.transports._remote import FedChannel
from edgekit.transports.ssh import Ssh
from edgekit.types import Device

NONE = {"none": ""}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home folder without any key, an agent that is not there, no terminal, nothing typed before."""
    (tmp_path / ".ssh").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.setattr(login, "SYSTEM", (tmp_path / "none", tmp_path / "none"))
    monkeypatch.setattr(login, "ANSWER_S", 0.5)
    login.SECRETS.clear()
    yield tmp_path
    login.SECRETS.clear()


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A user at a terminal, who types what stands in the list; the questions are noted after it."""
    answers: list[str] = []

    def answer(question: str) -> str:
        answers.append(question)
        return answers.pop(0)

    monkeypatch.setattr(login.prompt, "secret", answer)
    return answers


def device(port: int, **connection: Any) -> Device:
    return Device("board", "", "aarch64", "ssh", (), {"host": "127.0.0.1", "port": port, "user": "pi", **connection})


def known(server: FakeServer, home: Path) -> None:
    """The user has been there before."""
    (home / ".ssh/known_hosts").write_text(server.known_host)


# ---- whom an address means ----


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("pi4", ("", "pi4", None)),
        ("pi@pi4.local:2222", ("pi", "pi4.local", 2222)),
        ("ssh://pi@pi4:22/", ("pi", "pi4", 22)),
        ("[fe80::1]:22", ("", "fe80::1", 22)),
        ("pi@fe80::1", ("pi", "fe80::1", None)),
    ],
)
def test_an_address_is_taken_apart(text: str, meant: tuple[str, str, int | None]) -> None:
    assert login.split(text) == meant


def test_a_password_in_an_address_is_refused_before_it_is_written_anywhere() -> None:
    with pytest.raises(UserError, match=r"is not \[USER@\]HOST"):
        config.device("pi4", {"host": "pi:raspberry@pi4"})


@pytest.mark.parametrize("text", ["", "pi@", "pi4:ssh", "-oProxyCommand=x", "pi:raspberry@pi4"])
def test_what_is_no_address_is_the_users_error(text: str) -> None:
    with pytest.raises(UserError, match="no address"):
        login.split(text)


def test_an_alias_of_the_users_ssh_config_is_followed(home: Path) -> None:
    (home / ".ssh/config").write_text(
        "Host board\n HostName 192.0.2.7\n User pi\n Port 2222\n IdentityFile ~/.ssh/board\n ProxyJump a,b\n"
        ' HostKeyAlias the-board\n UserKnownHostsFile "~/.ssh/known hosts" /dev/null\n'
        "Host *\n User nobody\n IdentitiesOnly yes\n"
    )
    found = login.resolve("board", {})
    assert (found.host, found.user, found.port, found.jumps) == ("192.0.2.7", "pi", 2222, ("a", "b"))
    assert (found.identities, found.chosen_only, found.keyed) == ((home / ".ssh/board",), True, "the-board")
    assert found.known_hosts == (home / ".ssh/known hosts", home / "none")
    assert login.resolve("me@board:1", {"user": "you", "port": 3, "jump": "c"}) == login.replace(
        found, user="you", port=3, jumps=("c",)
    )


def test_included_files_of_the_ssh_config_count_where_they_are_included(home: Path) -> None:
    (home / ".ssh/config.d").mkdir()
    (home / ".ssh/config.d/10-lab").write_text("Host board\n HostName 192.0.2.7\nHost other\n Port 9\n")
    (home / ".ssh/config.d/20 more").write_text("Host board\n HostName 192.0.2.8\n User pi\n")
    (home / ".ssh/deep").write_text("Port 2222\nInclude deep\n")  # and itself: no end
    (home / ".ssh/config").write_text(
        f'User nobody\ninclude config.d/10* none\nInclude="{home}/.ssh/config.d/20 more"\nIdentitiesOnly yes\n'
        "Host board\n Include ~/.ssh/deep\n HostKeyAlias mine\nHost *\n User somebody\n"
    )
    found = login.resolve("board", {})
    assert (found.host, found.user, found.port, found.key_name) == ("192.0.2.7", "nobody", 2222, "mine")
    assert found.chosen_only, "what stands after an Include belongs to the Host before it"
    assert (login.resolve("other", {}).port, login.resolve("third", {}).port) == (9, 22)


def test_a_new_key_is_never_sent_to_dev_null(home: Path) -> None:
    (home / ".ssh/config").write_text("Host *\n StrictHostKeyChecking no\n UserKnownHostsFile /dev/null\n")
    with FakeServer(NONE) as server, pytest.raises(ConnectError, match="is unknown") as caught:
        Ssh(device(server.port))
    assert caught.value.hint.endswith(f">> {home}/.ssh/known_hosts")


@pytest.mark.parametrize("host", ["pi..local", "x" * 70 + ".local"])
def test_a_name_that_cannot_be_asked_for_is_told(host: str) -> None:
    with pytest.raises(ConnectError, match=r"no machine is called .*no name of a machine"):
        Ssh(device(22, host=host))
    assert ssh.look(device(22, host=host)) == (False, "no answer: no such name")


def test_a_private_list_of_host_keys_leaves_the_users_files_alone(home: Path) -> None:
    (home / ".ssh/config").write_text("!\n")
    found = login.resolve("pi@board", {"identity": "~/key"}, home / "hosts")
    assert (found.known_hosts, found.chosen_only, found.identities) == ((home / "hosts",), True, (home / "key",))
    with pytest.raises(UserError, match="cannot read config of SSH"):
        login.resolve("pi@board", {})


def test_a_look_tells_whether_an_ssh_server_answers_and_logs_nobody_in(home: Path) -> None:
    with FakeServer(NONE) as server:
        assert ssh.look(device(server.port))[0]
    assert not ssh.look(device(server.port))[0]
    with FakeServer(NONE, b"HTTP/1.1") as server:
        assert not ssh.look(device(server.port))[0]
    assert ssh.look(Device("board", "", "aarch64", "ssh", ()))[1].startswith("lacks a host")
    assert ssh.look(device(22, jump="a"))[1] == "not tried: behind a"


# ---- host keys ----


def test_an_unknown_host_is_refused_with_its_fingerprint_and_the_command_that_accepts_it(home: Path) -> None:
    with FakeServer(NONE) as server:
        with pytest.raises(ConnectError, match=r"the host key of 127\.0\.0\.1 is unknown: ECDSA\S+ SHA256:") as caught:
            Ssh(device(server.port))
        assert server.connections == 1
        command = caught.value.hint.rpartition("then: ")[2]
        assert not (home / ".ssh/known_hosts").exists()
        (home / ".ssh/known_hosts").write_text("[127.0.0.1]:1 x y\n@revoked x\n# a line that is none, and others\n")
        subprocess.run(["sh", "-c", command], check=True)
        shown = subprocess.run(
            ["ssh-keygen", "-lF", f"[127.0.0.1]:{server.port}", "-f", home / ".ssh/known_hosts"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert shown.stdout.split()[-1] in caught.value.message
        Ssh(device(server.port)).close()


def test_a_changed_host_is_refused_until_the_user_says_so(home: Path) -> None:
    with FakeServer(NONE) as server:
        other = paramiko.ECDSAKey.generate()
        (home / ".ssh/known_hosts").write_text(f"[127.0.0.1]:{server.port} {other.get_name()} {other.get_base64()}\n")
        with pytest.raises(ConnectError, match="has changed: it is now ECDSA") as caught:
            Ssh(device(server.port))
        assert login.host_key(other).shown in caught.value.message
        subprocess.run(["sh", "-c", caught.value.hint.partition("was: ")[2]], check=True, capture_output=True)
        Ssh(device(server.port)).close()


def test_a_host_known_by_a_key_of_another_kind_is_a_changed_one(home: Path) -> None:
    with FakeServer(NONE) as server:
        kind = new_key(home / "other")
        (home / ".ssh/known_hosts").write_text(f"[127.0.0.1]:{server.port} {kind}\n")
        with pytest.raises(ConnectError, match="has changed"):
            Ssh(device(server.port))


def test_hashed_names_are_known(home: Path) -> None:
    with FakeServer(NONE) as server:
        known(server, home)
        subprocess.run(["ssh-keygen", "-q", "-H", "-f", home / ".ssh/known_hosts"], check=True, capture_output=True)
        assert "127.0.0.1" not in (home / ".ssh/known_hosts").read_text()
        Ssh(device(server.port)).close()


def test_a_revoked_key_is_refused_though_it_is_known(home: Path) -> None:
    with FakeServer(NONE) as server:
        kind, data = server.known_host.split()[1:]
        (home / ".ssh/known_hosts").write_text(f"{server.known_host}@revoked * {kind} {data}\n")
        with pytest.raises(ConnectError, match="is revoked: ECDSA"):
            Ssh(device(server.port))


def test_a_host_may_have_an_old_key_and_a_new_one(home: Path) -> None:
    """Of one kind, and in any order: two boards by turns at one address."""
    with FakeServer(NONE) as server:
        other = paramiko.ECDSAKey.generate()
        line = f"[127.0.0.1]:{server.port} {other.get_name()} {other.get_base64()}\n"
        for text in (line + server.known_host, server.known_host + line):
            (home / ".ssh/known_hosts").write_text(text)
            Ssh(device(server.port)).close()


def test_damaged_lines_of_known_hosts_are_passed_over(home: Path) -> None:
    with FakeServer(NONE) as server:
        damage = "x ssh-ed25519 AAAA\n127.0.0.1 ssh-rsa AAAAB3NzaC1yc2E=\nx\n"
        (home / ".ssh/known_hosts").write_text(damage + server.known_host)
        Ssh(device(server.port)).close()


def test_a_link_knows_its_device_by_its_host_key(home: Path) -> None:
    with FakeServer(NONE) as server:
        known(server, home)
        link = Ssh(device(server.port))
        assert link.identity == login.host_key(server.key).shown
        link.close()


# ---- keys and passwords ----


@pytest.mark.parametrize("way", ["chosen", "usual", "config"])
def test_a_key_lets_in(home: Path, way: str) -> None:
    path = home / ".ssh" / ("id_ed25519" if way == "usual" else "mine")
    public = new_key(path).split()[1]
    if way == "config":
        (home / ".ssh/config").write_text("Host *\n IdentityFile ~/.ssh/mine\n")
    with FakeServer({"publickey": public}) as server:
        known(server, home)
        Ssh(device(server.port, **({"identity": str(path)} if way == "chosen" else {}))).close()


def test_a_chosen_key_is_unlocked_and_the_passphrase_asked_for_once(home: Path, typed: list[str]) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "open", "-f", home / "mine"], check=True)
    public = (home / "mine.pub").read_text().split()[1]
    with FakeServer({"publickey": public}) as server:
        known(server, home)
        typed += ["wrong", "open"]
        with pytest.raises(ConnectError, match="not the passphrase of mine"):
            Ssh(device(server.port, identity=str(home / "mine")))
        for _ in range(2):
            Ssh(device(server.port, identity=str(home / "mine"))).close()
        assert [text.partition(" ")[0] for text in typed] == ["passphrase", "passphrase"]


@pytest.mark.parametrize("way", ["password", "keyboard-interactive"])
def test_a_password_is_asked_for_once_and_again_when_it_was_wrong(home: Path, typed: list[str], way: str) -> None:
    with FakeServer({way: "raspberry"}) as server:
        known(server, home)
        typed += ["strawberry", "raspberry"]
        with pytest.raises(ConnectError, match=r"127\.0\.0\.1 does not let pi in"):
            Ssh(device(server.port))
        for _ in range(2):
            Ssh(device(server.port)).close()
        assert typed == [f"pi@127.0.0.1:{server.port}'s password (board): "] * 2


def test_the_same_address_behind_another_jump_is_asked_for_another_password(typed: list[str]) -> None:
    typed += ["one", "two"]
    far = [login.resolve("pi@192.0.2.7", {"jump": jump}) for jump in ("gate-a", "gate-b", "gate-a")]
    assert [login.ask("password", to.account, to) for to in far] == ["one", "two", "one"]


def test_a_server_that_is_silent_at_the_log_in_is_given_up_after_one_key(home: Path) -> None:
    class Silent:
        """paramiko's link to a server that stopped answering."""

        tries = 0

        def auth_none(self, user: str) -> list[str]:
            raise paramiko.BadAuthenticationType("", ["publickey", "password"])

        def auth_publickey(self, user: str, key: Any) -> list[str]:
            self.tries += 1
            raise paramiko.AuthenticationException("Authentication timeout.")

    for name in login.KEY_NAMES:
        new_key(home / ".ssh" / name)
    silent = Silent()
    with pytest.raises(ConnectError, match="hung up while pi logged in") as caught:
        login.log_in(silent, login.resolve("pi@board", {}))
    assert caught.value.transient
    assert silent.tries == 1


def test_without_a_terminal_nothing_is_asked(home: Path) -> None:
    with FakeServer({"password": "raspberry", "publickey": "x"}) as server:
        known(server, home)
        with pytest.raises(ConnectError, match="it takes: password, publickey") as caught:
            Ssh(device(server.port))
        assert "ssh-copy-id" in caught.value.hint and "identity = " in caught.value.hint


@pytest.mark.parametrize(
    ("content", "match"), [(None, "there is no key mine"), ("not a key", "no private key that can be read")]
)
def test_a_chosen_key_that_is_none_is_an_error(home: Path, content: str | None, match: str) -> None:
    if content:
        (home / "mine").write_text(content)
    with FakeServer({"publickey": "x"}) as server:
        known(server, home)
        with pytest.raises(ConnectError, match=match):
            Ssh(device(server.port, identity=str(home / "mine")))


# ---- every way it can fail ----


def test_a_device_without_a_host_is_the_users_error() -> None:
    with pytest.raises(UserError, match="nobody said where board is"):
        Ssh(Device("board", "", "aarch64", "ssh", ()))


def test_a_closed_port_and_an_unknown_name_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConnectError, match="nothing listens on port") as caught:
        Ssh(device(free_port()))
    assert caught.value.transient
    monkeypatch.setattr(
        socket, "create_connection", lambda *_: raise_(socket.gaierror(-2, "Name or service not known"))
    )
    with pytest.raises(ConnectError, match="no machine is called nowhere"):
        Ssh(device(1, host="nowhere"))
    monkeypatch.setattr(socket, "create_connection", lambda *_: raise_(TimeoutError()))
    with pytest.raises(ConnectError, match=r"cannot reach 192\.0\.2\.1:1: no answer"):
        Ssh(device(1, host="192.0.2.1"))


def raise_(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    ("greeting", "tries"),
    [(b"", 2), (None, 2), (b"HTTP/1.1 400 Bad Request\r\n\r\n", 2), (b"SSH-2.0-x\r\n" + bytes(range(256)) * 9, 1)],
    ids=["nothing", "silence", "http", "garbage"],
)
def test_what_does_not_greet_as_ssh_does_is_refused_in_time(greeting: bytes | None, tries: int) -> None:
    with FakeServer({}, greeting) as server:
        with pytest.raises(ConnectError, match="did not answer as an SSH server does"):
            Ssh(device(server.port))
        assert server.connections in (tries, 2)


def test_a_server_that_starts_no_program_is_a_device_error(home: Path) -> None:
    with FakeServer(NONE, programs=False) as server:
        known(server, home)
        with pytest.raises(DeviceError, match="board refused to start a program"):
            Ssh(device(server.port))


def test_a_jump_that_leads_nowhere_and_one_in_a_circle(home: Path) -> None:
    with FakeServer(NONE, programs=False) as server:
        known(server, home)
        with pytest.raises(ConnectError, match=r"does not lead on to 192\.0\.2\.9:22"):
            Ssh(device(22, host="192.0.2.9", jump=f"127.0.0.1:{server.port}"))
    (home / ".ssh/config").write_text("Host a\n ProxyJump b\nHost b\n ProxyJump a\n")
    with pytest.raises(ConnectError, match="in a circle"):
        Ssh(device(22, host="a"))


def test_a_proxy_command_that_fails_is_a_connect_error(home: Path) -> None:
    (home / ".ssh/config").write_text("Host a\n ProxyCommand false\n")
    with pytest.raises(ConnectError, match="did not answer as an SSH server does"):
        Ssh(device(22, host="a"))


def test_a_proxy_command_that_does_not_want_to_end_is_ended(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login, "GOODBYE_S", 0.1)
    (home / "stubborn").write_text(f"trap '' TERM; echo $$ > {home}/pid; exec <&- >&-; while :; do sleep 0.1; done")
    (home / ".ssh/config").write_text(f"Host a\n ProxyCommand sh {home}/stubborn\n")
    with pytest.raises(ConnectError):
        Ssh(device(22, host="a"))
    assert wait_gone(int((home / "pid").read_text()))


def test_every_exception_of_paramiko_becomes_an_error_of_the_device(home: Path) -> None:
    with FakeServer(NONE) as server:
        known(server, home)
        link = Ssh(device(server.port))
        kinds = [kind for _, kind in inspect.getmembers(paramiko.ssh_exception, inspect.isclass)]
        foreign = [kind for kind in kinds if issubclass(kind, Exception) and "paramiko" in kind.__module__]
        assert len(foreign) > 10
        for kind in (*foreign, EOFError, OSError, ConnectionResetError):
            with pytest.raises(DeviceError), link.mapped("testing"):
                raise paramiko.ChannelException(4, "") if kind is paramiko.ChannelException else kind.__new__(kind)
        with pytest.raises(TransportTimeout, match="in time while testing"), link.mapped("testing"):
            raise TimeoutError
        link.close()
        with pytest.raises(TransportClosed, match="the link to board was lost"):
            link.run("true", 1)


@pytest.mark.parametrize("kind", [EOFError, OSError, paramiko.SSHException])
def test_a_link_that_ends_while_a_request_goes_out_is_an_error_of_the_device(kind: type[Exception]) -> None:
    """paramiko's own sending raises EOFError when the socket is closed under it."""

    class Cut:
        """A channel of a link that is gone."""

        def sendall(self, data: bytes) -> None:
            raise kind()

    channel = object.__new__(ssh.SshChannel)
    FedChannel.__init__(channel)
    channel.channel = Cut()
    channel.readers = [threading.Thread(), threading.Thread()]
    for reader in channel.readers:
        reader.start()
    with pytest.raises(TransportClosed):
        channel.write(b"{}")
