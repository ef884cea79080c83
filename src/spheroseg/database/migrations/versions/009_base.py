"""All tables except what only the message queue needs.

Revision ID: 009
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "009"
down_revision = None

MOMENT = sa.DateTime(timezone=True)
DOCUMENT = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "audit_log",
        sa.Column("id", KEY, nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("actor", sa.String(length=200), nullable=False),
        sa.Column("action", sa.String(length=50), nullable=False),
        sa.Column("detail", DOCUMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_log")),
    )
    op.create_table(
        "components",
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("since", MOMENT, nullable=False),
        sa.Column("seen_at", MOMENT, nullable=False),
        sa.Column("detail", DOCUMENT, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_components")),
    )
    op.create_table(
        "segmentation_queue",
        sa.Column("id", KEY, nullable=False),
        sa.Column("queue", sa.String(length=50), nullable=False),
        sa.Column("message_id", sa.String(length=100), nullable=False),
        sa.Column("routing_key", sa.String(length=50), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("content_encoding", sa.String(length=20), nullable=True),
        sa.Column("headers", DOCUMENT, nullable=False),
        sa.Column("task_id", sa.Uuid(), nullable=True),
        sa.Column("user_id", sa.Uuid(), nullable=True),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("turn", sa.BigInteger(), nullable=False),
        sa.Column("ready", sa.Boolean(), nullable=False),
        sa.Column("visible_at", MOMENT, nullable=False),
        sa.Column("deliveries", sa.Integer(), nullable=False),
        sa.Column("holder", sa.String(length=100), nullable=True),
        sa.Column("enqueued_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_segmentation_queue")),
    )
    op.create_index(
        "ix_segmentation_queue_due",
        "segmentation_queue",
        ["visible_at"],
        unique=False,
        sqlite_where=sa.text("ready = 0"),
        postgresql_where=sa.text("NOT ready"),
    )
    op.create_index(
        "ix_segmentation_queue_next",
        "segmentation_queue",
        ["queue", sa.literal_column("priority DESC"), "turn", "id"],
        unique=False,
        sqlite_where=sa.text("ready = 1"),
        postgresql_where=sa.text("ready"),
    )
    op.create_index("ix_segmentation_queue_task_id", "segmentation_queue", ["task_id"], unique=False)
    op.create_index(
        "ix_segmentation_queue_user",
        "segmentation_queue",
        ["user_id", "priority", "turn"],
        unique=False,
        sqlite_where=sa.text("user_id IS NOT NULL"),
        postgresql_where=sa.text("user_id IS NOT NULL"),
    )
    op.create_table(
        "switches",
        sa.Column("name", sa.String(length=50), nullable=False),
        sa.Column("is_on", sa.Boolean(), nullable=False),
        sa.Column("changed_by", sa.String(length=200), nullable=False),
        sa.Column("changed_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_switches")),
    )
    op.create_table(
        "users",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("tier", sa.String(length=20), nullable=False),
        sa.Column("role", sa.String(length=20), server_default="member", nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.CheckConstraint("role IN ('member', 'admin')", name=op.f("ck_users_role")),
        sa.CheckConstraint("tier IN ('regular', 'premium')", name=op.f("ck_users_tier")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("name", name=op.f("uq_users_name")),
    )
    op.create_table(
        "api_tokens",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("token_sha256", sa.String(length=64), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("expires_at", MOMENT, nullable=True),
        sa.Column("revoked_at", MOMENT, nullable=True),
        sa.Column("last_used_at", MOMENT, nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_api_tokens_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_tokens")),
        sa.UniqueConstraint("token_sha256", name=op.f("uq_api_tokens_token_sha256")),
        sa.UniqueConstraint("user_id", "name", name=op.f("uq_api_tokens_user_id_name")),
    )
    op.create_table(
        "projects",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=1000), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"], name=op.f("fk_projects_owner_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_projects")),
        sa.UniqueConstraint("owner_id", "name", name=op.f("uq_projects_owner_id_name")),
    )
    op.create_table(
        "images",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("page", sa.Integer(), nullable=False),
        sa.Column("storage_key", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_images_project_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_images")),
        sa.UniqueConstraint(
            "project_id",
            "name",
            "page",
            "sha256",
            "storage_key",
            name=op.f("uq_images_project_id_name_page_sha256_storage_key"),
        ),
    )
    op.create_index("ix_images_project_id_sha256", "images", ["project_id", "sha256"], unique=False)
    op.create_table(
        "project_members",
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("added_at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_project_members_project_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_project_members_user_id")),
        sa.PrimaryKeyConstraint("project_id", "user_id", name=op.f("pk_project_members")),
    )
    op.create_index("ix_project_members_user_id", "project_members", ["user_id"], unique=False)
    op.create_table(
        "segmentation_batches",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("idempotency_key", sa.String(length=200), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("model_sha256", sa.String(length=64), nullable=True),
        sa.Column("parameters", DOCUMENT, nullable=False),
        sa.Column("pixel_size_um", sa.Float(), nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_segmentation_batches_project_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_segmentation_batches_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_segmentation_batches")),
        sa.UniqueConstraint(
            "user_id", "idempotency_key", name=op.f("uq_segmentation_batches_user_id_idempotency_key")
        ),
    )
    op.create_index("ix_segmentation_batches_project_id", "segmentation_batches", ["project_id"], unique=False)
    op.create_table(
        "segmentation_tasks",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("batch_id", sa.Uuid(), nullable=False),
        sa.Column("image_id", sa.Uuid(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("first_attempt", sa.Integer(), nullable=False),
        sa.Column("lost_count", sa.Integer(), nullable=False),
        sa.Column("reason", sa.String(length=50), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("worker", sa.String(length=200), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("started_at", MOMENT, nullable=True),
        sa.Column("lease_until", MOMENT, nullable=True),
        sa.Column("finished_at", MOMENT, nullable=True),
        sa.CheckConstraint(
            "state IN ('queued', 'processing', 'completed', 'failed', 'cancelled')",
            name=op.f("ck_segmentation_tasks_state"),
        ),
        sa.ForeignKeyConstraint(
            ["batch_id"], ["segmentation_batches.id"], name=op.f("fk_segmentation_tasks_batch_id")
        ),
        sa.ForeignKeyConstraint(["image_id"], ["images.id"], name=op.f("fk_segmentation_tasks_image_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_segmentation_tasks")),
    )
    op.create_index(
        "ix_segmentation_tasks_batch_id_state_version",
        "segmentation_tasks",
        ["batch_id", "state", "version"],
        unique=False,
    )
    op.create_index("ix_segmentation_tasks_finished_at", "segmentation_tasks", ["finished_at"], unique=False)
    op.create_index("ix_segmentation_tasks_image_id", "segmentation_tasks", ["image_id"], unique=False)
    op.create_index(
        "ix_segmentation_tasks_unfinished",
        "segmentation_tasks",
        ["id"],
        unique=False,
        sqlite_where=sa.text("state IN ('queued', 'processing')"),
        postgresql_where=sa.text("state IN ('queued', 'processing')"),
    )
    op.create_table(
        "webhooks",
        sa.Column("id", KEY, nullable=False),
        sa.Column("batch_id", sa.Uuid(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("next_attempt_at", MOMENT, nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("delivered_at", MOMENT, nullable=True),
        sa.CheckConstraint("state IN ('waiting', 'delivered', 'failed')", name=op.f("ck_webhooks_state")),
        sa.ForeignKeyConstraint(["batch_id"], ["segmentation_batches.id"], name=op.f("fk_webhooks_batch_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhooks")),
        sa.UniqueConstraint("batch_id", name=op.f("uq_webhooks_batch_id")),
    )
    op.create_index(
        "ix_webhooks_waiting",
        "webhooks",
        ["next_attempt_at"],
        unique=False,
        sqlite_where=sa.text("state = 'waiting'"),
        postgresql_where=sa.text("state = 'waiting'"),
    )
    op.create_table(
        "segmentation_results",
        sa.Column("id", KEY, nullable=False),
        sa.Column("task_id", sa.Uuid(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("superseded", sa.Boolean(), nullable=False),
        sa.Column("worker", sa.String(length=200), nullable=False),
        sa.Column("result", DOCUMENT, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["task_id"], ["segmentation_tasks.id"], name=op.f("fk_segmentation_results_task_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_segmentation_results")),
    )
    op.create_index("ix_segmentation_results_task_id", "segmentation_results", ["task_id"], unique=False)
    op.create_index(
        "uq_segmentation_results_task_id",
        "segmentation_results",
        ["task_id"],
        unique=True,
        sqlite_where=sa.text("superseded = 0"),
        postgresql_where=sa.text("NOT superseded"),
    )


def downgrade() -> None:
    for table in (
        "segmentation_results",
        "webhooks",
        "segmentation_tasks",
        "segmentation_batches",
        "project_members",
        "images",
        "projects",
        "api_tokens",
        "users",
        "switches",
        "segmentation_queue",
        "components",
        "audit_log",
    ):
        op.drop_table(table)
