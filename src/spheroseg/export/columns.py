"""What each column of the tables holds: its kind, its unit and its meaning, for the files that can say so."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from spheroseg.plate.groups import GROUPED


class Kind(StrEnum):
    TEXT = "text"
    WHOLE = "whole number"
    NUMBER = "number"
    TRUTH = "true or false"


@dataclass(frozen=True)
class Column:
    """`unit` is "" for what has none; `show` is how a spreadsheet shows its numbers."""

    kind: Kind
    meaning: str
    unit: str = ""
    show: str = ""


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
    "plate": "plate, by the names of the images",
    "well": "well of the plate: A01",
    "row": "row of the well: A",
    "condition": "condition by its name, or else drug and concentration",
    "image": "path of the image below the folder that was handed in",
    "object_id": "object in its image, as on the overlay, in the mask and in the regions for ImageJ",
    "volume_method": "formula of the volume",
    "qc_flags": "what to look at, separated by ; (docs/metrics.md, docs/growth.md)",
    "model_sha256": "SHA-256 of the file of the model",
    "params_hash": "SHA-256 of the parameters used, as compact JSON with sorted keys",
    "pixel_size_source": "who said how large a pixel is: option, OME-XML or ImageJ",
    "metrics_version": "version of the definitions of the measurements",
    "sample": "what the names call it where they tell no well",
    "channel": "channel, by the names of the images",
    "drug": "drug, of the table of conditions",
    "unit": "unit of the concentration",
    "replicate": "replicate, of the table of conditions",
    "model": "name of the model",
    "level": "whether a well or a condition is fitted",
    "measure": "what is fitted",
    "refused": "why there are no numbers",
}
_WHOLE = {
    "col": "column of the well, from 1",
    "n_objects": "objects found; empty where the image failed",
    "page": "page of a stack, from 1",
    "site": "site (field) in the well",
    "z": "z position, a number",
    "time_point": "number of the time point, where the names number them",
    "result_version": "which result of this image it is, from 1",
    "n_images": "images of this well at this time, the failed ones too",
    "n_wells": "wells: the n of the statistics",
    "n_points": "points that are fitted",
    "n_concentrations": "concentrations that are fitted",
}
_NUMBERS = {
    "time_h": "time of the image",
    "t0_h": "time that relative values start from",
    "area_um2": "area, net of holes",
    "perimeter_um": "length of the outer outline",
    "eq_diameter_um": "diameter of the disk of the same area",
    "feret_max_um": "largest caliper",
    "feret_min_um": "least caliper",
    "volume_um3": "volume, by the formula in volume_method",
    "volume_sphere_um3": "π/6 d³",
    "volume_lw2_um3": "L·W²/2",
    "volume_prolate_um3": "π/6 L·W²",
    "volume_revolution_um3": "the outline turned about its major axis",
    "area_px2": "area, net of holes",
    "perimeter_px": "length of the outer outline",
    "eq_diameter_px": "diameter of the disk of the same area",
    "feret_max_px": "largest caliper",
    "feret_min_px": "least caliper",
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
    "capacity": "value that the model grows to, in the unit of the measure",
    "aicc": "Akaike's information criterion, corrected for few points; the smaller, the better",
    "ic50": "concentration of half the effect, in the unit of the column unit",
    "hill": "steepness of the dose-response curve",
    "top": "its upper end, in the unit of the measure",
    "bottom": "its lower end, in the unit of the measure",
}
_WITH_INTERVAL = {"rate_per_h": "rate", "doubling_time_h": "doubling_time", "capacity": "capacity", "ic50": "ic50"}


def _number(name: str, meaning: str) -> Column:
    unit, show = next((found for suffix, found in _UNITS.items() if name.endswith(suffix)), ("", ""))
    return Column(Kind.NUMBER, meaning, unit, show)


def _columns() -> dict[str, Column]:
    columns = {name: Column(Kind.TEXT, meaning) for name, meaning in _TEXTS.items()}
    columns |= {name: Column(Kind.WHOLE, meaning) for name, meaning in _WHOLE.items()}
    columns |= {name: _number(name, meaning) for name, meaning in _NUMBERS.items()}
    columns |= {name: Column(Kind.NUMBER, meaning, "", "0.0000") for name, meaning in _RATIOS.items()}
    columns |= {name: Column(Kind.NUMBER, meaning) for name, meaning in _OTHERS.items()}
    columns["best"] = Column(Kind.TRUTH, "whether this model describes the data best of all")
    for name in GROUPED:
        of = columns[name]
        for suffix, words in _STATISTICS.items():
            meaning = f"{words} {name}"
            counts = suffix == "_n"
            columns[name + suffix] = (
                Column(Kind.WHOLE, meaning) if counts else Column(of.kind, meaning, of.unit, of.show)
            )
    for name, stem in _WITH_INTERVAL.items():
        of = columns[name]
        for end, words in (("low", "lower"), ("high", "upper")):
            meaning = f"{words} end of the confidence interval of {name}"
            columns[f"{stem}_ci_{end}"] = Column(of.kind, meaning, of.unit, of.show)
    return columns


COLUMNS: Mapping[str, Column] = MappingProxyType(_columns())
# A column that the person's own table of conditions has brought along.
OWN = Column(Kind.TEXT, "from your table of conditions")


def column(name: str) -> Column:
    return COLUMNS.get(name, OWN)
