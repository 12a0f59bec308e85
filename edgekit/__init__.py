"""edgekit: which runtime, which precision, which thread count - at what latency, memory and accuracy on that device.

import edgekit
report = edgekit.profile("digits_cnn", device="pi4")
for cell in report.cells:
    print(cell["id"], cell["instructions"]["total"])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekit.abtest import Comparison
    from edgekit.api import ab, load_report, profile
    from edgekit.errors import EdgekitError
    from edgekit.report import Report, Reports
    from edgekit.types import Device, Model

__version__ = "0.1.0"
__all__ = [
    "Comparison",
    "Device",
    "EdgekitError",
    "Model",
    "Report",
    "Reports",
    "__version__",
    "ab",
    "load_report",
    "profile",
]

_HOMES = {
    "profile": "edgekit.api",
    "ab": "edgekit.api",
    "Comparison": "edgekit.abtest",
    "load_report": "edgekit.api",
    "Report": "edgekit.report",
    "Reports": "edgekit.report",
    "Device": "edgekit.types",
    "Model": "edgekit.types",
    "EdgekitError": "edgekit.errors",
}


def __getattr__(name: str) -> Any:
    """Public names are imported when first used, so that `import edgekit` costs milliseconds."""
    if name not in _HOMES:
        raise AttributeError(f"module 'edgekit' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
