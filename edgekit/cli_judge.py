"""`edgekit compare`, `advise`, and what `gate` does with a policy: their options, and what they print."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit import errors
from edgekit.arguments import Parser
from edgekit.errors import UserError
from edgekit.inert import printable
from edgekit.terminal import complain, print_json, print_table

if TYPE_CHECKING:
    from edgekit.advice import Advice
    from edgekit.comparison import Compared
    from edgekit.figures import Figure
    from edgekit.judge import Judged, Row

POLICY = "policy.toml"
COMPARE_HELP = """\
Hold two runs side by side: each cell's figures, their ratio, and whether that is a regression. Nothing is measured.

examples:
  edgekit compare 20261123-101500 last
  edgekit compare baseline.json last --json     a file of `edgekit gate RUN --save baseline.json`
"""
ADVISE_HELP = """\
Choose a cell of a run within a budget, and say what each relaxed limit would buy and why the others fell out.

examples:
  edgekit advise last --budget "p50<=20ms, peak<=64MB, top1>=0.98"
  edgekit advise last
"""
RUN_WORDS = "a run (its name, the beginning of it, or last), or a file of gate --save"


def add_commands(command: Callable[[str, str, str, Callable[[argparse.Namespace], int]], Parser]) -> None:
    """compare and advise with their options."""
    compare = command("compare", "hold two runs side by side", COMPARE_HELP, run_compare)
    compare.add_argument("base", metavar="BASE", help=RUN_WORDS)
    compare.add_argument("new", metavar="NEW", help="likewise")
    advise = command("advise", "choose a cell within a budget", ADVISE_HELP, run_advise)
    advise.add_argument("run_name", metavar="RUN", nargs="?", default="last", help=f"{RUN_WORDS} (default: last)")
    advise.add_argument("--budget", "-b", metavar="LIMITS", help="'p50<=20ms, peak<=64MB, top1>=0.98'")
    for parser in (compare, advise):
        parser.add_argument(
            "--output", "-o", metavar="DIR", default="results", help="where runs lie (default: results)"
        )
        parser.add_argument("--json", action="store_true", help="the machine form on stdout")


def add_gate_options(gate: Parser) -> None:
    """What gate takes for policies and baselines."""
    gate.add_argument(
        "--policy", metavar="FILE", help=f"limits on any figure (--init writes one; its default is {POLICY})"
    )
    gate.add_argument("--init", action="store_true", help="write a commented policy from the run, and judge nothing")
    gate.add_argument("--save", metavar="FILE", help="write the run's figures as a small baseline, and judge nothing")


def wanted(args: argparse.Namespace) -> bool:
    """Whether gate was asked for something else than instruction counts."""
    return bool(args.policy or args.init or args.save)


def run_gate(args: argparse.Namespace) -> int:
    """edgekit gate with --policy, --init or --save"""
    from edgekit import baseline, judge, policy

    output = Path(args.output)
    if args.init or args.save:
        given = [flag for flag in ("init", "save", "baseline", "limit", "json") if getattr(args, flag)]
        if len(given) > 1 or (args.save and args.policy):
            raise UserError(f"--{given[0]} writes a file and does nothing else", "judge with a second command")
        form = baseline.read(args.run_name, output)
        if args.save:
            baseline.save(form, Path(args.save))
            print(f"baseline: {args.save}, the figures of {form['run']}")
        else:
            write_policy(Path(args.policy or POLICY), policy.written(form))
        if lacking := baseline.unmeasured(form):
            complain(f"{form['run']} ended early or goes on, and says nothing of {', '.join(lacking)}")
        return errors.EXIT_OK
    if args.limit is not None:
        raise UserError("--limit is for instruction counts without a policy", 'write instructions = "<= +1%" into it')
    found = judge.check(args.run_name, policy.read(Path(args.policy)), args.baseline, output)
    if args.json:
        print_json(found.to_json())
    else:
        show_judged(found)
    return errors.EXIT_GATE if found.status == "fail" else errors.EXIT_OK


def write_policy(path: Path, text: str) -> None:
    """Write a policy where there is none yet. Raises UserError."""
    from edgekit import baseline

    if path.exists():
        raise UserError(f"{path} is there already", "remove it first, or name another: --policy FILE")
    baseline.write(path, "the policy", text)
    print(f"policy: {path}; read it, and change what does not fit")


def show_judged(found: Judged) -> None:
    """A line for each limit on each cell, the bad ones again as sentences, and what it comes to."""
    from edgekit import limits

    rows = []
    for row in found.rows:
        if row.status == "skip":
            continue
        shown = limits.shown(row.limit, row.figure) if row.figure else "-"
        rows.append((row.status.upper(), row.id, row.limit.metric, shown, row.limit.text))
    print_table(("", "cell", "metric", "figure", "limit"), rows)
    for cell_id, why in {row.id: row.why for row in found.rows if row.status == "skip"}.items():
        say(f"SKIP: {cell_id}: {why}")
    for row in found.rows:
        if row.status not in ("pass", "skip"):
            say(f"{found.counts_as(row).upper()}: {row.id}: {row.limit.metric}: {row.why}{doubt(row)}")
    for note in found.notes:
        say(f"note: {note}")
    held = f"{found.run} against {found.baseline}" if found.baseline else found.run
    failed, judged = len(found.failed), sum(row.status != "skip" for row in found.rows)
    skipped = f", {len(found.rows) - judged} skipped" if judged < len(found.rows) else ""
    say(
        f"FAILED: {failed} of {judged} limits{skipped}; {held}"
        if failed
        else f"passed: {judged} limits{skipped}; {held}"
    )
    for status, word, what in (
        ("inconclusive", found.policy.inconclusive, "are inconclusive"),
        ("missing", found.policy.missing, "have no figure"),
    ):
        count = sum(row.status == status for row in found.rows)
        if count:
            complain(f"{count} of {judged} limits {what}, which the policy lets count as '{word}'")


def doubt(row: Row) -> str:
    """How a row is marked that may be either, or has no figure, with its limit."""
    if row.status == "missing":
        return f", the limit is {row.limit.text} (no figure)"
    return " (inconclusive)" if row.status == "inconclusive" else ""


def run_compare(args: argparse.Namespace) -> int:
    """edgekit compare"""
    from edgekit import comparison

    found = comparison.compare(args.base, args.new, Path(args.output))
    if args.json:
        print_json(found.to_json())
    else:
        show_compared(found)
    if found.regressions:
        return errors.EXIT_GATE
    return errors.EXIT_CELLS if found.gone else errors.EXIT_OK


def show_compared(found: Compared) -> None:
    """A table for each cell, and what it comes to."""
    from edgekit import figures

    say(f"BASE {found.base}", f"NEW  {found.new}")
    for cell_id in dict.fromkeys(row.id for row in found.rows):
        say("", cell_id)
        rows = [
            (
                f"  {row.metric}", figures.show(row.metric, row.base.value), figures.show(row.metric, row.new.value),
                ratio_words(row.ratio), f"{row.verdict}{f': {row.why}' if row.why else ''}",
            )
            for row in found.rows if row.id == cell_id
        ]  # fmt: skip
        print_table(("  metric", "base", "new", "new/base", "verdict"), rows)
    print()
    for cell_id, why in found.gone.items():
        say(f"GONE: {cell_id}: {why}")
    for cell_id in found.fresh:
        say(f"new cell: {cell_id}")
    for note in found.notes:
        say(f"note: {note}")
    counted = {
        word: sum(row.verdict == word for row in found.rows)
        for word in ("regression", "improvement", "equal", "inconclusive")
    }
    told = ", ".join(f"{count} {word}" for word, count in counted.items() if count) or "no figure to compare"
    print(f"{told}; times by {100 * found.threshold:.3g} %")


def ratio_words(figure: Figure | None) -> str:
    """1.05 (1.02 to 1.08)."""
    if figure is None:
        return "-"
    return f"{figure.value:.4g}" + (f" ({figure.low:.4g} to {figure.high:.4g})" if figure.known else "")


def run_advise(args: argparse.Namespace) -> int:
    """edgekit advise"""
    from edgekit import advice, baseline, limits

    budget = limits.budget(args.budget) if args.budget is not None else []
    found = advice.advise(baseline.read(args.run_name, Path(args.output)), budget)
    if args.json:
        print_json(found.to_json())
    else:
        say(*advice_lines(found))
    return errors.EXIT_OK if found.pick else errors.EXIT_GATE


def advice_lines(found: Advice) -> list[str]:
    """Advice in words."""
    from edgekit import figures

    budget = ", ".join(map(str, found.budget)) or "none"
    said = [f"run: {found.run}", f"budget: {budget}"]
    if found.pick:
        told = ", ".join(f"{name} {figures.show(name, value)}" for name, value in found.pick.figures.items())
        said += [f"take {found.pick.id}: {told}", f"  why: {found.why}"]
        others = [choice.id for choice in found.fits if choice is not found.pick]
        said += [f"also fits: {', '.join(others)}"] if others else []
    else:
        said.append(f"nothing to take: {found.why}")
    for one in found.relaxed:
        said.append(f"without {one.limit}: {one.choice.id} ({one.needs}): {', '.join(one.buys)}")
    if found.pick is None and not found.relaxed and found.out:
        said.append(
            f"no single limit less would do; {found.out[0].id} comes nearest, with {len(found.out[0].against)} in its way"
        )
    gathered: dict[str, list[str]] = {}  # cells that fell out for the same reason share a line
    for choice in found.out:
        gathered.setdefault("; ".join(reason.says for reason in choice.against), []).append(choice.id)
    for cell_id, why in found.broken.items():
        gathered.setdefault("unsupported" if why.startswith("unsupported") else why, []).append(cell_id)
    said += [f"out: {', '.join(ids)}: {why}" for why, ids in gathered.items()]
    said += [f"finding: {one.says}" for one in found.findings]
    return said


def say(*lines: str) -> None:
    """Lines on stdout; the names in them are other people's."""
    for line in lines:
        print(printable(line))
