"""`edgekit report`: an earlier run in another form."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit import cli_profile, errors, places
from edgekit.arguments import Parser
from edgekit.errors import UserError
from edgekit.terminal import complain

if TYPE_CHECKING:
    from edgekit.report import Report

REPORT_HELP = """\
Write the report of an earlier run in another form.

examples:
  edgekit report last --open                                the page that every run has, in the browser
  edgekit report last --format markdown >> summary.md
  edgekit report 20261123-1015 --format junit > cells.xml   the beginning of its name
  edgekit report last --tensorboard logs
"""
FORMATS = ("table", "html", "json", "csv", "markdown", "junit", "trace")


def add_commands(command: Callable[[str, str, str, Callable[[argparse.Namespace], int]], Parser]) -> None:
    """The command and its options."""
    report = command("report", "write the report of a run in another form", REPORT_HELP, run_report)
    report.add_argument("name", metavar="RUN", help="a path, a name, the beginning of one, or last")
    report.add_argument(
        "--format",
        "-f",
        choices=FORMATS,
        help="html is written into the run's folder, the others to stdout (default: table)",
    )
    report.add_argument("--open", action="store_true", help="write the page and open it in the browser")
    report.add_argument("--tensorboard", metavar="DIR", help="write scalars and histograms for TensorBoard there")
    report.add_argument("--mlflow", metavar="URI", help="log the cells to the MLflow server or store there")
    report.add_argument(
        "--output", "-o", metavar="DIR", default="results", help="where runs were written (default: results)"
    )


def run_report(args: argparse.Namespace) -> int:
    """edgekit report"""
    from edgekit.history import History
    from edgekit.report import Report, forms

    if args.open and args.format not in (None, "html"):
        raise UserError(f"--open is for the page, and --format {args.format} is none", "leave one of them out")
    with History([places.real(Path(args.output))]) as known:
        found = Report.load(known.find(args.name, Path(args.output)))
    if args.tensorboard:
        from edgekit.report import tensorboard

        written = tensorboard.write(found, Path(args.tensorboard))
        complain(f"{len(written)} cells are in {args.tensorboard}: tensorboard --logdir {args.tensorboard}")
    if args.mlflow:
        from edgekit.report import mlflow

        complain(f"{len(mlflow.log(found, args.mlflow))} cells are logged to {args.mlflow}")
    if args.open or args.format == "html":
        return page(found, args.open)
    if args.format in forms.FORMS:
        print(forms.FORMS[args.format](found), end="")
    elif args.format or not (args.tensorboard or args.mlflow):
        args.json = False
        cli_profile.present(found, args)
    return errors.EXIT_OK


def page(found: Report, opened: bool) -> int:
    """Write the page of a report, and say where it is or show it."""
    from edgekit.report import html

    path = html.write(found)
    print(path)
    if opened:
        import webbrowser

        if not webbrowser.open(path.resolve().as_uri()):
            complain(f"no browser can be started here: open {path} with one")
    return errors.EXIT_OK
