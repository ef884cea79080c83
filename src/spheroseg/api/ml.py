"""The HTTP interface of the ML service: readiness and metrics of the worker on this machine, and its models."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from spheroseg import __version__
from spheroseg.api.exposition import exposition
from spheroseg.segmentation.model import known_models
from spheroseg.worker.status import read_worker_readiness


def create_ml_app(status_file: Path, model_dirs: Sequence[Path] = ()) -> FastAPI:
    """Return the application.

    status_file: the file that the worker writes, see `worker/status.py`. model_dirs: folders with further models.
    """
    app = FastAPI(title="spheroseg ML service", version=__version__)

    @app.get("/health")
    def health() -> dict[str, str]:
        """Liveness probe: this process answers."""
        return {"status": "ok"}

    @app.get("/ready")
    def ready(response: Response) -> dict[str, Any]:
        """Readiness probe: the worker takes tasks. 503 with the reason if it does not."""
        readiness = read_worker_readiness(status_file)
        response.status_code = 200 if readiness.ready else 503
        return {"ready": readiness.ready, "reason": readiness.reason, "worker": readiness.status}

    @app.get("/models")
    def models() -> list[dict[str, str]]:
        """List the models that a batch can name."""
        return [
            {"name": model.name, "version": model.version, "sha256": model.sha256, "licence": model.licence}
            for model in known_models(model_dirs)
            if model.fault is None
        ]

    @app.get("/metrics")
    def metrics() -> Response:
        """Read the metrics in the format of Prometheus."""
        return exposition(_worker_metrics(status_file))

    return app


def _worker_metrics(status_file: Path) -> Iterator[Metric]:
    readiness = read_worker_readiness(status_file)
    yield GaugeMetricFamily("spheroseg_worker_ready", "1 while the worker takes tasks.", value=float(readiness.ready))
    if readiness.status is None or not readiness.is_fresh:
        return
    slots = GaugeMetricFamily("spheroseg_worker_slots", "Slots of the worker, by state.", labels=["state"])
    states = list(readiness.status["slots"].values())
    for state in ("starting", "idle", "busy", "away"):
        slots.add_metric([state], states.count(state))
    yield slots
    if states:
        yield GaugeMetricFamily(
            "spheroseg_worker_busy_ratio",
            "Share of the slots that work on a task, 0 to 1.",
            value=states.count("busy") / len(states),
        )
    tasks = CounterMetricFamily("spheroseg_worker_tasks", "Attempts that ended here, by outcome.", labels=["outcome"])
    for outcome, count in sorted(readiness.status["finished"].items()):
        tasks.add_metric([outcome], count)
    yield tasks
