"""How every picture looks: one sans-serif, colours that the colour-blind can tell apart, thin axes, no decoration."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

# vl-convert brings Liberation Sans along, so a picture is the same on every machine; a browser takes its Arial.
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"

# After Okabe and Ito: told apart with every common kind of colour-blindness. Yellow is left out, too pale for a line.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7F3C8D", "#444444")
INK, GREY, PALE, MISSING = "#222222", "#767676", "#e6e6e6", "#d9d9d9"
MARKED = "#D55E00"  # what a person should look at

BREAK_LINES = "split(datum.label, '\\n')"  # of a label, in a legend or a header

ROWS = "rows"

AnyChart = alt.Chart | alt.LayerChart | alt.FacetChart | alt.VConcatChart


def of(name: str = ROWS) -> alt.Chart:
    """A chart of the records that `finished` is given under this name."""
    return alt.Chart(alt.NamedData(name))


def finished(
    chart: Any, title: str, subtitle: Sequence[str] = (), **records: Sequence[Mapping[str, Any]]
) -> AnyChart:
    """With title, records and the look of all pictures; it cannot be layered or put beside another any more."""
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
    # Last of all, as every step before copies the whole chart: with the records in it, that is most of the time.
    styled["datasets"] = {name: list(found) for name, found in records.items()}
    return styled


def lines(text: str, width: int, most: int = 3) -> list[str]:
    """Broken into lines of at most `width` characters; of what is too long for `most` lines, the middle is left out.

    Names such as `drug X 1 µM` and `drug X 2 µM` differ at their end.
    """
    longest = width * most - 2 * most
    if len(text) > longest:
        end = longest // 2
        text = f"{text[: longest - end - 1].rstrip()}…{text[-end:].lstrip()}"
    return textwrap.wrap(text, width) or [""]


def ticks(low: float, high: float, *, most: int = 8) -> list[float]:
    """Hours that people think in: whole days where there are several, else parts of a day."""
    step = next(
        (s for s in (1, 2, 3, 6, 12, 24, 48, 72, 96, 168, 336, 672) if math.floor((high - low) / s) < most),
        math.ceil((high - low) / most),
    )
    first = math.ceil(low / step - 1e-9)
    return [float(step * i) for i in range(first, math.floor(high / step + 1e-9) + 1)]
