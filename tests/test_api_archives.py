"""Zip archives in an upload: each file has its own outcome, and everything has limits."""

import struct
import zipfile

import pytest

from spheroseg.api import archives

from .support.uploading import Plate, bomb, only, picture, stack, zipped


async def test_each_member_of_an_archive_has_its_own_outcome(plate: Plate) -> None:
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


async def test_an_archive_with_false_sizes_is_stopped_at_the_limit(plate: Plate) -> None:
    archive = bytearray(zipped({"a.png": b"\x89PNG\r\n\x1a\n" + b"\0" * 50 * 1024**2, "b.png": picture()}))
    # Both headers of the first member claim 1,000 bytes unpacked.
    struct.pack_into("<I", archive, 22, 1000)
    struct.pack_into("<I", archive, archive.index(b"PK\x01\x02") + 24, 1000)
    lie, good = await plate.send(("bomb.zip", bytes(archive)), code=207)
    assert (lie["status"], good["status"]) == ("rejected", "created")


async def test_the_total_size_of_an_archive_has_a_limit(plate: Plate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spheroseg.api.intake.ARCHIVE_FACTOR", 2)
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
    # A table of contents of this length is not even read.
    monkeypatch.setattr(archives, "MAX_DIRECTORY_BYTES", 70_000)
    long = {f"{number}{'x' * 1000}.png": b"x" for number in range(80)}
    assert "split it" in only(await plate.send(("long.zip", zipped(long)), code=413))["problem"]["detail"]
