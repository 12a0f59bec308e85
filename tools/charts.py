"""Writes what the HTML report is drawn with: .venv/bin/python tools/charts.py [FOLDER]

charts.json, the charts as Vega-Lite, described here with Altair and checked by it; vega.js, the libraries that draw them, as
vl-convert bundles them (vega.LICENSE.txt has their licences). A report needs neither tool, so no run pays for importing them.

A chart takes its rows as the data set "rows". "@x" and "@y" are titles, which the report fills in; `unit`, `digits`, the limits
of an axis and `cell` (the cell that charts of one cell show) are parameters. Colours are variables of the page's style sheet, so
that they follow its theme.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

TEMPLATES = Path(__file__).parents[1] / "edgekit" / "report" / "templates"
WIDTH, STEP = 640, 18
INK, SOFT, LINES = "var(--ink)", "var(--soft)", "var(--line)"
COLOURS = [f"var(--c{number})" for number in range(1, 10)]
NUMBER = "replace(format(datum.value, digits), '\N{MICRO SIGN}', 'u') + unit"  # us, as everywhere else


def rows() -> alt.Chart:
    """A chart of the rows that the report puts in."""
    return alt.Chart(alt.NamedData("rows"))


def told(*fields: str) -> list[alt.Tooltip]:
    """A tooltip: the report writes the figures, so that they read as everywhere else. "text:median" is a field and its title."""
    pairs = [field.partition(":")[::2] for field in fields]
    return [alt.Tooltip(f"{field}:N", title=title or field) for field, title in pairs]


def labels(sort: str = "order") -> alt.Y:
    """One row for each cell, in the report's order."""
    return alt.Y(
        "label:N", title=None, sort=alt.EncodingSortField(sort, op="min"), axis=alt.Axis(labelLimit=260, ticks=False)
    )


def parameters(*more: alt.Parameter) -> list[alt.Parameter]:
    """What the report says of the numbers on the value axis."""
    return [alt.param(name="unit", value=""), alt.param(name="digits", value="~s"), *more]


def chosen() -> alt.Parameter:
    """The index of the cell that is looked at."""
    return alt.param(name="cell", value=0)


def scatter() -> alt.LayerChart:
    """Cost against quality, the size of a point being that of the file; those of the Pareto front are ringed and joined."""
    x = alt.X(
        "x:Q",
        title="@x",
        scale=alt.Scale(zero=False, nice=True, padding=24),
        axis=alt.Axis(labelExpr=NUMBER, grid=True),
    )
    limits = alt.Scale(zero=False, nice=False, domainMin=alt.expr("lowest"), domainMax=alt.expr("highest"))
    y = alt.Y("y:Q", title="@y", scale=limits, axis=alt.Axis(format=".6~g"))
    grey = {"symbolFillColor": SOFT, "symbolStrokeColor": SOFT}
    bytes_ = alt.Legend(labelExpr="format(datum.value, '~s') + 'B'", **grey)
    size = alt.Size("size:Q", title="file", scale=alt.Scale(range=[50, 700], zero=True), legend=bytes_)
    front = (
        rows()
        .transform_filter("datum.edge")
        .mark_line(interpolate="step-after", strokeDash=[4, 3], strokeWidth=1.5, color=SOFT)
        .encode(x=x, y=y, detail="group:N", order=alt.Order("x:Q"))
    )
    points = rows().mark_point(filled=True, opacity=0.85).encode(
        x=x,
        y=y,
        size=size,
        color=alt.Color("precision:N", title="precision"),
        shape=alt.Shape("runtime:N", title="runtime", legend=alt.Legend(**grey)),
        tooltip=told("label:cell", "cost", "quality", "file", "memory", "front"),
    )  # fmt: skip
    rings = (
        rows()
        .transform_filter("datum.front === 'yes'")
        .mark_point(filled=False, strokeWidth=1.5, stroke=INK, shape="circle", tooltip=None)
        .encode(x=x, y=y, size=alt.value(900))
    )
    return alt.layer(front, rings, points).properties(width=WIDTH, height=360)


def bars(intervals: bool) -> alt.LayerChart:
    """One figure of each cell, with its interval where some cell has one."""
    x = alt.X("value:Q", title="@x", axis=alt.Axis(labelExpr=NUMBER))
    y = labels()
    bar = rows().mark_bar(height={"band": 0.7}, opacity=0.75).encode(
        x=x, y=y, color=alt.Color("precision:N", title="precision"), tooltip=told("label:cell", "text:figure", "interval", "tails")
    )  # fmt: skip
    if not intervals:
        return alt.layer(bar).properties(width=WIDTH, height=alt.Step(STEP))
    interval = (
        rows()
        .transform_filter("isValid(datum.low)")
        .mark_rule(strokeWidth=1.5, color=INK, tooltip=None)
        .encode(x="low:Q", x2="high:Q", y=y)
    )
    ends = [
        rows()
        .transform_filter(f"isValid(datum.{end})")
        .mark_tick(thickness=1.5, height=8, color=INK, tooltip=None)
        .encode(x=f"{end}:Q", y=y)
        for end in ("low", "high")
    ]
    return alt.layer(bar, interval, *ends).properties(width=WIDTH, height=alt.Step(STEP))


