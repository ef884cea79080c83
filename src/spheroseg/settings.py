"""Every setting, read once from the environment or a `.env` file; all mistakes are reported together."""

import os
import ssl
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from spheroseg.errors import BadSettings
from spheroseg.messages import QueueType
from spheroseg.tasks import RetryPolicy

# Between the deadline of an attempt and giving up its worker: time for killing, reporting, a reconnect.
SILENCE_MARGIN_SECONDS = 60.0

Seconds = Annotated[float, Field(gt=0, le=86_400)]


class Settings(BaseSettings):
    """Variables of the environment, in capitals. Each description gives the unit."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", frozen=True)

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
    relay_window: int = Field(64, ge=1, le=100_000, description="tasks that may wait at RabbitMQ; the rest wait here")
    broker_away_seconds: Annotated[float, Field(ge=0, le=86_400)] = Field(
        60.0, description="s; then what a silent RabbitMQ had is queued again"
    )
    worker_concurrency: int = Field(
        default_factory=lambda: len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1,
        ge=1,
        le=256,
        description="tasks that one worker does at the same time; by default the number of cores",
    )
    task_timeout_seconds: Seconds = Field(300.0, description="s; hard limit for one image")
    task_max_retries: int = Field(3, ge=0, le=100, description="retries after the first attempt")
    task_max_losses: int = Field(3, ge=0, le=100, description="times that a task may be lost with its worker")
    retry_backoff_seconds: Seconds = Field(5.0, description="s; longest wait before the first retry, then doubled")
    retry_backoff_max_seconds: Seconds = Field(300.0, description="s; longest wait before any retry")
    lease_seconds: Annotated[float, Field(ge=5, le=3600)] = Field(
        30.0, description="s; how long a task stays with a worker that has fallen silent"
    )
    shutdown_grace_seconds: Annotated[float, Field(ge=0, le=3600)] = Field(
        30.0, description="s; how long a stopping worker lets a running task go on"
    )
    worker_http_port: int = Field(8000, ge=1, le=65535, description="port of the ML service's HTTP face")
    model: str = Field("", description="name of the model; by default the recommended one")

    def ssl_context(self) -> ssl.SSLContext | None:
        """For amqps://, with the given certificate authority or the system's."""
        if not self.rabbitmq_url.startswith("amqps:"):
            return None
        return ssl.create_default_context(cafile=self.rabbitmq_ca_file)

    def worker_status_file(self) -> Path:
        """Where the worker tells the process beside it what it is doing."""
        return self.spheroseg_data_dir.expanduser() / "worker-status.json"

    def resolved_database_url(self) -> str:
        return self.database_url or f"sqlite:///{self.spheroseg_data_dir.expanduser() / 'spheroseg.db'}"

    def resolved_storage_url(self) -> str:
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
    """Raises BadSettings with every mistake in one message."""
    try:
        return Settings()
    except ValidationError as error:
        faults = "\n".join(
            f"  {str(fault['loc'][0]).upper()}={fault['input']!r}: {fault['msg']}" for fault in error.errors()
        )
        raise BadSettings(f"these settings cannot be used:\n{faults}") from error
