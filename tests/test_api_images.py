"""Uploading, listing and reading images over HTTP, with files of every kind of wrongness."""

import asyncio
import hashlib
import io
import os
import struct
import zipfile
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import numpy as np
import pytest
import tifffile
import uvicorn
from PIL import Image
from sqlalchemy.ext.asyncio import AsyncEngine

from spheroseg.api import archives, incoming
from spheroseg.database.projects import NewImage
from spheroseg.database.tasks import transition_all
from spheroseg.storage import RESERVE_BYTES, ImageStore
from spheroseg.submit import submit
from spheroseg.tasks import Cause, TaskState

from .backend import Backend, backend_on
from .conftest import eventually, free_port

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.png"))
SHADES = iter(range(1, 1_000_000))


def picture(kind: str = "PNG", size: tuple[int, int] = (40, 30), shade: int | None = None) -> bytes:
    """A picture that no other test has."""
    written = io.BytesIO()
    number = shade if shade is not None else next(SHADES)
    pixels = np.full((size[1], size[0]), 7, np.uint8)
    pixels.flat[:4] = np.frombuffer(struct.pack("<I", number), np.uint8)
    Image.fromarray(pixels).save(written, kind)
    return written.getvalue()


def stack(pages: int) -> bytes:
    written = io.BytesIO()
    tifffile.imwrite(written, np.full((pages, 40, 60), next(SHADES), np.uint16), photometric="minisblack")
    return written.getvalue()


def bomb() -> bytes:
    """A PNG whose header speaks of 40,000 × 40,000 pixels."""
    data = bytearray(picture())
    data[16:24] = struct.pack(">II", 40_000, 40_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return written.getvalue()


def form(*files: tuple[str, bytes], boundary: str = "limit") -> bytes:
    """A multipart body written by hand, name and content each."""
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
        + content
        + b"\r\n"
        for name, content in files
    ]
    return b"".join(parts) + f"--{boundary}--\r\n".encode()


class Plate:
    """A project, and a client of its owner."""

    def __init__(self, backend: Backend, client: httpx.AsyncClient, project: str) -> None:
        self.backend = backend
        self.client = client
        self.project = project
        self.url = f"/api/projects/{project}/images"

    async def send(self, *files: tuple[str, bytes], code: int = 200) -> list[dict[str, Any]]:
        answer = await self.client.post(self.url, files=[("files", file) for file in files])
        assert answer.status_code == code, answer.text
        kind = "application/json" if code < 400 else "application/problem+json"
        assert answer.headers["content-type"] == kind
        found: list[dict[str, Any]] = answer.json()["files"]
        return found

    async def send_raw(
        self, body: bytes, content_type: str = "multipart/form-data; boundary=limit"
    ) -> httpx.Response:
        return await self.client.post(self.url, content=body, headers={"Content-Type": content_type})

    async def images(self, **query: Any) -> list[dict[str, Any]]:
        answer = await self.client.get(self.url, params={"limit": 1000, **query})
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["items"]
        return found

    def stored(self) -> set[str]:
        """Checksums of what the storage holds; what is there must have them."""
        folder = Path(self.backend.settings.resolved_storage_url())
        files = {path.name: path for path in (folder / "images").rglob("*") if path.is_file()}
        for name, path in files.items():
            assert hashlib.sha256(path.read_bytes()).hexdigest() == name
        return set(files)

    def temporary(self) -> list[Path]:
        folder = Path(self.backend.settings.resolved_storage_url())
        return [path for path in folder.rglob("*") if path.is_file() and "images" not in path.parts[-4:-1]]


@pytest.fixture
async def plate(engine: AsyncEngine, tmp_path: Path) -> AsyncIterator[Plate]:
    async with backend_on(engine, tmp_path, max_upload_mb=1) as backend, await backend.client("ada") as client:
        project = (await client.post("/api/projects", json={"name": "plate"})).json()["id"]
        plate = Plate(backend, client, project)
        yield plate
        assert plate.temporary() == []


def only(files: list[dict[str, Any]]) -> dict[str, Any]:
    (file,) = files
    return file


