"""What outputs are judged by: labels, a metric, another model. Mistakes are told before anything is converted, and a run is
finished only with what it was begun with."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from harness import FAKE_DEVICE, FAKE_MODEL, CommandLine

from edgekit import api
from edgekit.errors import UserError

DEVICE = ("--device", FAKE_DEVICE)
PROFILE = ("profile", FAKE_MODEL, *DEVICE, "--launches", "1")


TYPICAL = np.random.default_rng(0).uniform(0.0, 1.0, (20, 10)).astype(np.float32)


def save_rows(path: Path, shift: int = 0) -> Path:
    """Forty one-hot rows; the labels are right where nothing shifts them."""
    y = np.arange(40) % 10
    np.savez(path, x=np.eye(10, dtype=np.float32)[y], y=(y + shift) % 10)
    return path


@pytest.fixture
def rows(cli: CommandLine) -> Path:
    """Forty one-hot rows with their labels, in the working directory."""
    return save_rows(cli.cwd / "rows.npz")


def tear(cli: CommandLine) -> None:
    """Take the last cell of the only run away, as an interruption would."""
    (run,) = (cli.cwd / "results").iterdir()
    lines = (run / "measurements.jsonl").read_text("utf-8").splitlines(keepends=True)
    assert len(lines) == 2
    (run / "measurements.jsonl").write_text(lines[0], "utf-8")


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Path:
    """The folder of a run with labels, calibration and a metric of the user's own, of which one cell is left."""
    cli = CommandLine(tmp_path_factory.mktemp("begun"))
    save_rows(cli.cwd / "rows.npz")
    (cli.cwd / "mine.py").write_text("def share(outputs, y):\n    return (outputs.argmax(1) == y).mean()\n", "utf-8")
    np.savez(cli.cwd / "typical.npz", x=TYPICAL)
    given = ("--data", "rows.npz", "--calibration", "typical.npz", "--metric", "mine.py:share")
    ran = cli(*PROFILE, *given, EDGEKIT_CACHE_DIR=str(shared_cache))
    assert ran.rc == 0, ran.stderr
    tear(cli)
    return cli.cwd


@pytest.mark.slow
@pytest.mark.parametrize("what", ["labels", "calibration", "metric", "metric's file", "reference"])
def test_a_run_is_not_finished_with_another_judge(cli: CommandLine, begun: Path, what: str) -> None:
    shutil.copytree(begun, cli.cwd, dirs_exist_ok=True)
    again: tuple[object, ...] = ()
    if what == "labels":
        save_rows(cli.cwd / "rows.npz", shift=1)
    elif what == "calibration":
        np.savez(cli.cwd / "typical.npz", x=TYPICAL * 0.9)
    elif what == "metric's file":
        (cli.cwd / "mine.py").write_text("def share(outputs, y):\n    return 0.5\n", "utf-8")
    else:
        again = ("--metric", "top5") if what == "metric" else ("--reference", FAKE_MODEL)
    ran = cli("profile", "--resume", "last", FAKE_MODEL, *DEVICE, *again)
    assert ran.rc == 2 and "changed since it was begun" in ran.stderr, ran.stderr


def test_a_run_is_finished_with_what_it_was_begun_with(cli: CommandLine, rows: Path) -> None:
    assert cli(*PROFILE, "--data", rows, "--metric", "top5").rc == 0
    tear(cli)
    ran = cli("profile", "--resume", "last", FAKE_MODEL, *DEVICE)
    assert ran.rc == 0, ran.stderr


def test_a_metric_without_labels_is_a_mistake(cli: CommandLine) -> None:
    np.savez(cli.cwd / "bare.npz", x=np.random.default_rng(0).uniform(size=(8, 10)).astype(np.float32))
    ran = cli(*PROFILE, "-p", "fp32", "--data", "bare.npz", "--metric", "top1")
    assert ran.rc == 2 and "--metric needs labels" in ran.stderr and "converting" not in ran.stderr, ran.stderr


@pytest.mark.parametrize("name", ["mine.py:nothing", "broken.py:share"])
def test_a_metric_that_cannot_be_called_is_told_before_anything_is_converted(
    cli: CommandLine, rows: Path, name: str
) -> None:
    (cli.cwd / "mine.py").write_text("def share(outputs, y):\n    return 1.0\n", "utf-8")
    (cli.cwd / "broken.py").write_text("import nothing_of_this_name\n", "utf-8")
    ran = cli(*PROFILE, "--data", rows, "--metric", name)
    assert ran.rc in (2, 3) and name.split(":")[0] in ran.stderr and "converting" not in ran.stderr, ran.stderr


@pytest.mark.slow
def test_a_metric_that_fails_costs_no_measurement(cli: CommandLine, rows: Path) -> None:
    (cli.cwd / "mine.py").write_text("def share(outputs, y):\n    return 1 / 0\n", "utf-8")
    ran = cli(*PROFILE, "--data", rows, "--metric", "mine.py:share", "--json")
    assert ran.rc == 0, ran.stderr
    for cell in ran.json["cells"]:
        assert cell["latency"]["samples"] > 0 and "accuracy" not in cell
        said = [warning["message"] for warning in cell["warnings"]]
        assert any("accuracy could not be measured" in text and "ZeroDivisionError" in text for text in said)


def test_a_reference_for_other_inputs_is_told_before_anything_is_converted(cli: CommandLine) -> None:
    other = cli.cwd / "wide.py"
    other.write_text(FAKE_MODEL.read_text("utf-8").replace("(1, 10)", "(1, 12)"), "utf-8")
    ran = cli(*PROFILE, "--reference", other)
    assert ran.rc == 2 and "wide.py takes (1, 12)" in ran.stderr and "converting" not in ran.stderr, ran.stderr


def test_convert_refuses_a_folder_in_the_place_of_a_file_and_what_there_is_not(
    tmp_path: Path, cold_cache: Path
) -> None:
    (tmp_path / "there.fake").mkdir()
    with pytest.raises(UserError, match="is there already, and is a folder"):
        api.convert(FAKE_MODEL, "fake", output=tmp_path / "there.fake", force=True)
    with pytest.raises(UserError, match=r"unknown precision 'FP16' \(did you mean 'fp16'\?\)"):
        api.convert(FAKE_MODEL, "fake", "FP16", output=tmp_path / "a.fake")
    with pytest.raises(UserError, match="--preprocess is for --data and --calibration"):
        api.convert(FAKE_MODEL, "fake", output=tmp_path / "a.fake", preprocess="range=0..1")
