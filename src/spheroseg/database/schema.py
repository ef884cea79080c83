"""The tables. One schema for SQLite and PostgreSQL."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from spheroseg.tasks import TaskState

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class UTCDateTime(TypeDecorator[datetime]):
    """An aware moment. SQLite has no time zones, so UTC goes in and UTC comes out."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None or value.tzinfo is not None:
            return value
        return value.replace(tzinfo=UTC)


def _json() -> Any:
    return JSON().with_variant(JSONB(), "postgresql")


def _bigint_key() -> Any:
    # SQLite numbers rows by itself only in a column declared INTEGER.
    return BigInteger().with_variant(Integer(), "sqlite")


users = Table(
    "users",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("tier", String(20), nullable=False),
    Column("created_at", UTCDateTime, nullable=False),
    CheckConstraint("tier IN ('regular', 'premium')", name="tier"),
)

projects = Table(
    "projects",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("owner_id", ForeignKey("users.id"), nullable=False),
    Column("name", String(1000), nullable=False),
    Column("created_at", UTCDateTime, nullable=False),
    UniqueConstraint("owner_id", "name"),
)

images = Table(
    "images",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("project_id", ForeignKey("projects.id"), nullable=False),
    # What people call it; a page of a stack has its number.
    Column("name", Text, nullable=False),
    Column("page", Integer, nullable=False),
    Column("storage_key", Text, nullable=False),
    # Empty where the input could not even be read.
    Column("sha256", String(64), nullable=False),
    Column("created_at", UTCDateTime, nullable=False),
    # The same file in another place is another image: a worker must find it where it is now.
    UniqueConstraint("project_id", "name", "page", "sha256", "storage_key"),
)

segmentation_batches = Table(
    "segmentation_batches",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("user_id", ForeignKey("users.id"), nullable=False),
    Column("project_id", ForeignKey("projects.id"), nullable=False),
    # The caller's key: the same key from the same user is the same batch.
    Column("idempotency_key", String(200), nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("model", String(200), nullable=False),
    # Where it is given, a worker with another model of that name must not do the work.
    Column("model_sha256", String(64)),
    Column("parameters", _json(), nullable=False),
    Column("pixel_size_um", Float),
    Column("created_at", UTCDateTime, nullable=False),
    UniqueConstraint("user_id", "idempotency_key"),
)

segmentation_tasks = Table(
    "segmentation_tasks",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("batch_id", ForeignKey("segmentation_batches.id"), nullable=False),
    Column("image_id", ForeignKey("images.id"), nullable=False),
    Column("state", String(20), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("lost_count", Integer, nullable=False, default=0),
    Column("retry_count", Integer, nullable=False, default=0),
    Column("message_queue_id", String(100)),
    # The code and the sentence of the last attempt that did not finish.
    Column("reason", String(50)),
    Column("error", Text),
    Column("worker", String(200)),
    # Grows by one with every change, so that a watcher can ask for what it has not seen.
    Column("version", Integer, nullable=False, default=1),
    Column("processing_time_ms", Integer),
    Column("created_at", UTCDateTime, nullable=False),
    Column("started_at", UTCDateTime),
    # Until when a worker that is known only through RabbitMQ may still report.
    Column("lease_until", UTCDateTime),
    Column("finished_at", UTCDateTime),
    CheckConstraint("state IN ({})".format(", ".join(f"'{state}'" for state in TaskState)), name="state"),
    Index("ix_segmentation_tasks_batch_id_state", "batch_id", "state"),
    Index("ix_segmentation_tasks_image_id", "image_id"),
    Index(
        "ix_segmentation_tasks_unfinished",
        "id",
        sqlite_where=text("state IN ('queued', 'processing')"),
        postgresql_where=text("state IN ('queued', 'processing')"),
    ),
)

segmentation_queue = Table(
    "segmentation_queue",
    metadata,
    Column("id", _bigint_key(), primary_key=True),
    Column("queue", String(50), nullable=False),
    Column("message_id", String(100), nullable=False),
    Column("routing_key", String(50), nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("content_encoding", String(20)),
    Column("headers", _json(), nullable=False),
    Column("task_id", Uuid),
    Column("user_id", Uuid),
    Column("priority", SmallInteger, nullable=False),
    # The message's place in the round-robin between users; see database/queue.py.
    Column("turn", BigInteger, nullable=False),
    # True: anybody may take it. False: delayed, or in somebody's hand, until visible_at.
    Column("ready", Boolean, nullable=False),
    Column("visible_at", UTCDateTime, nullable=False),
    Column("deliveries", Integer, nullable=False, default=0),
    Column("holder", String(100)),
    Column("enqueued_at", UTCDateTime, nullable=False),
    Index("ix_segmentation_queue_task_id", "task_id"),
)

Index(
    "ix_segmentation_queue_next",
    segmentation_queue.c.queue,
    segmentation_queue.c.priority.desc(),
    segmentation_queue.c.turn,
    segmentation_queue.c.id,
    sqlite_where=text("ready = 1"),
    postgresql_where=text("ready"),
)
Index(
    "ix_segmentation_queue_due",
    segmentation_queue.c.visible_at,
    sqlite_where=text("ready = 0"),
    postgresql_where=text("NOT ready"),
)
Index(
    "ix_segmentation_queue_user",
    segmentation_queue.c.user_id,
    segmentation_queue.c.priority,
    segmentation_queue.c.turn,
    sqlite_where=text("user_id IS NOT NULL"),
    postgresql_where=text("user_id IS NOT NULL"),
)

segmentation_results = Table(
    "segmentation_results",
    metadata,
    Column("id", _bigint_key(), primary_key=True),
    Column("task_id", ForeignKey("segmentation_tasks.id"), nullable=False),
    Column("attempt", Integer, nullable=False),
    # A late or second result is kept to be seen, never applied.
    Column("superseded", Boolean, nullable=False),
    Column("worker", String(200), nullable=False),
    Column("result", _json(), nullable=False),
    Column("created_at", UTCDateTime, nullable=False),
    Index("ix_segmentation_results_task_id", "task_id"),
)
Index(
    "uq_segmentation_results_task_id",
    segmentation_results.c.task_id,
    unique=True,
    sqlite_where=text("superseded = 0"),
    postgresql_where=text("NOT superseded"),
)

segmentation_failures = Table(
    "segmentation_failures",
    metadata,
    Column("id", _bigint_key(), primary_key=True),
    # Empty where a message was so broken that nobody can tell whose it was.
    Column("task_id", ForeignKey("segmentation_tasks.id")),
    Column("attempt", Integer),
    Column("cause", String(20), nullable=False),
    Column("reason", String(50), nullable=False),
    Column("error", Text, nullable=False),
    Column("worker", String(200)),
    Column("started_at", UTCDateTime),
    Column("failed_at", UTCDateTime, nullable=False),
    # Both empty: there is no next attempt, the task failed for good.
    Column("next_attempt", Integer),
    Column("next_attempt_at", UTCDateTime),
    Column("superseded", Boolean, nullable=False, default=False),
    # A person has dealt with it: it is no dead letter any more, and stays on record.
    Column("settled_at", UTCDateTime),
    # The message itself, where it could not be understood.
    Column("body", LargeBinary),
    Column("content_encoding", String(20)),
    Column("headers", _json()),
    Index("ix_segmentation_failures_task_id", "task_id"),
)
