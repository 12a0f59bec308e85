"""Device profiles: every way to get one wrong is one sentence with file, line, key and what was probably meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit import config
from edgekit.errors import UserError
from edgekit.plan import Effort

GOOD = """\
description = "a board"
arch = "aarch64"
transport = "emulator"
runtimes = ["tflite", "onnxruntime"]

[hardware]
soc = "a chip"

[limits]
calls = 10
max_seconds = 2

[emulation]
cpu = "cortex-a72"
cores = 4

[emulation.cpuinfo]
part = "0xd08"
"""


def write(folder: Path, text: str) -> str:
    """A profile file; its path as a user would give it."""
    path = folder / "board.toml"
    path.write_text(text, "utf-8")
    return str(path)


def test_a_profile_becomes_a_device(tmp_path: Path) -> None:
    device = config.device(write(tmp_path, GOOD))
    assert (device.name, device.arch, device.transport) == ("board", "aarch64", "emulator")
    assert device.runtimes == ("tflite", "onnxruntime")
    assert device.emulated
    assert device.limits == {"calls": 10, "max_seconds": 2}
    assert not config.device("local").emulated


@pytest.mark.parametrize(
    ("old", "new", "message", "hint"),
    [
        ("arch =", "arhc =", "board.toml:2: unknown key 'arhc'", "did you mean 'arch'?"),
        ("soc =", "sco =", "board.toml:7: unknown key 'hardware.sco'", "did you mean 'soc'?"),
        ("part =", "parts =", "board.toml:18: unknown key 'emulation.cpuinfo.parts'", "did you mean 'part'?"),
        ("[limits]", "[limit]", "board.toml:9: unknown key 'limit'", "did you mean 'limits'?"),
        (
            "[emulation.cpuinfo]",
            "[emulation.cpu_info]",
            "board.toml:17: unknown key 'emulation.cpu_info'",
            "'cpuinfo'?",
        ),
        ("cores = 4", "qqqqq = 4", "board.toml:15: unknown key 'emulation.qqqqq'", "known here: cpu, cores,"),
        ("cores = 4", 'cores = "4"', "board.toml:15: 'emulation.cores' must be a whole number, not '4'", "_reference"),
        (
            "cores = 4",
            "cores = true",
            "board.toml:15: 'emulation.cores' must be a whole number, not True",
            "_reference",
        ),
        ("cores = 4", "cores = 4.5", "board.toml:15: 'emulation.cores' must be a whole number, not 4.5", "_reference"),
        ("max_seconds = 2", 'max_seconds = "2"', "board.toml:11: 'limits.max_seconds' must be a number", "_reference"),
        ('"a board"', "5", "board.toml:1: 'description' must be a text, not 5", "_reference.toml"),
        (
            '["tflite", "onnxruntime"]',
            '"tflite"',
            "board.toml:4: 'runtimes' must be a list, not 'tflite'",
            "_reference",
        ),
        ('["tflite", "onnxruntime"]', "[1, 2]", "board.toml:4: 'runtimes' must be a list of names", "_reference.toml"),
        ('["tflite", "onnxruntime"]', "[]", "board.toml:4: 'runtimes' must be a list of names", "_reference.toml"),
        ('"tflite", "onnx', '"tflight", "onnx', "board.toml:4: unknown runtime 'tflight'", "did you mean 'tflite'?"),
        ('"emulator"', '"emulater"', "board.toml:3: unknown transport 'emulater'", "did you mean 'emulator'?"),
        ('"aarch64"', '"aarch46"', "board.toml:2: unknown arch 'aarch46'", "did you mean 'aarch64'?"),
        ('"aarch64"', '"6502"', "board.toml:2: unknown arch '6502'", "known: aarch64, armv7, host, x86_64"),
        ('soc = "a chip"\n', "", "", ""),
    ],
)
def test_a_mistake_is_named_with_file_line_and_key(tmp_path: Path, old: str, new: str, message: str, hint: str) -> None:
    assert old in GOOD
    path = write(tmp_path, GOOD.replace(old, new))
    if not message:
        config.device(path)  # an empty table is none
        return
    with pytest.raises(UserError) as caught:
        config.device(path)
    assert caught.value.message.startswith(message)
    assert hint in caught.value.hint
    assert str(tmp_path) not in str(caught.value), "the file's name is enough"


@pytest.mark.parametrize("key", config.REQUIRED)
def test_a_required_key_that_is_missing_is_named(tmp_path: Path, key: str) -> None:
    text = "\n".join(line for line in GOOD.splitlines() if not line.startswith(f"{key} ="))
    with pytest.raises(UserError, match=f"board.toml: the key '{key}' is missing"):
        config.device(write(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("description = \n", "line 1"),
        ('a = "x\n\nb = 1', "line 1"),
        ('description = "a"\narch = aarch64\n', "line 2"),
        ('arch = "a"\narch = "b"\n', "line 2"),
    ],
)
def test_bad_toml_is_named_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        config.device(write(tmp_path, text))
    assert caught.value.message.startswith("board.toml is not valid TOML: ")
    assert words in caught.value.message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no device profile"):
        config.device(str(tmp_path / "nowhere.toml"))
    with pytest.raises(UserError, match="there is no device profile"):
        config.device(write(tmp_path, "") + "/x.toml")
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(UserError):
        config.device(str(tmp_path / "folder.toml"))
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"cannot read the device profile binary\.toml"):
        config.device(str(tmp_path / "binary.toml"))


@pytest.mark.parametrize(
    ("name", "hint"), [("pi5", "did you mean 'pi4'?"), ("zx81", "known: local, pi4"), ("", "known:")]
)
def test_an_unknown_device_is_answered_with_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(UserError) as caught:
        config.device(name)
    assert caught.value.message == f"unknown device '{name}'"
    assert hint in caught.value.hint


@pytest.mark.parametrize("name", ["_reference", "../device_profiles/pi4", "pi4.toml"])
def test_what_is_no_name_of_a_device(name: str) -> None:
    with pytest.raises(UserError):
        config.device(name)


def test_every_shipped_profile_loads() -> None:
    for name in config.device_names():
        assert config.device(name).name == name


def test_limits_of_the_profile_are_overridden_by_the_command_line(tmp_path: Path) -> None:
    device = config.device(write(tmp_path, GOOD))
    assert Effort.of(device, {}).calls == 10
    assert Effort.of(device, {}).launches == 1  # emulated: counts repeat, so one launch tells all
    assert Effort.of(device, {"calls": 2, "launches": None}).calls == 2
    assert Effort.of(device, {"calls": None}).calls == 10, "an option that was not given overrides nothing"
    assert Effort.of(device, {"calls": 2}).min_calls == 2, "never more than all calls"
    assert Effort.of(config.device("local"), {}) == Effort()


@pytest.mark.parametrize("value", [0, -1, 0.5, float("nan"), float("inf")])
def test_an_impossible_effort_is_refused(value: float) -> None:
    with pytest.raises(UserError, match="max-seconds must be"):
        Effort.of(config.device("local"), {"max_seconds": value})
