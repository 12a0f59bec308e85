"""`edgekit history`, `runs`, `show` and `prune`: the runs on this machine, and what they print."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit import cli_profile, errors, places
from edgekit.arguments import Parser, positive
from edgekit.errors import UserError
from edgekit.inert import printable
from edgekit.terminal import complain, print_json, print_table

if TYPE_CHECKING:
    from edgekit.history import Series
    from edgekit.types import Json

HISTORY_HELP = """\
Show how the figures of a model's cells went over all runs on this machine, and where they changed.

examples:
  edgekit history digits_cnn --device pi4
  edgekit history digits_cnn --cell int8/tflite         only the cells with that in their names
  edgekit history digits_cnn --device my-pi --json
"""
RUNS_HELP = (
    "List the runs on this machine, the newest last.\n\nexamples:\n  edgekit runs\n  edgekit runs --last 5 --json\n"
)
SHOW_HELP = """\
Show the report of an earlier run.

examples:
  edgekit show last
  edgekit show 20261123-1015                the beginning of its name, wherever on this machine it lies
"""
PRUNE_HELP = """\
Delete old runs. The newest measurement of a cell always stays, and the newest that is ok.

examples:
  edgekit prune --keep 10 --dry-run         what would go: all but the ten newest of every cell
  edgekit prune --older-than 30d --yes
  edgekit prune --keep 3 --device pi4