async def test_many_files_become_images_in_their_order(plate: Plate) -> None:
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


async def test_every_kind_that_is_read_is_taken_whatever_its_name(plate: Plate) -> None:
    files = await plate.send(*((f"{kind}.dat", picture(kind)) for kind in ("PNG", "JPEG", "BMP", "TIFF")))
    assert [file["status"] for file in files] == ["created"] * 4


async def test_each_page_of_a_stack_is_an_image(plate: Plate) -> None:
    file = only(await plate.send(("stack.tif", stack(3))))
    assert [(image["page"], image["is_new"]) for image in file["images"]] == [(0, True), (1, True), (2, True)]
    assert [(image["name"], image["page"]) for image in await plate.images()] == [
        ("stack.tif", page) for page in range(3)
    ]


async def test_the_same_content_again_is_the_image_that_is_there(plate: Plate) -> None:
    data = picture()
    first, second = await plate.send(("a.png", data), ("copy of a.png", data))
    assert (first["status"], second["status"]) == ("created", "existing")
    third = only(await plate.send(("c.png", data)))
    assert third["status"] == "existing"
    assert third["images"] == second["images"] == [{**first["images"][0], "is_new": False}]
    assert [image["name"] for image in await plate.images()] == ["a.png"]


async def test_two_that_send_the_same_at_once_make_one_image(plate: Plate) -> None:
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
    "empty zip": (zipped({}), "bad_archive", "holds no files"),
}


@pytest.mark.parametrize("what", BROKEN)
async def test_a_broken_file_says_why_and_spoils_nothing(plate: Plate, what: str) -> None:
    data, code, words = BROKEN[what]
    before, broken, after = await plate.send(("a.png", picture()), ("b.png", data), ("c.png", picture()), code=207)
    assert (before["status"], after["status"]) == ("created", "created")
    assert (broken["name"], broken["status"], broken["images"]) == ("b.png", "rejected", [])
    assert broken["problem"]["code"] == code
    assert words in broken["problem"]["detail"]
    assert len(await plate.images()) == len(plate.stored()) == 2


async def test_nothing_that_was_refused_looks_like_success(plate: Plate) -> None:
    answer = await plate.client.post(plate.url, files=[("files", ("a.png", b"text"))])
    assert answer.status_code == 422
    assert answer.json()["code"] == "bad_image"
    assert answer.json()["detail"] == "this is a text file, not an image"
    assert only(answer.json()["files"])["status"] == "rejected"
    large = ("a.png", b"\x89PNG\r\n\x1a\n" + b"\0" * 1024**2)
    assert [file["problem"]["code"] for file in await plate.send(large, large, code=413)] == ["file_too_large"] * 2
    assert {file["status"] for file in await plate.send(large, ("b.png", b"x"), code=422)} == {"rejected"}


