"""Where the numbers of a table come from, as a table itself: for the sheet `provenance` and the metadata of files."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from spheroseg.export.columns import Kind, column
from spheroseg.plate.options import GrowthOptions, VolumeMethod, WellValue

FORMULAS = {
    VolumeMethod.SPHERE: "V = π/6 d³, d the diameter of the disk of the same area (net of holes)",
    VolumeMethod.LW2: "V = L·W²/2, L the largest caliper, W the width across it (SpheroidSizer, JoVE 51639)",
    VolumeMethod.PROLATE: "V = π/6 L·W², L the largest caliper, W the width across it: a prolate spheroid",
    VolumeMethod.REVOLUTION: "V = π ∬ |v| dA, v the distance from the major axis: the outline turned about it",
}
RULES = {
    WellValue.LARGEST: "of several objects in an image, the one of the largest area speaks for the well",
    WellValue.SUM: "the areas and volumes of all objects in an image are added up",
}
_WELLS_NOT_IMAGES = (
    "means and deviations of a condition are over wells; images of one well depend on each other and are not counted"
)


def provenance_rows(
    manifest: Mapping[str, Any],
    sheets: Mapping[str, Sequence[Mapping[str, Any]]],
    options: GrowthOptions,
    *,
    no_curves: str = "",
    date: str | None = None,
) -> list[dict[str, Any]]:
    """Rows of section, item, value, meaning.

    manifest: as a run writes it. sheets: the tables by name, among them `growth`. no_curves: why there are no rows of
    wells. date: when the results came about, "" where there are none; None takes that of the manifest, which is
    another with each run.
    """
    inputs = manifest["inputs"]
    asked = manifest["asked_for"]
    rows = [
        _row("software", "spheroseg", manifest["spheroseg"], "version of the program"),
        _row("software", "date", manifest["written_at"] if date is None else date or None, "of the results"),
        *(
            _row("software", "metrics_version", value, "docs/metrics.md")
            for value in _seen(inputs, "metrics_version")
        ),
        _row("model", "name", asked["model"]),
        _row("model", "version", asked["model_version"]),
        _row("model", "sha256", asked["model_sha256"], "of its file"),
        *_parameters(asked["parameters"], inputs),
        *_calibration(inputs),
        *_growth(sheets.get("growth", ()), options, no_curves),
        *(_row("images", state, count, "number of images") for state, count in manifest["counts"].items() if count),
        *(_row("images without a result", *what) for what in _failed(inputs)),
        *(_row("files left alone", name, None, "no image") for name in manifest["skipped"]),
    ]
    for name, table in sheets.items():
        rows += [_of_column(name, of) for of in (table[0] if table else ())]
    return rows


def _row(section: str, item: str, value: Any, meaning: str = "") -> dict[str, Any]:
    return {"section": section, "item": item, "value": value, "meaning": meaning}


def _parameters(asked: Mapping[str, Any], inputs: Iterable[Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    used = [item["parameters"] for item in inputs if "parameters" in item]
    for name in dict.fromkeys([*asked, *(name for parameters in used for name in parameters)]):
        values = list(dict.fromkeys(parameters.get(name) for parameters in used))
        if len(values) < 2:
            yield _row("parameters", name, _plain(values[0] if values else asked[name]), "used for all images")
        else:
            # As the least area does, which goes by the size of the image.
            yield _row("parameters", name, _several(values), "used, not the same for all images")


def _several(values: Sequence[Any]) -> str:
    if all(isinstance(value, int | float) for value in values):
        return f"{min(values)} to {max(values)}"
    return ", ".join(str(_plain(value)) for value in values)


def _calibration(inputs: Iterable[Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    measured = [item["pixel_size"] for item in inputs if "pixel_size" in item]
    sizes = Counter((size["um"], size["source"]) for size in measured if size)
    for (um, source), count in sorted(sizes.items()):
        yield _row("pixel size", "pixel_size_um", um, f"µm, from {source}: {count} images")
    unknown = sum(not size for size in measured)
    if unknown:
        yield _row("pixel size", "pixel_size_um", None, f"not known: {unknown} images, whose columns in µm are empty")


def _growth(rows: Iterable[Mapping[str, Any]], options: GrowthOptions, no_curves: str) -> Iterable[dict[str, Any]]:
    rule = "the earliest time of each plate" if options.t0_h is None else "given by the person"
    yield _row("growth", "t0", options.t0_h, f"h, {rule}; rel_area and rel_volume are 1 there")
    if options.t0_h is None:
        for plate, t0_h in {row["plate"] or "": row["t0_h"] for row in rows if row["t0_h"] is not None}.items():
            yield _row("growth", f"t0 of plate {plate}".removesuffix(" of plate "), t0_h, "h")
    yield _row("growth", "volume_method", options.volume_method.value, FORMULAS[options.volume_method])
    yield _row("growth", "well_value", options.well_value.value, RULES[options.well_value])
    yield _row("growth", "n", None, _WELLS_NOT_IMAGES)
    if no_curves:
        yield _row("growth", "curves", None, no_curves)


def _failed(inputs: Iterable[Mapping[str, Any]]) -> Iterable[tuple[str, Any, str]]:
    for item in inputs:
        if item["state"] != "completed":
            where = f"{item['image']} page {item['page']}" if item["page"] > 1 else item["image"]
            yield where, item["reason"] or item["state"], item["error"] or ""


def _of_column(sheet: str, name: str) -> dict[str, Any]:
    of = column(name)
    return _row(f"columns of {sheet}", name, of.unit or ("" if of.kind is Kind.NUMBER else of.kind.value), of.meaning)


def _seen(inputs: Iterable[Mapping[str, Any]], name: str) -> list[Any]:
    return list(dict.fromkeys(item[name] for item in inputs if name in item))


def _plain(value: Any) -> Any:
    return "none" if value is None else value
