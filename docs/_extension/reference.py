"""The pages of the reference that the code itself writes, each time the site is built: <!-- generated: NAME --> in a page.

Every function in PAGES returns Markdown. Its words are those of the code (--help, docstrings, the schema, _reference.toml).
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import edgekit
from edgekit import arguments, caveats, cli, config, errors, plan, plugins, store
from edgekit.report import columns as table

MARK = re.compile(r"<!-- generated: (\w+) -->")
ROOT = Path(edgekit.__file__).resolve().parent.parent
MADE_UP = ("fake",)  # plug-ins of the tests
WIDTH = 84


def rows(headings: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table. The cells are Markdown already."""
    cells = [headings, ["---"] * len(headings), *lines]
    return "\n".join(
        "| " + " | ".join(one.replace("\n", " ").replace("|", "\\|") for one in line) + " |" for line in cells
    )


def plain(text: str) -> str:
    """Words as they are, but for what stands between backticks."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        parts = [text.replace("`", "'")]
    said = [
        re.sub(r"([\\*_\[\]<>#~{}])", r"\\\1", part) if index % 2 == 0 else f"`{part}`"
        for index, part in enumerate(parts)
    ]
    return "".join(said)


def code(text: str) -> str:
    """A piece of code in a line."""
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def fenced(text: str, language: str = "text") -> str:
    """A piece of code of its own."""
    return f"```{language}\n{text.rstrip()}\n```"


# ---- the command line ----


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The commands below a parser."""
    return parser.commands() if isinstance(parser, arguments.Parser) else {}


def commands() -> str:
    """Every command with its words, its options and their help, as --help has them."""
    parser = cli.build_parser()
    first = rows(
        ("command", "what it does"),
        [(f"[`edgekit {name}`](#edgekit-{name})", plain(summary_of(parser, name))) for name in subcommands(parser)],
    )
    return "\n\n".join([first, *(one for name, sub in subcommands(parser).items() for one in command(sub, 2))])


