"""Multipart bodies: file names, damage, clients that disconnect."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
import uvicorn

from spheroseg.api import incoming

from .conftest import eventually
from .support.ports import free_port
from .support.uploading import Plate, form, only, picture, zipped


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("../../etc/passwd", "etc/passwd"),
        ("/etc/passwd", "etc/passwd"),
        ("C:\\plates\\..\\A01.tif", "A01.tif"),
        ("folder/A 01 µm.tif", "folder/A 01 µm.tif"),
        ("a\tb\x1b[31m\u202egpj.png", "a\ufffdb\ufffd[31m\ufffdgpj.png"),
        ("x" * 3000 + ".png", "x" * 996 + ".png"),
    ],
)
async def test_no_file_name_leads_out_of_the_storage(plate: Plate, sent: str, shown: str) -> None:
    answer = await plate.send_raw(form((sent, picture())))
    assert only(answer.json()["files"])["name"] == shown
    member = only(await plate.send(("p.zip", zipped({sent.replace("\\", "/"): picture()}))))
    assert member["name"].endswith(shown.rpartition("/")[2][-900:])
    assert ".." not in member["name"]
    assert all(".." not in image["name"] for image in await plate.images())


async def test_names_in_other_encodings_are_understood(plate: Plate) -> None:
    disposition = b'Content-Disposition: form-data; name="files"; '
    for header, shown in (
        (b"filename*=utf-8''%C2%B5m%20A01.png", "µm A01.png"),
        ('filename="größe.png"'.encode("latin-1"), "größe.png"),
        (b"filename=plain.png", "plain.png"),
    ):
        body = b"--limit\r\n" + disposition + header + b"\r\n\r\n" + picture() + b"\r\n--limit--\r\n"
        assert only((await plate.send_raw(body)).json()["files"])["name"] == shown


async def test_a_part_without_a_file_name_is_refused(plate: Plate) -> None:
    answer = await plate.client.post(plate.url, data={"note": "day 3"}, files=[("files", ("a.png", picture()))])
    assert answer.status_code == 207
    note, image = answer.json()["files"]
    assert "has no file name" in note["problem"]["detail"]
    assert image["status"] == "created"
    file = only((await plate.send_raw(form(("", picture())))).json()["files"])
    assert "has no file name" in file["problem"]["detail"]


@pytest.mark.parametrize(
    ("content_type", "code"),
    [
        ("application/json", 415),
        ("image/png", 415),
        ("multipart/mixed; boundary=limit", 415),
        ("", 415),
        ("multipart/form-data", 422),
        ("multipart/form-data; boundary=", 422),
        ("multipart/form-data; boundary=another", 422),
    ],
)
async def test_another_content_type_is_refused(plate: Plate, content_type: str, code: int) -> None:
    answer = await plate.send_raw(form(("a.png", picture())), content_type)
    assert answer.status_code == code
    assert answer.headers["content-type"] == "application/problem+json"
    assert await plate.images() == []


HEAD = b'Content-Disposition: form-data; name="files"; filename="b.png"\r\n'


@pytest.mark.parametrize(
    ("rest", "code"),
    [
        pytest.param(b"", 422, id="breaks off after a file"),
        pytest.param(HEAD + b"\r\n" + picture()[:30], 422, id="breaks off in a file"),
        pytest.param(b"Content-Type: image/png\r\n\r\nx\r\n--limit--\r\n", 422, id="no disposition"),
        pytest.param(b"no header at all\r\n\r\nx\r\n--limit--\r\n", 422, id="no header"),
        pytest.param(HEAD + b"Content-Length: -1\r\n\r\nx\r\n--limit--\r\n", 422, id="impossible length"),
        pytest.param(HEAD + b"X-A: b\r\n" * 1000, 413, id="header flood"),
        pytest.param(b"X-A: " + b"b" * 100_000, 413, id="endless header"),
    ],
)
async def test_complete_files_before_the_damage_are_stored(plate: Plate, rest: bytes, code: int) -> None:
    whole = form(("a.png", picture()))
    answer = await plate.send_raw(whole.removesuffix(b"--\r\n") + b"\r\n" + rest)
    assert answer.status_code == code
    assert only(answer.json()["files"])["status"] == "created"
    assert [image["name"] for image in await plate.images()] == ["a.png"]


@pytest.mark.parametrize("body", [b"", b"--limit--\r\n", b"\r\n\r\n", b"--limit"])
async def test_a_request_without_files_is_refused(plate: Plate, body: bytes) -> None:
    assert (await plate.send_raw(body)).status_code == 422


async def test_very_many_parts_are_refused(plate: Plate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "MAX_FILES", 3)
    files = await plate.send(*((f"{number}.png", picture()) for number in range(5)), code=413)
    assert [file["status"] for file in files] == ["created"] * 3


@pytest.fixture
async def served(plate: Plate) -> AsyncIterator[str]:
    """Serve the backend on a port and return its address."""
    port = free_port()
    # A connection that a failed test left open must not keep the server from stopping.
    config = uvicorn.Config(plate.backend.app, port=port, log_level="warning", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    await eventually(lambda: server.started)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    await serving


async def test_a_client_that_disconnects_leaves_only_complete_files(plate: Plate, served: str) -> None:
    whole = form(("a.png", picture()), ("b.png", picture() + b"\0" * 900_000))
    reader, writer = await asyncio.open_connection("127.0.0.1", int(served.rpartition(":")[2]))
    head = (
        f"POST {plate.url} HTTP/1.1\r\nHost: test\r\nContent-Length: {len(whole)}\r\n"
        f"Authorization: {plate.client.headers['authorization']}\r\n"
        "Content-Type: multipart/form-data; boundary=limit\r\n\r\n"
    )
    writer.write(head.encode() + whole[:-1000])
    await writer.drain()

    async def first_is_there() -> bool:
        return len(await plate.images()) == 1

    await eventually(first_is_there)
    assert not reader.at_eof()
    writer.transport.abort()
    await eventually(lambda: plate.temporary() == [])
    assert [image["name"] for image in await plate.images()] == ["a.png"]

    async with httpx.AsyncClient(base_url=served, headers=plate.client.headers) as client:
        answer = await client.post(
            plate.url, content=whole, headers={"Content-Type": "multipart/form-data; boundary=limit"}
        )
    assert [file["status"] for file in answer.json()["files"]] == ["existing", "created"]


async def test_other_requests_are_answered_during_an_upload(plate: Plate, served: str) -> None:
    files = [("files", (f"{number}.png", picture() + b"\0" * 900_000)) for number in range(20)]
    async with httpx.AsyncClient(base_url=served, headers=plate.client.headers) as client:
        sending = asyncio.create_task(client.post(plate.url, files=files, timeout=60))
        answered = 0
        while not sending.done():
            assert (await client.get("/api/me")).status_code == 200
            answered += 1
    assert answered > 1
    assert {file["status"] for file in sending.result().json()["files"]} == {"created"}
