"""The tables at the newest revision (`migrations/`), for SQLite and PostgreSQL alike."""

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
    """A datetime with a time zone. SQLite has none, so that UTC is stored and returned."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None or value.tzinfo is not None:
            return value
        return value.replace(tzinfo=UTC)


class StateName(TypeDecorator[TaskState]):
    """The state of a task, stored by its name."""

    impl = String(20)
    cache_ok = True

    def process_result_value(self, value: str | None, dialect: Dialect) -> TaskState | None:
        return None if value is None else TaskState(value)


def _json() -> Any:
    return JSON().with_variant(JSONB(), "postgresql")


def _bigint_key() -> Any:
    # SQLite assigns ids only in a column that is declared INTEGER.
    return BigInteger().with_variant(Integer(), "sqlite")


users = Table(
    "users",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("tier", String(20), nullable=False),
    Column("role", String(20), nullable=False, server_default="member"),
    Column("created_at", UTCDateTime, nullable=False),
    CheckConstraint("tier IN ('regular', 'premium')", name="tier"),
    CheckConstraint("role IN ('member', 'admin')", name="role"),
)

api_tokens = Table(
    "api_tokens",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("user_id", ForeignKey("users.id"), nullable=False),
    Column("name", String(200), nullable=False),
    # The token itself is shown once and stored nowhere.
    Column("token_sha256", String(64), nullable=False, unique=True),
    Column("created_at", UTCDateTime, nullable=False),
    Column("expires_at", UTCDateTime),
    Column("revoked_at", UTCDateTime),
    Column("last_used_at", UTCDateTime),
    UniqueConstraint("user_id", "name"),
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

# The users who may see a project and work in it. The owner has a row too.
project_members = Table(
    "project_members",
    metadata,
    Column("project_id", ForeignKey("projects.id"), primary_key=True),
    Column("user_id", ForeignKey("users.id"), primary_key=True),
    Column("added_at", UTCDateTime, nullable=False),
    Index("ix_project_members_user_id", "user_id"),
)

images = Table(
    "images",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("project_id", ForeignKey("projects.id"), nullable=False),
    # What people call it. All pages of a stack have the same name.
    Column("name", Text, nullable=False),
    Column("page", Integer, nullable=False),
    Column("storage_key", Text, nullable=False),
    # Empty if the input could not even be read.
    Column("sha256", String(64), nullable=False),
    # Size of the whole file, null if it is not known.
    Column("size_bytes", BigInteger),
    Column("created_at", UTCDateTime, nullable=False),
    # The same file in another place is another image, because a worker must find it where it is now.
    UniqueConstraint("project_id", "name", "page", "sha256", "storage_key"),
    Index("ix_images_project_id_sha256", "project_id", "sha256"),
)

segmentation_batches = Table(
    "segmentation_batches",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("user_id", ForeignKey("users.id"), nullable=False),
    Column("project_id", ForeignKey("projects.id"), nullable=False),
    # The caller's key: the same key from the same user means the same batch.
    Column("idempotency_key", String(200), nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("model", String(200), nullable=False),
    # If it is given, a worker with another model of that name must not do the work.
    Column("model_sha256", String(64)),
    Column("parameters", _json(), nullable=False),
    Column("pixel_size_um", Float),
    Column("created_at", UTCDateTime, nullable=False),
    UniqueConstraint("user_id", "idempotency_key"),
    Index("ix_segmentation_batches_project_id", "project_id"),
)

segmentation_tasks = Table(
    "segmentation_tasks",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("batch_id", ForeignKey("segmentation_batches.id"), nullable=False),
    Column("image_id", ForeignKey("images.id"), nullable=False),
    Column("state", StateName, nullable=False),
    Column("attempt", Integer, nullable=False),
    # The attempt with which the present set of tries began; see RETRIES below.
    Column("first_attempt", Integer, nullable=False),
    Column("lost_count", Integer, nullable=False, default=0),
    # The code and the error text of the last attempt that did not finish.
    Column("reason", String(50)),
    Column("error", Text),
    Column("worker", String(200)),
    # Grows by one with every change, so that a watcher can ask for the changes that it has not seen.
    Column("version", Integer, nullable=False, default=1),
    Column("created_at", UTCDateTime, nullable=False),
    Column("started_at", UTCDateTime),
    # Until when a worker that took the task from RabbitMQ may still report.
    Column("lease_until", UTCDateTime),
    Column("finished_at", UTCDateTime),
    # Added by revision 010 for people who read the table. The other columns contain the same.
    Column("message_queue_id", String(100)),
    Column("retry_count", Integer, nullable=False, server_default="0"),
    Column("processing_time_ms", Integer),
    CheckConstraint("state IN ({})".format(", ".join(f"'{state}'" for state in TaskState)), name="state"),
    # For counting a batch's tasks by state, and for the sum of their versions, which shows any change.
    Index("ix_segmentation_tasks_batch_id_state_version", "batch_id", "state", "version"),
    Index("ix_segmentation_tasks_finished_at", "finished_at"),
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
    # The message's place in the round-robin of the users; see database/queue.py.
    Column("turn", BigInteger, nullable=False),
    # True: anybody may claim it. False: delayed or claimed until visible_at.
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
    # A late or second result is kept, but never applied.
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

# The retries that the present set of tries has used.
RETRIES = segmentation_tasks.c.attempt - segmentation_tasks.c.first_attempt - segmentation_tasks.c.lost_count

# Revision 010.
segmentation_failures = Table(
    "segmentation_failures",
    metadata,
    Column("id", _bigint_key(), primary_key=True),
    # Null if the message was so broken that nobody can tell whose it was.
    Column("task_id", ForeignKey("segmentation_tasks.id")),
    Column("attempt", Integer),
    Column("cause", String(20), nullable=False),
    Column("reason", String(50), nullable=False),
    Column("error", Text, nullable=False),
    Column("worker", String(200)),
    Column("started_at", UTCDateTime),
    Column("failed_at", UTCDateTime, nullable=False),
    # Both null: there is no next attempt, the task failed for good.
    Column("next_attempt", Integer),
    Column("next_attempt_at", UTCDateTime),
    Column("superseded", Boolean, nullable=False, default=False),
    # When a person dealt with it. Then it is no dead letter any more, but stays on record.
    Column("settled_at", UTCDateTime),
    # The message itself, if it could not be read.
    Column("body", LargeBinary),
    Column("content_encoding", String(20)),
    Column("headers", _json()),
    Index("ix_segmentation_failures_task_id", "task_id"),
)

# The URLs that are called when a batch has finished, and the outcome of the calls.
webhooks = Table(
    "webhooks",
    metadata,
    Column("id", _bigint_key(), primary_key=True),
    Column("batch_id", ForeignKey("segmentation_batches.id"), nullable=False, unique=True),
    Column("url", Text, nullable=False),
    # waiting: for the end of the batch, or for the next call.
    Column("state", String(20), nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("next_attempt_at", UTCDateTime, nullable=False),
    Column("status", Integer),
    Column("error", Text),
    Column("delivered_at", UTCDateTime),
    CheckConstraint("state IN ('waiting', 'delivered', 'failed')", name="state"),
    Index(
        "ix_webhooks_waiting",
        "next_attempt_at",
        sqlite_where=text("state = 'waiting'"),
        postgresql_where=text("state = 'waiting'"),
    ),
)

audit_log = Table(
    "audit_log",
    metadata,
    Column("id", _bigint_key(), primary_key=True),
    Column("at", UTCDateTime, nullable=False),
    # A user's name, or that of the operating system's user at the command line.
    Column("actor", String(200), nullable=False),
    Column("action", String(50), nullable=False),
    Column("detail", _json(), nullable=False),
)

# The heartbeat of each process that has a database.
components = Table(
    "components",
    metadata,
    Column("name", String(200), primary_key=True),
    Column("kind", String(20), nullable=False),
    Column("state", String(20), nullable=False),
    Column("reason", Text),
    Column("since", UTCDateTime, nullable=False),
    Column("seen_at", UTCDateTime, nullable=False),
    Column("detail", _json(), nullable=False),
)

# What an administrator has switched, such as the relay. A switch without a row is on.
switches = Table(
    "switches",
    metadata,
    Column("name", String(50), primary_key=True),
    Column("is_on", Boolean, nullable=False),
    Column("changed_by", String(200), nullable=False),
    Column("changed_at", UTCDateTime, nullable=False),
)
