"""The style of all charts: one sans-serif font, colours for the colour-blind, thin axes, no decoration."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

# vl-convert contains Liberation Sans, so a chart is the same on every machine. Browsers use Arial instead.
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"

# After Okabe and Ito (2008, Color Universal Design): distinct with every common kind of colour-blindness. Without
# their yellow, which is too pale for a line.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7F3C8D", "#444444")
INK, GREY, PALE, MISSING = "#222222", "#767676", "#e6e6e6", "#d9d9d9"
MARKED = "#D55E00"  # for what a person should check

# Vega expression that breaks the label of a legend or header into lines.
BREAK_LINES = "split(datum.label, '\\n')"

# The default name of the records of a chart.
ROWS = "rows"

AnyChart = alt.Chart | alt.LayerChart | alt.FacetChart | alt.VConcatChart


def chart_of(name: str = ROWS) -> alt.Chart:
    """Return a chart of the records that `finish_chart` is given under this name."""
    return alt.Chart(alt.NamedData(name))


def finish_chart(
    chart: Any, title: str, subtitle: Sequence[str] = (), **records: Sequence[Mapping[str, Any]]
) -> AnyChart:
    """Return the chart with its title, its records and the style of all charts.

    It cannot be layered or combined with another chart afterwards.
    """
    heading = alt.TitleParams(
        text=title,
        subtitle=list(subtitle),
        anchor="start",
        frame="bounds",
        fontSize=14,
        fontWeight="bold",
        subtitleFontSize=11,
        subtitleColor=GREY,
        subtitlePadding=4,
        offset=10,
    )
    styled: AnyChart = (
        chart.properties(title=heading, background="white", padding=12)
        .configure(font=FONT)
        .configure_view(stroke=None)
        .configure_axis(
            labelFontSize=11,
            titleFontSize=12,
            titleFontWeight="normal",
            titlePadding=8,
            labelColor=INK,
            titleColor=INK,
            domainColor=INK,
            tickColor=INK,
            tickSize=4,
            grid=False,
            labelFlush=False,
        )
        .configure_legend(
            labelFontSize=11,
            titleFontSize=11,
            titleFontWeight="normal",
            labelColor=INK,
            titleColor=GREY,
            labelLimit=0,
            symbolSize=70,
            symbolOpacity=1,
            rowPadding=4,
        )
        .configure_title(color=INK)
        .configure_header(labelFontSize=11, labelColor=INK, titleFontSize=12, titleFontWeight="normal")
    )
    # The records come last, because every step before copies the whole chart, which would take most of the time.
    styled["datasets"] = {name: list(of_name) for name, of_name in records.items()}
    return styled


def wrap_text(text: str, width: int, max_lines: int = 3) -> list[str]:
    """Return the text as lines of at most `width` characters.

    If it is too long for `max_lines` lines, its middle is left out, because names such as `drug X 1 µM` and
    `drug X 2 µM` differ at their end.
    """
    longest = width * max_lines - 2 * max_lines
    if len(text) > longest:
        end = longest // 2
        text = f"{text[: longest - end - 1].rstrip()}…{text[-end:].lstrip()}"
    return textwrap.wrap(text, width) or [""]


def choose_hour_ticks(low: float, high: float, *, max_ticks: int = 8) -> list[float]:
    """Return at most `max_ticks` round times between two times in hours: whole days, or parts of a day."""
    step = next(
        (s for s in (1, 2, 3, 6, 12, 24, 48, 72, 96, 168, 336, 672) if math.floor((high - low) / s) < max_ticks),
        math.ceil((high - low) / max_ticks),
    )
    first = math.ceil(low / step - 1e-9)
    return [float(step * i) for i in range(first, math.floor(high / step + 1e-9) + 1)]
