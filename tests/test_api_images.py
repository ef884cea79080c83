"""Uploading, listing and reading images over HTTP."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from spheroseg.database.projects import NewImage
from spheroseg.database.tasks import transition_all
from spheroseg.queueing.submit import submit
from spheroseg.storage import RESERVE_BYTES, ImageStore
from spheroseg.tasks import Cause, TaskState

from .support.backend import backend_on
from .support.uploading import EXAMPLES, Plate, bomb, form, only, picture, stack, zipped


async def test_many_files_become_images_in_the_order_of_the_request(plate: Plate) -> None:
    files = await plate.send(*((path.name, path.read_bytes()) for path in EXAMPLES))
    assert [file["name"] for file in files] == [path.name for path in EXAMPLES]
    assert {file["status"] for file in files} == {"created"}
    assert all(file["problem"] is None for file in files)
    listed = await plate.images()
    assert [image["id"] for image in listed] == [file["images"][0]["id"] for file in files]
    for image, path in zip(listed, EXAMPLES, strict=True):
        assert image["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert (image["name"], image["page"], image["size_bytes"]) == (path.name, 0, path.stat().st_size)
        assert (image["state"], image["task_id"], image["project_id"]) == (None, None, plate.project)
    assert plate.stored() == {image["sha256"] for image in listed}


async def test_every_supported_format_is_accepted_under_any_name(plate: Plate) -> None:
    files = await plate.send(*((f"{kind}.dat", picture(kind)) for kind in ("PNG", "JPEG", "BMP", "TIFF")))
    assert [file["status"] for file in files] == ["created"] * 4


async def test_each_page_of_a_stack_is_an_image(plate: Plate) -> None:
    file = only(await plate.send(("stack.tif", stack(3))))
    assert [(image["page"], image["is_new"]) for image in file["images"]] == [(0, True), (1, True), (2, True)]
    assert [(image["name"], image["page"]) for image in await plate.images()] == [
        ("stack.tif", page) for page in range(3)
    ]


async def test_the_same_content_again_is_the_existing_image(plate: Plate) -> None:
    data = picture()
    first, second = await plate.send(("a.png", data), ("copy of a.png", data))
    assert (first["status"], second["status"]) == ("created", "existing")
    third = only(await plate.send(("c.png", data)))
    assert third["status"] == "existing"
    assert third["images"] == second["images"] == [{**first["images"][0], "is_new": False}]
    assert [image["name"] for image in await plate.images()] == ["a.png"]


async def test_two_concurrent_uploads_of_the_same_file_make_one_image(plate: Plate) -> None:
    files = [(f"{number}.png", picture()) for number in range(5)]
    answers = await asyncio.gather(*(plate.send(*files) for _ in range(4)))
    assert len(await plate.images()) == 5
    for number in range(5):
        sent = [answer[number] for answer in answers]
        assert len({file["images"][0]["id"] for file in sent}) == 1
        assert sorted(file["status"] for file in sent) == ["created", "existing", "existing", "existing"]


async def test_the_same_content_in_another_project_is_another_image(plate: Plate) -> None:
    data = picture()
    first = only(await plate.send(("a.png", data)))
    other = (await plate.client.post("/api/projects", json={"name": "other"})).json()["id"]
    second = only(await Plate(plate.backend, plate.client, other).send(("a.png", data)))
    assert second["status"] == "created"
    assert second["images"][0]["id"] != first["images"][0]["id"]
    assert len(plate.stored()) == 1


BROKEN = {
    "empty": (b"", "bad_image", "empty (0 bytes)"),
    "text": (b"well,area\nA01,12.5\n", "bad_image", "text file"),
    "noise": (bytes(range(1, 256)), "bad_image", "not an image"),
    "truncated png": (picture()[:-20], "bad_image", "truncated"),
    "truncated tiff": (stack(2)[:-3000], "bad_image", "truncated"),
    "truncated bmp": (picture("BMP")[:-200], "bad_image", "truncated"),
    "bomb": (bomb(), "image_too_large", "40000 × 40000"),
    "tiny": (picture(size=(8, 8)), "bad_image", "too small"),
    "microscope": (b"ZISRAWFILE" + b"\0" * 600, "unsupported_image", "Zeiss CZI files are not read: export"),
    "gif": (b"GIF89a" + b"\0" * 600, "unsupported_image", "GIF"),
    "gzip": (b"\x1f\x8b" + b"\0" * 600, "unsupported_image", "gzip"),
    "too large": (picture() + b"\0" * 1024**2, "file_too_large", "1 MB"),
    "damaged zip": (b"PK\x03\x04" + b"\0" * 600, "bad_archive", "damaged"),
    "truncated zip": (zipped({"a.png": picture()})[:-30], "bad_archive", "damaged"),
    "empty zip": (zipped({}), "bad_archive", "contains no files"),
}


@pytest.mark.parametrize("what", BROKEN)
async def test_a_broken_file_is_rejected_with_the_reason_and_affects_no_other(plate: Plate, what: str) -> None:
    data, code, words = BROKEN[what]
    before, broken, after = await plate.send(("a.png", picture()), ("b.png", data), ("c.png", picture()), code=207)
    assert (before["status"], after["status"]) == ("created", "created")
    assert (broken["name"], broken["status"], broken["images"]) == ("b.png", "rejected", [])
    assert broken["problem"]["code"] == code
    assert words in broken["problem"]["detail"]
    assert len(await plate.images()) == len(plate.stored()) == 2


async def test_rejected_files_never_look_like_success(plate: Plate) -> None:
    answer = await plate.client.post(plate.url, files=[("files", ("a.png", b"text"))])
    assert answer.status_code == 422
    assert answer.json()["code"] == "bad_image"
    assert answer.json()["detail"] == "this is a text file, not an image"
    assert only(answer.json()["files"])["status"] == "rejected"
    large = ("a.png", b"\x89PNG\r\n\x1a\n" + b"\0" * 1024**2)
    assert [file["problem"]["code"] for file in await plate.send(large, large, code=413)] == ["file_too_large"] * 2
    assert {file["status"] for file in await plate.send(large, ("b.png", b"x"), code=422)} == {"rejected"}


async def test_a_full_disk_rejects_the_file_with_the_reason(plate: Plate, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = RESERVE_BYTES + 100_000

    small, large = picture(), picture() + b"\0" * 500_000
    monkeypatch.setattr("spheroseg.storage.shutil.disk_usage", lambda _: Usage)
    taken, refused = await plate.send(("a.png", small), ("b.png", large), code=207)
    assert (taken["status"], refused["problem"]["code"]) == ("created", "disk_full")
    assert only(await plate.send(("b.png", large), code=507))["problem"]["code"] == "disk_full"


async def test_an_unwritable_storage_is_not_reported_as_a_fault_of_the_file(plate: Plate) -> None:
    in_the_way = Path(plate.backend.settings.resolved_storage_url()) / "images"
    in_the_way.parent.mkdir()
    in_the_way.touch()
    problem = only(await plate.send(("a.png", picture()), code=503))["problem"]
    assert problem["code"] == "storage_unusable"
    in_the_way.unlink()
    assert only(await plate.send(("a.png", picture())))["status"] == "created"


async def test_partial_files_of_a_killed_process_are_removed_after_a_day(plate: Plate) -> None:
    folder = Path(plate.backend.settings.resolved_storage_url()) / "incoming"
    folder.mkdir(parents=True)
    old, fresh = folder / ".part-old", folder / ".part-fresh"
    for path in (old, fresh):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    await plate.send(("a.png", picture()))
    assert (old.exists(), fresh.exists()) == (False, True)
    fresh.unlink()


async def test_a_storage_that_is_no_folder_works_too(engine: AsyncEngine, tmp_path: Path) -> None:
    async with backend_on(engine, tmp_path) as backend, await backend.client("ada") as client:
        # The default settings of the tests have a local folder.
        backend.app.state.resources = type(backend.app.state.resources)(
            backend.settings.model_copy(update={"storage_url": f"memory://{uuid4()}"}), engine, None, None
        )
        project = (await client.post("/api/projects", json={"name": "plate"})).json()["id"]
        data = picture()
        for status in ("created", "existing"):
            answer = await client.post(f"/api/projects/{project}/images", files={"files": ("a.png", data)})
            assert only(answer.json()["files"])["status"] == status
        image = only(answer.json()["files"])["images"][0]["id"]
        answer = await client.get(f"/api/images/{image}/file")
        assert (answer.content, answer.headers["content-type"]) == (data, "image/png")


async def test_images_of_other_users_are_not_found(plate: Plate) -> None:
    image = only(await plate.send(("a.png", picture())))["images"][0]["id"]
    async with await plate.backend.client("ben") as ben:
        for answer in (
            await ben.get(plate.url),
            await ben.post(plate.url, files={"files": ("b.png", picture())}),
            await ben.get(f"/api/images/{image}"),
            await ben.get(f"/api/images/{image}/file"),
            await ben.get(f"/api/images/{uuid4()}"),
        ):
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
        assert (await plate.backend.anonymous.get(f"/api/images/{image}")).status_code == 401
        await plate.client.put(f"/api/projects/{plate.project}/members/ben")
        assert (await ben.get(f"/api/images/{image}")).status_code == 200
        answer = await ben.post(plate.url, files={"files": ("b.png", picture())})
        assert answer.status_code == 200
    assert len(await plate.images()) == 2


async def test_a_member_who_is_removed_during_an_upload_adds_nothing_more(plate: Plate) -> None:
    async with await plate.backend.client("ben") as ben:
        await plate.client.put(f"/api/projects/{plate.project}/members/ben")
        parts = form(("a.png", picture()), ("b.png", picture())).split(b"--limit\r\n")

        async def body() -> AsyncIterator[bytes]:
            yield b"--limit\r\n" + parts[1] + b"--limit\r\n"
            await plate.client.delete(f"/api/projects/{plate.project}/members/ben")
            yield parts[2]

        answer = await ben.post(
            plate.url, content=body(), headers={"Content-Type": "multipart/form-data; boundary=limit"}
        )
    assert [file["status"] for file in answer.json()["files"]] == ["created", "rejected"]
    assert len(await plate.images()) == 1


async def test_a_file_is_downloaded_as_it_was_uploaded(plate: Plate) -> None:
    for name, kind in (('a"; filename="b.exe', "png"), ("plates/größe 1.tif", "tiff"), ("x\r\nX-A: b", "bmp")):
        data = picture(kind.upper())
        sent = only(await plate.send((name, data)))
        answer = await plate.client.get(f"/api/images/{sent['images'][0]['id']}/file")
        assert (answer.content, answer.headers["content-type"]) == (data, f"image/{kind}")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "x-a" not in answer.headers
        disposition = answer.headers["content-disposition"]
        assert disposition.startswith("attachment; ")
        assert disposition.count('"') == 2
        assert "/" not in disposition
        assert disposition.isascii()
    part = await plate.client.get(f"/api/images/{sent['images'][0]['id']}/file", headers={"Range": "bytes=0-1"})
    assert (part.status_code, part.content) == (206, b"BM")


async def test_a_missing_file_is_reported_without_its_path(plate: Plate) -> None:
    image = only(await plate.send(("a.png", picture())))["images"][0]["id"]
    sha256 = (await plate.client.get(f"/api/images/{image}")).json()["sha256"]
    store = ImageStore(plate.backend.settings.resolved_storage_url())
    store.require_local_path(f"images/{sha256[:2]}/{sha256}").unlink()
    answer = await plate.client.get(f"/api/images/{image}/file")
    assert answer.status_code == 404
    assert "/" not in answer.json()["detail"]


async def test_images_are_found_by_name_and_by_the_state_of_their_newest_task(plate: Plate) -> None:
    sent = await plate.send(*((f"A{number}_100%.png", picture()) for number in range(4)))
    ids = [file["images"][0]["id"] for file in sent]
    rows = await plate.images()
    images = [NewImage(row["name"], f"images/{row['sha256'][:2]}/{row['sha256']}", row["sha256"]) for row in rows[:3]]
    async with plate.backend.engine.begin() as conn:
        me = UUID((await plate.client.get("/api/me")).json()["id"])
        first, second = [
            await submit(
                conn,
                user_id=me,
                project_id=UUID(plate.project),
                images=wanted,
                model="classical-1",
                parameters={},
            )
            for wanted in (images, images[2:])
        ]
        await transition_all(conn, [first.task_ids[1], first.task_ids[2]], Cause.CANCEL, TaskState.CANCELLED)

    # The batch uses the uploaded images and adds no others.
    assert len(await plate.images()) == 4
    assert [row["state"] for row in await plate.images()] == ["queued", "cancelled", "queued", None]
    assert [row["id"] for row in await plate.images(state="queued")] == [ids[0], ids[2]]
    assert [row["task_id"] for row in await plate.images(state="queued")] == [
        str(first.task_ids[0]),
        str(second.task_ids[0]),
    ]
    assert [row["id"] for row in await plate.images(state="cancelled")] == [ids[1]]
    assert [row["id"] for row in await plate.images(state="none")] == [ids[3]]
    assert [row["id"] for row in await plate.images(name="a1")] == [ids[1]]
    assert len(await plate.images(name="100%")) == 4
    assert await plate.images(name="A_") == []
    assert len(await plate.images(name="")) == 4
    for query in ({"state": "done"}, {"name": "\x00"}, {"limit": 0}, {"cursor": "Ä"}):
        assert (await plate.client.get(plate.url, params=query)).status_code == 422
    assert (await plate.client.get(f"/api/images/{ids[1]}")).json()["state"] == "cancelled"

    page = (await plate.client.get(plate.url, params={"limit": 3})).json()
    rest = (await plate.client.get(plate.url, params={"limit": 3, "cursor": page["next_cursor"]})).json()
    assert [row["id"] for row in page["items"] + rest["items"]] == ids
    assert rest["next_cursor"] is None


async def test_the_openapi_document_describes_the_upload(plate: Plate) -> None:
    document = (await plate.backend.anonymous.get("/api/openapi.json")).json()
    upload = document["paths"]["/api/projects/{project_id}/images"]["post"]
    body = upload["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert body["properties"]["files"]["items"] == {"type": "string", "format": "binary"}
    assert {"200", "207", "413", "415", "422", "507"} <= set(upload["responses"])
