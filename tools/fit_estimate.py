"""Fits the latency estimate of a device profile to the published figures in it: the table of points, the fit, its error.

    python tools/fit_estimate.py device_profiles/pi4.toml                   print
    python tools/fit_estimate.py device_profiles/pi4.toml --write           and rewrite the coefficients and the error
    python tools/fit_estimate.py device_profiles/pi4.toml --count --write   count the models of the points anew, too

The published figures and their sources are typed into the profile by hand; [estimate] is its last table.
"""

from __future__ import annotations

import argparse
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit import api, config, estimate
from edgekit.agent.protocol import INSTRUCTION_CLASSES

MODELS = Path(__file__).with_name("estimate_models.py")
# The name of a point's model -> the function that makes it.
FACTORIES = {
    "MobileNet v1 1.0 224": "mobilenet_v1",
    "MobileNet v2 1.0 224": "mobilenet_v2",
    "MobileNet v3 Large 224": "mobilenet_v3_large",
    "MobileNet v3 Small 224": "mobilenet_v3_small",
}
# What else could be fitted: fewer of the same terms.
FORMS = (
    ("instruction",),
    ("call", "instruction"),
    ("byte", "instruction", "fp_fma"),
    ("call", "instruction", "fp_fma"),
    estimate.TERMS,
)
NOTE = """# Fitted by tools/fit_estimate.py to figures of the real board; the counts are those of the emulated one."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile", type=Path)
    parser.add_argument("--count", action="store_true", help="count the models anew, on the emulated board")
    parser.add_argument("--write", action="store_true", help="rewrite the section [estimate]")
    args = parser.parse_args()
    section = tomllib.loads(args.profile.read_text())["estimate"]
    points = section["points"]
    if args.count:
        points = [{**point, **counted(str(args.profile), section, point)} for point in points]
    section = fitted({**section, "points": points})
    print(table(section))
    if args.write:
        args.profile.write_text(rewritten(args.profile.read_text(), section))
        config.read(args.profile)


def counted(device: str, section: Mapping[str, Any], point: Mapping[str, Any]) -> dict[str, int]:
    """The size of a point's model file and its instructions by class, counted on the emulated board."""
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        report = api.profile(
            f"{MODELS}:{FACTORIES[point['model']]}",
            device=device,
            runtimes=[section["runtime"]],
            precisions=[point["precision"]],
            threads=[section["threads"]],
            metric="instructions",
            output=folder,
        )
    (cell,) = report.cells
    if cell["status"] != "ok":
        raise SystemExit(f"{cell['id']}: {cell['error']['message']}")
    known = {name: cell["instructions"][name] for name in INSTRUCTION_CLASSES if name in cell["instructions"]}
    return {"size_bytes": cell["artifact"]["size_bytes"], **known}


def fitted(section: Mapping[str, Any]) -> dict[str, Any]:
    """The section with its coefficients (three significant digits) and its error (rounded up) from its points."""
    points = section["points"]
    coefficients = {name: float(f"{value:.3g}") for name, value in estimate.fit(points).items()}
    error = max(section["least_error"], round(estimate.error_of(points, section["unit_ms"]) + 0.0005, 3))
    return {**section, "coefficients": coefficients, "error": error}


def table(section: Mapping[str, Any]) -> str:
    """Points, fit and error as lines for people."""
    points = section["points"]
    heads = ("published", "MB", "M instr.", "M FMA", "fitted", "left out")
    lines = [f"{'model':<30}" + "".join(f" {head:>9}" for head in heads)]
    for point, error in zip(points, estimate.left_out(points), strict=True):
        found = estimate.predict(section["coefficients"], point) / 1e6
        lines.append(
            f"{point['model']:<24} {point['precision']:<5} {point['latency_ms']:>6g} ms {point['size_bytes'] / 1e6:>9.2f} "
            f"{point['total'] / 1e6:>9.2f} {point.get('fp_fma', 0) / 1e6:>9.2f} {found:>6.1f} ms {100 * error:>+7.1f} %"
        )
    lines.append(", ".join(f"{name} {value:g} ns" for name, value in section["coefficients"].items()))
    own = 100 * estimate.error_of(points, section["unit_ms"])
    told = f"the largest of those left out, with rounding, is {own:.1f} %; at least {100 * section['least_error']:g} % is said"
    lines.append(f"stated error {100 * section['error']:.1f} %: {told}")
    lines += [f"  {' + '.join(names):<40} left out: {worst(points, names):5.1f} %" for names in FORMS]
    return "\n".join(lines)


def worst(points: Sequence[Mapping[str, Any]], names: Sequence[str]) -> float:
    """The largest error of left_out() with these terms, in percent."""
    return 100 * max(abs(error) for error in estimate.left_out(points, names))


def rewritten(text: str, section: Mapping[str, Any]) -> str:
    """A profile's text with this section [estimate] in the place of its last one."""
    head, found, _ = text.partition(NOTE)
    if not found:
        head = text.partition("\n[estimate]")[0] + "\n"
    lines = [NOTE, "[estimate]"]
    lines += [
        f"{key} = {toml(section[key])}" for key in ("runtime", "threads", "unit_ms", "sources", "least_error", "error")
    ]
    lines += ["", "[estimate.coefficients]"]
    lines += [f"{key} = {toml(value)}" for key, value in section["coefficients"].items()]
    for point in section["points"]:
        lines += ["", "[[estimate.points]]", *(f"{key} = {toml(value)}" for key, value in point.items())]
    return head.rstrip("\n") + "\n\n" + "\n".join(lines) + "\n"


def toml(value: Any) -> str:
    """A text, number or list of texts in TOML."""
    if isinstance(value, list):
        return "[\n" + "".join(f"    {toml(item)},\n" for item in value) + "]"
    return f'"{value}"' if isinstance(value, str) else repr(value)


if __name__ == "__main__":
    main()
