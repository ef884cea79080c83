"""The growth table for programs: typed columns, with their units and where the numbers come from."""

import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from spheroseg.export.columns import ColumnType, describe_column


def encode_parquet(rows: Sequence[Mapping[str, Any]], provenance: Sequence[Mapping[str, Any]]) -> bytes:
    """Return a Parquet file with the columns of the first row, as text, int64, float64 or boolean. None is null.

    provenance: rows of `build_provenance_rows`, which the metadata of the file have as JSON under `spheroseg`. The
    metadata of a column have its `unit` and `meaning`.
    """
    # Imported here, because pyarrow takes as long to load as the rest of the command line.
    import pyarrow
    import pyarrow.parquet

    types = {
        ColumnType.TEXT: pyarrow.string(),
        ColumnType.INTEGER: pyarrow.int64(),
        ColumnType.NUMBER: pyarrow.float64(),
        ColumnType.BOOLEAN: pyarrow.bool_(),
    }
    names = list(rows[0]) if rows else []
    columns = {name: describe_column(name) for name in names}
    fields = [
        pyarrow.field(name, types[column.type], metadata={"unit": column.unit, "meaning": column.meaning})
        for name, column in columns.items()
    ]
    schema = pyarrow.schema(fields, metadata={"spheroseg": json.dumps(list(provenance), ensure_ascii=False)})
    arrays = [pyarrow.array([_cell(row[field.name]) for row in rows], field.type) for field in fields]
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays(arrays, schema=schema), buffer, compression="zstd")
    return buffer.getvalue()


def _cell(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
