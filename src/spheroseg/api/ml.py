"""The small HTTP face of the ML service: is the worker beside it alive, is it consuming, what has it done."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from spheroseg import __version__
from spheroseg.api.exposition import exposition
from spheroseg.segmentation.model import known_models
from spheroseg.worker.status import read_readiness


def create_ml_app(status_file: Path, model_dirs: Sequence[Path] = ()) -> FastAPI:
    """`status_file` is the one that the worker writes, see `worker/status.py`; `model_dirs` has its own models."""
    app = FastAPI(title="spheroseg ML service", version=__version__)

    @app.get("/health")
    def health() -> dict[str, str]:
        """Alive: this process answers."""
        return {"status": "ok"}

    @app.get("/ready")
    def ready(response: Response) -> dict[str, Any]:
        """Ready: the worker consumes. 503 with the reason where it does not."""
        found = read_readiness(status_file)
        response.status_code = 200 if found.ready else 503
        return {"ready": found.ready, "reason": found.reason, "worker": found.status}

    @app.get("/models")
    def models() -> list[dict[str, str]]:
        """The models that can be asked for."""
        return [
            {"name": model.name, "version": model.version, "sha256": model.sha256, "licence": model.licence}
            for model in known_models(model_dirs)
            if model.fault is None
        ]

    @app.get("/metrics")
    def metrics() -> Response:
        """For Prometheus."""
        return exposition(_figures(status_file))

    return app


def _figures(status_file: Path) -> Iterator[Metric]:
    found = read_readiness(status_file)
    yield GaugeMetricFamily("spheroseg_worker_ready", "1 while the worker consumes.", value=float(found.ready))
    if found.status is None or not found.is_fresh:
        return
    slots = GaugeMetricFamily("spheroseg_worker_slots", "Slots of the worker, by what they do.", labels=["state"])
    states = list(found.status["slots"].values())
    for state in ("starting", "idle", "busy", "away"):
        slots.add_metric([state], states.count(state))
    yield slots
    if states:
        yield GaugeMetricFamily(
            "spheroseg_worker_busy_ratio",
            "Share of the slots that work on a task, 0 to 1.",
            value=states.count("busy") / len(states),
        )
    tasks = CounterMetricFamily("spheroseg_worker_tasks", "Attempts that have ended here.", labels=["outcome"])
    for outcome, count in sorted(found.status["finished"].items()):
        tasks.add_metric([outcome], count)
    yield tasks
