"""Type, unit and meaning of each column of the tables, for the file formats that can hold them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType

from spheroseg.plate.condition_statistics import SUMMARISED


class ColumnType(StrEnum):
    """The type of the values of a column, as the sheet `provenance` names it."""

    TEXT = "text"
    INTEGER = "whole number"
    NUMBER = "number"
    BOOLEAN = "true or false"


@dataclass(frozen=True)
class Column:
    """Describes a column.

    unit: "" if it has none. number_format: how a spreadsheet shows its numbers, "" for the default.
    """

    type: ColumnType
    meaning: str
    unit: str = ""
    number_format: str = ""


# Unit and number format by the end of the name of a column.
_UNITS = {
    "_um3": ("µm³", "#,##0"),
    "_px3": ("px³", "#,##0"),
    "_um2": ("µm²", "#,##0.0"),
    "_px2": ("px²", "#,##0.0"),
    "_um": ("µm", "#,##0.00"),
    "_px": ("px", "#,##0.00"),
    "_per_h": ("1/h", "0.00000"),
    "_h": ("h", "0.00"),
}
_STATISTICS = {
    "_mean": "mean over wells of",
    "_sd": "sample standard deviation over wells of",
    "_n": "number of wells with",
}

_TEXTS = {
    "plate": "plate, from the name of the image",
    "well": "well of the plate: A01",
    "row": "row of the well: A",
    "condition": "name of the condition, or its drug and concentration",
    "image": "path of the image within the folder that was given",
    "object_id": "object in its image, numbered as in the overlay, the mask and the ImageJ regions",
    "volume_method": "formula of the volume",
    "qc_flags": "quality flags, separated by ; (docs/metrics.md, docs/growth.md)",
    "model_sha256": "SHA-256 of the model file",
    "params_hash": "SHA-256 of the parameters used, as compact JSON with sorted keys",
    "pixel_size_source": "where the pixel size comes from: option, OME-XML or ImageJ",
    "metrics_version": "version of the definitions of the measurements",
    "sample": "sample, from the name of the image, if it has no well",
    "channel": "channel, from the name of the image or the stack",
    "drug": "drug, from the table of conditions",
    "unit": "unit of the concentration",
    "replicate": "replicate, from the table of conditions",
    "model": "name of the model",
    "level": "whether the row is about a well or a condition",
    "measure": "measure that is fitted",
    "refused": "why numbers are missing",
}
_INTEGERS = {
    "col": "column of the well, from 1",
    "n_objects": "number of objects found; empty if the image failed",
    "page": "page of a stack, from 1",
    "site": "site (field) in the well",
    "z": "number of the z position",
    "time_point": "number of the time point, if the names number them",
    "result_version": "number of this result of the image, from 1",
    "n_images": "number of images of this well at this time, failed ones included",
    "n_wells": "number of wells: the n of the statistics",
    "n_points": "number of points that are fitted",
    "n_concentrations": "number of concentrations above 0 that are fitted",
}
_NUMBERS = {
    "time_h": "time of the image",
    "t0_h": "time that relative values refer to",
    "area_um2": "area, net of holes",
    "perimeter_um": "length of the outer outline",
    "eq_diameter_um": "diameter of the disk of the same area",
    "feret_max_um": "largest caliper diameter",
    "feret_min_um": "smallest caliper diameter",
    "volume_um3": "volume, by the formula in volume_method",
    "volume_sphere_um3": "π/6 d³",
    "volume_lw2_um3": "L·W²/2",
    "volume_prolate_um3": "π/6 L·W²",
    "volume_revolution_um3": "volume of the outline rotated about its major axis",
    "area_px2": "area, net of holes",
    "perimeter_px": "length of the outer outline",
    "eq_diameter_px": "diameter of the disk of the same area",
    "feret_max_px": "largest caliper diameter",
    "feret_min_px": "smallest caliper diameter",
    "volume_px3": "volume, by the formula in volume_method",
    "pixel_size_um": "side of a pixel",
    "from_h": "first time that is fitted",
    "to_h": "last time that is fitted",
    "rate_per_h": "specific growth rate at the beginning",
    "doubling_time_h": "time to double at that rate",
}
_RATIOS = {
    "circularity": "4π area / perimeter²; 1 for a disk",
    "solidity": "area / area of the convex hull",
    "eccentricity": "of the ellipse with the same second moments; 0 for a disk",
    "rel_area": "area / area of the same site at t0_h",
    "rel_volume": "volume / volume of the same site at t0_h",
    "r2": "share of the variance that the model explains",
}
_OTHERS = {
    "concentration": "concentration, in the unit of the column unit",
    "y0": "value of the model at the beginning, in the unit of the measure",
    "capacity": "plateau of the model, in the unit of the measure",
    "aicc": "Akaike's information criterion, corrected for few points; the smaller, the better",
    "ic50": "concentration half-way between the plateaus of the curve, in the unit of the column unit",
    "hill": "Hill slope of the dose-response curve",
    "top": "upper plateau of the dose-response curve, in the unit of the measure",
    "bottom": "lower plateau of the dose-response curve, in the unit of the measure",
}
# Columns with a confidence interval, and how the names of its ends begin.
_WITH_INTERVAL = {"rate_per_h": "rate", "doubling_time_h": "doubling_time", "capacity": "capacity", "ic50": "ic50"}


def _describe_number(name: str, meaning: str) -> Column:
    unit, number_format = next((found for suffix, found in _UNITS.items() if name.endswith(suffix)), ("", ""))
    return Column(ColumnType.NUMBER, meaning, unit, number_format)


def _describe_all() -> dict[str, Column]:
    columns = {name: Column(ColumnType.TEXT, meaning) for name, meaning in _TEXTS.items()}
    columns |= {name: Column(ColumnType.INTEGER, meaning) for name, meaning in _INTEGERS.items()}
    columns |= {name: _describe_number(name, meaning) for name, meaning in _NUMBERS.items()}
    columns |= {name: Column(ColumnType.NUMBER, meaning, "", "0.0000") for name, meaning in _RATIOS.items()}
    columns |= {name: Column(ColumnType.NUMBER, meaning) for name, meaning in _OTHERS.items()}
    columns["best"] = Column(ColumnType.BOOLEAN, "whether this model describes the data best")
    for name in SUMMARISED:
        for suffix, words in _STATISTICS.items():
            meaning = f"{words} {name}"
            is_count = suffix == "_n"
            columns[name + suffix] = (
                Column(ColumnType.INTEGER, meaning) if is_count else replace(columns[name], meaning=meaning)
            )
    for name, stem in _WITH_INTERVAL.items():
        for end, words in (("low", "lower"), ("high", "upper")):
            meaning = f"{words} end of the 95 % confidence interval of {name}"
            columns[f"{stem}_ci_{end}"] = replace(columns[name], meaning=meaning)
    return columns


COLUMNS: Mapping[str, Column] = MappingProxyType(_describe_all())
# A column that only the user's table of conditions has.
USER_COLUMN = Column(ColumnType.TEXT, "from your table of conditions")


def describe_column(name: str) -> Column:
    """Return the description of a column, which is that of USER_COLUMN if we do not know the name."""
    return COLUMNS.get(name, USER_COLUMN)
