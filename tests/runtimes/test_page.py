"""The HTML report in a real browser: without an error or a request, sorted, hovered, dark, printed; hostile names stay names."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import page as made
import pytest
from harness import ROOT

from edgekit.report import Report, charts, html
from edgekit.report.words import duration

pytestmark = [pytest.mark.runtimes, pytest.mark.timeout(180)]
GOLDEN = ROOT / "tests" / "golden" / "run-schema-1"
EVERY = [
    "scatter", "latency", "quality", "memory", "instructions", "energy", "sustained", "delegation", "launches", "operators",
]  # fmt: skip


class Opened:
    """A page in the browser, with all that it said and asked for."""

    def __init__(self, browser: Any, path: Path, scheme: str = "light") -> None:
        self.page = browser.new_page(viewport={"width": 1100, "height": 900}, color_scheme=scheme)
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("html[data-drawn]")

    def column(self, index: int) -> list[str | None]:
        """The keys of a column, from the top."""
        keys: list[str | None] = self.page.eval_on_selector_all(
            "tbody tr", f"rows => rows.map(row => row.cells[{index}].dataset.key ?? null)"
        )
        return keys


def written(folder: Path, count: int, name: str = "net") -> Report:
    """A run of so many cells and its page."""
    report = Report.load(made.write(folder, [made.line(number, name) for number in range(count)], name))
    html.write(report)
    return report


@pytest.fixture(scope="module")
def seven(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """A run of seven cells with everything in it."""
    return written(tmp_path_factory.mktemp("page"), 7)


@pytest.fixture
def opened(browser: Any, seven: Report) -> Iterator[Opened]:
    """The page of `seven`; whatever the test did with it, it said nothing and asked for nothing but itself."""
    one = Opened(browser, seven.path / html.NAME)
    yield one
    one.page.close()
    assert one.said == []
    assert one.asked == [(seven.path / html.NAME).as_uri()]


def test_every_chart_is_drawn(opened: Opened) -> None:
    assert opened.page.eval_on_selector_all("figure", "all => all.map(one => one.id)") == EVERY
    for name in EVERY:
        assert opened.page.locator(f"#{name} svg .role-mark path, #{name} svg .role-mark line").count() > 0, name
    assert opened.page.locator("#latency svg .mark-rect path").count() == 7 * 3, (
        "a bar and the two ends of its interval"
    )
    assert opened.page.locator("#instructions svg .mark-rect path").count() == 7 * 6


def test_a_recorded_emulated_run_is_drawn(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "run"
    shutil.copytree(GOLDEN, path)
    html.write(Report.load(path))
    one = Opened(browser, path / html.NAME)
    assert one.said == []
    assert "emulator" in one.page.inner_text("header")
    assert one.page.locator("#emulated svg .mark-rect path").count() == 6
    assert one.page.locator("#latency").count() == 0
    one.page.close()


def test_a_run_without_figures_is_a_page_too(browser: Any, tmp_path: Path) -> None:
    report = Report.load(made.write(tmp_path, [made.failed("no")]))
    one = Opened(browser, html.write(report))
    assert one.said == []
    assert one.page.locator("svg").count() == 0
    assert "the tool said no" in one.page.inner_text("#troubles")
    one.page.close()


def test_hovering_tells_the_figures_of_the_machine_form(opened: Opened, seven: Report) -> None:
    bar = opened.page.locator("#latency svg .mark-rect path").first
    bar.scroll_into_view_if_needed()
    bar.hover()
    tip = opened.page.locator("#vg-tooltip-element.visible")
    tip.wait_for()
    fastest = min(seven.cells, key=lambda cell: cell["latency"]["p50_ns"])["latency"]
    text = tip.inner_text()
    assert duration(fastest["p50_ns"]) in text
    assert f"{duration(fastest['low_ns'])} to {duration(fastest['high_ns'])}" in text


def test_the_table_sorts_by_keyboard(opened: Opened, seven: Report) -> None:
    heading = opened.page.get_by_role("button", name="p50", exact=True)
    index = opened.page.eval_on_selector_all("thead button", "all => all.map(one => one.textContent)").index("p50")
    times = [cell["latency"]["p50_ns"] for cell in seven.cells]
    opened.page.get_by_role("button", name="file", exact=True).press("Enter")
    for order in (sorted(times), sorted(times, reverse=True)):
        heading.focus()
        opened.page.keyboard.press("Enter")
        assert [int(key or -1) for key in opened.column(index)] == order
    assert opened.page.locator("th[aria-sort=descending]").inner_text().startswith("p50")


def test_places_without_a_figure_sort_last(browser: Any, tmp_path: Path) -> None:
    lines = [made.line(3), made.failed("no"), made.line(1)]
    one = Opened(browser, html.write(Report.load(made.write(tmp_path, lines))))
    for _ in range(2):
        one.page.get_by_role("button", name="p50", exact=True).click()
        assert one.column(1)[-1] is None
    one.page.close()


def test_another_cell_can_be_chosen(opened: Opened) -> None:
    before = opened.page.locator("#launches svg").inner_html()
    opened.page.select_option("#choice", "5")
    opened.page.wait_for_function("before => document.querySelector('#launches svg').innerHTML !== before", arg=before)
    assert opened.page.locator("#launches svg .mark-rect path").count() == 6 * 2, "a bar and a median for each launch"


def test_a_cell_without_operators_can_be_chosen_and_left(browser: Any, tmp_path: Path) -> None:
    lines = [made.line(number) for number in range(3)]
    del lines[0]["operators"], lines[2]["operators"]
    one = Opened(browser, html.write(Report.load(made.write(tmp_path, lines))))
    for cell, shown in (("1", True), ("0", False), ("2", False), ("1", True)):
        one.page.select_option("#choice", cell)
        one.page.wait_for_function(f"document.querySelector('#operators').hidden !== {str(shown).lower()}")
    assert one.page.locator("#operators svg .mark-rect path").count() > 5
    assert one.said == []
    one.page.close()


def colours(page: Any) -> tuple[str, str]:
    """Those of the paper and of the letters on a chart."""
    label = "document.querySelector('#latency svg .role-axis-label text')"
    return (
        page.evaluate("getComputedStyle(document.body).backgroundColor"),
        page.evaluate(f"getComputedStyle({label}).fill"),
    )


def test_it_follows_the_theme_and_prints_on_white(opened: Opened) -> None:
    light = colours(opened.page)
    assert light[0] == "rgb(255, 255, 255)"
    opened.page.emulate_media(color_scheme="dark")
    dark = colours(opened.page)
    assert dark[0] != light[0] and dark[1] != light[1]
    opened.page.emulate_media(color_scheme="dark", media="print")
    assert colours(opened.page) == light
    assert opened.page.pdf(format="A4").startswith(b"%PDF-")


def test_what_is_folded_is_printed(opened: Opened) -> None:
    folded = "document.querySelectorAll('details:not([open])').length"
    before = opened.page.evaluate(folded)
    assert before > 0
    opened.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert opened.page.evaluate(folded) == 0
    opened.page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert opened.page.evaluate(folded) == before


def test_a_page_that_is_printed_at_once_has_its_charts(browser: Any, seven: Report) -> None:
    """Charts are drawn when there is time; where there is none, they are drawn for the printer."""
    whole = Opened(browser, seven.path / html.NAME)
    wanted = len(whole.page.pdf(format="A4"))
    whole.page.close()
    page = browser.new_page()
    page.add_init_script("window.requestIdleCallback = () => {}")
    page.goto((seven.path / html.NAME).as_uri())
    page.wait_for_selector("#scatter svg")
    assert page.locator("figure svg").count() == 1
    assert len(page.pdf(format="A4")) == pytest.approx(wanted, rel=0.01)
    assert page.locator("figure svg").count() == len(EVERY)
    page.close()


def test_the_first_chart_is_there_before_the_last(opened: Opened) -> None:
    told = opened.page.evaluate("performance.getEntriesByType('mark').map(one => one.name)")
    assert told == ["chart"] * len(EVERY) + ["drawn"]


def test_what_a_page_holds_is_named_for_those_who_do_not_see_it(opened: Opened) -> None:
    page = opened.page
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.locator("main h2").count() > 10 and page.locator("h1").count() == 1
    names = page.eval_on_selector_all(".chart", "all => all.map(one => one.getAttribute('aria-label'))")
    assert len(set(names)) == len(EVERY) and all(len(name) > 20 for name in names)
    assert page.locator("table th[scope=col]").count() == page.locator("thead th").count()
    assert page.get_by_role("combobox", name="Cell").count() == 1
    order = page.evaluate("[...document.querySelectorAll('button, select, summary')].every(one => one.tabIndex === 0)")
    assert order, "all that can be clicked can be reached by the keyboard"


def test_a_run_emulated_with_operators_shows_their_instructions(browser: Any, tmp_path: Path) -> None:
    line = made.line(1)
    for one in line["operators"]["operators"]:
        one["instructions"] = 10
    line["operators"] |= {"emulated": True, "total_instructions": 200}
    one = Opened(browser, html.write(Report.load(made.write(tmp_path, [line], emulated=True))))
    one.page.locator("#operators svg .mark-rect path").nth(3).hover()
    tip = one.page.locator("#vg-tooltip-element.visible")
    tip.wait_for()
    assert "10 instructions" in tip.inner_text() and "5.0%" in tip.inner_text()
    assert one.said == []
    one.page.close()


@pytest.mark.parametrize("name", made.HOSTILE)
def test_hostile_names_are_inert(browser: Any, tmp_path: Path, name: str) -> None:
    lines = [*(made.line(number, name) for number in range(6)), made.failed(name)]
    report = Report.load(made.write(tmp_path, lines, name))
    one = Opened(browser, html.write(report))
    assert one.said == []
    assert len(one.asked) == 1
    assert one.page.evaluate("window.hacked") is None
    assert one.page.locator("img, body > svg, dd svg, td svg, th svg").count() == 0
    shown = one.page.evaluate("document.body.textContent")
    assert shown.count(name) >= 10, "in the title, the table, the choice, the weaknesses, the environment"
    one.page.locator("#operators svg .mark-rect path").first.hover()
    tip = one.page.locator("#vg-tooltip-element.visible")
    tip.wait_for()
    assert name in tip.evaluate("one => one.textContent")
    assert one.page.evaluate("window.hacked") is None
    one.page.close()


def test_the_page_may_run_nothing_else_and_reach_nothing(browser: Any, seven: Report) -> None:
    one = Opened(browser, seven.path / html.NAME)
    one.page.evaluate(
        "() => { const one = document.createElement('script'); one.text = 'window.hacked = 1'; document.body.append(one); }"
    )
    assert one.page.evaluate("window.hacked") is None
    assert one.page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'answered', () => 'refused')") == "refused"
    assert any("Content Security Policy" in text for text in one.said)
    assert len(one.asked) == 1
    one.page.close()


def test_the_charts_and_libraries_are_as_their_tool_makes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import charts as tool

    tool.main(str(tmp_path))
    for name in ("charts.json", "vega.js"):
        assert (tmp_path / name).read_bytes() == (charts.SPECIFICATIONS.parent / name).read_bytes(), (
            f"make {name} anew: .venv/bin/python tools/charts.py"
        )
    sys.modules.pop("charts")
