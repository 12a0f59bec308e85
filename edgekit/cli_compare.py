"""`edgekit ab`, `calibrate` and `gate`: their options, and what they print."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import cli_devices, cli_judge, errors
from edgekit.arguments import Parser, add_source_options, positive, seconds
from edgekit.errors import EdgekitError, UserError
from edgekit.terminal import complain, explain, print_json, print_table

if TYPE_CHECKING:
    from edgekit import plan
    from edgekit.abtest import Comparison
    from edgekit.gate import Gated

AB_HELP = """\
Compare two models, precisions, runtimes or thread counts on one device, by turns, until it is clear which is faster.

examples:
  edgekit ab digits_cnn digits_cnn --precision fp32,int8 --device local
  edgekit ab old.tflite new.tflite --device my-pi         two finished files
  edgekit ab digits_cnn --runtime tflite,onnxruntime      one model in two runtimes
  edgekit ab digits_cnn --threads 1,4 --device my-pi
  edgekit ab old.py new.py --device pi4                   an emulated device compares instruction counts
"""
CALIBRATE_HELP = """\
Measure the noise of a device: how far from 1 the ratio of an artifact to itself comes out there.

examples:
  edgekit calibrate --device local
  edgekit calibrate mobilenet_v2 --device my-pi
"""
GATE_HELP = """\
Fail when a run breaks a limit of a policy; without a policy, when it needs more instructions than its baseline.

examples:
  edgekit gate --init                                     write policy.toml from the newest run
  edgekit gate last --policy policy.toml
  edgekit gate last --save baseline.json                  keep the run's figures in a small file
  edgekit gate last --policy policy.toml --baseline baseline.json
  edgekit gate last --baseline 20261123-101500-digits_cnn-pi4-3f2a
  edgekit gate last --baseline baseline.json              what `edgekit profile --device pi4 --json` printed
  edgekit gate new.json --baseline baseline.json --limit 0.5%
"""
EXIT_OF = {
    "equal": errors.EXIT_OK,
    "improvement": errors.EXIT_OK,
    "regression": errors.EXIT_GATE,
    "inconclusive": errors.EXIT_CELLS,
}
FIELDS = {"runtime": "runtimes", "precision": "precisions", "threads": "threads"}


def of_both(text: str) -> tuple[str, str]:
    """One value for OLD and NEW, or OLD,NEW."""
    values = [part.strip() for part in text.split(",")]
    if not all(values) or len(values) > 2:
        raise argparse.ArgumentTypeError(f"'{text}' is not one value, or two as OLD,NEW")
    return values[0], values[-1]


def counts_of_both(text: str) -> tuple[int, int]:
    """One whole number for OLD and NEW, or OLD,NEW."""
    values = of_both(text)
    if not all(value.isdigit() and int(value) > 0 for value in values):
        raise argparse.ArgumentTypeError(f"'{text}' is not one whole number of at least 1, or two as OLD,NEW")
    return int(values[0]), int(values[1])


def percentage(text: str) -> float:
    """1% as 0.01."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", text)
    if not match:
        raise argparse.ArgumentTypeError(f"'{text}' is not a percentage such as 1%")
    return float(match[1]) / 100


