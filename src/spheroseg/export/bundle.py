"""Everything that a run has made as one zip, in pieces: nothing is ever in memory as a whole, whatever its size."""

import hashlib
import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from spheroseg.export.crate import METADATA, File, crate_metadata

PIECE = 2**20  # bytes
PACKED = frozenset({".png", ".tif", ".zip", ".xlsx", ".parquet"})  # to pack them again takes time and gains nothing


def stream_bundle(files: Mapping[str, Path], manifest: Mapping[str, Any]) -> Iterator[bytes]:
    """The zip, piece by piece, so that it can go to a file or over a network as it comes about.

    files: names in the zip, and where they lie. manifest: that of the run. Its copy in the zip has, under `files`,
    size (bytes) and SHA-256 of every file beside it; it comes last, as these are known only then. RO-Crate metadata
    say the same for programs. Raises OSError where a file cannot be read.
    """
    sink = _Sink()
    done: list[File] = []
    made = datetime.fromisoformat(manifest["written_at"]).timetuple()[:6]
    with zipfile.ZipFile(sink, "w") as archive:
        for name, path in sorted(files.items()):
            digest, size = hashlib.sha256(), 0
            with path.open("rb") as source, archive.open(_member(name, made, path.stat().st_size), "w") as target:
                while piece := source.read(PIECE):
                    target.write(piece)
                    digest.update(piece)
                    size += len(piece)
                    yield sink.take()
            done.append(File(name, size, digest.hexdigest()))
        metadata = _json(crate_metadata(manifest, done))
        done.append(File(METADATA, len(metadata), hashlib.sha256(metadata).hexdigest()))
        listed = {file.path: {"size": file.size, "sha256": file.sha256} for file in done}
        for name, content in ((METADATA, metadata), ("manifest.json", _json({**manifest, "files": listed}))):
            archive.writestr(_member(name, made, len(content)), content)
            yield sink.take()
    yield sink.take()


@dataclass
class _Sink:
    """A file that only takes, as the zip needs it: it cannot go back, and so never does."""

    waiting: bytes = b""

    def write(self, piece: bytes) -> int:
        self.waiting += piece
        return len(piece)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass

    def take(self) -> bytes:
        taken, self.waiting = self.waiting, b""
        return taken


def _member(name: str, made: tuple[int, ...], size: int) -> zipfile.ZipInfo:
    year, month, day, hour, minute, second = made
    info = zipfile.ZipInfo(name, (year, month, day, hour, minute, second))
    info.external_attr = 0o644 << 16
    is_packed = PurePosixPath(name).suffix.lower() in PACKED
    info.compress_type = zipfile.ZIP_STORED if is_packed else zipfile.ZIP_DEFLATED
    # Tells whether it needs the larger form, before the first byte is written.
    info.file_size = size
    return info


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode()
