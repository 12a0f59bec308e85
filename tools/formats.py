"""Measures every format and precision on this machine and writes docs/formats.md: .venv/bin/python tools/formats.py [MODEL ...]

Speed is relative to fp32 in the same runtime, from one run in which nothing else should be running.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import edgekit
from edgekit import plan, plugins, sources
from edgekit.types import Json

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "formats.md"
MARK = "<!-- Everything below is written by tools/formats.py. -->"
MODELS = ("digits_cnn", "mobilenet_v2")
RUNTIMES = ("tflite", "onnxruntime", "executorch", "torchscript", "ptl", "aoti", "tensorflow")
PRECISIONS = tuple(name for name in plan.ALL_PRECISIONS if name != "fp32")

KERAS_ALONE = """

FILES = ("weights.npz",)


def keras_model():
    from pathlib import Path

    import numpy as np

    from edgekit import twins

    model = _keras_form()
    with np.load(Path(__file__).parent / "weights.npz") as arrays:
        twins.copy_weights(dict(arrays), model)
    return model
"""


def main() -> None:
    """Profile each model from its preferred source and, for formats that have another, from torch and from Keras alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=MODELS, help=f"default: {' '.join(MODELS)}")
    parser.add_argument("--samples", type=int, default=100, help="held-out inputs for the SQNR")
    parser.add_argument("--max-seconds", type=float, default=5.0, help="time per cell")
    chosen = parser.parse_args()
    before, mark, _ = TARGET.read_text("utf-8").partition(MARK)
    if not mark:
        parser.error(f"{TARGET.name} lacks the line after which the tables stand: {MARK}")
    sections = [explained(chosen.samples)]
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen.models:
            rows = [row for only in ("torch", "keras") for row in measure(name, only, Path(folder), chosen)]
            sections.append(section(name, rows))
    TARGET.write_text(f"{before}{MARK}\n\n" + "\n\n".join(sections) + "\n", "utf-8")


def explained(samples: int) -> str:
    """What the columns are."""
    return (
        f"## What that gives\n\nMeasured on one machine ({platform.machine()}, one thread): the file's size, SQNR against the "
        f"float source on {samples} held-out inputs, and how many times as fast as fp32 in the same runtime. On another "
        "processor the speeds are others, so measure there."
    )


def measure(name: str, framework: str, folder: Path, chosen: argparse.Namespace) -> Iterator[Json]:
    """The cells of a model of which only the form of one framework is taken."""
    formats = {runtime: plugins.load("runtime", runtime).FORMATS[0] for runtime in RUNTIMES}
    runtimes = [r for r in RUNTIMES if framework in plugins.load("converter", formats[r]).SOURCES]
    report = edgekit.profile(
        recipe(name, framework, folder),
        device="local",
        runtimes=runtimes,
        precisions=("fp32", *PRECISIONS),
        samples=chosen.samples,
        output=folder / "results",
        effort={"launches": 2, "max_seconds": chosen.max_seconds},
        say=lambda text: print(text, flush=True),
    )
    float_ns = {
        c["runtime"]: c["latency"]["p50_ns"] for c in report.cells if c["precision"] == "fp32" and "latency" in c
    }
    for cell in report.cells:
        if cell["status"] == "unsupported":
            continue
        row = {"format": formats[cell["runtime"]], "from": framework, "precision": cell["precision"]}
        if cell["status"] != "ok":
            yield {**row, "error": cell["error"]["message"]}
            continue
        speed = float_ns[cell["runtime"]] / cell["latency"]["p50_ns"] if cell["runtime"] in float_ns else None
        figures = {"size": cell["artifact"]["size_bytes"], "sqnr": cell["fidelity"].get("sqnr_db"), "speed": speed}
        notes = [
            w["message"]
            for w in cell["warnings"]
            if w["code"] in ("partly-float", "weights-kept", "partial-delegation", "no-delegate")
        ]
        yield {**row, **figures, "notes": "; ".join(notes)}


def recipe(name: str, framework: str, folder: Path) -> Path:
    """A copy of a recipe that has the form of one framework only; the trained weights are the same in both."""
    model = sources.load(name)
    text = model.source.read_text("utf-8")
    place = folder / framework
    place.mkdir(exist_ok=True)
    if framework == "torch":
        text = text.replace("def keras_model(", "def _keras_form(")
    else:
        weights = sources.weights(model, print)
        assert weights
        shutil.copy(weights, place / "weights.npz")
        text = text.replace("torch_model(", "_torch_form(").replace("def weights(", "def _weights(")
        text = text.replace("def keras_model(", "def _keras_form(") + KERAS_ALONE
    (place / f"{name}.py").write_text(text, "utf-8")
    return place / f"{name}.py"


def section(name: str, rows: list[Json]) -> str:
    """A model's table."""
    model = sources.load(name)
    columns = "| format | from | precision | size | SQNR | speed | |\n|---|---|---|---:|---:|---:|---|\n"
    head = f"### {name}\n\n{model.description}.\n\n{columns}"
    lines = []
    for row in rows:
        first = f"| {row['format']} | {row['from']} | {row['precision']} |"
        if "error" in row:
            lines.append(f"{first} | | | {row['error']} |")
            continue
        sqnr = f"{row['sqnr']:.0f} dB" if row["sqnr"] is not None else ""
        speed = f"{row['speed']:.2f}x" if row["speed"] else ""
        lines.append(f"{first} {row['size'] / 1000:,.0f} kB | {sqnr} | {speed} | {row['notes']} |")
    return head + "\n".join(lines)


if __name__ == "__main__":
    main()
