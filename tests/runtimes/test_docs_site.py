"""The documentation site: built as tools/docs builds it, without a warning; complete; in a browser it asks nobody else."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import manual
import pytest
from harness import ROOT

from edgekit import caveats, cli, config, errors, plan, plugins
from edgekit.report.columns import COLUMNS

pytestmark = [pytest.mark.runtimes, pytest.mark.timeout(300)]
# What makes a browser fetch something as it opens a page. Links that a reader may follow are not among them.
FETCHED = re.compile(
    r"<(?:script|img|iframe|source|audio|video|embed|input)\b[^>]*?\ssrc=[\"']?((?:https?:)?//[^\"'\s>]+)"
    r"|<link\b[^>]*?\shref=[\"']?((?:https?:)?//[^\"'\s>]+)"
    r"|(?:url\(|@import\s*)[\"']?((?:https?:)?//[^\"')\s]+)",
    re.IGNORECASE,
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with the command of tools/docs in another place."""
    folder = tmp_path_factory.mktemp("site")
    text = (ROOT / "tools" / "docs").read_text("utf-8")
    (line,) = [line for line in text.splitlines() if "-m sphinx" in line]
    words = shlex.split(
        line.replace('"$target"', str(folder / "html")).replace("build/doctrees", str(folder / "doctrees"))
    )
    assert {"-W", "--keep-going", "-n"} <= set(words)
    done = subprocess.run([sys.executable, *words[1:]], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stderr) == (0, "")
    return folder / "html"


def words(site: Path, page: str) -> str:
    """What a page says, without its marks."""
    text = (site / page).read_text("utf-8")
    text = re.sub(r"<[^>]+>", "", text)
    for name, mark in {"&lt;": "<", "&gt;": ">", "&quot;": '"', "&#39;": "'", "&#x27;": "'", "&amp;": "&"}.items():
        text = text.replace(name, mark)
    return text


def test_every_page_is_there_and_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    for page in manual.DOCS.rglob("*.md"):
        assert (site / page.relative_to(manual.DOCS)).with_suffix(".html").is_file(), page
    looked = 0
    for path in [*site.rglob("*.html"), *site.rglob("*.css")]:
        asked = [next(filter(None, found)) for found in FETCHED.findall(path.read_text("utf-8"))]
        assert not asked, path
        looked += 1
    assert looked > 40


@pytest.mark.parametrize(
    ("page", "address"),
    [
        ('<link rel="x" href="https://a/b.css">', "https://a/b.css"),
        ('<script async src="//c/d.js"></script>', "//c/d.js"),
        ('<style>@import "http://e/f"</style>', "http://e/f"),
        ("a {b: url(//g/h)}", "//g/h"),
        ('<a href="https://example.org">x</a><svg xmlns="http://www.w3.org/2000/svg"><img src="_images/a.png">', None),
    ],
)
def test_what_would_be_fetched_is_seen(page: str, address: str | None) -> None:
    assert [next(filter(None, found)) for found in FETCHED.findall(page)] == ([address] if address else [])


def test_the_reference_has_all_of_the_code(site: Path) -> None:
    said = words(site, "reference/command-line.html")
    parsers = list(cli.build_parser().commands().values())
    parsers += [sub for parser in parsers for sub in parser.commands().values()]  # type: ignore[attr-defined]
    for parser in parsers:
        assert parser.prog in said
        for action in parser._actions:
            for option in action.option_strings:
                assert option in said, f"{parser.prog} {option}"
    said = words(site, "reference/warnings.html")
    assert [weakness.code for weakness in caveats.Weakness if weakness.code not in said] == []
    assert max((weakness.advice for weakness in caveats.Weakness if "{" not in weakness.advice), key=len) in said
    said = words(site, "reference/device-profiles.html")
    for table, keys in config.KEYS.items():
        assert table in said and all(key in said for key in keys)
    assert all(name in said for name in config.shipped_names() + plugins.names("transport"))
    said = words(site, "reference/formats.html")
    assert all(name in said for name in plan.ALL_PRECISIONS)
    assert all(name in said for kind in ("converter", "runtime") for name in plugins.names(kind) if name != "fake")
    said = words(site, "reference/files.html")
    assert all(column.name in said for column in COLUMNS) and "measurements.jsonl" in said and "size_bytes" in said
    said = words(site, "reference/exit-codes.html")
    codes = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert codes <= {int(number) for number in re.findall(r"\b\d+\b", said)} and "NotDelegated" in said
    said = words(site, "reference/python.html")
    assert all(f"edgekit.{name}" in said for name in ("profile", "ab", "load_report", "Report", "Comparison"))


def test_pages_open_without_an_error_or_a_request_to_elsewhere(site: Path, browser: Any) -> None:
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("requestfailed", lambda request: said.append(f"failed: {request.url}"))
    page.on("request", lambda request: asked.append(request.url))
    for name in (
        "index",
        "quickstart",
        "concepts",
        "architecture",
        "reference/command-line",
        "reference/python",
        "decisions/index",
    ):
        page.goto((site / f"{name}.html").as_uri())
        broken = page.eval_on_selector_all("img", "all => all.filter(one => !one.naturalWidth).map(one => one.src)")
        assert not broken
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{name} is wider than the window"
    page.goto((site / "search.html").as_uri() + "?q=inconclusive")
    page.wait_for_selector("#search-results li a")
    assert page.locator("#search-results li").count() > 3
    page.close()
    assert said == []
    assert asked and all(url.startswith(site.as_uri()) for url in asked)
