"""Encode a chart as PNG, SVG or Vega-Lite JSON. Nothing is downloaded: data, fonts and scripts are local."""

import json
import re

import vl_convert

from spheroseg.export.charts.style import AnyChart

VEGA_LITE = "v6.4"
# No base URL is allowed, so a URL in a definition is refused and never fetched.
NO_URLS: list[str] = []


def encode_png(chart: AnyChart, scale: float = 2.0) -> bytes:
    """Return the chart as PNG. The same chart gives the same bytes.

    scale: px per unit of the definition, which is 1/72 inch in print.
    """
    return vl_convert.vegalite_to_png(
        encode_json(chart), vl_version=VEGA_LITE, scale=scale, ppi=72, allowed_base_urls=NO_URLS
    )


def encode_svg(chart: AnyChart) -> str:
    """Return the chart as SVG. The same chart gives the same text."""
    svg = vl_convert.vegalite_to_svg(encode_json(chart), vl_version=VEGA_LITE, allowed_base_urls=NO_URLS)
    # Vega numbers the gradients and clips of all charts of the process, so the numbers would differ each time.
    numbers: dict[str, str] = {}
    return re.sub(
        r"\b(gradient_|clip)(\d+)\b", lambda found: found[1] + numbers.setdefault(found[0], str(len(numbers))), svg
    )


def encode_json(chart: AnyChart) -> str:
    """Return the chart as Vega-Lite JSON with its data, for vega-embed on a web page."""
    # Altair validates the parts when they are made, and tests validate whole charts. Validating a large plate would
    # take longer than drawing it.
    definition = chart.to_dict(validate=False)
    return json.dumps(definition, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
