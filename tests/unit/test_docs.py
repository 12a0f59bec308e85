"""What the documentation says is so: commands, options, links and variables exist, and the commands that only read runs are run."""

from __future__ import annotations

import argparse
import ast
import re
import shutil
import webbrowser
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import manual
import pytest
from harness import FAKE_BOARD, FAKE_MODEL, ROOT, CommandLine

from edgekit import arguments, cli
from edgekit.caveats import Weakness
from edgekit.errors import EdgekitError

RUN, EARLIER = "20261123-102000-digits_cnn-pi4-9c01", "20261123-101500-digits_cnn-pi4-3f2a"
READING = ("report", "runs", "history", "show", "prune", "compare", "gate", "advise", "completion")
# Options in the text that are of other programs.
OTHERS = {"--quick", "--tests", "--count", "--write", "--rounds", "--commands", "--repetitions"}


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser and those of its commands."""
    yield parser
    if isinstance(parser, arguments.Parser):
        for sub in parser.commands().values():
            yield from parsers(sub)


EVERY = {parser.prog: parser for parser in parsers(cli.build_parser())}
OPTIONS = {option for parser in EVERY.values() for action in parser._actions for option in action.option_strings}


def of_help() -> list[manual.Found]:
    """The examples of --help."""
    found = []
    for name, parser in EVERY.items():
        for number, line in enumerate((parser.description or "").splitlines()):
            if line.startswith("  edgekit "):
                said = re.split(r"\s{2,}", line.strip())[0]
                found.append(manual.Found(ROOT / f"help of {name}", number, said))
    return found


COMMANDS = manual.commands() + of_help()


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_every_command_is_understood(command: manual.Found) -> None:
    try:
        args = cli.parse(manual.argv(command.text))
    except EdgekitError as error:
        pytest.fail(f"{command}: {error}")
    assert args.command in cli.build_parser().commands()


def test_the_examples_of_many_commands_were_found() -> None:
    told = {cli.parse(manual.argv(command.text)).command for command in COMMANDS}
    assert told == set(cli.build_parser().commands())
    assert len({command.page for command in COMMANDS}) > 20


def test_every_option_in_the_text_exists() -> None:
    wrong = []
    for found in manual.mentioned():
        if not re.match(r"(?:\./tools/)?edgekit |--", found.text):
            continue
        words = re.sub(r"^\./tools/", "", found.text).split()
        names = [" ".join(words[:count]) for count in (3, 2, 1)]
        parser = next((EVERY[name] for name in names if name in EVERY), None)
        known = {option for action in parser._actions for option in action.option_strings} if parser else OPTIONS
        if parser is EVERY["edgekit"] and len(words) > 1 and re.fullmatch(r"[a-z]+", words[1]):
            wrong.append(str(found))
        for option in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", found.text):
            if option not in known | {"-h", "--help", "--version"} and option not in OTHERS:
                wrong.append(f"{found}: {option}")
    assert not wrong


def anchors(page: Path) -> set[str]:
    """What a #fragment may lead to on a page, as GitHub and the site name it."""
    heads = []
    for token, inside in zip(manual.tokens(page), manual.tokens(page)[1:], strict=False):
        if token.type == "heading_open":
            heads.append(re.sub(r"[^\w\- ]", "", inside.content.lower()).strip().replace(" ", "-"))
    return set(heads)


def test_every_link_leads_somewhere() -> None:
    wrong = []
    for found in manual.links():
        where, _, fragment = found.text.partition("#")
        if re.match(r"[a-z]+:", where):
            continue
        target = (found.page.parent / where).resolve() if where else found.page
        if not target.exists() or (fragment and target.suffix == ".md" and fragment not in anchors(target)):
            wrong.append(str(found))
    assert not wrong
    assert len(manual.links()) > 40


def test_every_file_that_is_named_exists() -> None:
    """In the text between backticks, and what the code says of docs/."""
    wrong = []
    for found in manual.mentioned():
        path = found.text.split()[0] if found.text else ""
        if (
            re.fullmatch(r"(?:edgekit|tools|tests|docs|device_profiles)/[\w./-]+", path.rstrip(","))
            and not (ROOT / path).exists()
        ):
            wrong.append(str(found))
    for source in sorted((ROOT / "edgekit").rglob("*.py")) + sorted((ROOT / "tools").rglob("*.py")):
        for name in re.findall(r"\bdocs/[\w/-]+\.md\b", source.read_text("utf-8")):
            if not (ROOT / name).exists():
                wrong.append(f"{source.relative_to(ROOT)}: {name}")
        for number in re.findall(r"\bdecisions?/?\s?(0\d\d)\b", source.read_text("utf-8")):
            if not list((ROOT / "docs" / "decisions").glob(f"{number}-*.md")):
                wrong.append(f"{source.relative_to(ROOT)}: decision {number}")
    assert not wrong


