"""Metrics against worked examples and the literature, their intervals, the paired test, and labels that do not fit."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit import labels, metrics, worker
from edgekit.errors import ConvertError, UserError
from edgekit.types import Json

LOGITS = np.array([[3, 1, 2], [3, 1, 2], [1, 1, 0], [0, 1, 1]], np.float32)


@pytest.mark.parametrize(("total", "share"), [(20, 0.5), (50, 0.9), (540, 0.98), (100, 0.03)])
def test_wilsons_interval_covers_the_share_as_often_as_it_says(total: int, share: float) -> None:
    """Exactly, by the binomial distribution: 92 to 98 % for single shares, of which the mean is 95 % (Agresti & Coull 1998)."""
    covered = 0.0
    for right in range(total + 1):
        low, high = metrics.wilson(right, total)
        if low <= share <= high:
            covered += math.comb(total, right) * share**right * (1 - share) ** (total - right)
    assert 0.92 <= covered <= 0.98


@pytest.mark.slow
def test_the_bootstrap_covers_a_mean_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 100 draws of an exponential distribution, whose mean is 1: a little less than 95 %, because it is skewed."""
    monkeypatch.setattr(metrics, "RESAMPLES", 300)
    rng, covered = np.random.default_rng(3), 0
    for _ in range(300):
        drawn = rng.exponential(1.0, 100)
        interval = metrics.bootstrap(lambda chosen, values=drawn: float(values[chosen].mean()), 100)  # type: ignore[misc]
        assert interval is not None
        covered += interval[0] <= 1.0 <= interval[1]
    assert 0.90 <= covered / 300 <= 0.98


def test_top_k_breaks_ties_by_the_lower_index() -> None:
    y = np.array([0, 2, 0, 2])
    assert metrics.right(LOGITS, y).tolist() == [True, False, True, False]
    assert metrics.right(LOGITS, y, 2).tolist() == [True, True, True, True]
    assert metrics.right(np.array([[np.nan, 1.0], [0.0, 1.0]]), np.array([1, 1])).tolist() == [False, True]