async def test_the_members_of_an_archive_are_answered_one_by_one(plate: Plate) -> None:
    encrypted = bytearray(zipped({"secret.png": picture(), "open.png": picture()}))
    for at in (6, encrypted.index(b"PK\x01\x02") + 8):
        encrypted[at] |= 1
    damaged = zipped({"bad.png": picture() * 3, "good.png": picture()}, zipfile.ZIP_STORED)
    damaged = damaged.replace(b"IDAT", b"IDOT", 1)
    good = picture()
    files = await plate.send(
        (
            "plate.zip",
            zipped(
                {
                    "A01/t0.png": good,
                    "A01/t1.tif": stack(2),
                    "notes.txt": b"day 3\n",
                    "inner.zip": zipped({"a.png": picture()}),
                    "A01/again.png": good,
                    "large.png": picture() + b"\0" * 1024**2,
                    "bomb.png": bomb(),
                    "__MACOSX/A01/._t0.png": b"\0\5\x16\7",
                    ".DS_Store": b"Bud1",
                    "empty/": b"",
                }
            ),
        ),
        ("encrypted.zip", bytes(encrypted)),
        ("damaged.zip", damaged),
        ("lzma.zip", zipped({"a.png": picture()}, zipfile.ZIP_LZMA)),
        ("last.png", picture()),
        code=207,
    )
    told = {file["name"]: (file["status"], (file["problem"] or {}).get("detail", "")) for file in files}
    assert list(told) == [
        *(f"plate.zip/{name}" for name in ("A01/t0.png", "A01/t1.tif", "notes.txt", "inner.zip", "A01/again.png")),
        *("plate.zip/large.png", "plate.zip/bomb.png", "encrypted.zip/secret.png", "encrypted.zip/open.png"),
        *("damaged.zip/bad.png", "damaged.zip/good.png", "lzma.zip/a.png", "last.png"),
    ]
    created = ["plate.zip/A01/t0.png", "plate.zip/A01/t1.tif", "encrypted.zip/open.png", "damaged.zip/good.png"]
    assert [name for name, (status, _) in told.items() if status == "created"] == [*created, "last.png"]
    assert told["plate.zip/A01/again.png"][0] == "existing"
    for name, words in (
        ("plate.zip/notes.txt", "text file"),
        ("plate.zip/inner.zip", "inside a zip archive"),
        ("plate.zip/large.png", "1 MB"),
        ("plate.zip/bomb.png", "40000 × 40000"),
        ("encrypted.zip/secret.png", "encrypted"),
        ("damaged.zip/bad.png", "damaged in its zip archive"),
        ("lzma.zip/a.png", "deflate"),
    ):
        assert words in told[name][1]


async def test_an_archive_that_lies_about_sizes_is_stopped(plate: Plate) -> None:
    archive = bytearray(zipped({"a.png": b"\x89PNG\r\n\x1a\n" + b"\0" * 50 * 1024**2, "b.png": picture()}))
    # Of the first member, in both places: 1,000 bytes unpacked.
    struct.pack_into("<I", archive, 22, 1000)
    struct.pack_into("<I", archive, archive.index(b"PK\x01\x02") + 24, 1000)
    lie, good = await plate.send(("bomb.zip", bytes(archive)), code=207)
    assert (lie["status"], good["status"]) == ("rejected", "created")


