"""Device profiles: every way to get one wrong is one sentence with file, line, key and what was probably meant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from harness import forbid

from edgekit import config, plan, sources
from edgekit.errors import UserError
from edgekit.plan import Effort
from edgekit.transports import emulator

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
memory_mb = 3792
model = "a board"
os = "an OS"
governor = "performance"
frequency_khz = 1500000

[emulation.cpuinfo]
part = "0xd08"
implementer = "0x41"
architecture = "8"
variant = "0x0"
revision = "3"
features = "fp asimd"
bogomips = "108.00"
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


def test_optional_runtimes_run_only_when_they_are_asked_for(tmp_path: Path) -> None:
    text = GOOD.replace(
        'runtimes = ["tflite", "onnxruntime"]', 'runtimes = ["tflite"]\noptional_runtimes = ["tflite_runtime"]'
    )
    device = config.device(write(tmp_path, text))
    assert device.all_runtimes == ("tflite", "tflite_runtime")
    model = sources.load("digits_mlp")
    for asked, found in {
        None: ["tflite"],
        ("all",): ["tflite", "tflite_runtime"],
        ("tflite_runtime",): ["tflite_runtime"],
    }.items():
        request = plan.Request("digits_mlp", "board", asked, ("fp32",))
        assert [cell.runtime for cell in plan.expand(model, device, request)] == found
    with pytest.raises(UserError) as caught:
        plan.expand(model, device, plan.Request("digits_mlp", "board", ("executorch",), ("fp32",)))
    assert caught.value.hint == "it has: tflite, tflite_runtime"
    with pytest.raises(UserError, match="unknown runtime 'tflit_runtime'") as caught:
        config.device(write(tmp_path, text.replace('["tflite_runtime"]', '["tflit_runtime"]')))
    assert caught.value.message.startswith("board.toml:5: ")


@pytest.mark.parametrize(
    ("old", "new", "message", "hint"),
    [
        ("arch =", "arhc =", "board.toml:2: unknown key 'arhc'", "did you mean 'arch'?"),
        ("soc =", "sco =", "board.toml:7: unknown key 'hardware.sco'", "did you mean 'soc'?"),
        ("part =", "parts =", "board.toml:23: unknown key 'emulation.cpuinfo.parts'", "did you mean 'part'?"),
        ("[limits]", "[limit]", "board.toml:9: unknown key 'limit'", "did you mean 'limits'?"),
        (
            "[emulation.cpuinfo]",
            "[emulation.cpu_info]",
            "board.toml:22: unknown key 'emulation.cpu_info'",
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
        ("cores = 4", "cores = 0", "board.toml:15: 'emulation.cores' must be at least 1, not 0", "_reference"),
        ("cores = 4", "cores = -1", "board.toml:15: 'emulation.cores' must be at least 1, not -1", "_reference"),
        ("= 3792", "= -5", "board.toml:16: 'emulation.memory_mb' must be at least 1, not -5", "_reference"),
        ("= 1500000", "= 0", "board.toml:20: 'emulation.frequency_khz' must be at least 1, not 0", "_reference"),
        ("calls = 10", "threads = -4", "board.toml:10: 'limits.threads' must be at least 1, not -4", "_reference"),
        ("cores = 4\n", "", "board.toml:13: the emulator needs 'emulation.cores'", "_reference"),
        ('part = "0xd08"\n', "", "board.toml:22: the emulator needs 'emulation.cpuinfo.part'", "_reference"),
        (
            GOOD[GOOD.index("[emulation.cpuinfo]") :],
            "",
            "board.toml:13: the emulator needs 'emulation.cpuinfo'",
            "_reference",
        ),
        (GOOD[GOOD.index("[emulation]") :], "", "board.toml:3: the emulator needs the table [emulation]", "_reference"),
        (
            '"aarch64"',
            '"x86_64"',
            "board.toml:2: the transport 'emulator' does not reach the arch 'x86_64'",
            "it reaches: aarch64",
        ),
        ('"aarch64"', '"host"', "board.toml:2: the transport 'emulator' does not reach the arch 'host'", "aarch64"),
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


def test_a_profile_that_one_may_not_look_at_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, GOOD)
    forbid(monkeypatch, tmp_path)
    with pytest.raises(UserError, match="there is no device profile"):
        config.device(path)


def test_this_machine_runs_no_programs_of_another_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = GOOD.replace('"emulator"', '"local"')
    monkeypatch.setitem(config.REACHES, "local", ("host", "x86_64"))
    with pytest.raises(UserError, match=r"board\.toml:2: the transport 'local' does not reach the arch 'aarch64'"):
        config.device(write(tmp_path, local))
    assert config.device(write(tmp_path, local.replace('"aarch64"', '"x86_64"'))).arch == "x86_64"


def test_what_the_emulator_reaches_is_what_there_is_a_qemu_for() -> None:
    assert config.REACHES["emulator"] == tuple(emulator.QEMU)


@pytest.mark.parametrize(
    ("name", "hint"), [("pi44", "did you mean 'pi4'?"), ("zx81", "known: android, "), ("", "known:")]
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


@pytest.fixture
def mine(config_folder: Path) -> Callable[[str], None]:
    """Writes the user's devices.toml."""

    def write_mine(text: str) -> None:
        config_folder.mkdir(exist_ok=True)
        (config_folder / "devices.toml").write_text(text, "utf-8")

    return write_mine


def test_without_a_file_of_the_users_there_are_the_shipped_devices() -> None:
    assert config.device_names() == config.shipped_names()


