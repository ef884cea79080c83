"""`spheroseg exporter`: metrics for Prometheus."""

from functools import partial

from spheroseg.cli.web import serve_http
from spheroseg.logs import log_to
from spheroseg.settings import read_settings


def exporter() -> None:
    """Serve metrics for Prometheus over HTTP until stopped: /metrics, /health."""
    settings = read_settings()
    from spheroseg.api.exporter import create_exporter_app
    from spheroseg.monitoring.exporter import open_exporter

    log_to()
    app = create_exporter_app(partial(open_exporter, settings))
    serve_http(app, settings.exporter_host, settings.exporter_port)