def summary_of(parser: argparse.ArgumentParser, name: str) -> str:
    """What the list of commands says of one."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for choice in action._choices_actions:
                if choice.dest == name:
                    return choice.help or ""
    raise KeyError(name)


def command(parser: argparse.ArgumentParser, level: int) -> Iterator[str]:
    """A command, and those below it."""
    yield f"{'#' * level} {parser.prog}"
    words, _, examples = (parser.description or "").partition("\nexample")
    yield plain(words.strip())
    formatter = argparse.HelpFormatter(parser.prog, width=WIDTH)
    formatter.add_usage(parser.usage, parser._actions, parser._mutually_exclusive_groups)
    first, *more = formatter.format_help().splitlines()
    yield fenced(
        "\n".join([first.removeprefix("usage: "), *(line.removeprefix(" " * len("usage: ")) for line in more)])
    )
    if examples:
        yield fenced(inspect.cleandoc(examples.partition(":\n")[2]))
    told = [
        (code(called(action)), plain(formatter._expand_help(action)) if action.help else "")
        for action in parser._actions
        if not isinstance(action, (argparse._HelpAction, argparse._SubParsersAction))
    ]
    if told:
        yield rows(("argument", "what it is"), told)
    for sub in subcommands(parser).values():
        yield from command(sub, level + 1)


def called(action: argparse.Action) -> str:
    """How an argument is written: -d, --device A,B."""
    value = str(action.metavar or "|".join(map(str, action.choices or ())) or action.dest)
    if not action.option_strings:
        return value
    return ", ".join(action.option_strings) + ("" if action.nargs == 0 else f" {value}")


def exits() -> str:
    """The exit codes, in the words of --help, and the errors that lead to them."""
    text = " ".join(arguments.EXIT_CODES.removeprefix("exit codes:").split())
    meaning = re.findall(r"(\d+) (.*?)(?=, \d+ |$)", text)
    kinds: dict[int, list[str]] = {}
    for name, kind in vars(errors).items():
        if inspect.isclass(kind) and issubclass(kind, errors.EdgekitError) and kind is not errors.EdgekitError:
            kinds.setdefault(kind.exit_code, []).append(code(name))
    return rows(
        ("code", "meaning", "errors"),
        [(code(number), plain(words), ", ".join(kinds.get(int(number), ()))) for number, words in meaning],
    ) + "\n\n" + rows(
        ("error", "when"),
        [
            (code(name), plain(inspect.cleandoc(kind.__doc__ or "")))
            for name, kind in vars(errors).items()
            if inspect.isclass(kind) and issubclass(kind, errors.EdgekitError)
        ],
    )  # fmt: skip


# ---- the Python API ----


def python() -> str:
    """The public names, by autodoc."""
    lines: list[str] = []
    for name in sorted(edgekit.__all__, key=lambda one: (inspect.isclass(getattr(edgekit, one)), one)):
        held = getattr(edgekit, name)
        if inspect.isclass(held):
            lines += [f".. autoclass:: edgekit.{name}", "   :members:", "   :undoc-members:", ""]
        elif callable(held):
            lines += [f".. autofunction:: edgekit.{name}", ""]
    return fenced("\n".join(lines), "{eval-rst}")


# ---- devices ----


def devices() -> str:
    """The shipped profiles."""
    told = []
    for path in sorted(config.folder("device_profiles").glob("[!_]*.toml")):
        held = tomllib.loads(path.read_text("utf-8"))
        told.append(
            (
                code(path.stem),
                plain(held["description"]),
                plain(held["arch"]),
                code(held["transport"]),
                ", ".join(map(code, held["runtimes"])),
                ", ".join(map(code, held.get("optional_runtimes", ()))),
            )
        )
    return rows(("device", "what it is", "arch", "reached by", "runtimes", "when asked for"), told)


def profile() -> str:
    """Every key of a device profile: its type from config.py, its example and its meaning from _reference.toml."""
    text = (config.folder("device_profiles") / "_reference.toml").read_text("utf-8")
    lead, examples, said = commented(text)
    parts = [" ".join(lead)]
    for name, keys in config.KEYS.items():
        if name:
            parts += [
                f"### `[{name}]`" if name not in config.TABLES else f"### `[[{name}]]`",
                plain(said.get((name, ""), "")),
            ]
        told = []
        for key, kind in keys.items():
            if kind is dict or (name, key) not in examples:
                continue
            told.append((code(key), kind.__name__, code(examples[name, key]), plain(said.get((name, key), ""))))
        parts.append(rows(("key", "type", "example", "what it is"), told))
    return "\n\n".join(part for part in parts if part)


def commented(text: str) -> tuple[list[str], dict[tuple[str, str], str], dict[tuple[str, str], str]]:
    """The lead of a TOML file, and by (table, key) its values and comments; key "" is the table's own comment."""
    lead: list[str] = []
    values: dict[tuple[str, str], str] = {}
    said: dict[tuple[str, str], str] = {}
    place: tuple[str, str] | None = None
    name = ""
    for line in text.splitlines():
        head = re.match(r"\[+([\w.]+)\]+\s*(?:#\s*(.*))?$", line)
        pair = re.match(r"(\w+) = (\"[^\"]*\"|\[[^\]]*\]|[^\s#]+)\s*(?:#\s*(.*))?$", line)
        more = re.match(r"\s*#\s*(.*)$", line)
        if head:
            name = head[1]
            place, words = (name, ""), head[2]
        elif pair:
            place, words = (name, pair[1]), pair[3]
            values[place] = pair[2]
        elif more and place is None:
            lead.append(plain(more[1]))
            continue
        elif more:
            words = more[1]
        else:
            continue
        assert place is not None
        said[place] = " ".join(filter(None, (said.get(place, ""), words)))
    return lead, values, said


# ---- formats, plug-ins ----


def formats() -> str:
    """The formats: their files, what they are made from, and which runtimes run them."""
    runs: dict[str, list[str]] = {}
    for name in plugins.names("runtime"):
        for made in plugins.load("runtime", name).FORMATS:
            runs.setdefault(made, []).append(code(name))
    told = []
    for name in made_by_converters():
        held = plugins.load("converter", name)
        extras = {code(f"edgekit[{extra}]"): None for extra in held.EXTRA.values()}
        told.append((code(name), code(held.SUFFIX), ", ".join(held.SOURCES), ", ".join(extras), ", ".join(runs[name])))
    return rows(("format", "file", "from", "brought by", "run by"), told)


def precisions() -> str:
    """Precisions by formats, from the converters."""
    names = made_by_converters()
    has = {name: plugins.load("converter", name).PRECISIONS for name in names}
    told = [[code(one), *("yes" if one in has[name] else "" for name in names)] for one in plan.ALL_PRECISIONS]
    return rows(("", *map(code, names)), told)


def made_by_converters() -> list[str]:
    """The formats that real converters make."""
    return [name for name in plugins.names("converter") if name not in MADE_UP]


def options() -> str:
    """What `edgekit convert --option NAME=VALUE` takes."""
    told = []
    for name in made_by_converters():
        for option, values in plugins.load("converter", name).OPTIONS.items():
            told.append((code(name), code(option), ", ".join([f"{code(values[0])} (default)", *map(code, values[1:])])))
    return rows(("format", "option", "values"), told)


