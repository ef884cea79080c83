"""What the message queue needs: segmentation_failures, and three columns of segmentation_tasks.

Revision ID: 010
Revises: 009

On PostgreSQL no table is rewritten. The ACCESS EXCLUSIVE lock is tried with a short lock_timeout, repeatedly for 5 s,
so that no writer waits long. The new columns of old rows are filled in afterwards, in chunks. The downgrade keeps the
failures under another table name, and a later upgrade renames that table back.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "010"
down_revision = "009"

MOMENT = sa.DateTime(timezone=True)
DOCUMENT = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

KEPT = "segmentation_failures_kept"


def upgrade() -> None:
    is_postgresql = op.get_context().dialect.name == "postgresql"
    if is_postgresql:
        _lock("segmentation_tasks")
        op.execute(f"ALTER TABLE IF EXISTS {KEPT} RENAME TO segmentation_failures")
    elif sa.inspect(op.get_bind()).has_table(KEPT):
        op.rename_table(KEPT, "segmentation_failures")
    op.create_table(
        "segmentation_failures",
        sa.Column("id", KEY, nullable=False),
        sa.Column("task_id", sa.Uuid(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=True),
        sa.Column("cause", sa.String(length=20), nullable=False),
        sa.Column("reason", sa.String(length=50), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("worker", sa.String(length=200), nullable=True),
        sa.Column("started_at", MOMENT, nullable=True),
        sa.Column("failed_at", MOMENT, nullable=False),
        sa.Column("next_attempt", sa.Integer(), nullable=True),
        sa.Column("next_attempt_at", MOMENT, nullable=True),
        sa.Column("superseded", sa.Boolean(), nullable=False),
        sa.Column("settled_at", MOMENT, nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.Column("content_encoding", sa.String(length=20), nullable=True),
        sa.Column("headers", DOCUMENT, nullable=True),
        sa.ForeignKeyConstraint(
            ["task_id"], ["segmentation_tasks.id"], name=op.f("fk_segmentation_failures_task_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_segmentation_failures")),
        if_not_exists=True,
    )
    op.create_index("ix_segmentation_failures_task_id", "segmentation_failures", ["task_id"], if_not_exists=True)
    for column in (
        sa.Column("message_queue_id", sa.String(length=100), nullable=True),
        sa.Column("retry_count", sa.Integer(), server_default="0", nullable=False),
        sa.Column("processing_time_ms", sa.Integer(), nullable=True),
    ):
        op.add_column("segmentation_tasks", column, if_not_exists=is_postgresql or None)
    if is_postgresql:
        # If this is interrupted, the revision is still 009, and the upgrade can be run again.
        with op.get_context().autocommit_block():
            op.execute(FILL_IN_POSTGRESQL)
    else:
        op.execute(FILL_IN_SQLITE)


def downgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        # In the order in which the program locks them, so that the two cannot deadlock.
        _lock("segmentation_tasks, segmentation_failures")
    op.rename_table("segmentation_failures", KEPT)
    for column in ("processing_time_ms", "retry_count", "message_queue_id"):
        op.drop_column("segmentation_tasks", column)


def _lock(tables: str) -> None:
    """Take an ACCESS EXCLUSIVE lock on `tables` for the rest of the transaction.

    While it is waited for, every later query of these tables waits behind it. So every attempt but the last gives up
    after 0.1 s, and a pause follows. The last attempt waits for longer than deadlock_timeout (1 s): after that time
    PostgreSQL cancels an autovacuum that holds a table.
    """
    op.execute(
        f"""
DO $$
BEGIN
    FOR turn IN 1..17 LOOP
        PERFORM set_config('lock_timeout', CASE WHEN turn < 17 THEN '100ms' ELSE '1600ms' END, true);
        BEGIN
            LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE;
            RETURN;
        EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
            PERFORM pg_sleep(0.1);
        END;
    END LOOP;
    RAISE lock_not_available USING MESSAGE = 'a long transaction keeps the tables busy, and nothing was changed\\:'
        ' wait for it to end, then do the same again';
END
$$
"""
    )


# One transaction for every 2,000 tasks, so that no writer waits for all of them. They are locked in the order of
# their ids, as the program does, so that the two cannot deadlock.
FILL_IN_POSTGRESQL = r"""
DO $$
DECLARE
    chunk uuid[];
    last uuid \:= '00000000-0000-0000-0000-000000000000';
BEGIN
    LOOP
        SELECT array_agg(id ORDER BY id) INTO chunk FROM (
            SELECT id FROM segmentation_tasks WHERE attempt > 0 AND id > last
            ORDER BY id LIMIT 2000 FOR NO KEY UPDATE
        ) AS next;
        EXIT WHEN chunk IS NULL;
        UPDATE segmentation_tasks SET
            message_queue_id = concat(id, '\:', attempt, '\:task.new'),
            retry_count = attempt - first_attempt - lost_count,
            processing_time_ms = CASE WHEN state = 'completed'
                THEN greatest(0, round(extract(epoch FROM finished_at - started_at) * 1000)) END
        WHERE id = ANY (chunk);
        last \:= chunk[array_length(chunk, 1)];
        COMMIT;
    END LOOP;
END
$$
"""

# SQLite stores times as text, such as 2026-11-24 08:00:00.123456.
_MICROSECONDS = "(strftime('%s', substr({0}, 1, 19)) * 1000000 + substr({0}, 21, 6))"
FILL_IN_SQLITE = rf"""
UPDATE segmentation_tasks SET
    message_queue_id = substr(id, 1, 8) || '-' || substr(id, 9, 4) || '-' || substr(id, 13, 4) || '-'
        || substr(id, 17, 4) || '-' || substr(id, 21) || '\:' || attempt || '\:task.new',
    retry_count = attempt - first_attempt - lost_count,
    processing_time_ms = CASE WHEN state = 'completed' THEN max(
        0, ({_MICROSECONDS.format("finished_at")} - {_MICROSECONDS.format("started_at")} + 500) / 1000
    ) END
WHERE attempt > 0
"""  # noqa: S608 (our own columns)
