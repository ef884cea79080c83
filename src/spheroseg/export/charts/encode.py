"""One definition of a picture as PNG, SVG or Vega-Lite JSON. Nothing is fetched: data, fonts and scripts are here."""

import json
import re

import vl_convert

from spheroseg.export.charts.style import AnyChart

VEGA_LITE = "v6.4"
# Paths only of files, none of which a chart has: a URL in a definition is refused instead of fetched.
NO_URLS: list[str] = []


def encode_png(chart: AnyChart, scale: float = 2.0) -> bytes:
    """The same chart gives the same bytes. `scale` is px per unit of the definition; 1 unit is 1/72 inch in print."""
    return vl_convert.vegalite_to_png(
        encode_json(chart), vl_version=VEGA_LITE, scale=scale, ppi=72, allowed_base_urls=NO_URLS
    )


def encode_svg(chart: AnyChart) -> str:
    svg = vl_convert.vegalite_to_svg(encode_json(chart), vl_version=VEGA_LITE, allowed_base_urls=NO_URLS)
    # Vega counts the colour ramps and clips of all pictures of the process: the number would differ each time.
    numbers: dict[str, str] = {}
    return re.sub(
        r"\b(gradient_|clip)(\d+)\b", lambda found: found[1] + numbers.setdefault(found[0], str(len(numbers))), svg
    )


def encode_json(chart: AnyChart) -> str:
    """Vega-Lite with its data, for vega-embed on a page."""
    # Its parts were checked when made, the whole is in the tests: checking a large plate takes longer than drawing.
    definition = chart.to_dict(validate=False)
    return json.dumps(definition, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