def stacked() -> alt.Chart:
    """Parts of a whole for each cell: classes of instructions, who runs the operators."""
    x = alt.X("value:Q", title="@x", stack="zero", axis=alt.Axis(labelExpr=NUMBER))
    colour = alt.Color("part:N", title=None, sort=alt.SortField("place"))
    bar = rows().mark_bar(height={"band": 0.7})
    return bar.encode(
        x=x, y=labels(), color=colour, order="place:Q", tooltip=told("label:cell", "part", "text:figure", "share")
    ).properties(width=WIDTH, height=alt.Step(STEP))


def pairs() -> alt.Chart:
    """Two figures of each cell side by side: memory after loading and while running."""
    part = alt.Color("part:N", title=None, sort=alt.SortField("place"))
    return (
        rows()
        .mark_bar()
        .encode(
            x=alt.X("value:Q", title="@x", axis=alt.Axis(labelExpr=NUMBER)),
            y=labels(),
            yOffset=alt.YOffset("part:N", sort=alt.SortField("place")),
            color=part,
            tooltip=told("label:cell", "part", "text:figure"),
        )
        .properties(width=WIDTH, height=alt.Step(9))
    )


def launches() -> alt.LayerChart:
    """The distribution of each launch of one cell: 5 to 95 %, the middle half, the median."""
    scale = alt.Scale(zero=False)
    y = alt.Y("launch:O", title="launch", axis=alt.Axis(ticks=False))
    one = rows().transform_filter("datum.i === cell")
    hint = told("launch", "median", "half:middle half", "range:5 to 95 %", "samples")
    spread = one.mark_rule(color=SOFT, tooltip=None).encode(
        x=alt.X("p5:Q", title="@x", scale=scale, axis=alt.Axis(labelExpr=NUMBER)), x2="p95:Q", y=y
    )
    half = one.mark_bar(height={"band": 0.6}, opacity=0.6, color=COLOURS[0]).encode(
        x=alt.X("p25:Q", scale=scale), x2="p75:Q", y=y, tooltip=hint
    )
    middle = one.mark_tick(thickness=2.5, color=INK).encode(x=alt.X("p50:Q", scale=scale), y=y, tooltip=hint)
    return alt.layer(spread, half, middle).properties(width=WIDTH, height=alt.Step(STEP))


def operators() -> alt.Chart:
    """The operators of one cell that take most of its time, by who runs them."""
    y = alt.Y("label:N", title=None, sort=alt.SortField("order"), axis=alt.Axis(labelLimit=320, ticks=False))
    hint = told("name:operator", "where:runs on", "cost", "share", "macs:MACs")
    bar = rows().transform_filter("datum.i === cell").mark_bar(height={"band": 0.7}, opacity=0.85)
    return bar.encode(
        x=alt.X("value:Q", title="@x", axis=alt.Axis(labelExpr=NUMBER)),
        y=y,
        color=alt.Color("where:N", title="runs on"),
        tooltip=hint,
    ).properties(width=WIDTH - 60, height=alt.Step(STEP))


def sustained() -> alt.FacetChart:
    """Latency, clock and temperature over the time of a sustained run."""
    line = rows().mark_line(strokeWidth=1.5, point={"size": 14, "filled": True}).encode(
        x=alt.X("t:Q", title="time, s"),
        y=alt.Y("value:Q", title=None, scale=alt.Scale(zero=False), axis=alt.Axis(format=".6~g")),
        color=alt.Color("label:N", title="cell"),
        tooltip=told("label:cell", "time", "text:figure"),
    )  # fmt: skip
    header = alt.Header(title=None, labelOrient="top", labelAnchor="start", labelColor=INK, labelFontSize=12)
    return (
        line.properties(width=WIDTH, height=150)
        .facet(row=alt.Row("what:N", header=header, sort=alt.SortField("place")))
        .resolve_scale(y="independent")
    )


def configured(chart: Any, *more: alt.Parameter) -> dict[str, Any]:
    """The specification of a chart, in the page's colours and letters."""
    with_parameters = chart.add_params(*parameters(*more)) if not isinstance(chart, alt.FacetChart) else chart
    text = {"labelColor": INK, "titleColor": INK, "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"}
    found: dict[str, Any] = with_parameters.configure(
        aria=False,  # a chart is one picture with a name; what it shows is in the table
        background="transparent",
        font="system-ui, sans-serif",
        axis=alt.AxisConfig(**text, gridColor=LINES, domainColor=SOFT, tickColor=SOFT),
        legend=alt.LegendConfig(**text, labelLimit=240, symbolLimit=40),
        view=alt.ViewConfig(stroke=None),
        range=alt.RangeConfig(category=COLOURS),
    ).to_dict()
    return found


def charts() -> dict[str, Any]:
    """All charts by name."""
    return {
        "scatter": configured(scatter(), alt.param(name="lowest", value=0), alt.param(name="highest", value=1)),
        "bars": configured(bars(False)),
        "intervals": configured(bars(True)),
        "stacked": configured(stacked()),
        "pairs": configured(pairs()),
        "launches": configured(launches(), chosen()),
        "operators": configured(operators(), chosen()),
        "sustained": configured(sustained()),
    }


def main(folder: str = str(TEMPLATES)) -> None:
    """Write them."""
    place = Path(folder)
    (place / "charts.json").write_text(json.dumps(charts(), indent=1, sort_keys=True) + "\n", "utf-8")
    (place / "vega.js").write_text(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;") + "\n", "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
