"""Where the numbers of the tables come from, as a table: for the sheet `provenance` and the metadata of files."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from spheroseg.export.columns import ColumnType, describe_column
from spheroseg.plate.options import GrowthOptions, VolumeMethod, WellValue

FORMULAS = {
    VolumeMethod.SPHERE: "V = π/6 d³, d the diameter of the disk of the same area (net of holes)",
    VolumeMethod.LW2: "V = L·W²/2, L the largest caliper diameter, W the width across it (SpheroidSizer, JoVE 51639)",
    VolumeMethod.PROLATE: "V = π/6 L·W², L the largest caliper diameter, W the width across it: a prolate spheroid",
    VolumeMethod.REVOLUTION: "V = π ∬ |v| dA, v the distance from the major axis: the outline rotated about it",
}
RULES = {
    WellValue.LARGEST: "of several objects in an image, the one of the largest area counts for the well",
    WellValue.SUM: "the areas and volumes of all objects in an image are added up",
}
_WELLS_NOT_IMAGES = (
    "means and deviations of a condition are over wells, not over images: images of one well depend on each other"
)


def build_provenance_rows(
    manifest: Mapping[str, Any],
    sheets: Mapping[str, Sequence[Mapping[str, Any]]],
    options: GrowthOptions,
    *,
    no_curves: str = "",
    date: str | None = None,
) -> list[dict[str, Any]]:
    """Return rows with the columns section, item, value and meaning.

    manifest: as a run writes it. sheets: the tables by name, with `growth` among them. no_curves: why there are no
    growth curves, or "". date: when the results were made, or "" if there are none. None takes the date of the
    manifest, which differs with each run.
    """
    inputs = manifest["inputs"]
    requested = manifest["asked_for"]
    rows = [
        _row("software", "spheroseg", manifest["spheroseg"], "version of the program"),
        _row("software", "date", manifest["written_at"] if date is None else date or None, "date of the results"),
        *(
            _row("software", "metrics_version", value, "docs/metrics.md")
            for value in _distinct(inputs, "metrics_version")
        ),
        _row("model", "name", requested["model"]),
        _row("model", "version", requested["model_version"]),
        _row("model", "sha256", requested["model_sha256"], "SHA-256 of the model file"),
        *_parameter_rows(requested["parameters"], inputs),
        *_pixel_size_rows(inputs),
        *_growth_rows(sheets.get("growth", ()), options, no_curves),
        *(_row("images", state, count, "number of images") for state, count in manifest["counts"].items() if count),
        *_failure_rows(inputs),
        *(_row("files left alone", name, None, "not an image") for name in manifest["skipped"]),
    ]
    for name, table in sheets.items():
        rows += [_column_row(name, column) for column in (table[0] if table else ())]
    return rows


def _row(section: str, item: str, value: Any, meaning: str = "") -> dict[str, Any]:
    return {"section": section, "item": item, "value": value, "meaning": meaning}


def _parameter_rows(requested: Mapping[str, Any], inputs: Iterable[Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    used = [item["parameters"] for item in inputs if "parameters" in item]
    for name in dict.fromkeys([*requested, *(name for parameters in used for name in parameters)]):
        values = list(dict.fromkeys(parameters.get(name) for parameters in used))
        if len(values) < 2:
            yield _row("parameters", name, _plain(values[0] if values else requested[name]), "used for all images")
        else:
            # The minimal area, for example, depends on the size of the image.
            yield _row("parameters", name, _summarise(values), "used, not the same for all images")


def _summarise(values: Sequence[Any]) -> str:
    if all(isinstance(value, int | float) for value in values):
        return f"{min(values)} to {max(values)}"
    return ", ".join(str(_plain(value)) for value in values)


def _pixel_size_rows(inputs: Iterable[Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    measured = [item["pixel_size"] for item in inputs if "pixel_size" in item]
    sizes = Counter((size["um"], size["source"]) for size in measured if size)
    for (um, source), count in sorted(sizes.items()):
        yield _row("pixel size", "pixel_size_um", um, f"µm, from {source}: {count} images")
    unknown = sum(not size for size in measured)
    if unknown:
        yield _row("pixel size", "pixel_size_um", None, f"not known: {unknown} images, whose columns in µm are empty")


def _growth_rows(
    rows: Iterable[Mapping[str, Any]], options: GrowthOptions, no_curves: str
) -> Iterable[dict[str, Any]]:
    rule = "the earliest time of each plate" if options.t0_h is None else "given by the user"
    yield _row("growth", "t0", options.t0_h, f"h, {rule}; rel_area and rel_volume are 1 there")
    if options.t0_h is None:
        for plate, t0_h in {row["plate"] or "": row["t0_h"] for row in rows if row["t0_h"] is not None}.items():
            yield _row("growth", f"t0 of plate {plate}".removesuffix(" of plate "), t0_h, "h")
    yield _row("growth", "volume_method", options.volume_method.value, FORMULAS[options.volume_method])
    yield _row("growth", "well_value", options.well_value.value, RULES[options.well_value])
    yield _row("growth", "n", None, _WELLS_NOT_IMAGES)
    if no_curves:
        yield _row("growth", "curves", None, no_curves)


def _failure_rows(inputs: Iterable[Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    for item in inputs:
        if item["state"] != "completed":
            where = f"{item['image']} page {item['page']}" if item["page"] > 1 else item["image"]
            yield _row("images without a result", where, item["reason"] or item["state"], item["error"] or "")


def _column_row(sheet: str, name: str) -> dict[str, Any]:
    column = describe_column(name)
    unit_or_type = column.unit or ("" if column.type is ColumnType.NUMBER else column.type.value)
    return _row(f"columns of {sheet}", name, unit_or_type, column.meaning)


def _distinct(inputs: Iterable[Mapping[str, Any]], name: str) -> list[Any]:
    return list(dict.fromkeys(item[name] for item in inputs if name in item))


def _plain(value: Any) -> Any:
    return "none" if value is None else value
