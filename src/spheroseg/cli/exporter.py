"""`spheroseg exporter`."""

from functools import partial

from spheroseg.logs import log_to
from spheroseg.settings import read_settings


def exporter() -> None:
    """Answer Prometheus over HTTP until stopped: /metrics, /health."""
    settings = read_settings()
    import uvicorn

    from spheroseg.api.exporter import create_exporter_app
    from spheroseg.exporter import open_exporter

    log_to()
    uvicorn.run(
        create_exporter_app(partial(open_exporter, settings)),
        host=settings.exporter_host,
        port=settings.exporter_port,
        log_level="warning",
    )
