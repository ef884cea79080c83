"""Encodes the results of a run as files, in these steps:

1. Per image: `overlays`, `masks`, and the outlines as `rois`, `geojson` and `coco`.
2. The tables: `object_table` and `growth_tables` make rows, `provenance` explains them with the texts of `columns`.
   `csv_table`, `workbook` and `parquet` encode them.
3. Pictures of a plate: `charts`, and `contact_sheets` (with `contact_svg`).
4. All files of a run as one zip: `bundle`, with the metadata of `crate`.
"""
