"""Every setting, read once from the environment, a `.env` file, or a folder of secret files.

A secret file has the name of its variable in lower case, such as `/run/secrets/secret_key`. All mistakes are reported
together.
"""

import os
import ssl
from enum import StrEnum
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from spheroseg.errors import BadSettings
from spheroseg.messages import QueueType
from spheroseg.tasks import RetryPolicy

# How long after the deadline of an attempt its worker counts as lost: time to kill the child, reconnect and report.
SILENCE_MARGIN_SECONDS = 60.0

DEVELOPMENT_SECRET = "development"  # noqa: S105 (refused in production)
MIN_SECRET_LENGTH = 32
WEAK_PASSWORDS = frozenset({"", "spheroseg_secret", "spheroseg", "guest", "postgres", "password", "secret"})
SECRETS_DIR = "/run/secrets"

Seconds = Annotated[float, Field(gt=0, le=86_400)]


class Environment(StrEnum):
    DEVELOPMENT = "development"
    PRODUCTION = "production"


class Settings(BaseSettings):
    """The settings. The name of each variable is that of its field in capitals; its description gives the unit."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", frozen=True)

    spheroseg_env: Environment = Field(Environment.DEVELOPMENT, description="development, or production")
    secret_key: str = Field(
        DEVELOPMENT_SECRET, description="signs webhooks; in production 32 random characters or more", repr=False
    )
    spheroseg_data_dir: Path = Field(
        Path("~/.local/share/spheroseg"), description="folder of the embedded database and the results"
    )
    database_url: str = Field(
        "", description="sqlite:///FILE or postgresql://…; by default SQLite in the data folder"
    )
    storage_url: str = Field("", description="folder or fsspec URL for results; by default in the data folder")
    enable_message_queue: bool = Field(False, description="true: tasks go through RabbitMQ while it answers")
    rabbitmq_url: str = Field(
        "amqp://spheroseg:spheroseg_secret@localhost:5672/spheroseg", description="amqp:// or amqps://"
    )
    rabbitmq_management_url: str = Field("", description="http://USER:PASSWORD@HOST:15672, for counts and policies")
    rabbitmq_queue_type: QueueType = Field(QueueType.CLASSIC, description="classic, or quorum on RabbitMQ 4")
    rabbitmq_ca_file: Path | None = Field(None, description="certificate authority for amqps://, a PEM file")
    relay_window: int = Field(
        64, ge=1, le=100_000, description="tasks that may wait at RabbitMQ; the others wait in the database"
    )
    broker_away_seconds: Annotated[float, Field(ge=0, le=86_400)] = Field(
        60.0, description="s without an answer from RabbitMQ, after which its tasks are queued again"
    )
    worker_concurrency: int = Field(
        default_factory=lambda: len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1,
        ge=1,
        le=256,
        description="tasks that one worker does at the same time; by default the number of cores",
    )
    worker_batch_size: int = Field(
        1, ge=1, le=64, description="tasks of one model that are done together as one inference; 1: each alone"
    )
    task_timeout_seconds: Seconds = Field(
        300.0, description="s; hard limit for one image, or for a batch that is done together"
    )
    task_max_retries: int = Field(3, ge=0, le=100, description="retries after the first attempt")
    task_max_losses: int = Field(3, ge=0, le=100, description="times that a task may be lost with its worker")
    retry_backoff_seconds: Seconds = Field(5.0, description="s; longest wait before the first retry, then doubled")
    retry_backoff_max_seconds: Seconds = Field(300.0, description="s; longest wait before any retry")
    lease_seconds: Annotated[float, Field(ge=5, le=3600)] = Field(
        30.0, description="s; how long a task stays with a worker that has fallen silent"
    )
    shutdown_grace_seconds: Annotated[float, Field(ge=0, le=3600)] = Field(
        30.0, description="s; how long a stopping worker waits for its running tasks"
    )
    worker_http_port: int = Field(8000, ge=1, le=65535, description="port of the ML service's HTTP endpoints")
    model: str = Field("", description="name of the model; by default the recommended one")
    model_dirs: str = Field("", description=f"folders with models of your own, with {os.pathsep!r} between them")
    backend_host: str = Field("127.0.0.1", description="address on which the backend listens")
    backend_port: int = Field(8080, ge=1, le=65535, description="port of the backend")
    max_upload_mb: int = Field(128, ge=1, le=4096, description="MB; largest image that may be uploaded")
    serve_collect: bool = Field(True, description="true: `spheroseg serve` runs collect too")
    serve_relay: bool = Field(
        True, description="true: `spheroseg serve` runs the relay too, if the message queue is enabled"
    )
    serve_workers: bool | None = Field(
        None, description="true: `spheroseg serve` works on tasks too; by default if the message queue is not enabled"
    )
    webhook_allow_private: bool | None = Field(
        None, description="true: webhooks may go to private addresses; by default in development only"
    )
    exporter_host: str = Field("127.0.0.1", description="address on which the exporter listens")
    exporter_port: int = Field(9419, ge=1, le=65535, description="port of the exporter")

    @property
    def in_production(self) -> bool:
        return self.spheroseg_env == Environment.PRODUCTION

    @property
    def works_on_tasks(self) -> bool:
        """Whether `spheroseg serve` works on tasks itself."""
        return not self.enable_message_queue if self.serve_workers is None else self.serve_workers

    @property
    def allows_private_webhooks(self) -> bool:
        return not self.in_production if self.webhook_allow_private is None else self.webhook_allow_private

    def refuse_weak_secrets(self) -> None:
        """Raise BadSettings with every weak or default secret, unless in development."""
        if not self.in_production:
            return
        weak = []
        if self.secret_key == DEVELOPMENT_SECRET or len(self.secret_key) < MIN_SECRET_LENGTH:
            weak.append(
                f"SECRET_KEY is the default or shorter than {MIN_SECRET_LENGTH} characters: "
                "make one with `openssl rand -hex 32`"
            )
        for name, url in (
            ("RABBITMQ_URL", self.rabbitmq_url if self.enable_message_queue else ""),
            ("RABBITMQ_MANAGEMENT_URL", self.rabbitmq_management_url),
            ("DATABASE_URL", self.database_url if self.database_url.startswith("postgres") else ""),
        ):
            if url and (urlsplit(url).password or "") in WEAK_PASSWORDS:
                weak.append(f"{name} has no password, or one that everybody knows: give that user its own")
        if weak:
            faults = "\n".join(f"  {fault}" for fault in weak)
            raise BadSettings(f"SPHEROSEG_ENV=production refuses weak secrets:\n{faults}")

    def ssl_context(self) -> ssl.SSLContext | None:
        """Return the TLS context for amqps://, with the given certificate authority or the system's, or None for amqp://."""
        if not self.rabbitmq_url.startswith("amqps:"):
            return None
        return ssl.create_default_context(cafile=self.rabbitmq_ca_file)

    @property
    def model_folders(self) -> tuple[Path, ...]:
        """The folders of MODEL_DIRS. Each folder inside one of them is a model."""
        return tuple(Path(part).expanduser() for part in self.model_dirs.split(os.pathsep) if part)

    def worker_status_file(self) -> Path:
        """Return the file into which the worker writes its status for the ML service."""
        return self.spheroseg_data_dir.expanduser() / "worker-status.json"

    def resolved_database_url(self) -> str:
        """Return DATABASE_URL, or the URL of the embedded database in the data folder."""
        return self.database_url or f"sqlite:///{self.spheroseg_data_dir.expanduser() / 'spheroseg.db'}"

    def resolved_storage_url(self) -> str:
        """Return STORAGE_URL, or the storage folder in the data folder."""
        return self.storage_url or str(self.spheroseg_data_dir.expanduser() / "storage")

    @property
    def retry_policy(self) -> RetryPolicy:
        return RetryPolicy(
            max_retries=self.task_max_retries,
            max_losses=self.task_max_losses,
            backoff=self.retry_backoff_seconds,
            backoff_max=self.retry_backoff_max_seconds,
            silence=self.task_timeout_seconds + SILENCE_MARGIN_SECONDS,
        )


def read_settings() -> Settings:
    """Read the settings. Raises BadSettings with every mistake in one text."""
    try:
        secrets = Path(os.environ.get("SPHEROSEG_SECRETS_DIR", SECRETS_DIR))
        return Settings(_secrets_dir=secrets if secrets.is_dir() else None)
    except ValidationError as error:
        faults = "\n".join(
            f"  {str(fault['loc'][0]).upper()}={fault['input']!r}: {fault['msg']}" for fault in error.errors()
        )
        raise BadSettings(f"these settings cannot be used:\n{faults}") from error
