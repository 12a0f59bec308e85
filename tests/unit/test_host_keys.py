"""What known_hosts files say of a host: names as OpenSSH reads them, several keys, revoked ones, and lines that are damaged."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from lab.sshd import new_key

from edgekit.errors import ConnectError
from edgekit.transports import _host_keys
from edgekit.transports._host_keys import HostKey, Known, check


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two public keys as files have them."""
    folder = tmp_path_factory.mktemp("keys")
    return new_key(folder / "one"), new_key(folder / "two")


def read(line: str) -> HostKey:
    """The key of a line without names."""
    ((_, _, key),) = _host_keys.entries(f"host {line}")
    return key


@pytest.mark.parametrize(
    ("names", "name", "meant"),
    [
        ("board", "board", True),
        ("a,board,c", "board", True),
        ("board", "BOARD", True),
        ("board", "board2", False),
        ("192.0.2.*", "192.0.2.7", True),
        ("192.0.2.?", "192.0.2.77", False),
        ("*.lab,!bad.lab", "good.lab", True),
        ("*.lab,!bad.lab", "bad.lab", False),
        ("!bad.lab", "good.lab", False),
        ("[board]:2222", "[board]:2222", True),
        ("[board]:2222", "board", False),
        ("[*.lab]:2222", "[a.lab]:2222", True),
        ("*", "[board]:2222", True),
    ],
)
def test_names_mean_what_they_mean_to_openssh(
    tmp_path: Path, lines: tuple[str, str], names: str, name: str, meant: bool
) -> None:
    assert _host_keys.is_named(names, name) == meant
    file = tmp_path / "known_hosts"
    file.write_text(f"{names} {lines[0]}\n")
    found = subprocess.run(["ssh-keygen", "-F", name, "-f", file], capture_output=True, check=False)
    assert (found.returncode == 0) == meant, "ssh-keygen of this machine says otherwise"


def test_a_hash_means_its_name_alone(tmp_path: Path, lines: tuple[str, str]) -> None:
    file = tmp_path / "known_hosts"
    file.write_text(f"board {lines[0]}\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", file], check=True, capture_output=True)
    hashed = file.read_text().split()[0]
    assert hashed.startswith("|1|")
    assert _host_keys.is_named(hashed, "Board")
    assert not _host_keys.is_named(hashed, "boar")
    assert not _host_keys.is_named("|1|no base64|!", "board")


def test_all_files_and_lines_count_and_damaged_ones_harm_nothing(tmp_path: Path, lines: tuple[str, str]) -> None:
    one, two = lines
    (tmp_path / "a").write_text(
        f"# board {two}\n\nboard\nboard ssh-ed25519 AAAA\nboard ssh-rsa AAAAB3NzaC1yc2E=\nboard ssh-ed25519 #\xff\n"
        f"board ssh-rsa {one.split()[1]}\n@other board {two}\n  board\t{one} a comment\n",
        "latin-1",
    )
    (tmp_path / "b").write_text(f"board {two}\n@revoked * {one}\n@cert-authority *.lab,board {one}\n")
    found = _host_keys.known([tmp_path / "a", tmp_path / "none", tmp_path / "b"], "board")
    assert set(found.trusted) >= {read(one), read(two)}
    assert {key.kind for key in found.trusted} <= {"ssh-ed25519", "ssh-rsa"}
    assert (found.revoked, found.certified) == ((read(one),), True)
    assert _host_keys.known([tmp_path / "a"], "other") == Known()


def test_any_trusted_key_is_accepted_and_a_revoked_one_never(lines: tuple[str, str]) -> None:
    one, two = map(read, lines)
    for key in (one, two):
        check(key, Known((one, two)), "board", "board", Path("file"))
    with pytest.raises(ConnectError, match="the host key of board is revoked: ED25519 SHA256:") as caught:
        check(one, Known((one, two), (one,)), "board", "board", Path("file"))
    assert ">>" not in caught.value.hint, "nothing accepts it"
    with pytest.raises(ConnectError, match="has changed"):
        check(one, Known((two,)), "board", "board", Path("file"))
    with pytest.raises(ConnectError, match=r"unknown: .*authority .* is not asked"):
        check(one, Known(certified=True), "board", "board", Path("file"))


def test_a_key_is_shown_as_ssh_keygen_shows_it(tmp_path: Path, lines: tuple[str, str]) -> None:
    (tmp_path / "key.pub").write_text(lines[0] + "\n")
    told = subprocess.run(["ssh-keygen", "-lf", tmp_path / "key.pub"], capture_output=True, text=True, check=True)
    assert read(lines[0]).shown.split()[1] == told.stdout.split()[1]
    assert read(lines[0]).text == lines[0]
