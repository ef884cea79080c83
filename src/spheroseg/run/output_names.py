"""The names of what a run keeps and writes in its output folder."""

STATE_FOLDER = ".spheroseg"
OUTPUTS = (
    "results.csv",
    "overlays",
    "masks",
    "rois",
    "geojson",
    "coco.json",
    "bundle.zip",
    "manifest.json",
    "growth.csv",
    "growth.xlsx",
    "growth.parquet",
    "wells.csv",
    "conditions.csv",
    "fits.csv",
    "endpoint.csv",
    "ic50.csv",
    "charts",
    "contact",
)
