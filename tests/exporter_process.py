"""`spheroseg exporter`, but that its figures are never older than a moment."""

from functools import partial

import uvicorn

from spheroseg.api.exporter import create_exporter_app
from spheroseg.exporter import open_exporter
from spheroseg.logs import log_to
from spheroseg.settings import read_settings

if __name__ == "__main__":
    log_to()
    settings = read_settings()
    opening = partial(open_exporter, settings, database_seconds=0.2, rabbitmq_seconds=0.2)
    uvicorn.run(create_exporter_app(opening), port=settings.exporter_port, log_level="warning")
