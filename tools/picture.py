"""Makes the README's picture from a run: .venv/bin/python tools/picture.py RUN docs/profile-pi4.svg"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

import edgekit
from edgekit.report.table import show


def main(run: str, target: str) -> None:
    """Draw the report's table as the terminal shows it; no font is fetched from anywhere."""
    console = Console(width=100, highlight=False, record=True, file=io.StringIO(), force_terminal=True)
    show(edgekit.load_report(run), console)
    template = re.sub(r"@font-face \{\{.*?\}\}\n", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    Path(target).write_text(
        console.export_svg(title="edgekit profile --device pi4", code_format=template, unique_id="edgekit")
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
