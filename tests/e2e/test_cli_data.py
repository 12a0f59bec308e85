"""The user's own data through the real command line, with the fake runtime, whose output is its input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from harness import FAKE_DEVICE, FAKE_MODEL, CommandLine

pytestmark = pytest.mark.timeout(90)
PROFILE = ("profile", FAKE_MODEL, "--device", FAKE_DEVICE, "--launches", "1")


def rows(folder: Path, right: int = 30, total: int = 40) -> Path:
    """An archive of rows of which so many have their largest value at their label; classes cannot be guessed."""
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0.0, 0.8, (total, 10)).astype(np.float32), np.arange(total) % 10
    x[np.arange(total), np.where(np.arange(total) < right, y, (y + 1) % 10)] = 1.0
    np.savez(folder / "rows.npz", x=x, y=y)
    return folder / "rows.npz"


def words(table: str) -> str:
    """A table without its alignment."""
    return " ".join(table.split())


@pytest.mark.slow
def test_accuracy_on_the_users_rows_and_what_was_applied(cli: CommandLine) -> None:
    place = rows(cli.cwd)
    ran = cli(*PROFILE, "--data", place)
    assert ran.rc == 0, ran.stderr
    assert "fp32 75.0 30/40 " in words(ran.stdout)
    assert "tested on 40 examples of rows.npz (npz)" in ran.stdout
    assert "x: values as they are" in ran.stdout
    assert "calibrated with 50 examples of the recipe" in ran.stdout
    (path,) = (cli.cwd / "results").iterdir()
    header = json.loads((path / "run.json").read_text("utf-8"))
    assert header["data"]["data"]["count"] == 40 and header["data"]["labels"] == {"from": "y in the archive"}
    assert str(cli.cwd) not in (path / "run.json").read_text("utf-8")
    for line in (path / "measurements.jsonl").read_text("utf-8").splitlines():
        found = json.loads(line)["accuracy"]
        assert (found["correct"], found["total"]) == (30, 40)
        assert found["paired"] == {"only_reference_right": 0, "only_this_right": 0, "p": 1.0}

    rows(cli.cwd, right=31)
    again = cli("profile", "--resume", "last", *PROFILE[1:-2])
    assert again.rc == 2 and "the data changed since it was begun" in again.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("metric", "head", "figure"),
    [
        ("top5", "top5 %", "fp32 100.0 40/40 "),
        ("mine.py:error", "mine.py:error", "fp32 0.25 "),
        ("auc", "auc", "fp32 0."),
    ],
)
def test_another_metric(cli: CommandLine, metric: str, head: str, figure: str) -> None:
    (cli.cwd / "mine.py").write_text("def error(outputs, y):\n    return (outputs.argmax(1) != y).mean()\n", "utf-8")
    x, y = np.eye(10)[np.arange(40) % 10] * 0.5, np.arange(40) % 10
    x[30:] = np.roll(x[30:], 1, 1) + np.eye(10)[y[30:]] * 0.4
    np.savez(cli.cwd / "t.npz", x=x, y=y)
    ran = cli(*PROFILE, "--data", "t.npz", "--precision", "fp32", "--metric", metric)
    assert ran.rc == 0, ran.stderr
    assert head in ran.stdout and figure in words(ran.stdout)


@pytest.mark.slow
def test_samples_are_evenly_spaced_and_the_report_says_how_many(cli: CommandLine) -> None:
    place = rows(cli.cwd)
    with np.load(place) as had:
        arrays = {"x": had["x"], "y": had["y"]}
    by_class = np.argsort(arrays["y"], kind="stable")
    np.savez(place, x=arrays["x"][by_class], y=arrays["y"][by_class])
    (cli.cwd / "mine.py").write_text("def classes(outputs, y):\n    return len(set(y.tolist()))\n", "utf-8")
    ran = cli(*PROFILE, "-p", "fp32", "--data", place, "--samples", "10", "--metric", "mine.py:classes")
    assert ran.rc == 0, ran.stderr
    assert "mine.py:classes" in ran.stdout and "fake fp32 10 " in words(ran.stdout)
    assert "tested on 10 of the 40 examples of rows.npz (npz), evenly spaced (--samples)" in ran.stdout
    assert "tested on 40" not in ran.stdout + ran.stderr and "accuracy on 10 of 40" in ran.stdout


def test_guessing_is_called_guessing(cli: CommandLine) -> None:
    ran = cli(*PROFILE, "--data", rows(cli.cwd, right=3), "--precision", "fp32")
    assert ran.rc == 0, ran.stderr
    assert "weak: accuracy is no better than guessing (10.00%)" in ran.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--preprocess", "range=0..255"), "--preprocess is for --data and --calibration"),
        (("--data", "rows.npz", "--preprocess", "rnage=0..255"), "did you mean 'range'?"),
        (("--data", "nothing"), "there is nothing at nothing"),
        (("--data", "empty"), "empty has no images in it"),
        (("--data", "real.npz", "--metric", "mae"), "1 value per example, the model's output 10"),
        (("--data", "bool.npz"), "y in bool.npz is bool"),
        (("--data", "text.npz"), "text.npz is damaged or no .npz file"),
        (("--data", "rows.npz", "--metric", "gone.py:error"), "is not FILE.py:FUNCTION"),
        (("--data", "labels.npz"), "labels reach from 0 to 12, the model has 10 outputs"),
        (("--data", "rows.npz", "--calibration", "wide.npz"), "calibration for 'x' reaches from"),
        (("--data", "rows.npz", "--metric", "top3"), "unknown metric 'top3'"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_its_cure(cli: CommandLine, options: tuple[str, ...], words: str) -> None:
    with np.load(rows(cli.cwd)) as archive:
        x = archive["x"]
    np.savez(cli.cwd / "labels.npz", x=x, y=np.arange(40) % 13)
    np.savez(cli.cwd / "wide.npz", x=x * 255)
    (cli.cwd / "empty").mkdir()
    np.savez(cli.cwd / "real.npz", x=x, y=np.arange(40) % 10 / 1.0)
    np.savez(cli.cwd / "bool.npz", x=x, y=np.arange(40) > 9)
    (cli.cwd / "text.npz").write_text("hello", "utf-8")
    ran = cli(*PROFILE, *options)
    assert ran.rc == 2 and words in ran.stderr
    assert "Traceback" not in ran.stderr
