"""Projects, their members, and a user's own tokens, over HTTP."""

from collections.abc import AsyncIterator
from datetime import datetime
from uuid import uuid4

import httpx
import pytest

from .support.backend import Backend


@pytest.fixture
async def ben(backend: Backend) -> AsyncIterator[httpx.AsyncClient]:
    async with await backend.client("ben") as client:
        yield client


async def make_project(client: httpx.AsyncClient, name: str = "plate 1") -> str:
    answer = await client.post("/api/projects", json={"name": name})
    assert answer.status_code == 201, answer.text
    id_: str = answer.json()["id"]
    return id_


async def test_a_project_is_created_read_and_renamed(ada: httpx.AsyncClient) -> None:
    made = (await ada.post("/api/projects", json={"name": "  plate 1 "})).json()
    assert (made["name"], made["owner"], made["is_owner"]) == ("plate 1", "ada", True)
    assert datetime.fromisoformat(made["created_at"]).tzinfo is not None
    assert (await ada.get(f"/api/projects/{made['id']}")).json() == made
    renamed = await ada.patch(f"/api/projects/{made['id']}", json={"name": "plate 2"})
    assert renamed.json() == {**made, "name": "plate 2"}
    same = await ada.patch(f"/api/projects/{made['id']}", json={"name": "plate 2"})
    assert same.status_code == 200