"""
Command = Callable[[str, str, str, Callable[[argparse.Namespace], int]], Parser]


def add_commands(command: Command) -> None:
    """The commands and their options."""
    history = command("history", "how a model's figures went over time", HISTORY_HELP, run_history)
    history.add_argument("model", metavar="MODEL", help="the name of a model that was measured")
    history.add_argument("--device", "-d", metavar="NAME", help="only on this device")
    history.add_argument("--cell", metavar="TEXT", default="", help="only the cells with this in their names")
    history.add_argument("--last", type=positive, metavar="N", default=30, help="points of each cell (default: 30)")
    runs = command("runs", "list the runs on this machine", RUNS_HELP, run_runs)
    runs.add_argument("--model", metavar="NAME", help="only of this model")
    runs.add_argument("--device", "-d", metavar="NAME", help="only on this device")
    runs.add_argument("--last", type=positive, metavar="N", default=30, help="how many (default: 30)")
    show = command("show", "show the report of an earlier run", SHOW_HELP, run_show)
    show.add_argument("name", metavar="RUN", help="a path, a name, the beginning of one, or last")
    prune = command("prune", "delete old runs", PRUNE_HELP, run_prune)
    prune.add_argument("--keep", type=positive, metavar="N", help="keep the N newest measurements of every cell")
    prune.add_argument("--older-than", type=age, metavar="30d", help="delete only what is older: 12h, 30d, 8w")
    prune.add_argument("--model", metavar="NAME", help="only runs of this model")
    prune.add_argument("--device", "-d", metavar="NAME", help="only runs on this device")
    prune.add_argument("--dry-run", action="store_true", help="say what would go, and delete nothing")
    prune.add_argument("--yes", "-y", action="store_true", help="do not ask")
    for parser in (history, runs, show, prune):
        text = "a results folder to look at beside the known ones (default: results)"
        parser.add_argument("--output", "-o", metavar="DIR", default="results", help=text)
        parser.add_argument("--json", action="store_true", help="the machine form on stdout")


def age(text: str) -> float:
    """A time span in seconds: 12h, 30d or 8w."""
    match = re.fullmatch(r"(\d+)([hdw])", text)
    if not match:
        raise argparse.ArgumentTypeError(f"'{text}' is not an age such as 12h, 30d or 8w")
    return int(match[1]) * {"h": 3600.0, "d": 86400.0, "w": 604800.0}[match[2]]


def run_history(args: argparse.Namespace) -> int:
    """edgekit history"""
    from edgekit.history import History

    with History([places.real(Path(args.output))]) as known:
        every = [series for series in known.series(args.model, args.device) if args.cell in series.id]
    if not every:
        raise UserError(f"no cell of {args.model} has '{args.cell}' in its name", "leave --cell out to see them all")
    if args.json:
        print_json([{**form, "points": form["points"][-args.last :]} for form in (one.to_json() for one in every)])
        return errors.EXIT_OK
    for number, series in enumerate(every):
        print(*(["\n"] if number else []), printable(series.id), sep="")
        print_table(("  when (UTC)", "figure", "change", "run"), rows(series, args.last))
    return errors.EXIT_OK


def rows(series: Series, last: int) -> list[tuple[str, str, str, str]]:
    """A line for each of the last measurements of a cell, with the changes among them."""
    first = max(0, len(series.points) - last)
    found = []
    for index, point in enumerate(series.points[first:], first):
        when = "  " + str(point["started"]).replace("T", " ").removesuffix("Z")
        found.append((when, figure(point, series.metric), change(series.marks.get(index)), str(point["run"])))
    return found


def figure(point: Json, metric: str) -> str:
    """A count, a time with its interval, or why there is none."""
    from edgekit.report.words import count, duration, percent

    if point.get(metric) is None:
        return "-" if point["status"] == "ok" else str(point["status"])
    if metric == "instructions":
        return f"{count(point[metric])} instructions"
    width = f" \N{PLUS-MINUS SIGN}{percent(point['half_width'])}" if "half_width" in point else ""
    return duration(point[metric]) + width + (" (emulator)" if point.get("emulated") else "")


def change(mark: Json | None) -> str:
    """How much a level is above the one before, and what else is new since."""
    if mark is None:
        return ""
    words = {"artifact": "another model file", "version": "another runtime version"}
    new = "".join(f", {words[what]}" for what in mark["with"])
    return f"{100 * mark['change']:+.1f} %{new}"


def run_runs(args: argparse.Namespace) -> int:
    """edgekit runs"""
    from edgekit.history import History

    with History([places.real(Path(args.output))]) as known:
        found = known.runs(args.model, args.device)[-args.last :]
    if args.json:
        print_json(found)
        return errors.EXIT_OK
    if not found:
        complain("no run is there")
        return errors.EXIT_OK
    heads = ("run", "model", "device", "cells", "where")
    print_table(heads, [(run["run"], *described(run), str(Path(run["path"]).parent)) for run in found])
    return errors.EXIT_OK


def described(run: Json) -> tuple[str, str, str]:
    """Model, device and cells of a run."""
    if "damage" in run:
        return "?", "?", "cannot be read"
    cells = str(run["done"]) if run["done"] >= run["planned"] else f"{run['done']} of {run['planned']}"
    return str(run["model"]), str(run["device"]), cells + (f", {run['failed']} failed" if run["failed"] else "")


def run_show(args: argparse.Namespace) -> int:
    """edgekit show"""
    from edgekit.history import History
    from edgekit.report import Report

    with History([places.real(Path(args.output))]) as known:
        path = known.find(args.name, Path(args.output))
    cli_profile.present(Report.load(path), args)
    return errors.EXIT_OK


def run_prune(args: argparse.Namespace) -> int:
    """edgekit prune"""
    from edgekit import history

    if args.keep is None and args.older_than is None:
        raise UserError("prune needs to know what is old", "say --keep N, --older-than 30d, or both")
    with history.History([places.real(Path(args.output))]) as known:
        chosen = known.prunable(args.keep or 1, args.older_than or 0.0, args.model, args.device)
    if args.dry_run:
        left = {run["path"]: why for run in chosen if (why := history.kept_because(Path(run["path"])))}
        tell(args, [run["path"] for run in chosen if run["path"] not in left], left, "would go")
        return errors.EXIT_OK
    if chosen and not args.yes:
        agree(len(chosen))
    left = {run["path"]: why for run in chosen if (why := history.remove(Path(run["path"])))}
    history.forget_gone()
    tell(args, [run["path"] for run in chosen if run["path"] not in left], left, "deleted")
    return errors.EXIT_OK


def agree(count: int) -> None:
    """Ask on the terminal. Raises UserError without one, or when the answer is not yes."""
    if not sys.stdin.isatty():
        raise UserError(f"{count} runs would be deleted", "--dry-run lists them, --yes deletes them without asking")
    print(f"delete {count} runs? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UserError("nothing was deleted")


def tell(args: argparse.Namespace, gone: list[str], left: dict[str, str], word: str) -> None:
    """What went, and what was left and why."""
    if args.json:
        print_json({"dry_run": args.dry_run, "runs": gone, "left": left})
        return
    for path in gone:
        print(printable(f"{word}: {path}"))
    for path, why in left.items():
        print(printable(f"left: {path}: {why}"))
    if not gone and not left:
        print("nothing is old enough to go")
