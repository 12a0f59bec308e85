"""The command line around the main job: bad input is one sentence and the right exit code, help has examples, lists and doctor."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import FAKE_DEVICE, FAKE_MODEL, ROOT, CommandLine, forbid, write_fake_model

from edgekit import __version__, cli_compare, cli_devices, cli_profile, config, doctor, sources
from edgekit import cli as command_line
from edgekit.errors import UserError

pytestmark = pytest.mark.timeout(90)
COMMANDS = (
    "profile", "ab", "calibrate", "gate", "convert", "inspect", "devices", "models", "doctor", "completion",
    "runs", "history", "show", "prune", "report", "compare", "advise",
)  # fmt: skip
FAKE = ("-d", str(FAKE_DEVICE))


def refused(argv: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """(exit code, complaint, hint) of a call inside this process: quick, and the same code."""
    code = command_line.main(argv)
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    message, _, hint = err.partition("\n")
    return code, message, hint.strip()


@pytest.mark.parametrize(
    ("argv", "message", "hint"),
    [
        (("profil",), "unknown command 'profil'", "did you mean 'profile'?"),
        (
            ("zzz",),
            "unknown command 'zzz'",
            "known: ab, advise, calibrate, ci, compare, completion, convert, devices, doctor, gate, history, inspect, models, "
            "profile, prune, report, runs, show",
        ),
        (("profile", "digits_cn", *FAKE), "unknown model 'digits_cn'", "did you mean 'digits_cnn'?"),
        (("profile", "--device", "pi44"), "unknown device 'pi44'", "did you mean 'pi4'?"),
        (("profile", str(FAKE_MODEL), *FAKE, "-r", "fak"), "unknown runtime 'fak'", "did you mean 'fake'?"),
        (("profile", str(FAKE_MODEL), *FAKE, "-r", "tflite"), "fake has no runtime 'tflite'", "it has: fake"),
        (("profile", str(FAKE_MODEL), *FAKE, "-p", "int9"), "unknown precision 'int9'", "did you mean 'int8'?"),
        (("profile", str(FAKE_MODEL), *FAKE, "-t", "0"), "threads must be whole numbers of at least 1, not 0", ""),
        (("profile", str(FAKE_MODEL), *FAKE, "-t", "99"), "99 threads are not possible on fake", "1 to 16"),
        (
            ("profile", str(FAKE_MODEL), *FAKE, "-t", "two"),
            "argument --threads/-t: 'two' is not a list of whole",
            "--help",
        ),
        (("profile", "--samples", "0"), "argument --samples: '0' is not a whole number of at least 1", "--help"),
        (("profile", "--calls", "-3"), "argument --calls: ", "--help"),
        (("profile", "--max-seconds", "soon"), "argument --max-seconds: ", "--help"),
        (("profile", str(FAKE_MODEL), *FAKE, "--max-seconds", "nan"), "max-seconds must be a number of at least 1", ""),
        (("profile", str(FAKE_MODEL), *FAKE, "--max-seconds", "0"), "max-seconds must be a number of at least 1", ""),
        (("profile", "--precision"), "argument --precision/-p: expected one argument", "profile --help"),
        (("profile", "a", "b"), "unknown argument 'b'", ""),
        (("profile", "nowhere.py"), "there is no model recipe at nowhere.py", "known by name: digits_cnn"),
        (("profile", "--device", "nowhere.toml"), "there is no device profile 'nowhere.toml'", ".toml file"),
        (("profile", "--resume", "last", "--threads", "2"), "--resume takes the matrix", "leave the other options out"),
        (("profile", "--resume", "last"), "there is no run 'last' in results", "no run is there yet"),
        (("completion", "fish"), "argument shell: invalid choice: 'fish'", "completion --help"),
        (("completion",), "the following arguments are required: shell", "completion --help"),
        (("doctor", "--device", "pi44"), "unknown device 'pi44'", "did you mean 'pi4'?"),
        (("models", "--device", "pi4"), "unknown argument '--device'", ""),
    ],
)
def test_bad_input_is_one_sentence_and_exit_2(
    argv: tuple[str, ...],
    message: str,
    hint: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, said, advice = refused(argv, capsys)
    assert code == 2
    assert said.startswith(f"edgekit: {message}")
    assert hint in advice
    assert not list(tmp_path.iterdir()), "nothing was begun"


def test_an_unknown_option_is_answered_with_the_nearest(cli: CommandLine) -> None:
    for argv, meant in (
        (("profile", "--devise", "pi4"), "--device"),
        (("devices", "--jason"), "--json"),
        (("--verson",), "--version"),
    ):
        ran = cli(*argv)
        assert ran.rc == 2
        assert ran.stdout == ""
        assert ran.stderr.splitlines() == [
            f"edgekit: unknown argument '{argv[-1] if len(argv) < 3 else argv[1]}'",
            f"  did you mean '{meant}'?",
        ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("arch =", "arhc =", "mine.toml:3: unknown key 'arhc'"),
        ("launches = 1", 'launches = "2"', "mine.toml:8: 'limits.launches' must be a whole number, not '2'"),
        ("launches = 1", "launches = ", "mine.toml is not valid TOML: Invalid value (at line 8"),
        ('["fake"]', '["fake", "fakes"]', "mine.toml:5: unknown runtime 'fakes'"),
        ("launches = 1", "launches = 0", "launches must be a whole number of at least 1, not 0"),
    ],
)
def test_a_broken_profile_is_named_with_file_line_and_key(cli: CommandLine, old: str, new: str, message: str) -> None:
    text = FAKE_DEVICE.read_text("utf-8")
    assert old in text
    (cli.cwd / "mine.toml").write_text(text.replace(old, new), "utf-8")
    ran = cli("profile", FAKE_MODEL, "--device", "mine.toml")
    assert ran.rc == 2
    assert ran.stdout == ""
    assert ran.stderr.startswith(f"edgekit: {message}")
    assert len(ran.stderr.splitlines()) <= 2
    assert not (cli.cwd / "results").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def broken(:\n", "mine.py line 1: "),
        ("import nothing_of_this_name\n", "mine.py line 1: ModuleNotFoundError"),
        ("\n\n1 / 0\n", "mine.py line 3: ZeroDivisionError"),
        ("TASK = 'x'\n", "mine.py: lacks DESCRIPTION, LICENCE, INPUT"),
        ("", "mine.py: lacks TASK"),
    ],
)
def test_a_broken_recipe_is_named_with_file_and_line(cli: CommandLine, text: str, words: str) -> None:
    (cli.cwd / "mine.py").write_text(text, "utf-8")
    ran = cli("profile", "mine.py", *FAKE)
    assert ran.rc == 2
    assert words in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not (cli.cwd / "results").exists()


def test_a_recipe_whose_data_is_wrong_is_the_users_fault(cli: CommandLine, recipe: Callable[..., Path]) -> None:
    path = recipe("mine")
    path.write_text(path.read_text("utf-8") + "\n\ndef data():\n    return {'x': 5}\n", "utf-8")
    ran = cli("profile", path.name, *FAKE, "--quiet")
    assert ran.rc == 2
    assert ran.stderr.startswith("edgekit: mine.py: data() must return")


@pytest.mark.parametrize(
    ("body", "words"),
    [("return 1 / 0", "data() failed: ZeroDivisionError"), ("raise SystemExit(3)", "data() failed: SystemExit")],
)
def test_a_recipe_whose_data_fails_is_the_users_fault(
    cli: CommandLine, recipe: Callable[..., Path], body: str, words: str
) -> None:
    path = recipe("mine")
    path.write_text(path.read_text("utf-8") + f"\n\ndef data():\n    {body}\n", "utf-8")
    ran = cli("profile", path.name, *FAKE, "--quiet")
    assert ran.rc == 2
    assert ran.stderr.startswith("edgekit: mine.py line ") and words in ran.stderr


@pytest.mark.parametrize("option", ["--output", "--cache-dir"])
def test_a_file_where_a_folder_must_be_is_one_sentence(cli: CommandLine, option: str) -> None:
    (cli.cwd / "file").write_text("mine")
    ran = cli("profile", FAKE_MODEL, *FAKE, "--quiet", option, "file")
    assert ran.rc == 3
    assert ran.stderr.startswith("edgekit: cannot write ")
    assert option in ran.stderr
    assert "Traceback" not in ran.stderr
    assert (cli.cwd / "file").read_text() == "mine"


@pytest.mark.fresh
def test_a_bug_of_ours_is_a_traceback_and_exit_70(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(config, "device_names", lambda: 1 / 0)
    assert command_line.main(["devices"]) == 70
    said = capsys.readouterr().err
    assert "ZeroDivisionError" in said
    assert "this is a bug in edgekit" in said


@pytest.mark.fresh
def test_version_and_help(cli: CommandLine) -> None:
    ran = cli("--version")
    assert (ran.rc, ran.stdout, ran.stderr) == (0, f"edgekit {__version__}\n", "")
    assert cli().stdout == cli("--help").stdout, "without a command it shows its help"


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_everywhere_has_an_example(command: str, cli: CommandLine) -> None:
    ran = cli(*command.split(), "--help")
    assert (ran.rc, ran.stderr) == (0, "")
    assert f"\n  edgekit {command}" in ran.stdout.partition("example")[2]
    assert "exit codes: 0 all well" in ran.stdout
    assert max(map(len, ran.stdout.splitlines())) <= 120


def test_examples_in_the_help_are_valid() -> None:
    parser = command_line.build_parser()
    modules = (command_line, cli_profile, cli_compare, cli_devices)
    texts = [value for module in modules for name, value in vars(module).items() if name.endswith("_HELP")]
    found = [
        line.split("   ")[0].split(">")[0].split()[1:]
        for text in texts
        for line in text.splitlines()
        if line.startswith("  edgekit ")
    ]
    assert len(found) >= 30
    for argv in found:
        parser.parse_args(argv)


@pytest.mark.fresh
def test_devices_lists_every_profile(cli: CommandLine) -> None:
    ran = cli("devices")
    assert ran.rc == 0
    names = [line.split()[0] for line in ran.stdout.splitlines()]
    assert names == ["device", *config.device_names()]
    lines = {line.split()[0]: line for line in ran.stdout.splitlines()}
    assert re.search(r"emulator +aarch64 +(ready|lacks qemu-aarch64)", lines["pi4"])
    assert re.search(r"local +host +ready", lines["local"])
    assert "lacks a port: --port" in lines["serial-linux"]
    whole = cli("devices", "--json").json
    assert all({"answers", "words"} == set(device["now"]) for device in whole)
    assert next(device for device in whole if device["name"] == "local")["now"] == {"answers": True, "words": "ready"}
    assert [device["name"] for device in whole] == config.device_names()
    assert all(not str(device["source"]).startswith("/") for device in whole)


@pytest.mark.fresh
def test_models_lists_every_recipe(cli: CommandLine) -> None:
    ran = cli("models")
    assert ran.rc == 0
    assert [line.split()[0] for line in ran.stdout.splitlines()] == ["model", *sources.names()]
    whole = cli("models", "--json").json
    assert [model["name"] for model in whole] == sources.names()
    assert whole[0]["inputs"][0]["shape"][0] == 1
    assert all(not model["source"].startswith("/") for model in whole)


@pytest.mark.fresh
def test_doctor_tries_a_device_for_real(cli: CommandLine) -> None:
    ran = cli("doctor", *FAKE)
    assert ran.rc == (0 if "not ready" not in ran.stdout else 3), ran.stdout
    assert "ok       fake on fake: 1\n" in ran.stdout
    for what in (
        "link: local",
        "agent: Python ",
        "page size: ",
        "free disk: ",
        "free memory: ",
        "clock: as here",
        "governor: ",
    ):
        assert f"ok       {what}" in ran.stdout
    assert ran.stdout.splitlines()[-1].endswith(": ready")
    findings = cli("doctor", *FAKE, "--json").json
    assert [set(finding) for finding in findings] == [{"what", "ok", "seen", "mend", "advice"}] * len(findings)
    assert {"Python", "fake on fake"} <= {finding["what"] for finding in findings}


def test_doctor_names_what_is_missing_and_the_command_that_mends_it(cli: CommandLine) -> None:
    ran = cli("doctor", PATH="/nowhere")
    assert ran.rc == 3
    lines = ran.stdout.splitlines()
    at = lines.index(
        "MISSING  qemu-aarch64: missing: needed for emulated ARM devices, and trying what is built for real ones"
    )
    assert lines[at + 1].split("mend it: ")[1] == "apt-get install qemu-user"
    assert lines[-1].startswith("this machine: not ready, ")
    findings = cli("doctor", "--json", PATH="/nowhere").json
    assert all(finding["mend"] for finding in findings if not finding["ok"])
    assert not next(finding for finding in findings if finding["what"] == "gcc")["ok"]


def test_doctor_looks_at_a_cache_folder_that_it_may_not_look_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid(monkeypatch, tmp_path)
    assert doctor.check_disk(tmp_path / "below" / "cache").what == "free disk for the cache"
    monkeypatch.setattr(os, "access", lambda path, how: False)
    finding = doctor.check_disk(tmp_path / "below" / "cache")
    assert (finding.ok, finding.seen) == (False, "not writable") and "--cache-dir" in finding.mend


def test_set_up_asks_doctor_before_any_package_is_installed(cli: CommandLine) -> None:
    """tools/setup runs it with the system's Python, before .venv exists: the standard library must do."""
    done = subprocess.run(
        [sys.executable, "-S", "-m", "edgekit.doctor"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={"PATH": "/nowhere"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert {"gcc", "g++", "qemu-user", "g++-aarch64-linux-gnu"} <= set(done.stdout.split())


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_is_valid_and_complete(shell: str, cli: CommandLine, tmp_path: Path) -> None:
    ran = cli("completion", shell)
    assert (ran.rc, ran.stderr) == (0, "")
    for word in (*COMMANDS, "--device", "--precision", "--resume"):
        assert word in ran.stdout
    if shutil.which(shell):
        script = tmp_path / "script"
        script.write_text(ran.stdout)
        assert subprocess.run([shell, "-n", str(script)], capture_output=True).stderr == b""


def test_a_reader_that_goes_away_is_no_error(cli: CommandLine) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "edgekit", "models", "--json"]
    done = subprocess.run(
        command, cwd=cli.cwd, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=writing, stderr=subprocess.PIPE
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_parser_never_exits_by_itself() -> None:
    with pytest.raises(UserError):
        command_line.build_parser().parse_args(["profile", "--nonsense"])


def test_json_of_a_run_that_never_began_is_empty(cli: CommandLine) -> None:
    ran = cli("profile", "--device", "pi44", "--json")
    assert (ran.rc, ran.stdout) == (2, "")
    assert len(ran.stderr.splitlines()) == 2


@pytest.mark.parametrize("suffix", [".tflite", ".onnx", ".pte"])
def test_a_model_file_that_is_not_what_its_suffix_says(cli: CommandLine, suffix: str) -> None:
    path = cli.cwd / f"model{suffix}"
    path.write_bytes(b"\x7fELF" + bytes(200))
    ran = cli("profile", path.name, "-d", FAKE_DEVICE)
    assert ran.rc == 2 and f"model{suffix} is" in ran.stderr and "Traceback" not in ran.stderr
    assert not (cli.cwd / "results").exists()


@pytest.mark.fresh
def test_a_finished_model_file_is_measured_as_it_is_unless_it_is_damaged(cli: CommandLine) -> None:
    write_fake_model(cli.cwd / "model.fake")
    whole = cli("profile", "model.fake", "-d", FAKE_DEVICE, "-q")
    assert whole.rc == 0 and "nothing tells what it should answer" in whole.stdout
    (cli.cwd / "model.fake").write_bytes((cli.cwd / "model.fake").read_bytes()[:-9])
    cut = cli("profile", "model.fake", "-d", FAKE_DEVICE)
    assert cut.rc == 2 and "model.fake is damaged" in cut.stderr
    strange = cli("profile", "model.mlmodel", "-d", FAKE_DEVICE)
    assert strange.rc == 2 and "model.mlmodel is no model file that edgekit knows" in strange.stderr


@pytest.mark.slow
def test_a_run_is_not_finished_with_another_recipe(cli: CommandLine, recipe: Callable[..., Path]) -> None:
    path = recipe("mine")
    assert cli("profile", path.name, "-d", FAKE_DEVICE, "-q").rc == 0
    assert cli("profile", "-d", FAKE_DEVICE, "--resume", "last", "-q").rc == 0
    recipe("mine", latency_ns=5)
    ran = cli("profile", "-d", FAKE_DEVICE, "--resume", "last", "-q")
    assert ran.rc == 2 and "cannot be finished: the model's recipe changed since it was begun" in ran.stderr
