"""`spheroseg exporter` with metrics that are at most 0.2 s old."""

from functools import partial

from spheroseg.api.exporter import create_exporter_app
from spheroseg.cli.web import serve_http
from spheroseg.logs import log_to
from spheroseg.monitoring.exporter import open_exporter
from spheroseg.settings import read_settings

if __name__ == "__main__":
    log_to()
    settings = read_settings()
    opening = partial(open_exporter, settings, database_max_age=0.2, rabbitmq_max_age=0.2)
    serve_http(create_exporter_app(opening), settings.exporter_host, settings.exporter_port)
