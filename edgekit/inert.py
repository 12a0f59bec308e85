"""Words of others (names, paths, what a device or a tool said) before they are written to a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text without what would move, colour or hide anything: "?" for each such character, a space for a tab."""
    if text.isprintable():
        return text
    return "".join(mark if mark.isprintable() else " " if mark in "\t\n\xa0" else "?" for mark in text)


def cut(text: str, width: int) -> str:
    """The beginning of a text in so many columns (at least 2) of a terminal, ".." at its end where something is missing."""
    from rich.cells import cell_len, set_cell_size

    text = printable(text[: 4 * width])  # a name may be as long as a file
    return text if cell_len(text) <= width else set_cell_size(text, width - 2).rstrip() + ".."
