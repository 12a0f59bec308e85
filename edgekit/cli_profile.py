"""`edgekit profile`: its options, what happens when it ends early, and how its report is presented."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit import cli_devices, errors, terminal
from edgekit.arguments import Parser, add_source_options, names, numbers, positive, seconds
from edgekit.errors import DeviceBusy, EdgekitError, SetupError, UserError
from edgekit.terminal import complain, explain, print_json, silence

if TYPE_CHECKING:
    from edgekit import plan
    from edgekit.report import Report, Reports
    from edgekit.store import Run

PROFILE_HELP = """\
Measure a model on a device: which runtime and which precision, at what memory, accuracy and cost.

examples:
  edgekit profile --device pi4                        the built-in digits_cnn on an emulated Raspberry Pi 4
  edgekit profile digits_mlp --device local           another model, on this machine
  edgekit profile my_model.py --precision int8        your own recipe (it is code, and it is run)
  edgekit profile net.py:make --input 1x3x96x96       what a function of a Python file makes
  edgekit profile model.tflite --data photos/         a finished file as it is, on your own images
  edgekit profile model.keras -p all -r all           everything that can be made of it, and why not the rest
  edgekit profile --device pi4 --json > cells.json    the machine form
  edgekit profile --device pi4 --host pi@192.0.2.7    the real board, over SSH
  edgekit profile --device pi4,pi5,android            several devices side by side, in one table
  edgekit profile --resume last                       finish a run that was interrupted