def add_commands(command: Callable[[str, str, str, Callable[[argparse.Namespace], int]], Parser]) -> None:
    """The commands and their options."""
    cli_judge.add_commands(command)
    ab = command("ab", "compare two models on one device by turns", AB_HELP, run_ab)
    ab.add_argument("old", metavar="OLD", help="a model or a model file, as for profile")
    ab.add_argument("new", nargs="?", metavar="NEW", help="(default: the same as OLD)")
    ab.add_argument(
        "--runtime", "-r", type=of_both, metavar="R|OLD,NEW", help="(default: the device's first that fits)"
    )
    ab.add_argument("--precision", "-p", type=of_both, metavar="P|OLD,NEW", help="(default: fp32, or a file's own)")
    ab.add_argument("--threads", "-t", type=counts_of_both, metavar="N|OLD,NEW", help="(default: 1)")
    ab.add_argument("--metric", metavar="NAME", help="top1, top5, mae, auc, or path.py:function")
    ab.add_argument("--reference", metavar="MODEL", help="compare the outputs of both with those of this model")
    add_source_options(ab)
    add_shared(ab, "cap on each of the two sessions (default: 60)")
    calibrate = command("calibrate", "measure the noise of a device", CALIBRATE_HELP, run_calibrate)
    calibrate.add_argument("model", nargs="?", metavar="MODEL", help="what to measure it with (default: digits_cnn)")
    calibrate.add_argument("--runtime", "-r", metavar="R", help="(default: the device's first that fits)")
    calibrate.add_argument("--precision", "-p", metavar="P", help="(default: fp32, or a file's own)")
    calibrate.add_argument("--threads", "-t", type=positive, metavar="N", help="(default: 1)")
    add_source_options(calibrate)
    add_shared(calibrate, "cap on all process pairs (default: 180)")
    gate = command("gate", "fail when a run breaks a limit, or needs more than its baseline", GATE_HELP, run_gate)
    gate.add_argument(
        "run_name",
        metavar="NEW",
        nargs="?",
        default="last",
        help="a run (its name, the beginning of it, or last), or a report in JSON (default: last)",
    )
    cli_judge.add_gate_options(gate)
    gate.add_argument("--baseline", metavar="OLD", help="a run or a report in JSON, likewise")
    gate.add_argument("--limit", type=percentage, metavar="1%", help="how much more may be needed (default: 1%%)")
    gate.add_argument("--output", "-o", metavar="DIR", default="results", help="where runs lie (default: results)")
    gate.add_argument("--json", action="store_true", help="the machine form on stdout")


def add_shared(parser: Parser, cap: str) -> None:
    """What the commands that measure have in common."""
    parser.add_argument(
        "--device", "-d", metavar="NAME", help="a name of `edgekit devices`, or a profile (default: pi4)"
    )
    cli_devices.add_connection(parser)
    parser.add_argument("--wait", action="store_true", help="wait while somebody else uses the device")
    parser.add_argument("--samples", type=positive, metavar="N", help="verify with N held-out inputs only")
    parser.add_argument("--max-seconds", type=seconds, metavar="S", help=cap)
    parser.add_argument("--output", "-o", metavar="DIR", default="results", help="where results are written")
    parser.add_argument("--json", action="store_true", help="the machine form on stdout, and nothing else there")
    parser.add_argument("--quiet", "-q", action="store_true", help="no progress on stderr")


def request_of(args: argparse.Namespace, model: str | None, index: int) -> plan.Request:
    """What is asked for of one side: OLD has index 0, NEW has 1."""
    from edgekit import plan

    chosen: dict[str, Any] = {}
    for name, field in FIELDS.items():
        given = getattr(args, name)
        if given is not None:
            value = given[index] if isinstance(given, tuple) else given
            if value == "all":
                raise UserError(f"--{name} all is for profile", "here each side has one")
            chosen[field] = (value,)
    return plan.Request(
        model=model,
        device=args.device,
        **chosen,
        samples=args.samples,
        output=Path(args.output),
        inputs=tuple(args.input),
        data=args.data,
        calibration=args.calibration,
        preprocess=args.preprocess,
        metric=getattr(args, "metric", None),
        reference=getattr(args, "reference", None),
        trust=args.trust,
        connection=cli_devices.connection(args),
        wait=args.wait,
    )


def run_ab(args: argparse.Namespace) -> int:
    """edgekit ab"""
    from edgekit import abtest
    from edgekit.progress import Progress

    started: list[Path] = []
    old = request_of(args, args.old, 0)
    new = request_of(args, args.old if args.new is None else args.new, 1)
    with Progress(quiet=args.quiet) as progress:
        try:
            found = abtest.run(old, new, progress.say, args.max_seconds, started.append)
        except (KeyboardInterrupt, EdgekitError) as error:
            progress.close()
            code = errors.EXIT_INTERRUPTED
            if isinstance(error, EdgekitError):
                explain(error)
                code = error.exit_code
            else:
                complain("interrupted")
            if started:
                complain(f"what was measured is kept in {started[0]}, without a verdict")
            return code
    if args.json:
        print_json(found.to_json())
    else:
        print("\n".join(lines(found)))
    return EXIT_OF[found.verdict]


