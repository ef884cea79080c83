"""All files of a run as one zip, written in chunks, so that files of any size need little memory."""

import hashlib
import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from spheroseg.export.crate import METADATA_NAME, CrateFile, build_crate_metadata

CHUNK_BYTES = 2**20
# Compressing these again takes time and saves no space.
COMPRESSED_SUFFIXES = frozenset({".png", ".tif", ".zip", ".xlsx", ".parquet"})


def stream_bundle(files: Mapping[str, Path], manifest: Mapping[str, Any]) -> Iterator[bytes]:
    """Yield the zip in chunks, for a file or a network connection.

    files: the path of each file under its name in the zip. manifest: that of the run. Its copy in the zip has, under
    `files`, the size (bytes) and the SHA-256 of every other file. It is the last file of the zip, because these are
    known only then. RO-Crate metadata say the same in a standard form. Raises OSError if a file cannot be read.
    """
    buffer = _WriteBuffer()
    written: list[CrateFile] = []
    written_at = datetime.fromisoformat(manifest["written_at"]).timetuple()[:6]
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, path in sorted(files.items()):
            digest, size = hashlib.sha256(), 0
            with (
                path.open("rb") as source,
                archive.open(_describe_member(name, written_at, path.stat().st_size), "w") as target,
            ):
                while chunk := source.read(CHUNK_BYTES):
                    target.write(chunk)
                    digest.update(chunk)
                    size += len(chunk)
                    yield buffer.take()
            written.append(CrateFile(name, size, digest.hexdigest()))
        metadata = _encode_json(build_crate_metadata(manifest, written))
        written.append(CrateFile(METADATA_NAME, len(metadata), hashlib.sha256(metadata).hexdigest()))
        listed = {file.path: {"size": file.size, "sha256": file.sha256} for file in written}
        copy = _encode_json({**manifest, "files": listed})
        for name, content in ((METADATA_NAME, metadata), ("manifest.json", copy)):
            archive.writestr(_describe_member(name, written_at, len(content)), content)
            yield buffer.take()
    yield buffer.take()


@dataclass
class _WriteBuffer:
    """A file that can be written but not rewound, so that zipfile writes a stream."""

    pending: bytes = b""

    def write(self, chunk: bytes) -> int:
        self.pending += chunk
        return len(chunk)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass

    def take(self) -> bytes:
        """Return what was written since the last call."""
        taken, self.pending = self.pending, b""
        return taken


def _describe_member(name: str, written_at: tuple[int, ...], size: int) -> zipfile.ZipInfo:
    year, month, day, hour, minute, second = written_at
    info = zipfile.ZipInfo(name, (year, month, day, hour, minute, second))
    info.external_attr = 0o644 << 16
    is_compressed = PurePosixPath(name).suffix.lower() in COMPRESSED_SUFFIXES
    info.compress_type = zipfile.ZIP_STORED if is_compressed else zipfile.ZIP_DEFLATED
    # zipfile needs the size before the first byte, to choose between the normal and the 64-bit format.
    info.file_size = size
    return info


def _encode_json(value: Any) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode()
