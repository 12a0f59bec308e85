"""`edgekit ci`: its options, and what it says of the files it wrote."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit import errors
from edgekit.arguments import Parser, names
from edgekit.errors import unknown
from edgekit.terminal import complain

if TYPE_CHECKING:
    from edgekit.ci import Recipe

CI_HELP = """\
Write the recipe by which a CI service measures a model and fails when it got worse. Nothing is measured here, and no file is
written over. Run it in the root of the repository.

  github          .github/workflows/edgekit.yml: an emulated board on GitHub's runners; counts instructions, not milliseconds
  github-android  .github/workflows/edgekit-android.yml: an Android emulator, reached through adb
  gitlab          .gitlab-ci.yml: as github, with the cells as a JUnit report
  pre-commit      .pre-commit-config.yaml: the gate before each commit that changes the model

Beside the recipe it writes a policy where there is none (one of yours is kept), and says how to measure the baseline, which is
the one thing that CI does not do by itself: without a committed baseline the job measures, hands out baseline.json, and fails.

examples:
  edgekit ci init github --model net.py
  edgekit ci init gitlab --model net.tflite --runtime tflite
  edgekit ci init github --model net.py --install './vendor/edgekit[all]'
  edgekit ci init pre-commit --model net.py --stdout
"""
ACTIONS = ("init",)
RESULTS = {"results", "results/", "/results", "/results/"}  # as .gitignore may have them


def add_commands(command: Callable[[str, str, str, Callable[[argparse.Namespace], int]], Parser]) -> None:
    """ci with its options."""
    ci = command("ci", "write a recipe for GitHub, GitLab or pre-commit", CI_HELP, run_ci)
    ci.add_argument("action", metavar="init", help="write the files")
    ci.add_argument(
        "kind",
        metavar="RECIPE",
        nargs="?",
        default="github",
        help="github (default), github-android, gitlab, pre-commit",
    )
    ci.add_argument(
        "--model",
        "-m",
        metavar="MODEL",
        help="a file of this repository, or a name of `edgekit models` (default: digits_cnn)",
    )
    ci.add_argument(
        "--device",
        "-d",
        metavar="NAME",
        help="a name of `edgekit devices`, or a profile .toml of this repository (default: pi4; for Android android-emulator)",
    )
    ci.add_argument("--runtime", "-r", type=names, default=(), metavar="A,B", help="as for profile (default: all)")
    ci.add_argument("--precision", "-p", type=names, default=(), metavar="A,B", help="as for profile")
    ci.add_argument("--policy", metavar="FILE", help="the limits (default: .edgekit/policy.toml)")
    ci.add_argument("--baseline", metavar="FILE", help="what they are against (default: .edgekit/baseline.json)")
    ci.add_argument(
        "--install",
        metavar="WHAT",
        help="what pip installs there: a requirement or a folder (default: the checkout of edgekit in this repository, else "
        "edgekit[all] in this version)",
    )
    ci.add_argument("--force", action="store_true", help="write the recipe anew; the policy stays as it is")
    ci.add_argument("--stdout", action="store_true", help="print the recipe, and write nothing")


def run_ci(args: argparse.Namespace) -> int:
    """edgekit ci init"""
    from edgekit import ci

    if args.action not in ACTIONS:
        raise unknown("action", args.action, ACTIONS)
    root = Path()
    asked = ci.Asked(
        args.kind, args.model or ci.MODEL, args.device, args.runtime, args.precision, args.policy, args.baseline,
        args.install, root,
    )  # fmt: skip
    made = ci.make(asked)
    if args.stdout:
        print(made.text, end="")
        return errors.EXIT_OK
    written = ci.write(made, root, args.force)
    print("\n".join([*(f"wrote {name}" for name in written), *next_steps(made, written, root)]))
    if args.kind != "pre-commit" and not args.install and ci.installed(root) == ci.PUBLISHED:
        complain(
            f"the recipe installs {ci.PUBLISHED}; where no package index has it, keep a checkout here: --install ./FOLDER[all]"
        )
    if not (root / ".git").exists():
        complain("this folder is not the root of a git repository, where CI looks for it")
    return errors.EXIT_OK


def next_steps(made: Recipe, written: list[str], root: Path) -> list[str]:
    """What is left to do in a repository, as lines."""
    said = [] if made.policy in written else [f"kept  {made.policy}"]
    known = (root / made.baseline).exists()
    said.append("next:")
    if not known:
        said += [f"  {made.profile}", f"  edgekit gate last --save {shlex.quote(made.baseline)}"]
    said += ["  pre-commit install"] if made.kind == "pre-commit" else []
    files = [made.target, made.policy, made.baseline, *made.reads]
    if not RESULTS & set(lines_of(root / ".gitignore")):
        said.append("  echo /results/ >> .gitignore")
        files.append(".gitignore")
    said.append(f"  git add {shlex.join(files)} && git commit")
    return said


def lines_of(path: Path) -> list[str]:
    """The lines of a text file, none where there is none."""
    return path.read_text("utf-8", "replace").splitlines() if path.is_file() else []