@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_top_k_is_what_a_stable_sort_says(k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    outputs, y = rng.integers(-3, 4, (20, 7)).astype(np.float32), rng.integers(0, 7, 20)
    sorted_ = np.argsort(-outputs, axis=1, kind="stable")[:, :k]
    assert np.array_equal(metrics.right(outputs, y, k), (sorted_ == y[:, None]).any(1))
    assert np.array_equal(metrics.right(outputs, y), outputs.argmax(1) == y)


def test_accuracy_has_a_count_an_interval_and_says_when_it_is_chance() -> None:
    outputs, y = np.eye(10)[[0] * 100], np.array([0] * 74 + [1] * 26)
    found = metrics.measure("top1", outputs, y)
    assert (found["correct"], found["total"], found["value"]) == (74, 100, 0.74)
    # Agresti & Coull's textbook form of the same interval, by hand: centre 0.73111, half 0.08514.
    assert found["interval"] == [pytest.approx(0.6463, abs=1e-3), pytest.approx(0.8160, abs=1e-3)]
    assert "chance" not in found
    assert metrics.measure("top1", outputs, np.arange(100) % 10)["chance"] == 0.1


def test_mean_absolute_error_and_its_bootstrap_interval() -> None:
    y = np.zeros((400, 2), np.float32)
    outputs = np.tile([[1.0, 3.0], [-2.0, 0.0]], (200, 1))
    found = metrics.measure("mae", outputs, y)
    assert (found["value"], found["total"]) == (1.5, 400)
    # Rows err by 2 and by 1, evenly: the mean of 400 has a standard error of 0.5 / 20.
    low, high = found["interval"]
    assert low == pytest.approx(1.5 - 1.96 * 0.025, abs=0.01) and high == pytest.approx(1.5 + 1.96 * 0.025, abs=0.01)
    assert metrics.measure("mae", outputs, y) == found
    assert metrics.measure("mae", np.array([[np.nan]]), np.zeros((1, 1), np.float32))["non_finite"] == 1


def by_pairs(scores: np.ndarray, positive: np.ndarray) -> float:
    """The definition of the area: positives against negatives, ties half."""
    pairs = list(itertools.product(scores[positive], scores[~positive]))
    return sum((up > down) + (up == down) / 2 for up, down in pairs) / len(pairs)


@given(st.integers(0, 2**32 - 1))
def test_the_area_is_the_share_of_ordered_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, positive = rng.integers(0, 5, 30).astype(float), rng.random(30) < 0.4
    area = metrics._area(scores, positive)
    assert area is None if positive.all() or not positive.any() else area == pytest.approx(by_pairs(scores, positive))


def test_auc_of_one_of_two_and_of_several_outputs() -> None:
    y = np.array([0, 0, 1, 1])
    scores = np.array([[0.1], [0.4], [0.35], [0.8]])  # the example of scikit-learn's roc_auc_score: 0.75
    assert metrics.area_under_curve(scores, y)["value"] == 0.75
    assert metrics.area_under_curve(np.hstack([-scores, scores]), y)["value"] == 0.75
    three = metrics.area_under_curve(np.eye(3)[[0, 1, 2, 1]], np.array([0, 1, 2, 2]))
    assert three["value"] == pytest.approx((1 + 5 / 6 + 3 / 4) / 3)
    low, high = metrics.area_under_curve(np.tile(scores, (50, 1)), np.tile(y, 50))["interval"]
    assert 0.65 < low < 0.75 < high < 0.85


def test_mcnemar_is_the_exact_binomial_of_who_is_right_alone() -> None:
    ours = np.array([True] * 90 + [False] * 9 + [True])
    reference = np.array([True] * 90 + [True] * 9 + [False])
    found = metrics.mcnemar(ours, reference)
    assert (found["only_reference_right"], found["only_this_right"]) == (9, 1)
    assert found["p"] == pytest.approx(2 * (1 + 10) / 2**10)
    assert metrics.mcnemar(ours, ours) == {"only_reference_right": 0, "only_this_right": 0, "p": 1.0}
    many = metrics.mcnemar(np.arange(40000) < 19000, np.arange(40000) >= 19000)
    assert 0 <= many["p"] < 1e-10


def test_the_metric_follows_from_labels_and_outputs() -> None:
    assert metrics.default(LOGITS, np.zeros(4, np.int64)) == "top1"
    assert metrics.default(LOGITS, np.zeros((4, 3), np.float32)) == "mae"
    assert metrics.default(LOGITS[:, :1], np.zeros(4, np.int64)) == "auc"


def test_judging_says_which_offset_was_applied_and_pairs_with_the_reference() -> None:
    outputs = np.zeros((3, 1001))
    outputs[range(3), [1, 6, 8]] = 1
    found = metrics.judge(outputs, np.array([0, 5, 9]), {"from": "numbers in the table"}, None, np.roll(outputs, 1, 1))
    assert (found["correct"], found["label_offset"]) == (2, 1) and "background" in found["label_offset_from"]
    assert found["paired"]["only_this_right"] == 2
    plain = metrics.judge(LOGITS, np.array([0, 0, 0, 1]), {"from": "recipe"})
    assert plain["correct"] == 4 and "label_offset" not in plain


SAID = {"from": "numbers in the table", "offset": -1, "offset_from": "--preprocess"}


@pytest.mark.parametrize(
    ("y", "outputs", "about", "name", "expected"),
    [
        ([1, 2, 3], 3, SAID, "my.py:share", [0, 1, 2]),
        ([1, 2, 3], 3, {"from": "numbers in the table"}, "my.py:share", [0, 1, 2]),
        ([0, 999], 1001, {"from": labels.ORDERED[0], "classes": 1000}, "my.py:share", [1, 1000]),
        ([0, 40], 3, {"from": "numbers in the table"}, "my.py:years", [0, 40]),
        ([0, 4], 128, {"from": labels.ORDERED[0], "classes": 5}, "my.py:nearest", [0, 4]),
        ([1, 2, 1], 1, SAID, "auc", [0, 1, 0]),
        ([1, 2, 3], 3, SAID, "mae", [0, 1, 2]),
        ([1.5, 2.5], 1, SAID, "mae", [0.5, 1.5]),
    ],
)
def test_an_offset_is_for_every_metric_and_labels_that_are_no_classes_stay(
    y: list[float], outputs: int, about: Json, name: str, expected: list[float]
) -> None:
    found, told = metrics.aligned(np.array(y), about, outputs, name)
    assert found.tolist() == expected
    assert told.get("offset", 0) == expected[0] - y[0] and (not told.get("offset") or told["offset_from"])


def test_an_offset_that_only_the_user_can_tell_is_asked_for_by_a_metric_of_his_own_too() -> None:
    for about, outputs in (({"from": "numbers in the table"}, 1001), ({**SAID, "offset": 9}, 10)):
        with pytest.raises(UserError, match="labels reach from 5 to 9"):
            metrics.aligned(np.array([5, 9]), about, outputs, "my.py:share")


def test_an_offset_is_told_with_a_metric_of_the_users_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def share(outputs, y):\n    return (outputs.argmax(1) == y).mean()\n", "utf-8")
    found = metrics.judge(LOGITS, np.array([1, 1, 1, 2]), SAID, f"{path}:share")
    assert (found["value"], found["label_offset"], found["label_offset_from"]) == (1.0, -1, "--preprocess")


@pytest.mark.parametrize(
    ("name", "outputs", "y", "words"),
    [
        ("top2", LOGITS, np.zeros(4, np.int64), "unknown metric 'top2'"),
        ("top5", LOGITS, np.zeros(4, np.int64), "means nothing with 3 outputs"),
        ("top1", LOGITS, np.array([0, 1, 2, 3]), "labels reach from 0 to 3, the model has 3 outputs"),
        ("top1", LOGITS, np.zeros(4, np.float32), "needs class indices"),
        ("top1", LOGITS, np.zeros(3, np.int64), "3 labels for 4 outputs"),
        ("mae", LOGITS, np.zeros((4, 2), np.float32), "2 values per example, the model's output 3"),
        (None, LOGITS, np.zeros(4, np.float32), "1 value per example, the model's output 3.*0, not 0.0"),
        ("mae", LOGITS, np.zeros(4, np.int64), "1 value per example, .*class labels are judged by top1"),
        ("auc", LOGITS[:, :1], np.array([0, 1, 2, 1]), "the labels 0 and 1"),
        ("auc", LOGITS[:, :1], np.array([1, 1, 1, 1]), "examples of both classes"),
        ("no.py:metric", LOGITS, np.zeros(4, np.int64), "is not FILE.py:FUNCTION"),
    ],
)
def test_what_cannot_be_measured(name: str | None, outputs: np.ndarray, y: np.ndarray, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        metrics.judge(outputs, y, {"from": "numbers in the table"}, name)
    assert error.value.hint


def test_a_metric_of_the_users_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def wrong(outputs, y):\n    return (outputs.argmax(1) != y).mean()\n", "utf-8")
    found = metrics.measure(f"{path}:wrong", LOGITS, np.array([0, 0, 0, 0]))
    assert (found["metric"], found["value"], found["total"]) == ("mine.py:wrong", 0.25, 4)
    assert 0 <= found["interval"][0] <= 0.25 <= found["interval"][1] <= 1
    with pytest.raises(UserError, match=r"mine.py has no function right\(\)"):
        metrics.measure(f"{path}:right", LOGITS, np.zeros(4, np.int64))


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        ("1 / 0", ConvertError, r"fails.py: metric\(\) failed: ZeroDivisionError"),
        ("float('nan')", UserError, "gave nan"),
    ],
)
def test_a_metric_that_fails(tmp_path: Path, body: str, kind: type[Exception], words: str) -> None:
    (tmp_path / "fails.py").write_text(f"def metric(outputs, y):\n    return {body}\n", "utf-8")
    with pytest.raises(kind, match=words):
        in_this_process(tmp_path, "fails.py", "metric")


