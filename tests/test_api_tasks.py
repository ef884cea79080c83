"""A task over HTTP: its history, cancel, retry, its files; on both databases, and at revision 009."""

from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from spheroseg.api.files import content_disposition
from spheroseg.database import migrate, revisions
from spheroseg.database.revision_010 import set_revision_010
from spheroseg.storage import ImageStore

from .support.backend import Backend
from .support.lab import submit_images
from .support.plates import a_result, add_images, add_project, completed, failed, report, started

URL = "/api/segmentation/tasks"
SHA = "a" * 64


async def one_task(backend: Backend) -> UUID:
    return (await submit_images(backend.engine, 1)).task_ids[0]


async def test_a_task_is_read_with_its_history(backend: Backend, ada: httpx.AsyncClient) -> None:
    task_id = await one_task(backend)
    story = (await ada.get(f"{URL}/{task_id}")).json()
    assert (story["id"], story["state"], story["attempt"], story["ahead"]) == (str(task_id), "queued", 1, 0)
    assert (story["failures"], story["has_history"], story["expected_seconds"]) == ([], True, None)
    await report(backend.engine, started(task_id, "w/1"))
    story = (await ada.get(f"{URL}/{task_id}")).json()
    assert (story["state"], story["worker"], story["ahead"]) == ("processing", "w/1", None)
    await report(backend.engine, failed(task_id, "timeout", "w/1", retryable=True))
    story = (await ada.get(f"{URL}/{task_id}")).json()
    assert (story["state"], story["attempt"], story["retries"], story["losses"]) == ("queued", 2, 1, 0)
    assert story["ahead"] is None, "it is delayed"
    (failure,) = story["failures"]
    assert (failure["attempt"], failure["cause"], failure["reason"], failure["next_attempt"]) == (
        1,
        "failed",
        "timeout",
        2,
    )
    assert failure["next_attempt_at"] is not None
    await report(backend.engine, failed(task_id, "bad_image", attempt=2))
    story = (await ada.get(f"{URL}/{task_id}")).json()
    assert (story["state"], story["reason"], story["error"]) == ("failed", "bad_image", "because of bad_image")
    assert [failure["reason"] for failure in story["failures"]] == ["timeout", "bad_image"]


async def test_at_revision_009_only_the_last_reason_is_kept(backend: Backend, ada: httpx.AsyncClient) -> None:
    await migrate.downgrade(backend.engine, revisions.BASE)
    engine = backend.engine
    # As `prepare` does when a process starts, but that would upgrade SQLite again.
    set_revision_010(engine, False)
    task_id, other = (await submit_images(engine, 2)).task_ids
    await report(engine, failed(task_id, "bad_image"), completed(other))
    story = (await ada.get(f"{URL}/{task_id}")).json()
    assert (story["state"], story["reason"], story["error"]) == ("failed", "bad_image", "because of bad_image")
    assert (story["failures"], story["has_history"]) == ([], False)
    assert (await ada.get(f"{URL}/{other}/result")).status_code == 200
    assert (await ada.get(f"/api/segmentation/batches/{story['batch_id']}")).json()["state"] == (
        "completed_with_errors"
    )
    assert len((await ada.get(f"/api/segmentation/batches/{story['batch_id']}/tasks")).json()["items"]) == 2
    assert (await ada.post(f"{URL}/{task_id}/retry")).json()["state"] == "queued"
    async with await backend.client("root", role="admin") as root:
        for path in ("dead-letters", "failures"):
            answer = await root.get(f"/api/admin/{path}")
            assert answer.status_code == 409
            assert "spheroseg db upgrade" in answer.json()["detail"]
        for path in ("queue/metrics", "audit", "relay", "workers"):
            assert (await root.get(f"/api/admin/{path}")).status_code == 200


async def test_only_unfinished_tasks_can_be_cancelled(backend: Backend, ada: httpx.AsyncClient) -> None:
    task_id = await one_task(backend)
    answer = await ada.post(f"{URL}/{task_id}/cancel")
    assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
    for action in ("cancel", "retry"):
        answer = await ada.post(f"{URL}/{task_id}/{action}")
        assert answer.status_code == 409
        assert "the task is cancelled" in answer.json()["detail"]


async def test_only_failed_tasks_can_be_retried(backend: Backend, ada: httpx.AsyncClient) -> None:
    task_id = await one_task(backend)
    assert (await ada.post(f"{URL}/{task_id}/retry")).status_code == 409
    await report(backend.engine, failed(task_id))
    answer = await ada.post(f"{URL}/{task_id}/retry")
    assert (answer.json()["state"], answer.json()["attempt"], answer.json()["reason"]) == ("queued", 2, None)
    assert len(answer.json()["failures"]) == 1


