"""Which of the user's examples test and which calibrate, so that none does both, and the sentences that say what was done."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit import datasets, labels, userdata
from edgekit.errors import UserError
from edgekit.preprocess import Settings
from edgekit.types import Json, TensorSpec

if TYPE_CHECKING:
    import numpy as np

DATA, CALIBRATION = "--data", "--calibration"


@dataclass(frozen=True)
class Own:
    """What a recipe's data() gave."""

    calibration: userdata.Examples
    tests: userdata.Examples


@dataclass(frozen=True)
class Prepared:
    """Everything data.Data holds: see there."""

    calibration: tuple[np.ndarray, ...]
    x: tuple[np.ndarray, ...]
    y: np.ndarray | None
    provenance: Json


@dataclass(frozen=True)
class Choice:
    """Who does what. A listing is None for a recipe's own; `set_aside` names the flag whose examples were divided."""

    tests: userdata.Examples
    tests_from: datasets.Listing | None
    calibration: userdata.Examples | None = None
    calibration_from: datasets.Listing | None = None
    set_aside: str = ""


def prepare(
    inputs: tuple[TensorSpec, ...],
    settings: Settings,
    data_path: str | Path | None,
    calibration_path: str | Path | None,
    own: Own | None,
    calibrate: bool,
    classes: int | None,
    say: Callable[[str], None],
) -> Prepared:
    """The test and the calibration set for a model with these inputs; `own` is a recipe's, for what is not given.

    Raises UserError when a set is missing, does not fit the inputs or the other set, or has labels of other classes.
    """

    def load(listing: datasets.Listing, flag: str, part: str) -> userdata.Examples:
        return userdata.load(listing, inputs, settings, flag, part, say)

    data = datasets.find(data_path, DATA) if data_path is not None else None
    pool = datasets.find(calibration_path, CALIBRATION) if calibration_path is not None else None
    chosen = choose(data, pool, own, calibrate, settings.overlap == "allow", load)
    tests, calibration = chosen.tests, chosen.calibration
    if calibration is not None:
        userdata.check_calibration(calibration.x, tests.x, inputs)
    provenance: Json = {"data": _origin(chosen.tests_from, tests)}
    if tests.y is not None:
        provenance["labels"] = _labels(chosen.tests_from, settings, tests.y)
        if classes is not None and classes > 1 and tests.y.dtype.kind == "i":
            labels.align(tests.y, provenance["labels"], classes)
        elif classes is not None and classes > 0 and tests.y.dtype.kind == "f":
            labels.check_values(tests.y, classes, provenance["labels"]["from"])
    if calibration is not None:
        provenance["calibration"] = _origin(chosen.calibration_from, calibration)
        if settings.overlap == "allow":
            provenance["calibration"]["also_tested"] = len(calibration) - len(userdata.without(calibration, tests))
    if chosen.set_aside:
        provenance["set_aside_from"] = chosen.set_aside
    provenance["stated"] = stated(provenance)
    for sentence in provenance["stated"][1:]:  # how many are tested on, --samples decides
        say(sentence)
    given = calibration.x if calibration is not None else tuple(array[:0] for array in tests.x)
    return Prepared(given, tests.x, tests.y, provenance)


def choose(
    data: datasets.Listing | None,
    pool: datasets.Listing | None,
    own: Own | None,
    calibrate: bool,
    allow: bool,
    load: Callable[[datasets.Listing, str, str], userdata.Examples],
) -> Choice:
    """Who tests and who calibrates. What is tested on never calibrates unless `allow`: it is left out of the calibration
    set, and where that leaves nothing, or there is none, a tenth of the only set is set aside."""
    if data is None and own is None:
        if pool is None:
            raise UserError("there are neither test inputs nor calibration inputs", "give --data")
        tests = load(pool, CALIBRATION, "set-aside")
        return Choice(tests, pool, _rest(load(pool, CALIBRATION, "spread"), tests, CALIBRATION), pool, CALIBRATION)
    if not calibrate:
        return Choice(load(data, DATA, "all"), data) if data is not None else Choice(_own(own).tests, None)
    if data is not None and pool is not None and _place(data).samefile(_place(pool)) and not allow:
        pool, own = None, None  # said twice: it is one set
    if pool is not None:
        calibration = load(pool, CALIBRATION, "spread")
    elif own is not None:
        calibration = own.calibration
    elif data is not None and allow:
        calibration, pool = load(data, DATA, "spread"), data
    else:
        assert data is not None
        return _set_aside(data, load)
    tests = load(data, DATA, "all") if data is not None else _own(own).tests
    if allow:
        return Choice(tests, data, calibration, pool)
    calibration = userdata.without(calibration, tests)
    if len(calibration):
        return Choice(tests, data, calibration, pool)
    if data is None:
        message = "every calibration input is a test input of the recipe too"
        raise UserError(message, "calibrate with other examples than those tested on")
    return _set_aside(data, load)


