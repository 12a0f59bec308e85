"""The CI recipes on the emulated Pi 4, from nothing to a gate that fails on a wider layer, as docs/ci.md tells it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from ci_runner import Runner
from harness import ROOT
from lab import phone

pytestmark = [pytest.mark.emulated, pytest.mark.runtimes]
WHAT = ("--model", "net.py", "--runtime", "tflite", "--precision", "int8")
PROFILE = (
    "profile",
    "net.py",
    "--device",
    "pi4",
    "--metric",
    "instructions",
    "--runtime",
    "tflite",
    "--precision",
    "int8",
)
FAILED = re.compile(
    r"FAIL: net/int8/tflite@pi4\+threads=1: instructions: .+ -> .+: \+(\d+\.\d+) %, the limit is <= \+1 %"
)


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    """A repository with a model of its own."""
    repo = tmp_path / "repo"
    repo.mkdir()
    shutil.copy(ROOT / "models" / "digits_mlp.py", repo / "net.py")
    return Runner(repo, tmp_path / "runner", {})


def widen(runner: Runner) -> None:
    """The planted regression: the first hidden layer has 192 units instead of 128."""
    path = runner.repo / "net.py"
    path.write_text(path.read_text("utf-8").replace("128", "192"), "utf-8")


def grown(said: str) -> float:
    """By how many percent, of a gate that failed for it."""
    found = FAILED.search(said)
    assert found, said
    return float(found[1])


def test_from_nothing_to_a_failing_gate(runner: Runner) -> None:
    for kind in ("github", "gitlab"):
        runner.edgekit("ci", "init", kind, *WHAT)
    runner.edgekit(*PROFILE)
    runner.edgekit("gate", "last", "--save", ".edgekit/baseline.json")
    ran = runner.github(".github/workflows/edgekit.yml")
    assert [step.rc for step in ran.values()] == [0] * len(ran), ran
    assert "passed: 1 limits" in ran["Gate"].said
    script, after, _ = runner.gitlab(".gitlab-ci.yml")
    assert (script.rc, after.rc) == (0, 0), script.said
    widen(runner)
    ran = runner.github(".github/workflows/edgekit.yml")
    assert ran["Measure"].rc == 0 and ran["Gate"].rc == 1
    assert 10 < grown(ran["Gate"].said) < 60  # 25,216 weights instead of 16,960
    assert FAILED.search(runner.summary.read_text("utf-8"))
    script, after, job = runner.gitlab(".gitlab-ci.yml")
    assert script.rc == 1 and grown(script.said) == pytest.approx(grown(ran["Gate"].said), abs=0.5)
    assert after.rc == 0 and (runner.repo / job["artifacts"]["reports"]["junit"]).stat().st_size > 500


def test_android_through_a_real_adbd(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    """The phone of the lab in the place of the emulator: x86-64, reached through the adb server that runs beside the container."""
    repo = tmp_path / "repo"
    repo.mkdir()
    shutil.copy(ROOT / "models" / "digits_mlp.py", repo / "net.py")
    with (
        phone.server(tmp_path_factory.mktemp("host")) as host,
        phone.phone(tmp_path_factory.mktemp("phone"), "x86_64") as lab,
    ):
        shipped = (ROOT / "device_profiles" / "android-emulator.toml").read_text("utf-8")
        (repo / "phone.toml").write_text(shipped.replace("emulator-*", lab.serial), "utf-8")
        runner = Runner(repo, tmp_path / "runner", {**host, "ANDROID_SERIAL": lab.serial})
        runner.edgekit("ci", "init", "github-android", *WHAT, "--device", "phone.toml")
        workflow = ".github/workflows/edgekit-android.yml"
        ran = runner.github(workflow)
        assert ran["Measure"].rc == 0 and ran["Gate"].rc == 2, ran["Measure"].said
        noted = runner.noted()
        assert any(line.startswith("docker run") and "--network host" in line for line in noted)
        assert sum(line.startswith("sudo udevadm") for line in noted) == 2
        shutil.move(repo / "results" / "baseline.json", repo / ".edgekit" / "android" / "baseline.json")
        ran = runner.github(workflow)
        assert ran["Gate"].rc == 0 and "passed: 2 limits" in ran["Gate"].said, ran["Gate"].said
        widen(runner)
        ran = runner.github(workflow)
        found = re.search(
            r"FAIL: net/int8/tflite@phone\+threads=1: size: .+: \+(\d+\.\d+) %, the limit is", ran["Gate"].said
        )
        assert ran["Gate"].rc == 1 and found and 30 < float(found[1]) < 60, ran["Gate"].said