async def test_tasks_of_other_users_are_not_found(backend: Backend, ada: httpx.AsyncClient) -> None:
    task_id = await one_task(backend)
    await report(backend.engine, completed(task_id))
    async with await backend.client("mallory") as mallory:
        for who, asked in ((mallory, task_id), (ada, uuid4())):
            for path in ("", "/result", "/mask", "/overlay"):
                assert (await who.get(f"{URL}/{asked}{path}")).status_code == 404
            for action in ("cancel", "retry"):
                assert (await who.post(f"{URL}/{asked}/{action}")).status_code == 404
    assert (await ada.get(f"{URL}/nonsense")).status_code == 422


async def test_before_it_is_completed_there_is_no_result(backend: Backend, ada: httpx.AsyncClient) -> None:
    task_id = await one_task(backend)
    await report(backend.engine, failed(task_id, "bad_image"))
    for kind in ("result", "mask", "overlay"):
        answer = await ada.get(f"{URL}/{task_id}/{kind}")
        assert answer.status_code == 404
        assert "the task is failed (because of bad_image)" in answer.json()["detail"]


async def test_files_are_cached_by_their_hash_and_a_deleted_one_is_gone(
    backend: Backend, ada: httpx.AsyncClient
) -> None:
    project = await add_project(backend.engine, "ada")
    await add_images(backend.engine, project, ['sub/über "x"\r\nSet-Cookie: a=b.tif'])
    batch = (await ada.post("/api/segmentation/batches", json={"project_id": str(project)})).json()
    (task,) = (await ada.get(f"/api/segmentation/batches/{batch['id']}/tasks")).json()["items"]
    store = ImageStore(backend.settings.resolved_storage_url())
    content = b"\xff\xd8\xff" + b"x" * 3_000_000
    store.put("results/overlay.jpg", content)
    kinds: dict[str, Any] = {
        kind: {"key": f"results/{name}", "sha256": SHA} for kind, name in (("mask", "m"), ("overlay", "overlay.jpg"))
    }
    await report(backend.engine, completed(UUID(task["id"]), a_result(**kinds)))
    result = (await ada.get(f"{URL}/{task['id']}/result")).json()
    assert result["overlay"] == {"url": f"{URL}/{task['id']}/overlay", "sha256": SHA}
    answer = await ada.get(result["overlay"]["url"])
    assert (answer.status_code, answer.content == content) == (200, True)
    assert (answer.headers["content-type"], answer.headers["etag"]) == ("image/jpeg", f'"{SHA}"')
    said = answer.headers["content-disposition"]
    assert said.isascii()
    assert "\n" not in said
    assert said.startswith('inline; filename="sub___ber _x___Set-Cookie_ a_b_overlay.jpg"')
    assert "set-cookie" not in answer.headers
    again = await ada.get(result["overlay"]["url"], headers={"If-None-Match": f'W/"other", "{SHA}"'})
    assert (again.status_code, again.content) == (304, b"")
    gone = await ada.get(result["mask"]["url"])
    assert (gone.status_code, gone.json()["code"]) == (410, "gone")
    assert "deleted" in gone.json()["detail"]


@pytest.mark.parametrize("name", ["..", "", ".png", "../../etc/passwd", "a" * 500 + ".tif", "\u202egnp.exe", "\x00"])
def test_no_file_name_can_break_out_of_the_header(name: str) -> None:
    said = content_disposition(name, is_inline=False)
    assert said.isascii()
    assert len(said) < 2000
    assert "/" not in said
    assert all(char.isprintable() for char in said)


async def test_the_openapi_document_names_the_media_type_of_every_download(backend: Backend) -> None:
    paths = (await backend.anonymous.get("/api/openapi.json")).json()["paths"]
    task, batch = f"{URL}/{{task_id}}", "/api/segmentation/batches"
    for path, media_type in (
        (f"{task}/mask", "image/tiff"),
        (f"{task}/overlay", "image/jpeg"),
        (f"{task}/result", "application/json"),
        (f"{batch}/{{batch_id}}/results.csv", "text/csv"),
        (f"{batch}/{{batch_id}}/results", "application/json"),
    ):
        assert list(paths[path]["get"]["responses"]["200"]["content"]) == [media_type]
    assert {"200", "202"} <= paths[batch]["post"]["responses"].keys()
