"""The documentation as its tests read it: the pages, their commands, snippets and links, by a Markdown parser."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from harness import ROOT
from markdown_it import MarkdownIt
from markdown_it.token import Token

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
SHELL = ("", "console", "sh", "bash", "shell", "yaml", "text")
# How a line that is a command begins: a prompt, a step of a workflow, the way from a checkout.
BEGIN = re.compile(r"^(?:\$ |- run: |run: |script: |- )?(?:\./tools/)?edgekit (?=[a-z-]+(?:\s|$))")


@dataclass(frozen=True)
class Found:
    """A piece of a page, and where it stands."""

    page: Path
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}: {self.text}"


@cache
def tokens(page: Path) -> list[Token]:
    """A page in its parts."""
    return MarkdownIt("commonmark").enable("table").parse(page.read_text("utf-8"))


def blocks(page: Path) -> Iterator[tuple[str, int, str]]:
    """The code blocks of a page: language, line, text."""
    for token in tokens(page):
        if token.type in ("fence", "code_block"):
            assert token.map
            yield token.info.strip(), token.map[0] + 1, token.content


def inline(page: Path, kind: str) -> Iterator[tuple[int, Token]]:
    """The parts of that type within a page's sentences, with their lines."""
    for token in tokens(page):
        for child in token.children or ():
            if child.type == kind:
                yield (token.map or [0])[0] + 1, child


def commands() -> list[Found]:
    """Every line of a code block that is a command of edgekit, without what is said beside it, from `edgekit` on."""
    found = []
    for page in PAGES:
        for language, start, text in blocks(page):
            if language not in SHELL:
                continue
            for number, line in enumerate(text.splitlines()):
                for part in re.split(r" && |; ", line.strip()):
                    if BEGIN.match(part):
                        said = re.split(r"\s{2,}| #", BEGIN.sub("", part).strip())[0]
                        found.append(Found(page, start + number, f"edgekit {said}"))
    return found


def argv(command: str) -> list[str]:
    """The arguments of a command, up to where its output goes."""
    words = shlex.split(command)[1:]
    ends = [index for index, word in enumerate(words) if word in (">", ">>", "|", "2>")]
    return words[: min(ends, default=len(words))]


def mentioned() -> list[Found]:
    """What sentences put between backticks."""
    return [Found(page, line, token.content) for page in PAGES for line, token in inline(page, "code_inline")]


def links() -> list[Found]:
    """Where links and pictures lead."""
    kinds = {"link_open": "href", "image": "src"}
    return [
        Found(page, line, str(token.attrs[attribute]))
        for page in PAGES
        for kind, attribute in kinds.items()
        for line, token in inline(page, kind)
    ]


def snippets() -> list[Found]:
    """The examples in Python."""
    return [
        Found(page, line, text)
        for page in PAGES
        for language, line, text in blocks(page)
        if language == "python" or (not language and text.startswith("import edgekit"))
    ]
