"""The command table: with cli_devices the only place that prints to the user or sets an exit code."""

from __future__ import annotations

import argparse
import errno
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from edgekit import __version__, cli_devices, errors
from edgekit.errors import DeviceBusy, EdgekitError, SetupError, UserError, unknown
from edgekit.terminal import bug, complain, explain, prepare_streams, print_json, print_table, silence

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
MODELS_HELP = "List the built-in models.\n\nexample:\n  edgekit models\n"
CONVERT_HELP = """\
Convert a model and write the file.

examples:
  edgekit convert digits_cnn --to tflite --precision int8
  edgekit convert model.pt2 --to onnx --precision int8 --calibration photos/ -o model.onnx
  edgekit convert float.tflite --to tflite --precision int8_weight
"""
INSPECT_HELP = """\
Say what is in a model file, without running it: inputs, outputs, quantization, operators, what a delegate will take.

examples:
  edgekit inspect model.tflite
  edgekit inspect model.onnx --json
"""
COMPLETION_HELP = """\
Print the completion script of a shell.

examples:
  edgekit completion bash > ~/.local/share/bash-completion/completions/edgekit
  edgekit completion zsh > ~/.zsh/completions/_edgekit
"""
MAIN_HELP = """\
Profile, compare and gate ML models on edge devices, with numbers one can trust.

example:
  edgekit profile --device pi4
"""
# What --resume takes from the earlier run.
MATRIX = (
    "runtime", "precision", "threads", "samples", "launches", "calls", "max_seconds",
    "preprocess", "input", "trust",
)  # fmt: skip
IMPATIENCE_S = 3.0
EXIT_CODES = (
    "exit codes: 0 all well, 2 bad input, 3 device or set-up, 4 some cells failed, 130 interrupted, 70 a bug of ours"
)


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are UserErrors with a suggestion."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        choice = re.match(r"argument COMMAND: invalid choice: '(.*?)'", message)
        if choice:
            raise unknown("command", choice.group(1), self.commands())
        raise UserError(message, f"{self.prog} --help shows how it is called")

    def commands(self) -> dict[str, argparse.ArgumentParser]:
        """The subcommands by name."""
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                return dict(action.choices)
        return {}

    def flags(self) -> set[str]:
        """Every option this parser knows."""
        return {flag for action in self._actions for flag in action.option_strings}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments, or a UserError that suggests what was meant."""
    parser = build_parser()
    args, stray = parser.parse_known_args(argv)
    if stray:
        chosen = parser.commands().get(args.command, parser)
        assert isinstance(chosen, Parser)
        raise unknown("argument", stray[0], chosen.flags() | parser.flags())
    if args.command is None:
        parser.print_help()
    return args


def names(text: str) -> tuple[str, ...]:
    """A comma-separated list of names."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def numbers(text: str) -> tuple[int, ...]:
    """A comma-separated list of whole numbers."""
    try:
        return tuple(int(part) for part in names(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of whole numbers") from None


def pair(text: str) -> tuple[str, str]:
    """NAME=VALUE."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=VALUE")
    return name, value


def shape_of(shape: Sequence[int]) -> str:
    """1x3x224x224."""
    return "x".join(str(extent) for extent in shape)


def positive(text: str) -> int:
    """A whole number of at least one."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least 1")
    return int(text)


def build_parser() -> Parser:
    """The whole command line."""
    parser = Parser(prog="edgekit", description=MAIN_HELP, epilog=EXIT_CODES)
    parser.add_argument("--version", action="version", version=f"edgekit {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)

    def command(name: str, summary: str, description: str, run: Callable[[argparse.Namespace], int]) -> Parser:
        made: Parser = commands.add_parser(name, help=summary, description=description, epilog=EXIT_CODES)
        made.set_defaults(run=run)
        made.add_argument(
            "--cache-dir",
            metavar="DIR",
            help="where artifacts and userlands are kept (default: the user's cache folder)",
        )
        return made

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
    profile.add_argument("--metric", metavar="NAME", help="top1, top5, mae, auc, or path.py:function")
    profile.add_argument("--reference", metavar="MODEL", help="compare the outputs with those of this model")
    add_source_options(profile)
    profile.add_argument("--launches", type=positive, metavar="N", help="fresh processes per cell")
    profile.add_argument("--calls", type=positive, metavar="N", help="timed samples per launch")
    profile.add_argument("--max-seconds", type=float, metavar="S", help="cap on the timed part of a launch")
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

    convert = command("convert", "convert a model and write the file", CONVERT_HELP, run_convert)
    convert.add_argument("model", metavar="MODEL", help="as for profile")
    convert.add_argument("--to", required=True, metavar="FORMAT", help="tflite, onnx, executorch, torchscript ...")
    convert.add_argument("--precision", "-p", default="fp32", metavar="P", help="fp32, int8, fp16 ... (default: fp32)")
    convert.add_argument("--output", "-o", metavar="FILE", help="(default: MODEL_PRECISION with the format's suffix)")
    convert.add_argument(
        "--option", type=pair, action="append", default=[], metavar="NAME=VALUE", help="of the converter"
    )
    convert.add_argument("--source", metavar="FRAMEWORK", help="convert from this form: torch, keras ...")
    convert.add_argument("--force", action="store_true", help="overwrite the file")
    add_source_options(convert)
    convert.add_argument("--json", action="store_true", help="the machine form on stdout")
    convert.add_argument("--quiet", "-q", action="store_true", help="no progress on stderr")
    inspect = command("inspect", "say what is in a model file", INSPECT_HELP, run_inspect)
    inspect.add_argument("file", metavar="FILE", help="a model file or a SavedModel folder")
    add_opening_options(inspect)
    inspect.add_argument("--json", action="store_true", help="the machine form on stdout")

    models = command("models", "list the built-in models", MODELS_HELP, run_models)
    models.add_argument("--json", action="store_true", help="the machine form on stdout")
    cli_devices.add_commands(command)
    completion = command("completion", "print a shell's completion script", COMPLETION_HELP, run_completion)
    completion.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="the shell")
    return parser


def add_opening_options(parser: Parser) -> None:
    """What opening a model file may need."""
    parser.add_argument(
        "--input", action="append", default=[], metavar="SHAPE", help="of a model that does not tell it: 1x3x224x224"
    )
    parser.add_argument("--trust", action="store_true", help="open files that can run code when they are loaded")


def add_source_options(parser: Parser) -> None:
    """What a model needs beside itself."""
    parser.add_argument("--data", metavar="PATH", help="your inputs and labels: class folders, images + .csv, or .npz")
    parser.add_argument("--calibration", metavar="PATH", help="inputs to quantize with, in the same forms")
    parser.add_argument("--preprocess", metavar="SPEC", help="'range=0..1,resize=256,crop=224,mean=...,std=...'")
    add_opening_options(parser)


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
    """Present the report; the exit code, `code` unless it cannot be written."""
    try:
        present(report, args)
        sys.stdout.flush()
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
    from rich.console import Console

    from edgekit.report.table import show

    console = Console(width=None if sys.stdout.isatty() else 100, highlight=False)
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


def run_convert(args: argparse.Namespace) -> int:
    """edgekit convert"""
    from edgekit import api
    from edgekit.progress import Progress
    from edgekit.report import inspection
    from edgekit.types import to_json

    options = {**dict(args.option), **({"source": args.source} if args.source else {})}
    with Progress(quiet=args.quiet) as progress:
        path, made = api.convert(
            args.model, args.to, args.precision, args.output, options, args.input, args.data, args.calibration,
            args.preprocess, args.trust, args.force, progress.say,
        )  # fmt: skip
    if args.json:
        print_json({**to_json(made), "path": str(path)})
    else:
        print("\n".join(inspection.of_artifact(path, made)))
    return errors.EXIT_OK


def run_inspect(args: argparse.Namespace) -> int:
    """edgekit inspect"""
    from edgekit import api
    from edgekit.report import inspection

    found = api.inspect(args.file, args.input, args.trust)
    if args.json:
        print_json(found)
    else:
        print("\n".join(inspection.lines(found)))
    return errors.EXIT_OK


def run_models(args: argparse.Namespace) -> int:
    """edgekit models"""
    from edgekit import sources
    from edgekit.types import to_json

    models = [sources.load(name) for name in sources.names()]
    if args.json:
        print_json([{**to_json(model), "source": model.source.name} for model in models])
        return errors.EXIT_OK
    rows = [(m.name, " ".join(shape_of(spec.shape) for spec in m.inputs), m.task, m.description) for m in models]
    print_table(("model", "input", "task", "what it is"), rows)
    return errors.EXIT_OK


def run_completion(args: argparse.Namespace) -> int:
    """edgekit completion"""
    import shtab

    print(shtab.complete(build_parser(), args.shell))
    return errors.EXIT_OK


INTERRUPTED_AT = [float("-inf")]


def on_signal(*_: object) -> None:
    """Ctrl-C and SIGTERM end a run alike: children gone, finished cells kept. Presses that follow at once do not disturb that."""
    now = time.monotonic()
    if now - INTERRUPTED_AT[0] > IMPATIENCE_S:
        INTERRUPTED_AT[0] = now
        raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    prepare_streams()
    try:
        signal.signal(signal.SIGTERM, on_signal)
        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # a background job stays deaf to Ctrl-C
            signal.signal(signal.SIGINT, on_signal)
        args = parse(argv)
        if args.command is None:
            return errors.EXIT_OK
        if args.cache_dir:
            os.environ["EDGEKIT_CACHE_DIR"] = args.cache_dir
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except EdgekitError as error:
        explain(error)
        return error.exit_code
    except KeyboardInterrupt:
        complain("interrupted")
        return errors.EXIT_INTERRUPTED
    except BrokenPipeError:
        silence(sys.stdout)
        return errors.EXIT_OK
    except OSError as error:
        if error.errno != errno.ENOSPC:
            return bug()
        silence(sys.stdout)
        complain(f"cannot write: {error.strerror}{f': {error.filename}' if error.filename else ''}")
        return errors.EXIT_DEVICE
    except Exception:
        return bug()