"""
# What --resume takes from the earlier run.
MATRIX = (
    "runtime", "precision", "threads", "samples", "launches", "calls", "max_seconds", "batch", "quick", "gate",
    "operators", "require_full_delegation", "sustained", "energy", "power_meter", "preprocess", "input", "trust",
)  # fmt: skip


def add_command(command: Callable[[str, str, str, Callable[[argparse.Namespace], int]], Parser]) -> None:
    """The command and its options."""
    profile = command("profile", "measure a model on a device", PROFILE_HELP, run_profile)
    profile.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="a name of `edgekit models`, a recipe file, path.py:function, or a model file (default: digits_cnn)",
    )
    profile.add_argument(
        "--device",
        "-d",
        metavar="A,B",
        help="a name of `edgekit devices`, or a profile .toml (default: pi4); several are measured side by side",
    )
    cli_devices.add_connection(profile)
    profile.add_argument("--wait", action="store_true", help="wait while somebody else uses the device")
    profile.add_argument(
        "--runtime",
        "-r",
        type=names,
        metavar="A,B",
        help="runtimes to compare, or all (default: all of the device's); litert and ort are understood",
    )
    profile.add_argument(
        "--precision", "-p", type=names, metavar="A,B", help="fp32, int8, fp16 ..., or all (default: fp32,int8)"
    )
    profile.add_argument(
        "--threads", "-t", type=numbers, metavar="1,4", help="thread counts, the same in every runtime (default: 1)"
    )
    profile.add_argument(
        "--samples", type=positive, metavar="N", help="use only N held-out inputs, evenly spaced, for accuracy"
    )
    profile.add_argument(
        "--metric",
        metavar="NAME",
        help="top1, top5, mae, auc, or path.py:function; instructions counts them and measures nothing else",
    )
    profile.add_argument("--reference", metavar="MODEL", help="compare the outputs with those of this model")
    add_source_options(profile)
    profile.add_argument(
        "--batch", type=numbers, metavar="1,8", help="batch sizes: how many inputs go through in one call (default: 1)"
    )
    level = profile.add_mutually_exclusive_group()
    level.add_argument("--quick", action="store_true", help="an interval of +-5 %% is enough")
    level.add_argument("--gate", action="store_true", help="an interval of +-1 %%, for a decision")
    profile.add_argument("--launches", type=positive, metavar="N", help="exactly N fresh processes per cell")
    profile.add_argument("--calls", type=positive, metavar="N", help="exactly N timed samples per launch")
    profile.add_argument(
        "--max-seconds",
        type=float,
        metavar="S",
        help="cap on the timed part of a cell; what is open then is inconclusive",
    )
    profile.add_argument("--operators", action="store_true", help="time per operator, in a pass of its own")
    profile.add_argument(
        "--require-full-delegation",
        action="store_true",
        help="a cell fails when an operator does not run on the fast backend",
    )
    profile.add_argument(
        "--sustained", type=seconds, metavar="30m", help="go on for so long: latency, clock and temperature over time"
    )
    profile.add_argument("--energy", action="store_true", help="energy per inference, where the device can tell it")
    profile.add_argument(
        "--power-meter",
        metavar="TTY",
        help="a power meter on a serial line of this machine (docs/sustained-and-energy.md)",
    )
    profile.add_argument(
        "--output", "-o", metavar="DIR", default="results", help="where runs are written (default: results)"
    )
    profile.add_argument(
        "--resume",
        metavar="RUN",
        help="finish an earlier run: its name, the beginning of it, or last; give a path again only when it lies elsewhere now",
    )
    profile.add_argument("--json", action="store_true", help="the machine form on stdout, and nothing else there")
    profile.add_argument("--quiet", "-q", action="store_true", help="no progress on stderr")


def run_profile(args: argparse.Namespace) -> int:
    """edgekit profile"""
    if args.resume is not None and any(getattr(args, name) not in (None, False, []) for name in MATRIX):
        raise UserError("--resume takes the matrix of the earlier run", "leave the other options out")
    from edgekit import bench, plan
    from edgekit.progress import Progress
    from edgekit.report import Report

    devices = cli_devices.asked_for(args.device)
    request = plan.Request(
        model=args.model,
        device=devices[0],
        runtimes=args.runtime,
        precisions=args.precision,
        threads=args.threads if args.threads is not None else plan.THREADS,
        samples=args.samples,
        output=Path(args.output),
        resume=args.resume,
        effort={"launches": args.launches, "calls": args.calls, "max_seconds": args.max_seconds},
        inputs=tuple(args.input),
        data=args.data,
        calibration=args.calibration,
        preprocess=args.preprocess,
        metric=args.metric,
        reference=args.reference,
        trust=args.trust,
        connection=cli_devices.connection(args),
        wait=args.wait,
        level="quick" if args.quick else "gate" if args.gate else None,
        batches=args.batch if args.batch is not None else plan.BATCHES,
        operators=args.operators,
        require_full_delegation=args.require_full_delegation,
        sustained_s=args.sustained,
        energy=args.energy or args.power_meter is not None,
        power_meter=args.power_meter,
    )
    if len(devices) > 1:
        return run_fleet(args, request, [str(name) for name in devices])
    started: list[Run] = []
    report: Report | None = None
    with Progress(quiet=args.quiet) as progress:
        try:
            report = Report.of(bench.run(request, progress.say, started.append))
            code = errors.EXIT_CELLS if report.failed else errors.EXIT_OK
        except (KeyboardInterrupt, EdgekitError) as error:
            progress.close()
            code = unfinished(error, started[0] if started else None, args, request.device)
            report = Report.of(started[0]) if started and started[0].lines else None
    return code if report is None else handed_over(report, args, code)


def run_fleet(args: argparse.Namespace, request: plan.Request, devices: list[str]) -> int:
    """edgekit profile --device A,B"""
    from edgekit import fleet
    from edgekit.progress import Progress

    started: list[fleet.Share] = []
    codes = [errors.EXIT_OK]
    with Progress(quiet=args.quiet) as progress:
        why: BaseException | None = None
        try:
            fleet.run(request, devices, progress.say, started.extend)
        except (KeyboardInterrupt, EdgekitError) as error:
            why = error
        progress.close()
        if why is not None:
            codes.append(unfinished(why, None, args, None))
        for given, share in zip(devices, started, strict=False):
            if isinstance(share.error, (KeyboardInterrupt, EdgekitError)):
                told = None if share.error is why else share.error
                codes.append(unfinished(told, share.job.run, args, given, share.name))
    if not started:
        return codes[-1]
    report = fleet.report(started)
    codes += [errors.EXIT_CELLS] if report.failed else []
    code = max(codes, key=errors.WORSE.index)
    return handed_over(report, args, code) if report.cells else code


def handed_over(report: Report | Reports, args: argparse.Namespace, code: int) -> int:
    """Present the report, in CI to its summary page too; the exit code, `code` unless it cannot be written."""
    from edgekit.report import forms

    try:
        present(report, args)
        sys.stdout.flush()
        forms.step_summary(report)
    except BrokenPipeError:
        silence(sys.stdout)  # the reader has seen enough; what happened to the cells still decides the exit code
    except OSError as error:
        silence(sys.stdout)
        explain(SetupError(f"cannot write the report: {error.strerror}", f"the run is kept in {report.path}"))
        return errors.EXIT_DEVICE
    return code


def present(report: Report | Reports, args: argparse.Namespace) -> None:
    """The report on stdout, in the form that was asked for."""
    if args.json:
        print_json(report.to_json())
        return
    from edgekit.report.table import show

    console = terminal.console(sys.stdout)
    with console.capture() as drawn:  # rich would end the process by itself when the reader is gone
        show(report, console)
    print(drawn.get(), end="")


def unfinished(
    error: BaseException | None, run: Run | None, args: argparse.Namespace, device: str | None, name: str = ""
) -> int:
    """Say why a run ended early, which of its cells are kept and how to go on; the exit code.

    `device` is what the user called the device, `name` what several go by; without an error the reason was said before.
    """
    of = f"{name}: " if name else ""
    code = errors.EXIT_OK
    if isinstance(error, EdgekitError):
        explain(error, of)
        code = error.exit_code
    elif error:
        complain(f"{of}interrupted")
        code = errors.EXIT_INTERRUPTED
    if run:
        complain(f"{of}{len(run.lines)} of {len(run.header['plan']['cells'])} cells are kept in {run.path}")
        again = ["edgekit", "profile", "--resume", run.path.name]
        # Only the name of a file from elsewhere is kept in a run, so it has to be given again.
        plan = run.header["plan"]
        again += [args.model] if args.model and args.model != plan["model"] else []
        for option in ("device", "data", "calibration", "metric", "reference"):
            given = device if option == "device" else getattr(args, option)
            again += [f"--{option}", given] if given and given != plan.get(option) else []
        again += ["--wait"] if args.wait or isinstance(error, DeviceBusy) else []
        again += ["--output", str(run.path.parent)] if str(run.path.parent) != "results" else []
        again += ["--cache-dir", args.cache_dir] if args.cache_dir else []
        complain(f"{of}go on with: {shlex.join(again)}")
    return code
