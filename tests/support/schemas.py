"""Databases at some revision, what is in their catalogue, and psql on them."""

import asyncio
import subprocess
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, inspect, text
from sqlalchemy.ext.asyncio import AsyncEngine

SCRIPTS = Path(__file__).parents[2] / "scripts" / "postgres"
BASE_SQL = SCRIPTS / "migrations" / "009_base.sql"
FORWARD_SQL = SCRIPTS / "migrations" / "010_add_message_queue_tables.sql"
BACK_SQL = SCRIPTS / "rollback" / "010_add_message_queue_tables_rollback.sql"

PG_CATALOG = """
SELECT 'column', c.relname, a.attname,
    concat_ws(' ', row_number() OVER (PARTITION BY c.oid ORDER BY a.attnum), format_type(a.atttypid, a.atttypmod),
        a.attnotnull, pg_get_expr(d.adbin, d.adrelid))
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'
UNION ALL
SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid)
FROM pg_constraint WHERE connamespace = 'public'::regnamespace
UNION ALL
SELECT 'index', tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
UNION ALL
SELECT 'sequence', d.refobjid::regclass::text, c.relname, format_type(s.seqtypid, NULL)
FROM pg_class c JOIN pg_sequence s ON s.seqrelid = c.oid
LEFT JOIN pg_depend d ON d.objid = c.oid AND d.deptype = 'a'
WHERE c.relnamespace = 'public'::regnamespace
"""


async def catalogue(engine: AsyncEngine) -> set[Any]:
    """Every column, default, constraint, index and sequence, as the database itself describes it."""
    async with engine.connect() as conn:
        if engine.dialect.name == "postgresql":
            return {tuple(row) for row in await conn.execute(text(PG_CATALOG))}
        return await conn.run_sync(_inspected)


def _inspected(conn: Connection) -> set[Any]:
    indexes = conn.execute(text("SELECT sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"))
    # Renaming a table puts its name in quotes.
    found: set[Any] = {sql.replace('"', "") for sql in indexes.scalars()}
    inspector = inspect(conn)
    for table in inspector.get_table_names():
        for place, column in enumerate(inspector.get_columns(table)):
            found.add((table, place, *(str(column[fact]) for fact in ("name", "type", "nullable", "default"))))
        for kind in ("foreign_keys", "unique_constraints", "check_constraints"):
            found |= {(table, kind, str(fact)) for fact in getattr(inspector, f"get_{kind}")(table)}
        found.add((table, str(inspector.get_pk_constraint(table))))
    return found


async def psql(url: str, script: Path, code: int = 0) -> str:
    """What psql says; as the specification calls it, without a word about errors."""
    done = await asyncio.to_thread(
        subprocess.run,
        ["psql", "-X", "-d", url, "-f", str(script)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    said = done.stdout + done.stderr
    assert done.returncode == code, said
    return said
