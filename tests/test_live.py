"""The WebSocket: whatever happens, a client ends up with the current state."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncEngine
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from spheroseg.api import live
from spheroseg.database.accounts import add_user, create_token, list_tokens, revoke_token
from spheroseg.database.components import record_heartbeat
from spheroseg.database.projects import add_member
from spheroseg.database.schema import project_members, segmentation_batches
from spheroseg.queueing.outcomes import apply_reports
from spheroseg.queueing.submit import Submitted, cancel, retry
from spheroseg.resources import Resources
from spheroseg.settings import Settings
from spheroseg.tasks import RetryPolicy

from .conftest import eventually
from .support.lab import submit_images
from .support.watchers import listening, watching
from .test_collect import completed, failed


def resources_of(engine: AsyncEngine, folder: Path, **changes: object) -> Resources:
    settings = Settings(_env_file=None, spheroseg_data_dir=folder, **changes)  # type: ignore[arg-type]
    return Resources(settings, engine, None, None)


@pytest.fixture
async def address(engine: AsyncEngine, tmp_path: Path) -> AsyncIterator[str]:
    async with listening(resources_of(engine, tmp_path)) as opened:
        yield opened


async def token_of(engine: AsyncEngine, name: str, project_id: UUID | None = None) -> str:
    async with engine.begin() as conn:
        user = await add_user(conn, name)
        if project_id:
            await add_member(conn, project_id, user.id)
        token, _ = await create_token(conn, user.id, "test")
    return token


async def project_of(engine: AsyncEngine, batch: Submitted) -> UUID:
    b = segmentation_batches
    async with engine.connect() as conn:
        found: UUID = (await conn.execute(select(b.c.project_id).where(b.c.id == batch.batch_id))).scalar_one()
    return found


async def test_a_client_gets_the_state_and_then_what_changes(engine: AsyncEngine, address: str) -> None:
    batch = await submit_images(engine, 3)
    project_id = await project_of(engine, batch)
    token = await token_of(engine, "eve", project_id)
    key = str(batch.batch_id)
    async with watching(address, token, project_id=str(project_id)) as watcher:
        await eventually(lambda: watcher.knows(key))
        assert {task["state"] for task in watcher.tasks.values()} == {"queued"}
        assert watcher.health["status"] == "degraded", "no collect runs here"
        async with engine.begin() as conn:
            await apply_reports(conn, [completed(batch.task_ids[0])], RetryPolicy())
            await apply_reports(conn, [failed(batch.task_ids[1], retryable=False)], RetryPolicy())
            await cancel(conn, batch.task_ids[2:])
        await eventually(lambda: watcher.batches[key]["is_finished"] and watcher.knows(key))
        assert [watcher.tasks[str(id_)]["state"] for id_ in batch.task_ids] == ["completed", "failed", "cancelled"]
        assert watcher.tasks[str(batch.task_ids[1])]["error"]
        later = await submit_images(engine, 2)
        await eventually(lambda: watcher.knows(str(later.batch_id)))
        async with engine.begin() as conn:
            await retry(conn, batch.task_ids)
        await eventually(lambda: watcher.batches[key]["counts"]["queued"] == 1, what="a finished batch changes again")


async def test_500_changes_at_once_arrive_as_the_final_state_of_500_tasks(engine: AsyncEngine, address: str) -> None:
    batch = await submit_images(engine, 500)
    token = await token_of(engine, "eve", await project_of(engine, batch))
    key = str(batch.batch_id)
    async with watching(address, token, batch_id=key) as watcher:
        await eventually(lambda: watcher.knows(key))
        async with engine.begin() as conn:
            await apply_reports(conn, [completed(task_id) for task_id in batch.task_ids], RetryPolicy())
        await eventually(lambda: watcher.batches[key]["counts"]["completed"] == 500)
        assert watcher.knows(key)
        assert {task["state"] for task in watcher.tasks.values()} == {"completed"}
        assert len(watcher.tasks) == 500


async def test_after_a_reconnect_to_another_replica_the_state_is_current(
    engine: AsyncEngine, address: str, tmp_path: Path
) -> None:
    batch = await submit_images(engine, 20)
    token = await token_of(engine, "eve", await project_of(engine, batch))
    key = str(batch.batch_id)
    async with watching(address, token, batch_id=key) as watcher:
        await eventually(lambda: watcher.knows(key))
    async with engine.begin() as conn:
        await apply_reports(conn, [completed(task_id) for task_id in batch.task_ids[:10]], RetryPolicy())
    async with (
        listening(resources_of(engine, tmp_path)) as other,
        watching(other, token, batch_id=key) as again,
        watching(address, token, batch_id=key) as beside,
    ):
        for watcher in (again, beside):
            await eventually(lambda watcher=watcher: watcher.knows(key))
            assert watcher.batches[key]["counts"]["completed"] == 10


async def test_a_slow_client_is_sent_only_the_last_state(engine: AsyncEngine, address: str) -> None:
    batch = await submit_images(engine, 300)
    token = await token_of(engine, "eve", await project_of(engine, batch))
    key = str(batch.batch_id)
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        connect(f"ws://{address}/api/live", additional_headers=headers, max_size=None, max_queue=1) as slow,
        watching(address, token, batch_id=key) as quick,
    ):
        await slow.send(json.dumps({"watch": {"batch_id": key}}))
        await eventually(lambda: quick.knows(key))
        for some in (batch.task_ids[:100], batch.task_ids[100:200], batch.task_ids[200:]):
            async with engine.begin() as conn:
                await apply_reports(conn, [completed(task_id) for task_id in some], RetryPolicy())
        await eventually(lambda: quick.batches[key]["counts"]["completed"] == 300)
        late = type(quick)(slow)
        async with asyncio.timeout(20):
            while not (late.knows(key) and late.batches[key]["is_finished"]):
                late.apply(json.loads(await slow.recv()))
        assert {task["state"] for task in late.tasks.values()} == {"completed"}


async def test_the_queue_position_changes_without_any_change_of_the_batch(engine: AsyncEngine, address: str) -> None:
    before = await submit_images(engine, 3, user="other")
    batch = await submit_images(engine, 2, user="me")
    token = await token_of(engine, "eve", await project_of(engine, batch))
    key = str(batch.batch_id)
    async with watching(address, token, batch_id=key) as watcher:
        await eventually(lambda: watcher.batches.get(key, {}).get("ahead") == 1, what="users take turns")
        async with engine.begin() as conn:
            await cancel(conn, before.task_ids)
        await eventually(lambda: watcher.batches[key]["ahead"] == 0)
        async with engine.begin() as conn:
            await cancel(conn, batch.task_ids)
        await eventually(lambda: watcher.batches[key]["ahead"] is None and watcher.batches[key]["is_finished"])


async def test_batches_and_projects_of_others_are_not_found(engine: AsyncEngine, address: str) -> None:
    batch = await submit_images(engine, 1)
    token = await token_of(engine, "mallory")
    async with watching(address, token, batch_id=str(batch.batch_id)) as watcher:
        await eventually(lambda: len(watcher.errors) == 1)
        await watcher.socket.send(json.dumps({"watch": {"project_id": str(await project_of(engine, batch))}}))
        await watcher.socket.send("[[[")
        await watcher.socket.send(json.dumps({"watch": {"batch_id": "x"}}))
        await eventually(lambda: len(watcher.errors) == 4)
        codes = [error["code"] for error in watcher.errors]
        assert codes == ["not_found", "not_found", "bad_request", "bad_request"]
        assert not watcher.tasks


async def test_a_token_may_come_as_the_first_message_and_must_be_valid(engine: AsyncEngine, address: str) -> None:
    token = await token_of(engine, "eve")
    async with connect(f"ws://{address}/api/live") as socket:
        await socket.send(json.dumps({"token": token}))
        assert json.loads(await socket.recv())["type"] == "health"
    for wrong in (json.dumps({"token": "x"}), "no JSON"):
        async with connect(f"ws://{address}/api/live") as socket:
            await socket.send(wrong)
            assert json.loads(await socket.recv())["code"] == "unauthenticated"
            with pytest.raises(ConnectionClosed) as closed:
                await socket.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == live.UNAUTHENTICATED


async def test_a_client_that_loses_its_rights_receives_nothing_more(
    engine: AsyncEngine, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "RIGHTS_CHECK_SECONDS", 0.1)
    batch = await submit_images(engine, 2)
    token = await token_of(engine, "eve", await project_of(engine, batch))
    key = str(batch.batch_id)
    async with watching(address, token, batch_id=key) as watcher:
        await eventually(lambda: watcher.knows(key))
        async with engine.begin() as conn:
            await conn.execute(delete(project_members))
        await asyncio.sleep(0.5)
        async with engine.begin() as conn:
            await cancel(conn, batch.task_ids)
        await asyncio.sleep(1.0)
        assert watcher.batches[key]["counts"]["cancelled"] == 0
        async with engine.begin() as conn:
            (row,) = await list_tokens(conn)
            await revoke_token(conn, row.user_id, row.id)
        await eventually(lambda: bool(watcher.errors))
        assert watcher.errors[0]["code"] == "unauthenticated"


async def test_a_degraded_site_is_reported_with_its_reason(engine: AsyncEngine, tmp_path: Path) -> None:
    token = await token_of(engine, "eve")

    async def report_relay(state: str, reason: str | None) -> None:
        async with engine.begin() as conn:
            for kind in ("collect", "relay"):
                await record_heartbeat(conn, kind, kind, state if kind == "relay" else "ok", reason, {})

    await report_relay("ok", None)
    async with (
        listening(resources_of(engine, tmp_path, enable_message_queue=True)) as address,
        watching(address, token) as watcher,
    ):
        await eventually(lambda: watcher.health.get("status") == "ok")
        await report_relay("away", "connection refused")
        await eventually(lambda: watcher.health["status"] == "degraded")
        assert "database queue: connection refused" in watcher.health["reason"]
        assert watcher.health["since"]
        await report_relay("ok", None)
        await eventually(lambda: watcher.health["status"] == "ok")


async def test_a_batch_watched_by_its_id_stays_watched_after_its_project_is_unwatched(
    engine: AsyncEngine, address: str
) -> None:
    batch = await submit_images(engine, 1)
    project_id = await project_of(engine, batch)
    token = await token_of(engine, "eve", project_id)
    key = str(batch.batch_id)
    async with watching(address, token, batch_id=key, project_id=str(project_id)) as watcher:
        await eventually(lambda: watcher.knows(key))
        await watcher.socket.send(json.dumps({"unwatch": {"project_id": str(project_id)}}))
        await watcher.socket.send(json.dumps({"watch": {"batch_id": "none"}}))
        await eventually(lambda: bool(watcher.errors), what="both messages were handled")
        async with engine.begin() as conn:
            await cancel(conn, batch.task_ids)
        await eventually(lambda: watcher.batches[key]["is_finished"])