async def test_an_owner_cannot_have_two_projects_of_one_name(ada: httpx.AsyncClient, ben: httpx.AsyncClient) -> None:
    await make_project(ada)
    other = await make_project(ada, "plate 2")
    await make_project(ben)
    for answer in (
        await ada.post("/api/projects", json={"name": "plate 1"}),
        await ada.patch(f"/api/projects/{other}", json={"name": "plate 1"}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
        assert "another name" in answer.json()["detail"]
    assert len((await ada.get("/api/projects")).json()["items"]) == 2


async def test_own_projects_are_listed_in_pages(ada: httpx.AsyncClient, ben: httpx.AsyncClient) -> None:
    await make_project(ben, "ben's")
    made = [await make_project(ada, f"plate {number}") for number in range(5)]
    seen, cursor = [], None
    while True:
        page = (await ada.get("/api/projects", params={"limit": 2, **({"cursor": cursor} if cursor else {})})).json()
        seen += [project["id"] for project in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
        assert len(page["items"]) == 2
    assert seen == made
    answer = await ada.get("/api/projects", params={"cursor": "nonsense"})
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_request")


async def test_projects_of_other_users_are_not_found(ada: httpx.AsyncClient, ben: httpx.AsyncClient) -> None:
    project = await make_project(ada)
    for id_ in (project, uuid4()):
        for answer in (
            await ben.get(f"/api/projects/{id_}"),
            await ben.patch(f"/api/projects/{id_}", json={"name": "mine"}),
            await ben.get(f"/api/projects/{id_}/members"),
            await ben.put(f"/api/projects/{id_}/members/ben"),
            await ben.delete(f"/api/projects/{id_}/members/ada"),
        ):
            assert answer.status_code == 404
            assert answer.json()["detail"] == "there is no such project"


async def test_members_see_a_project_until_they_are_removed(ada: httpx.AsyncClient, ben: httpx.AsyncClient) -> None:
    project = await make_project(ada)
    first = await ada.put(f"/api/projects/{project}/members/ben")
    assert (first.status_code, first.json()["name"], first.json()["is_owner"]) == (200, "ben", False)
    assert (await ada.put(f"/api/projects/{project}/members/ben")).json() == first.json()

    seen = (await ben.get("/api/projects")).json()["items"]
    assert [(row["id"], row["owner"], row["is_owner"]) for row in seen] == [(project, "ada", False)]
    members = (await ben.get(f"/api/projects/{project}/members")).json()["items"]
    assert [(row["name"], row["is_owner"]) for row in members] == [("ada", True), ("ben", False)]
    page = (await ben.get(f"/api/projects/{project}/members", params={"limit": 1})).json()
    rest = await ben.get(f"/api/projects/{project}/members", params={"cursor": page["next_cursor"]})
    assert page["items"] + rest.json()["items"] == members

    assert (await ada.delete(f"/api/projects/{project}/members/ben")).status_code == 204
    assert (await ben.get(f"/api/projects/{project}")).status_code == 404
    assert (await ada.delete(f"/api/projects/{project}/members/ben")).status_code == 404


async def test_a_member_may_only_leave(backend: Backend, ada: httpx.AsyncClient) -> None:
    project = await make_project(ada)
    async with await backend.client("ben") as ben, await backend.client("eve"):
        for name in ("ben", "eve"):
            await ada.put(f"/api/projects/{project}/members/{name}")
        for answer in (
            await ben.patch(f"/api/projects/{project}", json={"name": "mine"}),
            await ben.put(f"/api/projects/{project}/members/ben"),
            await ben.delete(f"/api/projects/{project}/members/eve"),
            await ben.delete(f"/api/projects/{project}/members/ada"),
        ):
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
        assert (await ben.delete(f"/api/projects/{project}/members/ben")).status_code == 204


async def test_the_owner_cannot_be_removed_and_only_users_can_be_added(ada: httpx.AsyncClient) -> None:
    project = await make_project(ada)
    answer = await ada.delete(f"/api/projects/{project}/members/ada")
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    answer = await ada.put(f"/api/projects/{project}/members/nobody")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert "nobody" in answer.json()["detail"]


@pytest.mark.parametrize("body", [{}, {"name": ""}, {"name": "   "}, {"name": "a\x00b"}, {"name": "x" * 1001}, []])
async def test_an_invalid_project_name_is_refused(ada: httpx.AsyncClient, body: object) -> None:
    answer = await ada.post("/api/projects", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_request")


@pytest.mark.parametrize("name", ["%00", "%ff", "%20", "x" * 300])
async def test_an_invalid_user_name_is_refused(ada: httpx.AsyncClient, name: str) -> None:
    project = await make_project(ada)
    assert (await ada.put(f"/api/projects/{project}/members/{name}")).status_code in (404, 422)


async def test_own_tokens_are_created_listed_and_revoked(backend: Backend, ada: httpx.AsyncClient) -> None:
    made = (await ada.post("/api/me/tokens", json={"name": "script", "days": 7})).json()
    lifetime = datetime.fromisoformat(made["expires_at"]) - datetime.fromisoformat(made["created_at"])
    assert lifetime.total_seconds() == pytest.approx(7 * 86_400, abs=1)
    header = {"Authorization": f"Bearer {made.pop('token')}"}
    assert (await backend.anonymous.get("/api/me", headers=header)).json()["name"] == "ada"

    listed = (await ada.get("/api/me/tokens")).json()["items"]
    assert [token["name"] for token in listed] == ["test", "script"]
    assert all("token" not in token for token in listed)
    page = (await ada.get("/api/me/tokens", params={"limit": 1})).json()
    rest = (await ada.get("/api/me/tokens", params={"cursor": page["next_cursor"]})).json()
    assert [token["name"] for token in page["items"] + rest["items"]] == ["test", "script"]

    assert (await ada.post("/api/me/tokens", json={"name": "script"})).status_code == 409
    assert (await ada.post("/api/me/tokens", json={"name": "x", "days": 0})).status_code == 422
    assert (await ada.delete(f"/api/me/tokens/{made['id']}")).status_code == 204
    assert (await backend.anonymous.get("/api/me", headers=header)).status_code == 401
    (_, script) = (await ada.get("/api/me/tokens")).json()["items"]
    assert script["revoked_at"] is not None


async def test_tokens_of_other_users_are_not_found(ada: httpx.AsyncClient, ben: httpx.AsyncClient) -> None:
    (token,) = (await ada.get("/api/me/tokens")).json()["items"]
    assert (await ben.delete(f"/api/me/tokens/{token['id']}")).status_code == 404
    assert (await ada.get("/api/me")).status_code == 200
