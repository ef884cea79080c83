"""Structured logs: one JSON object per event. Callers bind task_id, attempt and worker."""

import logging
import os
import sys
from contextlib import suppress
from typing import Any, TextIO, cast

import structlog


class TolerantStream:
    """A stream to which a write never fails, so that a full disk or a closed pipe does not stop the work."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except OSError:
            self._give_up()
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._give_up()

    def _give_up(self) -> None:
        # The buffered text would fail again when the process ends, and change its exit code.
        with suppress(OSError, ValueError):
            if not self._stream.seekable():
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


def log_to(stream: TextIO = sys.stderr, level: int = logging.INFO) -> None:
    """Write every event of this process to `stream`, one JSON object per line."""
    # These libraries log each lost connection with a traceback. RabbitBroker logs it in one line.
    for name in ("aiormq", "aio_pika"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=cast(TextIO, TolerantStream(stream))),
    )