def lines(found: Comparison) -> list[str]:
    """An A/B test in words."""
    from edgekit.report.words import count, duration

    said = [f"OLD {found.old['id']}", f"NEW {found.new['id']}"]
    if found.old["sha256"] == found.new["sha256"]:
        said.append("both are the same file")
    what = "time" if found.metric == "latency" else "instructions"
    show, name = (duration, "p50_ns") if found.metric == "latency" else (count, "instructions")
    figures = [side[name] for side in (found.old, found.new) if name in side]
    values = [show(figure["total"] if isinstance(figure, dict) else figure) for figure in figures]
    shown = f": {' -> '.join(values)}" if len(values) == 2 else ""
    if found.ratio is None or found.interval is None:
        said.append(f"{found.verdict}{shown}")
    else:
        of = "at 95 %" if found.metric == "latency" else "at the most"
        sure = f"{found.interval[0]:.4g} to {found.interval[1]:.4g} {of}, {found.pairs} process pairs"
        said.append(f"{found.verdict}{shown}: NEW takes {found.ratio:.4g}x the {what} of OLD ({sure})")
    if found.why:
        said.append(f"why: {found.why}")
    said.append(f"threshold: {100 * found.threshold:.3g} %, {threshold_of(found)}")
    said += [f"weak: {weak['side'].upper() + ': ' if weak['side'] else ''}{weak['message']}" for weak in found.warnings]
    return [*said, f"results: {found.path}/ab.json, pairs.jsonl"]


def threshold_of(found: Comparison) -> str:
    """Where the threshold is from."""
    if found.metric == "instructions":
        return "because counts repeat within 0.1 %"
    if found.noise is None:
        return f"the least; nobody has measured this device's noise: edgekit calibrate --device {found.device}"
    return f"with an A/A noise of {100 * found.noise.relative:.2g} % (calibrated {found.noise.date})"


def run_calibrate(args: argparse.Namespace) -> int:
    """edgekit calibrate"""
    from edgekit import calibration
    from edgekit.progress import Progress

    with Progress(quiet=args.quiet) as progress:
        found = calibration.run(request_of(args, args.model, 0), progress.say, args.max_seconds)
    if args.json:
        print_json(found.to_json())
        return errors.EXIT_OK
    known = found.noise
    load = f", load {known.load:.1f}" if known.load is not None else ""
    print(
        f"A/A noise of {found.device}: {100 * known.relative:.2g} % ({known.subject}, {known.pairs} process pairs{load})"
    )
    print(
        f"runs one after another drift apart by up to {100 * known.drift:.2g} %, which intervals of latency include from now on"
    )
    print(f"an A/B test there tells differences of more than {100 * found.threshold:.3g} %")
    print(f"results: {found.path}/calibration.json, pairs.jsonl")
    return errors.EXIT_OK


def run_gate(args: argparse.Namespace) -> int:
    """edgekit gate"""
    from edgekit import gate

    if cli_judge.wanted(args):
        return cli_judge.run_gate(args)
    if args.baseline is None:
        raise UserError(
            "a gate needs a policy, a baseline, or both",
            "--policy FILE (edgekit gate --init writes one), --baseline RUN",
        )
    limit = gate.LIMIT if args.limit is None else args.limit
    found = gate.check(args.run_name, args.baseline, limit, Path(args.output))
    if args.json:
        print_json(found.to_json())
    else:
        show(found)
    return errors.EXIT_OK if found.passed else errors.EXIT_GATE


def show(found: Gated) -> None:
    """A line for each cell, and what it comes to."""
    rows = [
        (
            row.status.upper(),
            row.id,
            f"{row.baseline:,}",
            "-" if row.now is None else f"{row.now:,}",
            "-" if row.change is None else f"{100 * row.change:+.2f} %",
            f"{100 * row.limit:+g} %",
            row.why if row.change is None else "",
        )
        for row in found.rows
    ]
    print_table(("", "cell", "baseline", "now", "change", "limit", ""), rows)
    for note in found.notes:
        print(f"note: {note}")
    failed = sum(row.status == "fail" for row in found.rows)
    verdict = f"FAILED: {failed} of {len(found.rows)} cells" if failed else f"passed: {len(found.rows)} cells"
    print(f"{verdict}; instructions of {found.run} against {found.baseline}")
