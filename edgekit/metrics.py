"""How good outputs are: against labels, each figure with a 95 % interval, and paired with the float model's.
Formulas and their sources are in docs/data.md. Runs no model; a user's own metric runs in a worker."""

from __future__ import annotations

import inspect
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import labels, recipes, worker
from edgekit.errors import ConvertError, UserError, first_line, unknown
from edgekit.types import Json

if TYPE_CHECKING:
    import numpy as np

RESAMPLES, LEAST_RESAMPLES = 2000, 200
CUSTOM_RESAMPLE_S = 20.0
DEADLINE_S = 600.0
Z95 = 1.959964


def wilson(correct: int, total: int, z: float = Z95) -> tuple[float, float]:
    """The score interval of a proportion (Wilson 1927, JASA 22:209), 95 % by default; within 0..1 also at the ends."""
    share = correct / total
    centre = share + z * z / (2 * total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    low, high = max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)
    # Exactly 0 and 1 where rounding would leave 1e-17.
    return (0.0 if correct == 0 else low, 1.0 if correct == total else high)


def bootstrap(
    figure: Callable[[np.ndarray], float], total: int, deadline_s: float = math.inf
) -> tuple[float, float] | None:
    """The percentile interval, 95 %, of `figure` over resampled positions (Efron & Tibshirani 1993, chapter 13), seeded.

    Resamples on which the figure is NaN are left out. None when fewer than 200 remain or fit into the time.
    """
    import numpy as np

    rng, values, started = np.random.default_rng(0), [], time.monotonic()
    for _ in range(RESAMPLES):
        value = figure(rng.integers(0, total, total))
        if math.isfinite(value):
            values.append(value)
        if time.monotonic() - started > deadline_s:
            break
    if len(values) < LEAST_RESAMPLES:
        return None
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def right(outputs: np.ndarray, y: np.ndarray, k: int = 1) -> np.ndarray:
    """bool [N]: whether the label is among the k largest outputs [N, classes]; of equal ones the lower index goes first.

    A row with a value that is not finite is wrong.
    """
    import numpy as np

    rows = outputs.reshape(len(outputs), -1)
    own = np.take_along_axis(rows, y[:, None], 1)
    earlier = np.arange(rows.shape[1]) < y[:, None]
    ahead = ((rows > own) | ((rows == own) & earlier)).sum(1)
    result: np.ndarray = (ahead < k) & np.isfinite(rows).all(1)
    return result


def top(outputs: np.ndarray, y: np.ndarray, k: int) -> Json:
    """Top-k accuracy of outputs [N, classes] against class indices [N], with its Wilson interval."""
    classes = outputs.reshape(len(outputs), -1).shape[1]
    if classes <= k:
        raise UserError(f"top{k} means nothing with {classes} outputs: every answer would be right", "use top1")
    correct, total = int(right(outputs, y, k).sum()), len(y)
    low, high = wilson(correct, total)
    found: Json = {
        "metric": f"top{k}",
        "correct": correct,
        "total": total,
        "value": correct / total,
        "interval": [low, high],
    }
    if high < k / classes or low <= k / classes:
        found["chance"] = k / classes
    return found


def mean_absolute_error(outputs: np.ndarray, y: np.ndarray) -> Json:
    """The mean of |output - y| over all values; the interval resamples examples. Rows that are not finite are refused."""
    import numpy as np

    rows, targets = outputs.reshape(len(outputs), -1).astype(np.float64), y.reshape(len(y), -1).astype(np.float64)
    labels.check_values(y, rows.shape[1])
    if not np.isfinite(rows).all():
        return {"metric": "mae", "total": len(y), "non_finite": int(np.sum(~np.isfinite(rows).all(1)))}
    per_row = np.abs(rows - targets).mean(1)
    found: Json = {"metric": "mae", "total": len(y), "value": float(per_row.mean())}
    return _with_interval(found, bootstrap(lambda chosen: float(per_row[chosen].mean()), len(y)))


