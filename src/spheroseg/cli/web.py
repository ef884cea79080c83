"""Run an HTTP server until stopped."""

import signal
import sys
from typing import Any


def serve_http(app: Any, host: str, port: int) -> None:
    """Serve `app`. Return, or exit with 0, after the server was stopped and has answered every open request."""
    import uvicorn

    # uvicorn shuts down and then raises the signal again, which would end the process as if it had been killed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    uvicorn.run(app, host=host, port=port, log_level="warning")
