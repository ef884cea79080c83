"""One structured line per event; task_id, attempt and worker are bound by whoever knows them."""

import logging
import sys
from contextlib import suppress
from typing import TextIO, cast

import structlog


class _Tolerant:
    """A stream whose full disk does not stop the work that is being told of."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


def log_to(stream: TextIO = sys.stderr, level: int = logging.INFO) -> None:
    """Write every event of this process to `stream`, one JSON object a line."""
    # What the library tells of a lost connection, with a traceback each time, is told in words by RabbitBroker.
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
        logger_factory=structlog.WriteLoggerFactory(file=cast(TextIO, _Tolerant(stream))),
    )