def area_under_curve(outputs: np.ndarray, y: np.ndarray) -> Json:
    """The area under the ROC curve; the interval resamples examples.

    One output or two: the probability that a positive scores above a negative, ties half (Hanley & McNeil 1982, Radiology
    143:29), where the score of two outputs is the second minus the first. More: the plain mean over the classes that
    occur, each against the rest. Rows that are not finite are refused.
    """
    import numpy as np

    rows = outputs.reshape(len(outputs), -1).astype(np.float64)
    if not np.isfinite(rows).all():
        return {"metric": "auc", "total": len(y), "non_finite": int(np.sum(~np.isfinite(rows).all(1)))}
    if rows.shape[1] <= 2:
        if not set(np.unique(y).tolist()) <= {0, 1}:
            raise UserError("auc with one output or two needs the labels 0 and 1", "use mae for other targets")
        scores = rows[:, -1] - (rows[:, 0] if rows.shape[1] == 2 else 0.0)
        columns = [(scores, y == 1)]
    else:
        columns = [(rows[:, label], y == label) for label in np.unique(y)]

    def figure(chosen: np.ndarray) -> float:
        areas = [_area(scores[chosen], positive[chosen]) for scores, positive in columns]
        known = [area for area in areas if area is not None]
        return sum(known) / len(known) if known else math.nan

    value = figure(np.arange(len(y)))
    if math.isnan(value):
        raise UserError("auc needs examples of both classes", "the data holds one only")
    found: Json = {"metric": "auc", "total": len(y), "value": value}
    return _with_interval(found, bootstrap(figure, len(y), CUSTOM_RESAMPLE_S))


def _area(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """The Mann-Whitney statistic from mid-ranks; None without both classes."""
    import numpy as np

    ups, downs = int(positive.sum()), int((~positive).sum())
    if not ups or not downs:
        return None
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts - 1) / 2
    return float((middle[inverse][positive].sum() - ups * (ups + 1) / 2) / (ups * downs))


def _with_interval(found: Json, interval: tuple[float, float] | None) -> Json:
    return {**found, "interval": list(interval)} if interval else found


def mcnemar(ours: np.ndarray, reference: np.ndarray) -> Json:
    """Who is right where the other is wrong, bool [N] each, and the exact two-sided p of that imbalance by chance.

    p = min(1, 2 P(X <= min(b, c))) for X binomial with b + c draws of 1/2 (McNemar 1947, Psychometrika 12:153, in its exact
    form). b: right in the reference only, c: right here only.
    """
    lost, won = int((reference & ~ours).sum()), int((ours & ~reference).sum())
    draws = lost + won
    ways = total = 1  # whole numbers, so that nothing is rounded before the end
    for i in range(min(lost, won)):
        ways = ways * (draws - i) // (i + 1)
        total += ways
    return {"only_reference_right": lost, "only_this_right": won, "p": min(1.0, 2 * total / 2**draws)}


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], Json]] = {
    "top1": lambda outputs, y: top(outputs, y, 1),
    "top5": lambda outputs, y: top(outputs, y, 5),
    "mae": mean_absolute_error,
    "auc": area_under_curve,
}


def default(outputs: np.ndarray, y: np.ndarray) -> str:
    """The metric that labels and outputs call for: values mae, classes top1, and auc where there is one output only."""
    if y.dtype.kind == "f":
        return "mae"
    return "auc" if outputs.reshape(len(outputs), -1).shape[1] == 1 else "top1"


def check(name: str) -> None:
    """Raise UserError for a metric that there is not; a function of the user's own is loaded, in a worker, but not called."""
    check_name(name)
    if ":" in name:
        path, function = _file_and_function(name)
        request = {"file": str(path), "function": function}
        worker.run("edgekit.metrics:load_in_worker", request, DEADLINE_S, None, f"loading the metric {function}")


def check_name(name: str) -> None:
    """Raise UserError for a metric that there is not."""
    if ":" in name:
        _file_and_function(name)
    elif name not in METRICS:
        error = unknown("metric", name, METRICS)
        raise UserError(error.message, f"{error.hint}, or path.py:function")


def measure(name: str, outputs: np.ndarray, y: np.ndarray, reference: np.ndarray | None = None) -> Json:
    """One metric of outputs [N, ...] against y [N, ...]; with the float model's outputs, top-k is paired with them too.

    {"metric", "value", "total", "interval", for top-k "correct" and "paired"}. Raises UserError when y does not suit it.
    """
    check_name(name)
    if len(outputs) != len(y):
        raise UserError(f"there are {len(y)} labels for {len(outputs)} outputs", "give one label per example")
    if ":" in name:
        return _custom(name, outputs, y)
    if name in ("top1", "top5", "auc") and y.dtype.kind != "i":
        raise UserError(
            f"{name} needs class indices, the labels are values", "use --metric mae, or a metric of your own"
        )
    found = METRICS[name](outputs, y)
    if name.startswith("top") and reference is not None:
        k = int(name[3:])
        found["paired"] = mcnemar(right(outputs, y, k), right(reference, y, k))
    return found


