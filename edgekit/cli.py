"""The command table: with the other cli modules the only place that prints to the user or sets an exit code."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence

from edgekit import __version__, cli_ci, cli_compare, cli_devices, cli_history, cli_profile, cli_report, errors
from edgekit.arguments import EXIT_CODES, Parser, add_opening_options, add_source_options, pair, positive
from edgekit.errors import EdgekitError, unknown
from edgekit.terminal import bug, complain, explain, prepare_streams, print_json, print_table, silence

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
IMPATIENCE_S = 3.0


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


def shape_of(shape: Sequence[int]) -> str:
    """1x3x224x224."""
    return "x".join(str(extent) for extent in shape)


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

    cli_profile.add_command(command)
    cli_compare.add_commands(command)
    cli_history.add_commands(command)
    cli_report.add_commands(command)
    cli_ci.add_commands(command)
    convert = command("convert", "convert a model and write the file", CONVERT_HELP, run_convert)
    convert.add_argument("model", metavar="MODEL", help="as for profile")
    convert.add_argument("--to", required=True, metavar="FORMAT", help="tflite, onnx, executorch, torchscript ...")
    convert.add_argument("--precision", "-p", default="fp32", metavar="P", help="fp32, int8, fp16 ... (default: fp32)")
    convert.add_argument("--output", "-o", metavar="FILE", help="(default: MODEL_PRECISION with the format's suffix)")
    convert.add_argument(
        "--option", type=pair, action="append", default=[], metavar="NAME=VALUE", help="of the converter"
    )
    convert.add_argument("--source", metavar="FRAMEWORK", help="convert from this form: torch, keras ...")
    convert.add_argument(
        "--batch", type=positive, metavar="N", help="how many inputs go through in one call (default: as the model)"
    )
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
            args.preprocess, args.trust, args.force, progress.say, args.batch,
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
