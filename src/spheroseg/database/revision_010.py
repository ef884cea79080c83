"""The difference between the two revisions of the schema that this version works with.

Revision 010 adds the table `segmentation_failures` and three columns of `segmentation_tasks`. At revision 009, as
after the rollback script, they are missing and everything else must work. Only this module knows which revision a
database is at; everybody else asks one of these functions.
"""

from typing import Any

from sqlalchemy import ColumnElement
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from spheroseg.database.schema import RETRIES, segmentation_tasks

# The columns of segmentation_tasks that revision 010 adds.
TASK_COLUMNS = frozenset({"message_queue_id", "retry_count", "processing_time_ms"})


def set_revision_010(engine: AsyncEngine, is_present: bool) -> None:
    """Remember whether the database of `engine` is at revision 010. Until this is called, it counts as present."""
    engine.sync_engine.update_execution_options(has_revision_010=is_present)


def keeps_failures(conn: AsyncConnection) -> bool:
    """Return whether the database has the table `segmentation_failures`."""
    return _has_revision_010(conn)


def keeps_message_ids(conn: AsyncConnection) -> bool:
    """Return whether tasks have the column `message_queue_id`."""
    return _has_revision_010(conn)


def writable_task_values(conn: AsyncConnection, **values: Any) -> dict[str, Any]:
    """Return `values` for columns of tasks, without those columns that the database does not have."""
    if _has_revision_010(conn):
        return values
    return {name: value for name, value in values.items() if name not in TASK_COLUMNS}


def readable_task_columns(conn: AsyncConnection) -> list[ColumnElement[Any]]:
    """Return the columns of tasks that the database has. `retry_count` is always among them, computed if need be."""
    if _has_revision_010(conn):
        return [*segmentation_tasks.c]
    kept = [column for column in segmentation_tasks.c if column.name not in TASK_COLUMNS]
    return [*kept, RETRIES.label("retry_count")]


def _has_revision_010(conn: AsyncConnection) -> bool:
    assert conn.sync_connection is not None
    return bool(conn.sync_connection.get_execution_options().get("has_revision_010", True))