def transports() -> str:
    """How devices are reached: the transports' own first sentences."""
    told = []
    for name in plugins.names("transport"):
        words = inspect.cleandoc(plugins.load("transport", name).__doc__ or "").partition("\n\n")[0]
        told.append((code(name), plain(" ".join(words.split()))))
    return rows(("transport", "what it is"), told)


def aliases() -> str:
    """Other names of runtimes."""
    return ", ".join(f"{code(short)} for {code(name)}" for short, name in plan.ALIASES.items())


# ---- figures and files ----


def warnings() -> str:
    """Every caveat with its advice, in the groups of caveats.py."""
    groups: dict[str, list[tuple[str, str, str]]] = {}
    group = ""
    for line in inspect.getsource(caveats.Weakness).splitlines():
        if head := re.match(r"\s*# -+ (.*?) -+$", line):
            group = head[1]
        elif (name := re.match(r"    ([A-Z][A-Z0-9_]*) = \(", line)) and group:
            held = caveats.Weakness[name[1]]
            groups.setdefault(group, []).append((code(held.code), gaps(held.says), gaps(held.advice)))
    assert sum(map(len, groups.values())) == len(caveats.Weakness)
    headings = ("code", "what it says", "what to do")
    return "\n\n".join(f"## {name[:1].upper()}{name[1:]}\n\n{rows(headings, told)}" for name, told in groups.items())


def gaps(text: str) -> str:
    """A sentence of which some figures are filled in later: {share:.1%} as ..."""
    return plain(re.sub(r"\{[^}]*\}", "\N{HORIZONTAL ELLIPSIS}", text))


def columns() -> str:
    """The columns of all flat forms."""
    units = {"1": "ratio", "": "text"}
    return rows(
        ("column", "unit", "place in the machine form"),
        [(code(one.name), units.get(one.unit, one.unit), code(".".join(one.path))) for one in table.COLUMNS],
    )


def schema() -> str:
    """The published schema as tables."""
    name = f"edgekit-{store.SCHEMA}.json"
    path = ROOT / "edgekit" / "report" / "schema" / name
    held = json.loads(path.read_text("utf-8"))
    parts = [plain(held.get("description", ""))]
    for title, definition in sorted(held["$defs"].items(), key=lambda pair: pair[0] not in TOP):
        parts += [f"### {title}", plain(definition.get("description", ""))]
        told = list(keys(definition))
        parts.append(rows(("key", "type", "", "what it is"), told) if told else kind(definition))
    return "\n\n".join(part for part in parts if part)


TOP = ("run", "measurement", "report", "reports")


def keys(definition: dict[str, Any], before: str = "") -> Iterator[tuple[str, str, str, str]]:
    """The keys of an object, those of objects within it after it."""
    for part in definition.get("allOf", ()):
        yield from keys(part, before)
    required = definition.get("required", ())
    for key, held in definition.get("properties", {}).items():
        need = "required" if key in required else ""
        yield code(before + key), kind(held), need, plain(held.get("description", ""))
        yield from keys(held, f"{before}{key}.")
        yield from keys(held.get("items", {}), f"{before}{key}[].")


def kind(held: dict[str, Any]) -> str:
    """The type of a value in words."""
    if "$ref" in held:
        target = held["$ref"].rpartition("/")[2]
        return f"[{target}](#{target})"
    if "const" in held:
        return code(json.dumps(held["const"]))
    if "enum" in held:
        return ", ".join(code(json.dumps(one)) for one in held["enum"])
    for word in ("anyOf", "oneOf"):
        if word in held:
            return " or ".join(kind(one) for one in held[word])
    named = held.get("type", "any")
    named = " or ".join(named) if isinstance(named, list) else named
    if "items" in held and "properties" not in held["items"]:
        return f"{named} of {kind(held['items'])}"
    return str(named)


PAGES: dict[str, Callable[[], str]] = {
    made.__name__: made
    for made in (
        commands, exits, python, devices, profile, formats, precisions, options, transports, aliases, warnings, columns, schema,
    )
}  # fmt: skip


def filled(text: str) -> str:
    """A page with its generated parts. Raises KeyError for a name that is not in PAGES."""
    return MARK.sub(lambda found: PAGES[found[1]](), text)


def setup(app: Any) -> dict[str, Any]:
    """Sphinx calls this."""

    def read(_: object, __: str, source: list[str]) -> None:
        source[0] = filled(source[0])

    def unmade(_: object, what: str, *__: object) -> tuple[str, str] | None:
        """No signature for classes: their objects come from the functions, and the fields are listed."""
        return ("", "") if what in ("class", "exception") else None

    app.connect("source-read", read)
    app.connect("autodoc-process-signature", unmade)
    return {"version": edgekit.__version__, "parallel_read_safe": True}
