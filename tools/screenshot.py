"""Makes the picture of the HTML report from a run: .venv/bin/python tools/screenshot.py RUN docs/report.png"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

import edgekit
from edgekit import store
from edgekit.report import html

COLOURS = 128  # are enough for a page of text and plain areas, and make the file a third as large


def main(run: str, target: str, height: str = "1500") -> None:
    """Open the page of the run in Chromium and keep its upper part; nothing is written into the run's folder."""
    report = edgekit.load_report(run)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        page_path = Path(folder) / html.NAME
        page_path.write_text(html.render(report, store.Lines(report.path / store.LINES)), "utf-8")
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1180, "height": int(height)})
        page.goto(page_path.as_uri())
        page.wait_for_selector("html[data-drawn]")
        page.screenshot(path=target)
        browser.close()
    Image.open(target).convert("RGB").quantize(COLOURS).save(target, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