def test_a_key_of_the_users_file_goes_before_the_profiles(mine: Callable[[str], None]) -> None:
    mine(
        '[pi4]\ndescription = "the one in the cellar"\n[pi4.limits]\ncalls = 77\n[pi4.emulation.cpuinfo]\nrevision = "4"\n'
    )
    device = config.device("pi4")
    assert (device.description, device.limits, device.transport) == (
        "the one in the cellar",
        {"threads": 4, "calls": 77},
        "emulator",
    )
    assert device.emulation and device.emulation["cpuinfo"]["revision"] == "4"
    assert device.emulation["cpuinfo"]["part"] == "0xd08", "the other keys of the table stay"


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("board", {"host": "board"}),
        ("pi@192.0.2.7", {"host": "192.0.2.7", "user": "pi"}),
        ("pi@board:2222", {"host": "board", "user": "pi", "port": 2222}),
        ("[fe80::1%eth0]:22", {"host": "fe80::1%eth0", "port": 22}),
    ],
)
def test_a_host_makes_the_real_board_of_an_emulated_one(
    mine: Callable[[str], None], host: str, found: dict[str, object]
) -> None:
    for device in (
        config.device("pi4", {"host": host}),
        [mine(f'[pi4.connection]\nhost = "{host}"\n'), config.device("pi4")][1],
    ):
        assert (device.transport, device.emulated, dict(device.connection)) == ("ssh", False, found)
        assert device.hardware == config.read(config.folder("device_profiles") / "pi4.toml").hardware


def test_the_command_line_goes_before_the_users_file(mine: Callable[[str], None]) -> None:
    mine('[pi4.connection]\nhost = "pi@cellar"\nidentity = "~/.ssh/cellar"\n')
    device = config.device("pi4", {"host": "root@attic"})
    assert dict(device.connection) == {"host": "attic", "user": "root", "identity": "~/.ssh/cellar"}
    device = config.device("pi4", {"tty": "/dev/ttyUSB0", "baud": 9600})
    assert (device.transport, device.emulated, device.connection["tty"]) == ("serial", False, "/dev/ttyUSB0")


def test_a_port_that_stands_with_a_host_is_no_other_hosts(mine: Callable[[str], None]) -> None:
    mine('[pi4.connection]\nhost = "pi@cellar:2222"\n')
    assert config.device("pi4").connection["port"] == 2222
    assert dict(config.device("pi4", {"host": "attic"}).connection) == {"host": "attic", "user": "pi"}
    assert config.device("pi4", {"host": "attic:23"}).connection["port"] == 23
    mine('[pi4.connection]\nhost = "pi@cellar"\nport = 2222\n')  # one that stands by itself is the profile's
    assert config.device("pi4", {"host": "attic"}).connection["port"] == 2222


def test_a_device_of_the_users_own(mine: Callable[[str], None]) -> None:
    mine(
        '[my-board]\ndescription = "mine"\narch = "aarch64"\ntransport = "ssh"\nruntimes = ["tflite"]\nconnection.host = "board"\n'
    )
    assert "my-board" in config.device_names()
    assert (config.device("my-board").transport, config.device("my-board").name) == ("ssh", "my-board")


def test_a_transport_that_the_user_names_ends_the_emulation(mine: Callable[[str], None]) -> None:
    mine('[pi4]\ntransport = "ssh"\n')
    assert not config.device("pi4").emulated


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ('[pi4.connection]\nhots = "pi"\n', "pi4", "devices.toml:2: unknown key 'connection.hots'"),
        ("[pi4]\n\n[pi4.limits]\nthreads = 0\n", "pi4", "devices.toml:4: 'limits.threads' must be at least 1"),
        ('[pi4]\ntransport = "shs"\n', "pi4", "devices.toml:2: unknown transport 'shs'"),
        (
            '[pi4]\narch = "x86_64"\n',
            "pi4",
            "devices.toml:2: the transport 'emulator' does not reach the arch 'x86_64'",
        ),
        ('\n[new]\narch = "aarch64"\n', "new", "devices.toml:2: device 'new': the key 'description' is missing"),
        ("x = 1\n", "pi4", "devices.toml:1: 'x' is not a table"),
        ('["../x"]\na = 1\n', "pi4", "devices.toml:1: '../x' is no name for a device"),
        ("[pi4\n", "pi4", "devices.toml is not valid TOML"),
        ('[pi4.connection]\nhost = "a b"\n', "pi4", "devices.toml:2: 'a b' is not [USER@]HOST[:PORT]"),
        ('[local.connection]\nhost = "x"\n', "local", "devices.toml:2: a device reached by 'local' takes no 'host'"),
        (
            '[pi4.connection]\nhost = "x"\ntty = "y"\n',
            "pi4",
            "devices.toml:3: a device has one place, not 'host' and 'tty'",
        ),
    ],
)
def test_a_mistake_in_the_users_file_is_named_with_its_line(
    mine: Callable[[str], None], text: str, name: str, message: str
) -> None:
    mine(text)
    with pytest.raises(UserError) as caught:
        config.device(name)
    assert caught.value.message.startswith(message)


def test_a_mistake_on_the_command_line_is_named_as_such() -> None:
    with pytest.raises(UserError, match="the command line: 'a b' is not"):
        config.device("pi4", {"host": "a b"})
    with pytest.raises(UserError, match="the command line: a device reached by 'local' takes no 'host'"):
        config.device("local", {"host": "board"})
    for host in ({"host": "board", "port": 65536}, {"host": "board:65536"}):
        with pytest.raises(UserError, match=r"the command line: 'connection\.port' must be at most 65535, not 65536"):
            config.device("pi4", host)
    with pytest.raises(UserError, match=r"'connection\.baud' must be at most 4000000"):
        config.device("serial-linux", {"tty": "x", "baud": 99999999999})


def test_of_a_connection_a_run_keeps_nothing_that_lies_on_this_machine_alone() -> None:
    assert plan.public({"host": "board", "identity": "/home/me/.ssh/key"}) == {"host": "board"}
