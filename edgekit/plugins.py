"""The file name is the plug-in's name: converters, transports and runtimes are found by listing a folder, imported when named."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from edgekit.errors import unknown

PACKAGE = Path(__file__).parent
# kind -> (folder, import prefix)
KINDS = {
    "converter": (PACKAGE / "converters", "edgekit.converters"),
    "transport": (PACKAGE / "transports", "edgekit.transports"),
    "runtime": (PACKAGE / "agent" / "runtimes", "edgekit.agent.runtimes"),
}


def names(kind: str) -> list[str]:
    """The plug-ins of a kind, by file name, sorted; nothing is imported."""
    folder, _ = KINDS[kind]
    return sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))


def load(kind: str, name: str) -> ModuleType:
    """Import one plug-in. Raises UserError with the nearest name when there is none."""
    if name not in names(kind):
        raise unknown(kind, name, names(kind))
    return importlib.import_module(f"{KINDS[kind][1]}.{name}")