def in_this_process(folder: Path, file: str, function: str, y: tuple[int, ...] = (0, 1, 2, 0)) -> Json:
    """What the worker does with a metric of the user's own."""
    np.save(folder / "outputs.npy", LOGITS)
    np.save(folder / "y.npy", np.array(y))
    return metrics.custom_in_worker({"file": str(folder / file), "function": function, "folder": str(folder)})


def test_a_resample_that_a_metric_cannot_judge_is_left_out(tmp_path: Path) -> None:
    text = "def share(outputs, y):\n    if {}: raise ValueError('a class is missing')\n    return float(y[0] == 0)\n"
    (tmp_path / "mine.py").write_text(text.format("len(set(y.tolist())) < 3"), "utf-8")
    found = in_this_process(tmp_path, "mine.py", "share")
    assert found["value"] == 1.0 and found["interval"] == [0.0, 1.0]
    (tmp_path / "mine.py").write_text(text.format("y.tolist() != [0, 1, 2, 0]"), "utf-8")
    assert in_this_process(tmp_path, "mine.py", "share") == {"value": 1.0}


CHECKED = {
    "mine.py": "from pathlib import Path\ndef share(outputs, y):\n    return 1 / 0\ndef one(outputs):\n    return 1.0\n",
    "broken.py": "def share(outputs, y)\n    return 1.0\n",
    "lacking.py": "import nothing_of_this_name\n",
}


