"""The one table of figures: name, unit and place in a cell's machine form. Every flat form of a report is made from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgekit.agent.protocol import INSTRUCTION_CLASSES
from edgekit.report.words import count, duration, percent, size
from edgekit.types import Json


@dataclass(frozen=True)
class Column:
    """One column. `path` leads to its value in a cell's machine form; `unit` is "" for words, "1" for pure numbers.

    Units: ns, B, mJ, mW, dB, s, count, and "1" for shares and other ratios. `heading` and `form` are what people read, where
    they differ from the name and from the unit's own form.
    """

    name: str
    unit: str
    path: tuple[str, ...]
    heading: str = ""
    form: str = ""

    def of(self, cell: Json) -> Any:
        """The value as the machine form has it; None where it is absent."""
        value: Any = cell
        for key in self.path:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    @property
    def number(self) -> bool:
        """Whether its values are numbers."""
        return bool(self.unit)

    def text(self, cell: Json) -> str:
        """The value with its unit for people, of three significant digits or more; "" where it is absent."""
        value = self.of(cell)
        if value is None:
            return ""
        form = self.form or self.unit
        if form == "accuracy":  # a share where answers are right or wrong
            form = "percent" if "correct" in cell["accuracy"] else "1"
        return FORMS.get(form, str)(value)


def plain(value: Any) -> str:
    """A pure number of four significant digits; whole numbers and words as they are."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


FORMS: dict[str, Callable[[Any], str]] = {
    "ns": duration,
    "B": size,
    "count": count,
    "1": plain,
    "share": percent,
    "percent": lambda value: f"{100 * value:.1f} %",
    "MiB": lambda value: f"{value / (1 << 20):.1f} MiB",
    "dB": lambda value: f"{value:.1f} dB",
    "mJ": lambda value: f"{value:.4g} mJ",
    "mW": lambda value: f"{value:.4g} mW",
    "s": lambda value: f"{value:.4g} s",
}


def figures(group: str, unit: str, *names: str, prefix: str = "", form: str = "") -> list[Column]:
    """A column for each of these keys of a group of the machine form, named `prefix` and the key."""
    return [Column(prefix + name, unit, (group, name), form=form) for name in names]


MEMORY = (
    "baseline_bytes", "load_peak_bytes", "run_peak_bytes", "delta_bytes", "pss_peak_bytes", "anonymous_peak_bytes",
)  # fmt: skip
COLUMNS = (
    *(Column(name, "", (name,)) for name in ("id", "model", "format", "precision", "runtime", "device")),
    Column("threads", "count", ("threads",)),
    Column("batch", "count", ("batch",)),
    Column("status", "", ("status",)),
    Column("error_kind", "", ("error", "kind")),
    Column("error", "", ("error", "message")),
    Column("runtime_version", "", ("runtime_version",)),
    Column("artifact_sha256", "", ("artifact", "sha256")),
    Column("file_bytes", "B", ("artifact", "size_bytes"), "file"),
    Column("accuracy_metric", "", ("accuracy", "metric")),
    Column("accuracy", "1", ("accuracy", "value"), form="accuracy"),
    *figures("accuracy", "count", "correct", "total", prefix="accuracy_"),
    Column("agreement", "1", ("fidelity", "agreement"), form="percent"),
    Column("sqnr_db", "dB", ("fidelity", "sqnr_db"), "SQNR"),
    *figures("fidelity", "1", "max_abs_diff", "cosine"),
    Column("emulated", "", ("latency", "emulated")),
    Column("p50_ns", "ns", ("latency", "p50_ns"), "p50"),
    *figures("latency", "ns", "low_ns", "high_ns", prefix="p50_"),
    Column("p50_half_width", "1", ("latency", "half_width"), "p50 \N{PLUS-MINUS SIGN}", "share"),
    Column("conclusive", "", ("latency", "conclusive")),
    *figures("latency", "ns", "p90_ns", "p95_ns", "p99_ns", "first_ns", "load_ns"),
    *figures("latency", "count", "samples", "launches"),
    Column("calls_per_sample", "count", ("latency", "batch")),
    Column("instructions", "count", ("instructions", "total")),
    *figures("instructions", "count", *INSTRUCTION_CLASSES[1:], prefix="instructions_"),
    Column("instructions_spread", "1", ("instructions", "spread"), form="share"),
    *figures("memory", "B", *MEMORY, form="MiB"),
    Column("estimate_ns", "ns", ("estimate", "latency_ns"), "estimated"),
    *figures("estimate", "ns", "low_ns", "high_ns", prefix="estimate_"),
    Column("macs", "count", ("operators", "macs")),
    *figures("sustained", "ns", "start_ns", "steady_ns", prefix="sustained_"),
    Column("sustained_steady_from_s", "s", ("sustained", "steady_from_s")),
    Column("slowdown", "1", ("sustained", "slowdown")),
    Column("mj_per_inference", "mJ", ("energy", "mj_per_inference"), "energy"),
    *figures("energy", "mJ", "mj_above_idle"),
    *figures("energy", "mW", "idle_mw", "active_mw"),
)  # fmt: skip
# What a page for people shows, where some cell has it.
SHOWN = (
    "accuracy", "agreement", "sqnr_db", "file_bytes", "load_peak_bytes", "run_peak_bytes", "instructions", "p50_ns",
    "p50_half_width", "p95_ns", "estimate_ns", "mj_per_inference",
)  # fmt: skip


def codes(cell: Json) -> str:
    """The codes of a cell's warnings, in their order."""
    return " ".join(warning["code"] for warning in cell["warnings"])


def numbers(cell: Json) -> dict[str, float]:
    """Every figure of a cell by its column's name."""
    found = ((column.name, column.of(cell)) for column in COLUMNS if column.number)
    return {name: value for name, value in found if value is not None}