def _set_aside(data: datasets.Listing, load: Callable[[datasets.Listing, str, str], userdata.Examples]) -> Choice:
    """A tenth of --data calibrates, the rest tests."""
    tests = load(data, DATA, "rest")
    return Choice(tests, data, _rest(load(data, DATA, "set-aside"), tests, DATA), data, DATA)


def _rest(calibration: userdata.Examples, tests: userdata.Examples, flag: str) -> userdata.Examples:
    """The examples of a divided set that are not, as duplicates, tested on too."""
    left = userdata.without(calibration, tests)
    if not len(left):
        message = (
            f"{flag}: the {len(calibration)} examples are all alike or too few to divide into test and calibration"
        )
        raise UserError(message, "give --data and --calibration")
    return dataclasses.replace(left, about={k: v for k, v in left.about.items() if k != "left_out_as_tests"})


def _own(own: Own | None) -> Own:
    assert own is not None
    return own


def _place(listing: datasets.Listing) -> Path:
    return listing.archive or listing.path


def _origin(listing: datasets.Listing | None, examples: userdata.Examples) -> Json:
    """Where a set comes from, how many it has and what was applied."""
    origin = datasets.summary(listing) if listing is not None else {"form": "recipe"}
    return {**origin, **examples.about, "count": len(examples)}


def _labels(found: datasets.Listing | None, settings: Settings, y: np.ndarray) -> Json:
    """What labels.align needs to know, and a report to say."""
    about: Json = {"from": found.labelled if found is not None else "recipe"}
    if y.dtype.kind == "f":
        about["values"] = True
    if found is not None and found.names:
        about["classes"] = len(found.names)
    if settings.label_offset is not None:
        about |= {"offset": settings.label_offset, "offset_from": settings.source("label_offset")}
    return about


def sampled(provenance: Json, count: int) -> Json:
    """The provenance of a test set of which `count` examples are taken, evenly spaced."""
    told = {**provenance, "data": {**provenance["data"], "tested": count}}
    return {**told, "stated": stated(told)}


def stated(provenance: Json) -> list[str]:
    """The sentences of a report on where the examples come from and what was applied."""
    data = provenance["data"]
    place = f" of {data['name']} ({data['form']})" if "name" in data else " of the recipe"
    held_out = provenance.get("set_aside_from") == CALIBRATION
    aside = f", set aside from {CALIBRATION}, since there is no {DATA}" if held_out else ""
    count, spread = str(data["count"]), ""
    if "tested" in data:
        count, spread = f"{data['tested']} of the {count}", ", evenly spaced (--samples)"
    sentences = [f"tested on {count} examples{place}{aside}{spread}"]
    sentences += [_applied(told) for told in data.get("applied", ())]
    if "labels" in provenance:
        about = provenance["labels"]
        classes = f", {about['classes']} classes" if "classes" in about else ""
        offset = f", {about['offset']:+d} ({about['offset_from']})" if "offset" in about else ""
        values = ", to predict and no classes" if "values" in about else ""
        sentences.append(f"labels: {about['from']}{classes}{values}{offset}")
    calibration = provenance.get("calibration")
    if calibration:
        whence = f" of {calibration['name']}" if "name" in calibration else " of the recipe"
        sentence = f"calibrated with {calibration['count']} examples{whence}"
        if provenance.get("set_aside_from") == DATA:
            sentence += f", set aside from {DATA} and not tested on"
        if calibration.get("left_out_as_tests"):
            sentence += f"; {calibration['left_out_as_tests']} more are test examples and were left out"
        if calibration.get("also_tested"):
            share = f"{calibration['also_tested']} of them are test examples too"
            sentence += f"; {share} (overlap=allow), which flatters the accuracy after quantization"
        sentences.append(sentence)
    return sentences


def _applied(told: Json) -> str:
    """What was done to one input, as a sentence."""
    parts = []
    if "range" in told:
        low, high = told["range"]
        parts.append(f"pixels 0..255 become {low:.6g}..{high:.6g} ({told['range_from']})")
    parts += [f"{key} {', '.join(f'{value:g}' for value in told[key])}" for key in ("mean", "std") if key in told]
    rule, _, exception = told.get("geometry", "").partition("; ")
    if told.get("fitted"):
        parts.append(f"{told['fitted']} brought to size: {rule}")
    if told.get("as_they_are"):
        height, width = told["size"]
        reason = exception.partition(", ")[2]
        parts.append(
            f"{told['as_they_are']} are {height}x{width} already and taken as they are{reason and f', {reason}'}"
        )
    parts += [f"colours as {told['colours']}"] if told.get("colours") == "bgr" else []
    parts += [f"values {told['values']}"] if "values" in told else []
    parts += [f"transposed from {told['transposed']}"] if "transposed" in told else []
    if told.get("orientation_ignored"):
        parts.append(f"{told['orientation_ignored']} have an Exif orientation, which is ignored as training code does")
    return f"{told['input']}: {'; '.join(parts)}"