@pytest.mark.parametrize(
    ("name", "words", "hint"),
    [
        ("mine.py:shar", r"mine.py has no function shar\(\)", "did you mean 'share'"),
        ("mine.py:f1", r"mine.py has no function f1\(\)", "known: one, share"),
        ("mine.py:one", r"one\(\) does not take two arguments", "outputs, y"),
        ("broken.py:share", "does not run: broken.py line 1: expected ':'", "outputs, y"),
        ("lacking.py:share", "does not run: lacking.py line 1: ModuleNotFoundError", "outputs, y"),
        ("missing.py:share", "is not FILE.py:FUNCTION", "my.py:error"),
        ("top2", "unknown metric 'top2'", "did you mean 'top"),
    ],
)
def test_a_metric_that_cannot_be_called_is_known_before_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str, hint: str
) -> None:
    for file, text in CHECKED.items():
        (tmp_path / file).write_text(text, "utf-8")
    monkeypatch.setattr(worker, "run", lambda function, request, *_: metrics.load_in_worker(request))
    metrics.check(f"{tmp_path}/mine.py:share")  # it is loaded, not called
    with pytest.raises(UserError, match=words) as error:
        metrics.check(f"{tmp_path}/{name}" if ":" in name else name)
    assert hint in error.value.hint


def test_a_metric_is_loaded_in_a_process_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import os\nos._exit(7)\n", "utf-8")
    with pytest.raises(ConvertError, match=r"loading the metric share ended .* exit status 7"):
        metrics.check(f"{tmp_path}/mine.py:share")


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    # The first four: Newcombe 1998, Statistics in Medicine 17:857, table I, method 3.
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 0.8389, 1.0),
    ],
)
def test_wilson_intervals_of_the_literature(correct: int, total: int, low: float, high: float) -> None:
    assert metrics.wilson(correct, total) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_contains_the_share_and_stays_within_0_and_1(case: tuple[int, int]) -> None:
    low, high = metrics.wilson(*case)
    assert 0 <= low <= case[0] / case[1] <= high <= 1
