"""The files of a run that people open: written whole, never over what somebody has edited, nothing old left behind.

A journal tells what we wrote under each name. A file with other content is somebody's work and stays as it is.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from spheroseg.atomic_files import open_atomically, write_atomically

Entry = dict[str, Any]


class ResultsFolder:
    """Place everything that a run has to give, then `tidy`.

    Each file that is placed has an entry for the manifest: `path` in the folder, `sha256` of what the run made, and
    whether it was `edited` and so left alone. journal: what is kept between runs, in a file that people do not see.
    """

    def __init__(self, out: Path, journal: Path) -> None:
        self._out = out
        self._journal = journal
        self._ours = _read_journal(journal) if journal.exists() else _read_manifest(out / "manifest.json")
        self._placed: dict[str, str | None] = {}

    @property
    def files(self) -> dict[str, Path]:
        """What has been placed so far: names in the folder, and where they lie."""
        return {path: self._out / path for path in self._placed}

    def copy(self, path: str, stored: Path, sha256: str) -> Entry:
        """A copy and not a link, because some programs write into the file that they have opened."""
        return self._place(path, sha256, stored.read_bytes)

    def put(self, path: str, content: bytes) -> Entry:
        return self._place(path, hashlib.sha256(content).hexdigest(), lambda: content)

    def replace(self, path: str, content: bytes) -> None:
        """For a file that is always the run's own: what somebody wrote into it is lost."""
        write_atomically(self._out / path, content)
        self._placed[path] = None

    def stream(self, path: str, pieces: Iterable[bytes]) -> Entry:
        """For what is too large for the memory. Where it was edited its `sha256` is not known."""
        target = self._out / path
        if target.exists() and _sha256(target) not in self._ours[path]:
            self._placed[path] = None
            return {"path": path, "sha256": None, "edited": True}
        digest = hashlib.sha256()
        with open_atomically(target) as file:
            for piece in pieces:
                file.write(piece)
                digest.update(piece)
            self._note(path, digest.hexdigest())
        return self._entry(path, digest.hexdigest(), is_edited=False)

    def tidy(self) -> None:
        """Take away what earlier runs wrote and this one did not, unless somebody has edited it."""
        for path in self._ours.keys() - self._placed.keys():
            target = self._out / path
            if target.is_file() and _sha256(target) in self._ours[path]:
                target.unlink()
                with suppress(OSError):  # while there is something in it
                    target.parent.rmdir()
        lines = [_line(path, sha256) for path, sha256 in self._placed.items() if sha256]
        write_atomically(self._journal, "".join(lines).encode())

    def _place(self, path: str, sha256: str, content: Callable[[], bytes]) -> Entry:
        target = self._out / path
        there = _sha256(target) if target.exists() else None
        is_edited = there is not None and there != sha256 and there not in self._ours[path]
        if there != sha256 and not is_edited:
            target.parent.mkdir(exist_ok=True)
            self._note(path, sha256)
            write_atomically(target, content())
        return self._entry(path, sha256, is_edited)

    def _entry(self, path: str, sha256: str, is_edited: bool) -> Entry:
        self._placed[path] = sha256
        return {"path": path, "sha256": sha256, "edited": is_edited}

    def _note(self, path: str, sha256: str) -> None:
        # Before the file has its name: killed in between, we would take it for somebody else's the next time.
        with self._journal.open("a") as journal:
            journal.write(_line(path, sha256))


def _line(path: str, sha256: str) -> str:
    # The line break comes first, for the last line of a process that was killed.
    return f"\n{sha256} {json.dumps(path)}"


def _read_journal(journal: Path) -> defaultdict[str, set[str]]:
    ours: defaultdict[str, set[str]] = defaultdict(set)
    for line in journal.read_text().splitlines():
        sha256, _, path = line.partition(" ")
        try:
            ours[json.loads(path)].add(sha256)
        except ValueError:
            continue
    return ours


def _read_manifest(manifest: Path) -> defaultdict[str, set[str]]:
    """What a run of a time without a journal has written."""
    ours: defaultdict[str, set[str]] = defaultdict(set)
    try:
        for item in json.loads(manifest.read_bytes())["inputs"]:
            for entry in (item[kind] for kind in ("overlay", "mask") if kind in item):
                ours[entry["path"]].add(entry["sha256"])
    except (OSError, ValueError, KeyError):
        return ours
    return ours


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
