"""Makes the table of the IC50 of each drug. docs/fits.md describes it."""

from collections.abc import Iterable, Sequence
from statistics import median

from spheroseg.plate.dose_response import fit_dose_response
from spheroseg.plate.fit_refusal import FitRefusal
from spheroseg.plate.fit_table import default_measure, has_excluding_flag
from spheroseg.plate.numbers import finite_number
from spheroseg.plate.rows import EndpointRow, Ic50Row

IC50_COLUMNS = (
    *("drug", "unit", "measure", "time_h", "n_wells", "n_concentrations", "ic50", "ic50_ci_low", "ic50_ci_high"),
    *("hill", "top", "bottom", "r2", "refused"),
)
MEASURES = ("rel_volume", "volume_um3", "volume_px3")


def build_ic50_rows(endpoints: Iterable[EndpointRow], measure: str | None = None) -> list[Ic50Row]:
    """Return one row per drug with the columns `IC50_COLUMNS`.

    endpoints: rows of `endpoints.build_endpoint_rows`. measure: one of their columns, by default the relative volume,
    or the volume if there is none. Untreated wells of a drug have the concentration 0 of the drug itself or, on the
    same plates, the concentration 0 of no drug or of a vehicle, which is a drug without any other concentration.
    `n_concentrations` counts the concentrations above 0. A row with `refused` has no estimates.
    """
    rows = list(endpoints)
    measure = measure or default_measure(rows, MEASURES)
    dosed: dict[str, list[EndpointRow]] = {}
    for row in rows:
        if row.get("drug") and (finite_number(row.get("concentration")) or 0) > 0:
            dosed.setdefault(row["drug"], []).append(row)
    return [
        _build_row(drug, own, _select_untreated(rows, drug, own, set(dosed)), measure) for drug, own in dosed.items()
    ]


def _select_untreated(
    rows: Sequence[EndpointRow], drug: str, own: Sequence[EndpointRow], dosed: set[str]
) -> list[EndpointRow]:
    """Return the untreated wells of a drug. own: its treated wells. dosed: all drugs with a concentration above 0."""
    plates = {row.get("plate") for row in own}
    return [
        row
        for row in rows
        if row.get("plate") in plates
        and finite_number(row.get("concentration")) == 0
        and (row.get("drug") == drug or row.get("drug") not in dosed)
    ]


def _build_row(drug: str, own: Sequence[EndpointRow], untreated: Sequence[EndpointRow], measure: str) -> Ic50Row:
    units = list(dict.fromkeys(str(row.get("unit") or "") for row in own))
    wells = [
        (finite_number(row.get("concentration")), value, row)
        for row in [*own, *untreated]
        if (value := finite_number(row.get(measure))) is not None and not has_excluding_flag(row)
    ]
    times = [time for _, _, row in wells if (time := finite_number(row.get("time_h"))) is not None]
    doses = [dose or 0.0 for dose, _, _ in wells]
    row: Ic50Row = dict.fromkeys(IC50_COLUMNS) | {
        "drug": drug,
        "unit": ", ".join(unit or "none" for unit in units) if len(units) > 1 else units[0] or None,
        "measure": measure,
        "time_h": median(times) if times else None,
        "n_wells": len(wells),
        "n_concentrations": len({dose for dose in doses if dose > 0}),
    }
    if len(units) > 1:
        return row | {"refused": f"the concentrations of {drug} are in several units: give all in one"}
    fit = fit_dose_response(doses, [value for _, value, _ in wells])
    if isinstance(fit, FitRefusal):
        return row | {"refused": fit.reason}
    return row | {
        "ic50": fit.ic50,
        "ic50_ci_low": fit.ic50_low,
        "ic50_ci_high": fit.ic50_high,
        "hill": fit.hill,
        "top": fit.top,
        "bottom": fit.bottom,
        "r2": fit.r2,
    }
