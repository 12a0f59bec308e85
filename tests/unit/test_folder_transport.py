"""Push and pull of devices that live in a folder: what is there and whole is not sent again, what is damaged is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from harness import FAKE_DEVICE

from edgekit import config, plugins
from edgekit.errors import DeviceError
from edgekit.transports._folder import FolderTransport


@pytest.fixture
def device(cold_cache: Path) -> FolderTransport:
    """The local device with nothing on it."""
    made = plugins.load("transport", "local").connect(config.device(str(FAKE_DEVICE)), None)
    assert isinstance(made, FolderTransport)
    return made


def left(folder: Path) -> list[str]:
    """What lies in a folder, hidden things included."""
    return sorted(path.name for path in folder.iterdir())


def test_a_file_that_is_whole_is_not_sent_again(device: FolderTransport, tmp_path: Path) -> None:
    (tmp_path / "agent").write_text("whole")
    device.push(tmp_path / "agent", "agents/a.pyz")
    first = (device.root / "agents/a.pyz").stat().st_ino
    device.push(tmp_path / "agent", "agents/a.pyz")
    assert (device.root / "agents/a.pyz").stat().st_ino == first


@pytest.mark.parametrize("content", ["", "who", "whole and more"])
def test_a_file_of_another_size_is_sent_again(device: FolderTransport, tmp_path: Path, content: str) -> None:
    (tmp_path / "agent").write_text("whole")
    device.push(tmp_path / "agent", "agents/a.pyz")
    (device.root / "agents/a.pyz").write_text(content)
    device.push(tmp_path / "agent", "agents/a.pyz")
    assert (device.root / "agents/a.pyz").read_text() == "whole"
    assert left(device.root / "agents") == ["a.pyz"]


@pytest.mark.parametrize("damage", ["cut", "gone", "empty folder"])
def test_a_folder_in_which_a_file_is_damaged_is_sent_again(
    device: FolderTransport, tmp_path: Path, damage: str
) -> None:
    local, there = tmp_path / "userland", device.root / "userland/key"
    (local / "lib").mkdir(parents=True)
    (local / "lib/one.so").write_text("one")
    (local / "lib/link.so").symlink_to("one.so")
    device.push(local, "userland/key")
    (there / "lib/__pycache__").mkdir()  # what a device adds is no damage
    first = there.stat().st_ino
    device.push(local, "userland/key")
    assert there.stat().st_ino == first
    if damage == "empty folder":
        shutil.rmtree(there)
        there.mkdir()
    else:
        (there / "lib/one.so").unlink()  # a hard link: writing into it would damage the cache too
        if damage == "cut":
            (there / "lib/one.so").write_text("o")
    device.push(local, "userland/key")
    assert (there / "lib/one.so").read_text() == (there / "lib/link.so").read_text() == "one"
    assert left(device.root / "userland") == ["key"]


def test_whoever_pushes_the_same_folder_second_is_content(
    device: FolderTransport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = tmp_path / "userland"
    local.mkdir()
    (local / "file").write_text("content")
    copytree = shutil.copytree

    def slow(source: Path, target: Path, **options: object) -> None:
        copytree(source, target, **options)  # type: ignore[arg-type]
        monkeypatch.undo()
        monkeypatch.setenv("EDGEKIT_CACHE_DIR", str(device.root.parent.parent))
        device.push(local, "userland/key")  # another process is quicker

    monkeypatch.setattr(shutil, "copytree", slow)
    monkeypatch.setattr(Path, "is_dir", lambda path: path == local)  # and comes between the look and the renaming
    device.push(local, "userland/key")
    assert (device.root / "userland/key/file").read_text() == "content"
    assert left(device.root / "userland") == ["key"]


def test_a_file_that_is_not_there_cannot_be_pulled(device: FolderTransport, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="the device has no file nothing"):
        device.pull("nothing", tmp_path / "here")
