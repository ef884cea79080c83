"""The OpenAPI document and the backend: valid and invalid requests get documented answers, and no server error."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from .conftest import empty_database, eventually
from .support.ports import free_port
from .support.processes import Service

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


@pytest.fixture
async def backend(database_url: str, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Start a backend process. The client has the token of its administrator."""
    port = free_port()
    environment = {
        **os.environ,
        "DATABASE_URL": database_url,
        "SPHEROSEG_DATA_DIR": str(tmp_path),
        "BACKEND_PORT": str(port),
        "WORKER_CONCURRENCY": "1",
    }
    async with empty_database(database_url):
        process = Service("backend", ["spheroseg.cli", "serve"], environment, tmp_path / "log")
        process.start()
        try:
            await eventually(lambda: "answers at" in process.tail(), within=60)
            headers = {"Authorization": f"Bearer {(tmp_path / 'token').read_text().strip()}"}
            url = f"http://127.0.0.1:{port}"
            async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as client:
                yield client
        finally:
            process.kill()


async def test_schemathesis_finds_no_server_error_and_no_undocumented_answer(
    backend: httpx.AsyncClient, tmp_path: Path
) -> None:
    project = (await backend.post("/api/projects", json={"name": "plate"})).json()
    image = (ROOT / "examples" / "spheroids" / "image_08.png").read_bytes()
    await backend.post(f"/api/projects/{project['id']}/images", files=[("files", ("a.png", image))])
    batch = (await backend.post("/api/segmentation/batches", json={"project_id": project["id"]})).json()

    async def is_done() -> bool:
        answer = await backend.get(f"/api/segmentation/batches/{batch['id']}")
        return bool(answer.json()["state"] == "completed")

    await eventually(is_done, within=60)
    command = [
        *(str(Path(sys.executable).with_name("schemathesis")), "run", f"{backend.base_url}/api/openapi.json"),
        *("--header", f"Authorization: {backend.headers['authorization']}", "--checks", CHECKS),
        *("--max-examples", "10", "--seed", "1", "--request-timeout", "60"),
        # Schemathesis would revoke its own token.
        *("--exclude-path", "/api/me/tokens/{token_id}"),
    ]
    done = await asyncio.to_thread(subprocess.run, command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + (tmp_path / "log").read_text()[-2000:]
    log = [line for line in (tmp_path / "log").read_text().splitlines() if line.startswith("{")]
    assert not [line for line in log if json.loads(line)["event"] == "a request failed because of a bug"]