def _file_and_function(name: str) -> tuple[Path, str]:
    path, _, function = name.rpartition(":")
    if not Path(path).expanduser().is_file() or not function.isidentifier():
        raise UserError(
            f"the metric '{name}' is not FILE.py:FUNCTION of a file that exists", "for instance my.py:error"
        )
    return Path(path).expanduser().absolute(), function


def _custom(name: str, outputs: np.ndarray, y: np.ndarray) -> Json:
    """The user's function(outputs, y) -> number, in a worker."""
    import numpy as np

    path, function = _file_and_function(name)
    with tempfile.TemporaryDirectory(prefix="edgekit-metric-") as folder:
        np.save(Path(folder) / "outputs.npy", outputs)
        np.save(Path(folder) / "y.npy", y)
        request = {"file": str(path), "function": function, "folder": folder}
        found = worker.run("edgekit.metrics:custom_in_worker", request, DEADLINE_S, None, f"the metric {function}")
    return {"metric": f"{path.name}:{function}", "total": len(y), **found}


def load_in_worker(request: Json) -> Json:
    """In a worker: load the user's metric and nothing more."""
    _load(Path(request["file"]), request["function"])
    return {}


def _load(path: Path, name: str) -> Callable[..., Any]:
    """A function of the user's file. Raises UserError when the file does not run, or has no such function of two arguments."""
    form = f"def {name}(outputs, y): return a number"
    try:
        module = recipes.execute(path)
    except UserError as error:
        said = error.message.replace(str(path), path.name).splitlines()[0]
        raise UserError(f"the metric's file does not run: {said}", f"it is Python with {form}") from error
    metric: Callable[..., Any] | None = getattr(module, name, None)
    if not callable(metric):
        have = [other for other, found in vars(module).items() if inspect.isfunction(found)]
        hint = unknown("function", name, have).hint if have else form
        raise UserError(f"{path.name} has no function {name}()", hint)
    try:
        signature = inspect.signature(metric)
    except (TypeError, ValueError):
        return metric  # one written in C need not tell its arguments
    try:
        signature.bind(None, None)
    except TypeError as error:
        raise UserError(f"{path.name}: {name}() does not take two arguments: {error}", form) from error
    return metric


def custom_in_worker(request: Json) -> Json:
    """In a worker: the user's metric, and its bootstrap interval as far as 20 s go.

    The metric must be able to judge all examples; a resample that it cannot judge, for want of a class, counts as NaN.
    """
    import numpy as np

    place, function = Path(request["folder"]), request["function"]
    outputs, y = np.load(place / "outputs.npy"), np.load(place / "y.npy")
    path = Path(request["file"])
    metric = _load(path, function)
    try:
        value = float(metric(outputs, y))
    except (Exception, SystemExit) as error:
        reason = first_line(error, otherwise="no message")
        raise ConvertError(f"{path.name}: {function}() failed: {type(error).__name__}: {reason}") from error
    if not math.isfinite(value):
        raise UserError(f"{path.name}: {function}() gave {value}", "a metric is a finite number")

    def figure(chosen: np.ndarray) -> float:
        try:
            return float(metric(outputs[chosen], y[chosen]))
        except (Exception, SystemExit):
            return math.nan

    return _with_interval({"value": value}, bootstrap(figure, len(y), CUSTOM_RESAMPLE_S))


def judge(
    outputs: np.ndarray, y: np.ndarray, about: Json, name: str | None = None, reference: np.ndarray | None = None
) -> Json:
    """The metric of outputs against labels as they came: first which output each label means (`about`: labels.align).

    `name` None takes the one that labels and outputs call for. A label offset that was applied is in the result.
    """
    chosen = name or default(outputs, y)
    y, told = aligned(y, about, outputs.reshape(len(outputs), -1).shape[1], chosen)
    found = measure(chosen, outputs, y, reference)
    if told.get("offset"):
        found |= {"label_offset": told["offset"], "label_offset_from": told["offset_from"]}
    return found


def aligned(y: np.ndarray, about: Json, outputs: int, name: str) -> tuple[np.ndarray, Json]:
    """(labels as the metric takes them, `about` with the offset that was added): class labels are output indices, for a
    metric of the user's own too, and an offset that the user said is added to labels of every kind.

    A metric of the user's own may judge something else than classes: labels that cannot be output indices stay as they are.
    Raises UserError for labels of another model, and where only the user can tell the offset.
    """
    said = about.get("offset")
    if y.dtype.kind == "i" and outputs > 1 and name != "mae":
        try:
            return labels.align(y, about, outputs)
        except UserError:
            if ":" not in name or said is not None or outputs == labels.BACKGROUND_CLASSES:
                raise
            return y, about
    return (y + said if said else y), {"offset_from": labels.SAID, **about}
