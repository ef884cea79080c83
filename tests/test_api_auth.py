"""Authentication, and errors as problem responses."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from spheroseg.api.serve import first_token
from spheroseg.database.accounts import create_token, list_tokens, list_users, revoke_token
from spheroseg.database.engine import reading

from .conftest import eventually
from .support.backend import Backend


async def test_a_token_identifies_its_user(backend: Backend) -> None:
    async with await backend.client("ada", tier="premium") as ada:
        answer = await ada.get("/api/me")
    assert answer.status_code == 200
    assert {key: answer.json()[key] for key in ("name", "tier", "role", "priority")} == {
        "name": "ada",
        "tier": "premium",
        "role": "member",
        "priority": 10,
    }


@pytest.mark.parametrize("header", [None, "Bearer spheroseg_wrong", "Basic YTpi"])
async def test_without_a_valid_token_the_problem_says_what_to_do(backend: Backend, header: str | None) -> None:
    answer = await backend.anonymous.get("/api/me", headers={"Authorization": header} if header else {})
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["code"] == "unauthenticated"
    assert "token" in answer.json()["detail"]


async def test_revoked_and_expired_tokens_are_refused(backend: Backend) -> None:
    token, ada = await backend.token("ada")
    async with backend.engine.begin() as conn:
        brief, _ = await create_token(conn, ada.id, "brief", timedelta(seconds=-1))
    for wrong in (brief,):
        answer = await backend.anonymous.get("/api/me", headers={"Authorization": f"Bearer {wrong}"})
        assert answer.status_code == 401
    headers = {"Authorization": f"Bearer {token}"}
    assert (await backend.anonymous.get("/api/me", headers=headers)).status_code == 200

    async def is_noted() -> bool:
        async with reading(backend.engine) as conn:
            return any(row.last_used_at for row in await list_tokens(conn, ada.id))

    await eventually(is_noted)
    async with backend.engine.begin() as conn:
        (used,) = [row for row in await list_tokens(conn, ada.id) if row.name == "test"]
        await revoke_token(conn, ada.id, used.id)
    assert (await backend.anonymous.get("/api/me", headers=headers)).status_code == 401


async def test_an_unknown_path_is_answered_with_a_problem(backend: Backend) -> None:
    answer = await backend.anonymous.get("/api/nothing")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_requests_are_measured_by_route_and_not_by_id(backend: Backend) -> None:
    async with await backend.client("ada") as ada:
        await ada.get("/api/me")
        await ada.get("/api/nothing/17")
    told = (await backend.anonymous.get("/metrics")).text
    assert 'spheroseg_http_request_seconds_count{method="GET",route="/me",status="200"} 1.0' in told
    assert 'route="unknown",status="404"' in told
    assert "spheroseg_live_clients 0.0" in told


@pytest.mark.parametrize("is_told", [True, False])
async def test_a_body_too_large_is_refused_before_it_is_read(backend: Backend, is_told: bool) -> None:
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(64):
            sent += 1
            yield b"x" * 1024**2

    headers = {"Content-Type": "application/json"} | ({"Content-Length": str(64 * 1024**2)} if is_told else {})
    answer = await backend.anonymous.post("/api/segmentation/batches", content=body(), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert sent <= 5


async def test_backends_that_start_together_create_one_first_user(backend: Backend) -> None:
    resources = backend.app.state.resources
    tokens = await asyncio.gather(*(first_token(resources) for _ in range(3)))
    made = [token for token in tokens if token]
    assert made
    assert len(set(made)) == 1
    async with reading(backend.engine) as conn:
        assert [row.name for row in await list_users(conn)] == ["admin"]
    assert await first_token(resources) == made[0], "from its file"
