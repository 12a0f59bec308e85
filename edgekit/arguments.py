"""What every command's arguments are made of: the parser, the kinds of values, the options that several share."""

from __future__ import annotations

import argparse
import re
from typing import Any, NoReturn

from edgekit.errors import UserError, unknown

EXIT_CODES = (
    "exit codes: 0 all well, 1 a regression or a limit exceeded, 2 bad input, 3 device or set-up, 4 some cells failed or no\n"
    "verdict, 130 interrupted, 70 a bug of ours"
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


def positive(text: str) -> int:
    """A whole number of at least one."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least 1")
    return int(text)


def seconds(text: str) -> float:
    """A duration: 90, 90s, 30m or 2h."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text)
    if not match or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a duration such as 90s, 30m or 2h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


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