def test_every_weakness_that_is_quoted_is_one() -> None:
    known = [
        re.sub(r"\\{.*?\\}", ".+?", re.escape(weakness.says)) for weakness in Weakness if weakness.says != "{what}"
    ]
    quoted = [
        (page, " ".join(said.split()))
        for page in manual.PAGES
        for _, _, text in manual.blocks(page)
        for said in text.split("weak: ")[1:]
    ]
    assert [one for one in quoted if not any(re.match(pattern, one[1]) for pattern in known)] == []
    assert len(quoted) >= 3


def test_the_page_of_the_architecture_has_the_layers() -> None:
    tree = ast.parse((ROOT / "tests" / "layers" / "test_layers.py").read_text("utf-8"))
    (value,) = [
        node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "LAYERS"
    ]
    layers = [layer for layer in ast.literal_eval(value) if layer != {"__main__"}]
    (said,) = [text for _, _, text in manual.blocks(manual.DOCS / "architecture.md") if text.startswith("cli -> ")]
    assert [set(re.findall(r"\w+", part)) for part in said.split("->")] == layers


def test_the_page_of_the_architecture_names_every_module() -> None:
    page = (manual.DOCS / "architecture.md").read_text("utf-8")
    named = [pattern.removeprefix("edgekit/") for pattern in re.findall(r"`([\w/*]+(?:\.py|/))`", page)]
    modules = {path.name for path in (ROOT / "edgekit").glob("[!_]*.py")}
    folders = {
        f"{path.name}/" for path in (ROOT / "edgekit").iterdir() if path.is_dir() and not path.name.startswith("_")
    }
    assert [name for name in sorted(modules | folders) if not any(fnmatch(name, pattern) for pattern in named)] == []


def test_every_snippet_is_python() -> None:
    for found in manual.snippets():
        ast.parse(found.text, str(found.page))
    assert {found.page.name for found in manual.snippets()} >= {
        "README.md",
        "quickstart.md",
        "python.md",
        "adding-a-model.md",
    }


def test_every_variable_of_the_environment_is_told_and_no_other() -> None:
    sources = [path for kind in ("*.py", "*.c", "*.cpp", "*.yml") for path in (ROOT / "edgekit").rglob(kind)]
    used = {name for path in sources for name in re.findall(r"\bEDGEKIT_[A-Z_]+\b", path.read_text("utf-8"))}
    page = (manual.DOCS / "reference" / "environment.md").read_text("utf-8")
    told = set(re.findall(r"`(EDGEKIT_[A-Z_]+)`", page))
    assert told == used


@pytest.fixture(scope="module")
def runs(shared_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two finished runs of one model on an emulated board, under the names that the documentation uses."""
    folder = tmp_path_factory.mktemp("runs")
    shutil.copy(FAKE_BOARD, folder / "pi4.toml")
    shutil.copy(FAKE_MODEL, folder / "digits_cnn.py")
    line = CommandLine(folder)
    for name in (EARLIER, RUN):
        done = line("profile", "digits_cnn.py", "--device", "pi4.toml", EDGEKIT_CACHE_DIR=str(shared_cache))
        assert done.rc == 0, done.stderr
        (made,) = [path for path in (folder / "results").iterdir() if path.name not in (EARLIER, RUN)]
        made.rename(made.with_name(name))
    return folder


def read_only(command: manual.Found) -> bool:
    """Whether a command reads runs such as those of `runs`, and writes to no other program."""
    words = manual.argv(command.text)
    return words[0] in READING and not ({"--mlflow", "--tensorboard", "my-pi"} & set(words))


READ = {command.text: command for command in COMMANDS if read_only(command)}


@pytest.mark.parametrize("text", sorted(READ))
def test_what_reads_runs_is_run(
    text: str, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(webbrowser, "open", lambda _: True)
    monkeypatch.setenv("EDGEKIT_CACHE_DIR", str(tmp_path / "cache"))  # whose index knows no other runs
    monkeypatch.chdir(shutil.copytree(runs, tmp_path / "here"))

    def run(*words: str) -> int:
        args = cli.parse(words)
        code: int = args.run(args)
        return code

    words = manual.argv(text)
    Path(".edgekit/android").mkdir(parents=True)
    for name in {word for word in words if word.endswith("policy.toml")}:
        assert run("gate", "--init", "--policy", name) == 0
    for name in {word for word in words if word.endswith(".json")} if "--save" not in words else ():
        assert run("gate", EARLIER, "--save", name) == 0
    capsys.readouterr()
    code = run(*(word.replace("/tflite", "/fake") for word in words))
    assert code in ((0, 1) if words[0] == "advise" else (0,)), capsys.readouterr()
    assert capsys.readouterr().out
