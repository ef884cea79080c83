"""A project to upload to, and valid and invalid files to upload."""

import hashlib
import io
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import tifffile
from PIL import Image

from .backend import Backend

EXAMPLES = sorted((Path(__file__).parents[2] / "examples" / "spheroids").glob("*.png"))
SHADES = iter(range(1, 1_000_000))


def picture(kind: str = "PNG", size: tuple[int, int] = (40, 30), shade: int | None = None) -> bytes:
    """Return an image file. Without `shade`, no two have the same content."""
    buffer = io.BytesIO()
    number = shade if shade is not None else next(SHADES)
    pixels = np.full((size[1], size[0]), 7, np.uint8)
    pixels.flat[:4] = np.frombuffer(struct.pack("<I", number), np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def stack(pages: int) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.full((pages, 40, 60), next(SHADES), np.uint16), photometric="minisblack")
    return buffer.getvalue()


def bomb() -> bytes:
    """Return a PNG whose header claims 40,000 × 40,000 px."""
    data = bytearray(picture())
    data[16:24] = struct.pack(">II", 40_000, 40_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def form(*files: tuple[str, bytes], boundary: str = "limit") -> bytes:
    """Return a multipart body with these files, given as name and content."""
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
        + content
        + b"\r\n"
        for name, content in files
    ]
    return b"".join(parts) + f"--{boundary}--\r\n".encode()


class Plate:
    """A project and an HTTP client of its owner."""

    def __init__(self, backend: Backend, client: httpx.AsyncClient, project: str) -> None:
        self.backend = backend
        self.client = client
        self.project = project
        self.url = f"/api/projects/{project}/images"

    async def send(self, *files: tuple[str, bytes], code: int = 200) -> list[dict[str, Any]]:
        answer = await self.client.post(self.url, files=[("files", file) for file in files])
        assert answer.status_code == code, answer.text
        media_type = "application/json" if code < 400 else "application/problem+json"
        assert answer.headers["content-type"] == media_type
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
        """Return the names of the files in the storage, which must be the SHA-256 of their content."""
        folder = Path(self.backend.settings.resolved_storage_url())
        files = {path.name: path for path in (folder / "images").rglob("*") if path.is_file()}
        for name, path in files.items():
            assert hashlib.sha256(path.read_bytes()).hexdigest() == name
        return set(files)

    def temporary(self) -> list[Path]:
        """Return the files in the storage that are no stored images."""
        folder = Path(self.backend.settings.resolved_storage_url())
        return [path for path in folder.rglob("*") if path.is_file() and "images" not in path.parts[-4:-1]]


def only(files: list[dict[str, Any]]) -> dict[str, Any]:
    (file,) = files
    return file