async def test_all_that_is_in_an_archive_has_a_limit(plate: Plate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spheroseg.api.uploads.ARCHIVE_FACTOR", 2)
    members = {f"{number}.png": picture() + b"\0" * 900_000 for number in range(5)}
    files = await plate.send(("many.zip", zipped(members)), code=207)
    assert [file["status"] for file in files] == ["created"] * 3 + ["rejected"] * 2
    assert files[-1]["problem"]["code"] == "file_too_large"


async def test_the_number_of_files_in_an_archive_has_a_limit(plate: Plate, monkeypatch: pytest.MonkeyPatch) -> None:
    members = {f"{number}.png": b"x" for number in range(20)}
    monkeypatch.setattr(archives, "MAX_MEMBERS", 10)
    file = only(await plate.send(("many.zip", zipped(members)), code=413))
    assert (file["name"], file["problem"]["code"]) == ("many.zip", "file_too_large")
    monkeypatch.undo()
    # A table of contents as long as this is not even read.
    monkeypatch.setattr(archives, "MAX_DIRECTORY_BYTES", 70_000)
    long = {f"{number}{'x' * 1000}.png": b"x" for number in range(80)}
    assert "split it" in only(await plate.send(("long.zip", zipped(long)), code=413))["problem"]["detail"]


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
async def test_no_name_leads_anywhere(plate: Plate, sent: str, shown: str) -> None:
    answer = await plate.send_raw(form((sent, picture())))
    assert only(answer.json()["files"])["name"] == shown
    member = only(await plate.send(("p.zip", zipped({sent.replace("\\", "/"): picture()}))))
    assert member["name"].endswith(shown.rpartition("/")[2][-900:])
    assert ".." not in member["name"]
    assert all(".." not in image["name"] for image in await plate.images())


async def test_names_in_other_spellings_are_understood(plate: Plate) -> None:
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
async def test_another_body_is_refused(plate: Plate, content_type: str, code: int) -> None:
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
async def test_a_damaged_body_keeps_what_was_complete(plate: Plate, rest: bytes, code: int) -> None:
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


async def test_a_full_disk_refuses_the_file_and_says_so(plate: Plate, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = RESERVE_BYTES + 100_000

    small, large = picture(), picture() + b"\0" * 500_000
    monkeypatch.setattr("spheroseg.storage.shutil.disk_usage", lambda _: Usage)
    taken, refused = await plate.send(("a.png", small), ("b.png", large), code=207)
    assert (taken["status"], refused["problem"]["code"]) == ("created", "disk_full")
    assert only(await plate.send(("b.png", large), code=507))["problem"]["code"] == "disk_full"


async def test_a_storage_that_cannot_be_written_is_not_the_files_fault(plate: Plate) -> None:
    in_the_way = Path(plate.backend.settings.resolved_storage_url()) / "images"
    in_the_way.parent.mkdir()
    in_the_way.touch()
    problem = only(await plate.send(("a.png", picture()), code=503))["problem"]
    assert problem["code"] == "storage_unusable"
    in_the_way.unlink()
    assert only(await plate.send(("a.png", picture())))["status"] == "created"


async def test_what_a_killed_process_left_goes_after_a_day(plate: Plate) -> None:
    folder = Path(plate.backend.settings.resolved_storage_url()) / "incoming"
    folder.mkdir(parents=True)
    old, fresh = folder / ".part-old", folder / ".part-fresh"
    for path in (old, fresh):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    await plate.send(("a.png", picture()))
    assert (old.exists(), fresh.exists()) == (False, True)
    fresh.unlink()


async def test_another_storage_than_a_folder_takes_files_too(engine: AsyncEngine, tmp_path: Path) -> None:
    async with backend_on(engine, tmp_path) as backend, await backend.client("ada") as client:
        # The settings of the tests name a folder.
        backend.app.state.place = type(backend.app.state.place)(
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


async def test_someone_elses_images_are_not_there(plate: Plate) -> None:
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


async def test_who_is_taken_out_during_an_upload_adds_nothing_more(plate: Plate) -> None:
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


async def test_the_file_comes_back_as_it_was(plate: Plate) -> None:
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


async def test_a_file_that_has_gone_is_told_without_a_path(plate: Plate) -> None:
    image = only(await plate.send(("a.png", picture())))["images"][0]["id"]
    sha256 = (await plate.client.get(f"/api/images/{image}")).json()["sha256"]
    store = ImageStore(plate.backend.settings.resolved_storage_url())
    store.path(f"images/{sha256[:2]}/{sha256}").unlink()
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

    # Images that were uploaded are those that a batch names.
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


async def test_the_document_describes_the_upload(plate: Plate) -> None:
    document = (await plate.backend.anonymous.get("/api/openapi.json")).json()
    upload = document["paths"]["/api/projects/{project_id}/images"]["post"]
    body = upload["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert body["properties"]["files"]["items"] == {"type": "string", "format": "binary"}
    assert {"200", "207", "413", "415", "422", "507"} <= set(upload["responses"])


@pytest.fixture
async def served(plate: Plate) -> AsyncIterator[str]:
    """The address of a real server."""
    port = free_port()
    # A test that fails may leave a connection open: it must not keep the server.
    config = uvicorn.Config(plate.backend.app, port=port, log_level="warning", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    await eventually(lambda: server.started)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    await serving


async def test_a_client_that_breaks_off_leaves_what_was_complete_and_nothing_else(plate: Plate, served: str) -> None:
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


async def test_others_are_answered_while_files_come_in(plate: Plate, served: str) -> None:
    files = [("files", (f"{number}.png", picture() + b"\0" * 900_000)) for number in range(20)]
    async with httpx.AsyncClient(base_url=served, headers=plate.client.headers) as client:
        sending = asyncio.create_task(client.post(plate.url, files=files, timeout=60))
        answered = 0
        while not sending.done():
            assert (await client.get("/api/me")).status_code == 200
            answered += 1
    assert answered > 1
    assert {file["status"] for file in sending.result().json()["files"]} == {"created"}
