"""The ML service as its container starts it: the consumer and the HTTP server beside it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from spheroseg.database.projects import NewImage
from spheroseg.run.inputs import find_inputs
from spheroseg.segmentation.model import DEFAULT_MODEL, load_model

from .conftest import empty_database, eventually
from .support.lab import submit_images
from .support.ports import free_port

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "spheroids" / "image_08.png"


@contextmanager
def started(script: str, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, script], cwd=ROOT / "ml", env={**os.environ, **env}, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def test_the_consumer_works_and_the_http_server_reports_its_status(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'test.db'}"
    port = free_port()
    env = {
        "DATABASE_URL": url,
        "SPHEROSEG_DATA_DIR": str(tmp_path),
        "WORKER_HTTP_PORT": str(port),
        "WORKER_CONCURRENCY": "1",
    }
    (item,) = find_inputs([EXAMPLE]).inputs
    images = [NewImage(item.name, item.storage_key, item.sha256)]
    async with (
        empty_database(url) as engine,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=5) as client,
    ):

        async def answers(path: str, status: int, words: str) -> bool:
            try:
                answer = await client.get(path)
            except httpx.TransportError:
                return False
            return answer.status_code == status and words in answer.text

        with started("app.py", env):
            await eventually(lambda: answers("/health", 200, "ok"), within=30)
            assert await answers("/ready", 503, "no worker has started here")
            hashes = {model["name"]: model["sha256"] for model in (await client.get("/models")).json()}
            assert hashes[DEFAULT_MODEL] == load_model(DEFAULT_MODEL).sha256
            with started("message_queue_consumer.py", env) as consumer:
                await eventually(lambda: answers("/ready", 200, "consuming"), within=30)
                await submit_images(engine, images, model=DEFAULT_MODEL)
                done = 'spheroseg_worker_tasks_total{outcome="completed"} 1.0'
                await eventually(lambda: answers("/metrics", 200, done), within=30)
                assert await answers("/metrics", 200, "spheroseg_worker_ready 1.0")
                consumer.kill()
                consumer.wait()
                await eventually(lambda: answers("/ready", 503, "silent"), within=30)


@pytest.mark.parametrize("script", ["message_queue_consumer.py", "app.py"])
def test_a_wrong_setting_is_a_clear_error(script: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, script],
        cwd=ROOT / "ml",
        env={**os.environ, "WORKER_CONCURRENCY": "many", "SPHEROSEG_DATA_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "WORKER_CONCURRENCY='many'" in done.stderr
    assert "Traceback" not in done.stderr
