"""The estimate of a board's latency: its fit on laws that are known, when it is refused, and that the profiles' figures follow."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edgekit import config, estimate
from edgekit.agent.protocol import INSTRUCTION_CLASSES
from edgekit.errors import UserError
from edgekit.types import Json, to_json

TOOL = Path(__file__).parents[2] / "tools/fit_estimate.py"
LAW = {"call": 2e6, "byte": 0.5, "instruction": 0.1, "fp_fma": 0.3}
# Half of the instructions are of these classes, the other half does the model's arithmetic.
SHARES = {"load_store": 0.05, "simd_load_store": 0.2, "simd_other": 0.1, "branch": 0.05, "alu": 0.1}


def point(model: str, precision: str, total: int, size_bytes: int, law: dict[str, float] | None = None) -> Json:
    """A point on a law, its arithmetic in the class of its precision."""
    counts = {**dict.fromkeys(INSTRUCTION_CLASSES, 0), **{name: int(share * total) for name, share in SHARES.items()}}
    counts["fp_fma" if precision == "fp32" else "int_mac"] = total - sum(counts.values())
    found: Json = {"model": model, "precision": precision, "size_bytes": size_bytes, **counts, "total": total}
    return {**found, "latency_ms": estimate.predict(law or LAW, found) / 1e6}


def points(law: dict[str, float] | None = None) -> list[Json]:
    """Models whose files and counts do not grow alike, each in two precisions."""
    made = []
    sizes = [(200_000_000, 17_000_000), (90_000_000, 22_000_000), (30_000_000, 10_000_000)]
    for index, (total, size) in enumerate(sizes):
        made.append(point(f"m{index}", "fp32", total, size, law))
        made.append(point(f"m{index}", "int8", int(0.8 * total), size // 4, law))
    return made


def section(**changes: Any) -> Json:
    """An [estimate] on the law."""
    base = {
        "runtime": "tflite",
        "threads": 4,
        "unit_ms": 1.0,
        "least_error": 0.0,
        "error": 0.05,
        "sources": ["a table"],
    }
    return {**base, "coefficients": LAW, "points": points(), **changes}


def cell(total: int = 100_000_000, size_bytes: int = 12_000_000, precision: str = "fp32", **changes: Any) -> Json:
    """A cell in its machine form."""
    found = point("mine", precision, total, size_bytes)
    counts = {name: found[name] for name in INSTRUCTION_CLASSES}
    base: Json = {"runtime": "tflite", "precision": precision, "threads": 4, "instructions": counts}
    return {**base, "artifact": {"size_bytes": size_bytes}, **changes}


def board(**changes: Any) -> Json:
    """An emulated device in its machine form."""
    return {"emulated": True, "estimate": section(**changes)}


# ---- the fit ----


def test_fit_finds_a_planted_law_and_states_only_the_rounding() -> None:
    found = estimate.fit(points())
    assert found == pytest.approx(LAW, rel=1e-6)
    assert max(abs(error) for error in estimate.left_out(points())) < 1e-6
    smallest = min(known["latency_ms"] for known in points())
    assert estimate.error_of(points(), unit_ms=1.0) == pytest.approx(0.5 / smallest, rel=1e-6)


@pytest.mark.parametrize("term", ["call", "byte", "fp_fma"])
def test_fit_of_a_law_without_a_term_leaves_it_out(term: str) -> None:
    law = {**LAW, term: 0.0}
    assert estimate.fit(points(law)) == pytest.approx(law, rel=1e-6, abs=1e-3 if term == "call" else 1e-12)


def test_no_coefficient_is_negative_though_the_best_fit_had_one() -> None:
    crooked = [{**known, "latency_ms": 10 + 2 / known["size_bytes"] * 1e7} for known in points()]
    assert all(value >= 0 for value in estimate.fit(crooked).values())


def test_leaving_out_takes_the_model_in_every_precision() -> None:
    known = points()
    known[0] = {**known[0], "latency_ms": known[0]["latency_ms"] * 1.5}
    errors = list(estimate.left_out(known))
    # Without m0, all that is left lies on the law: the estimate is right for m0 in int8, and a third too low in fp32.
    assert errors[1] == pytest.approx(0, abs=1e-6)
    assert errors[0] == pytest.approx(1 / 1.5 - 1, abs=1e-6)


# ---- what is told, and what is refused ----


def test_estimate_is_the_law_with_its_error() -> None:
    mine = cell()
    found = estimate.of(mine, board())
    assert found is not None
    law = estimate.predict(LAW, {**mine["instructions"], "size_bytes": mine["artifact"]["size_bytes"]})
    assert found["latency_ns"] == round(law)
    # An estimate that is 5 % too high or too low belongs to these.
    assert found["low_ns"] == round(law / 1.05)
    assert found["high_ns"] == round(law / 0.95)
    assert found["sources"] == ["a table"]
    assert found["error"] == 0.05


@pytest.mark.parametrize(("error", "refused"), [(0.0, False), (0.999, False), (1.0, True), (-0.1, True)])
def test_a_law_that_may_miss_by_all_of_it_estimates_nothing(error: float, refused: bool) -> None:
    found = estimate.of(cell(), board(error=error))
    assert found is not None
    assert ("refused" in found) == refused
    assert refused or 0 < found["low_ns"] <= found["latency_ns"] <= found["high_ns"]


@pytest.mark.parametrize(
    "changes",
    [{"runtime": "onnxruntime"}, {"threads": 1}, {"batch": 8}, {"precision": "fp16"}, {"precision": "int8_dynamic"}],
)
def test_another_runtime_precision_or_number_of_threads_is_refused(changes: Json) -> None:
    found = estimate.of({**cell(), **changes}, board())
    assert found is not None
    assert set(found) == {"refused"}
    assert "published" in found["refused"]


@pytest.mark.parametrize(
    ("total", "size_bytes", "refused"),
    [
        (15_000_000, 12_000_000, False),
        (14_999_998, 12_000_000, True),
        (400_000_000, 12_000_000, False),
        (400_000_002, 12_000_000, True),
        (100_000_000, 5_000_000, False),
        (100_000_000, 4_999_999, True),
        (100_000_000, 44_000_000, False),
        (100_000_000, 44_000_001, True),
    ],
)
def test_counts_and_files_beyond_twice_the_points_are_refused(total: int, size_bytes: int, refused: bool) -> None:
    found = estimate.of(cell(total, size_bytes), board())
    assert found is not None
    assert ("refused" in found) == refused


@pytest.mark.parametrize(("more", "refused"), [(0.099, False), (0.101, True), (-0.099, False), (-0.101, True)])
def test_another_mix_of_classes_is_refused(more: float, refused: bool) -> None:
    mine = cell()
    moved = int(more * mine["instructions"]["total"])
    mine["instructions"]["simd_load_store"] += moved
    mine["instructions"]["fp_fma"] -= moved
    found = estimate.of(mine, board())
    assert found is not None
    assert ("refused" in found) == refused


def test_nothing_is_said_where_there_is_nothing_to_say() -> None:
    mine = cell()
    uncounted = {key: value for key, value in mine.items() if key != "instructions"}
    assert estimate.of(uncounted, board()) is None
    assert estimate.of(mine, {**board(), "emulated": False}) is None
    assert estimate.of(mine, {"emulated": True}) is None


# ---- the profiles ----


def tool() -> ModuleType:
    """tools/fit_estimate.py as a module."""
    spec = importlib.util.spec_from_file_location("fit_estimate", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FITTED = [name for name in config.shipped_names() if config.device(name).estimate]


def test_the_pi4_is_fitted() -> None:
    assert "pi4" in FITTED


@pytest.mark.parametrize("name", FITTED)
def test_coefficients_and_error_of_a_profile_follow_from_its_points(name: str) -> None:
    section = to_json(config.device(name).estimate)
    again = tool().fitted(section)
    assert again["coefficients"] == section["coefficients"]
    assert again["error"] == section["error"]
    for known in section["points"]:
        classes = sum(known[cls] for cls in INSTRUCTION_CLASSES[1:])
        assert classes == pytest.approx(known["total"], rel=1e-4)  # medians, each of its own
        mine = {
            "runtime": section["runtime"],
            "threads": section["threads"],
            "precision": known["precision"],
            "instructions": {cls: known[cls] for cls in INSTRUCTION_CLASSES},
            "artifact": {"size_bytes": known["size_bytes"]},
        }
        found = estimate.of(mine, {"emulated": True, "estimate": section})
        assert found is not None
        assert found["low_ns"] <= known["latency_ms"] * 1e6 <= found["high_ns"]


def test_the_tool_writes_what_it_reads(tmp_path: Path) -> None:
    source = config.device("pi4").source
    assert source is not None
    text = source.read_text()
    written = tool().rewritten(text, to_json(config.device("pi4").estimate))
    assert written == text
    (tmp_path / "board.toml").write_text(written)
    assert config.read(tmp_path / "board.toml").estimate == config.device("pi4").estimate


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("threads = 4\nunit_ms", "thread = 4\nunit_ms", "unknown key 'estimate.thread'"),
        ("\nerror = ", "\nerror = 'much' # ", "'estimate.error' must be a number"),
        ("fp_fma = 0.", "fpfma = 0.", "unknown key 'estimate.coefficients.fpfma'"),
        ("size_bytes = ", "# ", "'estimate.points' needs the key 'size_bytes'"),
        ("[[estimate.points]]", "[estimate.points]", "'estimate.points' must be a list"),
    ],
)
def test_mistakes_in_the_section_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    device = config.device("pi4")
    assert device.source is not None
    head, mark, tail = device.source.read_text().partition("[estimate]")
    assert old in tail
    tail = tail.replace(old, new, 1)
    if "points" in old:  # one table, not several
        tail = tail[: tail.index("[[")]
    (tmp_path / "board.toml").write_text(head + mark + tail)
    with pytest.raises(UserError, match=message.replace("[", r"\[")):
        config.read(tmp_path / "board.toml")


def test_a_device_without_the_section_has_no_estimate() -> None:
    assert config.device("pi3").estimate is None
