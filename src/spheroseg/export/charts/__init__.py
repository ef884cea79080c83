"""Charts of growth. Each has one definition, which gives the PNG, the SVG and the interactive chart of a web page."""

from spheroseg.export.charts.conditions import condition_chart
from spheroseg.export.charts.doses import dose_chart
from spheroseg.export.charts.encode import encode_json, encode_png, encode_svg
from spheroseg.export.charts.heat import heat_map
from spheroseg.export.charts.plates import plate_chart
from spheroseg.export.charts.wells import well_chart

__all__ = [
    "condition_chart",
    "dose_chart",
    "encode_json",
    "encode_png",
    "encode_svg",
    "heat_map",
    "plate_chart",
    "well_chart",
]
