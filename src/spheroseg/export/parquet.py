"""The growth table for programs: typed columns, with their units and where the numbers come from."""

import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from spheroseg.export.columns import Kind, column


def encode_parquet(rows: Sequence[Mapping[str, Any]], provenance: Sequence[Mapping[str, Any]]) -> bytes:
    """Text, int64, float64 and boolean columns, those of the first row; None is null.

    The metadata of a column are its `unit` and `meaning`; those of the file have `spheroseg`, the rows of
    `provenance_rows` as JSON.
    """
    # Here and not above: they take as long to load as the rest of the command line.
    import pyarrow
    import pyarrow.parquet

    types = {
        Kind.TEXT: pyarrow.string(),
        Kind.WHOLE: pyarrow.int64(),
        Kind.NUMBER: pyarrow.float64(),
        Kind.TRUTH: pyarrow.bool_(),
    }
    names = list(rows[0]) if rows else []
    fields = [
        pyarrow.field(
            name, types[column(name).kind], metadata={"unit": column(name).unit, "meaning": column(name).meaning}
        )
        for name in names
    ]
    schema = pyarrow.schema(fields, metadata={"spheroseg": json.dumps(list(provenance), ensure_ascii=False)})
    arrays = [pyarrow.array([_cell(row[field.name]) for row in rows], field.type) for field in fields]
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays(arrays, schema=schema), buffer, compression="zstd")
    return buffer.getvalue()


def _cell(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
