"""Answering over HTTP until stopped."""

import signal
import sys
from typing import Any


def serve_http(app: Any, host: str, port: int) -> None:
    """Returns, or exits with 0, once it is stopped and every answer is given."""
    import uvicorn

    # uvicorn stops in good order, and then hands the signal on, which would end the process as if it had been killed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    uvicorn.run(app, host=host, port=port, log_level="warning")
