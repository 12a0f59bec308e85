"""The command that measures a run anew, from what run.json keeps of it. Pure functions of a run's header."""

from __future__ import annotations

import shlex

from edgekit.types import Json

OPTIONS = {
    "preprocess": "--preprocess",
    "data": "--data",
    "calibration": "--calibration",
    "metric": "--metric",
    "reference": "--reference",
    "samples": "--samples",
    "power_meter": "--power-meter",
}
FLAGS = {"operators": "--operators", "require_full_delegation": "--require-full-delegation", "trust": "--trust"}
CONNECTION = ("host", "serial", "port", "baud")


def command(header: Json) -> str:
    """The command line for a POSIX shell. Of files from elsewhere a run keeps the names only, and so does the command."""
    plan = header["plan"]
    words = [
        "edgekit",
        "profile",
        str(plan["model"]),
        "--device",
        str(plan["device"] if "device" in plan else header["device"]["name"]),
    ]
    for key, option in (
        ("runtimes", "--runtime"),
        ("precisions", "--precision"),
        ("threads", "--threads"),
        ("batches", "--batch"),
    ):
        if plan.get(key):
            words += [option, ",".join(map(str, plan[key]))]
    for shape in plan.get("inputs", ()):
        words += ["--input", str(shape)]
    for key, option in OPTIONS.items():
        if plan.get(key) is not None:
            words += [option, str(plan[key])]
    words += [option for key, option in FLAGS.items() if plan.get(key)]
    words += ["--energy"] if plan.get("energy") and not plan.get("power_meter") else []
    words += ["--sustained", f"{plan['sustained_s']:g}"] if plan.get("sustained_s") else []
    words += [f"--{plan['level']}"] if plan.get("level") else []
    for key in CONNECTION:
        if key in plan.get("connection", {}):
            words += [f"--{key}", str(plan["connection"][key])]
    return shlex.join([*words, *effort(plan.get("effort", {}))])


def effort(found: Json) -> list[str]:
    """The options that give this effort on a device whose profile says nothing of it."""
    words = []
    if not found.get("target"):  # so many launches were asked for, and no width
        words += ["--launches", str(found["launches"])] if found.get("launches") else []
        words += ["--calls", str(found["calls"])] if found.get("calls") else []
    return [*words, "--max-seconds", f"{found['max_seconds']:g}"] if "max_seconds" in found else words
