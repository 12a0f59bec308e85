"""A report as a table of pandas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgekit.errors import SetupError
from edgekit.report.columns import COLUMNS, codes

if TYPE_CHECKING:
    import pandas

    from edgekit.report import Report


def dataframe(reports: Sequence[Report]) -> pandas.DataFrame:
    """A row per cell, the columns of forms.as_csv; units in `.attrs["units"]` by column. Raises SetupError without pandas."""
    try:
        import pandas
    except ImportError as error:
        raise SetupError("pandas is not installed", "pip install 'edgekit[pandas]'") from error
    rows = [
        {"run": report.run, **{column.name: column.of(cell) for column in COLUMNS}, "warnings": codes(cell)}
        for report in reports
        for cell in report.cells
    ]
    frame = pandas.DataFrame(rows, columns=["run", *(column.name for column in COLUMNS), "warnings"])
    frame.attrs["units"] = {column.name: column.unit for column in COLUMNS if column.number}
    return frame
