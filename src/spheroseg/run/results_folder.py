"""The result files of a run. Edited files are never overwritten, and outdated ones are removed.

A journal keeps the checksums of what runs have written under each name. A file with another content was edited by a
person, and stays as it is.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypedDict

from spheroseg.storage.atomic_files import open_atomically, write_atomically


class WrittenFile(TypedDict):
    """A file in the manifest.

    path: in the output folder. sha256: of what the run made; None if that was not made because the file was edited.
    edited: whether a person has edited the file, so that it was not overwritten.
    """

    path: str
    sha256: str | None
    edited: bool


class ResultsFolder:
    """Writes the files of a run into `out`. Write all of them, then call `remove_outdated`.

    journal: the file that keeps the checksums between runs, in a place where people do not look.
    """

    def __init__(self, out: Path, journal: Path) -> None:
        self._out = out
        self._journal = journal
        self._known = _read_journal(journal) if journal.exists() else _read_manifest(out / "manifest.json")
        self._written: dict[str, str | None] = {}

    @property
    def files(self) -> dict[str, Path]:
        """The files written so far, by their path in the folder."""
        return {path: self._out / path for path in self._written}

    def copy(self, path: str, stored: Path, sha256: str) -> WrittenFile:
        """Copy a stored file. A link would not do, because some programs write into the file that they opened."""
        return self._write(path, sha256, stored.read_bytes)

    def put(self, path: str, content: bytes) -> WrittenFile:
        """Write a file."""
        return self._write(path, hashlib.sha256(content).hexdigest(), lambda: content)

    def replace(self, path: str, content: bytes) -> None:
        """Write a file that always belongs to the run. What a person wrote into it is lost."""
        write_atomically(self._out / path, content)
        self._written[path] = None

    def stream(self, path: str, chunks: Iterable[bytes]) -> WrittenFile:
        """Write a file that is too large for the memory. If it was edited, `chunks` is not used."""
        target = self._out / path
        if target.exists() and _sha256(target) not in self._known[path]:
            self._written[path] = None
            return {"path": path, "sha256": None, "edited": True}
        digest = hashlib.sha256()
        with open_atomically(target) as file:
            for chunk in chunks:
                file.write(chunk)
                digest.update(chunk)
            self._add_to_journal(path, digest.hexdigest())
        return self._note(path, digest.hexdigest(), is_edited=False)

    def remove_outdated(self) -> None:
        """Remove what earlier runs wrote and this one did not, unless a person has edited it."""
        for path in self._known.keys() - self._written.keys():
            target = self._out / path
            if target.is_file() and _sha256(target) in self._known[path]:
                target.unlink()
                with suppress(OSError):  # the folder is not empty
                    target.parent.rmdir()
        lines = [_journal_line(path, sha256) for path, sha256 in self._written.items() if sha256]
        write_atomically(self._journal, "".join(lines).encode())

    def _write(self, path: str, sha256: str, content: Callable[[], bytes]) -> WrittenFile:
        target = self._out / path
        present = _sha256(target) if target.exists() else None
        is_edited = present is not None and present != sha256 and present not in self._known[path]
        if present != sha256 and not is_edited:
            target.parent.mkdir(exist_ok=True)
            self._add_to_journal(path, sha256)
            write_atomically(target, content())
        return self._note(path, sha256, is_edited)

    def _note(self, path: str, sha256: str, is_edited: bool) -> WrittenFile:
        self._written[path] = sha256
        return {"path": path, "sha256": sha256, "edited": is_edited}

    def _add_to_journal(self, path: str, sha256: str) -> None:
        # Before the file gets its name: after a kill in between, the next run would take it for an edited file.
        with self._journal.open("a") as journal:
            journal.write(_journal_line(path, sha256))


def _journal_line(path: str, sha256: str) -> str:
    # The line break comes first, because the last line of a killed process may be incomplete.
    return f"\n{sha256} {json.dumps(path)}"


def _read_journal(journal: Path) -> defaultdict[str, set[str]]:
    known: defaultdict[str, set[str]] = defaultdict(set)
    for line in journal.read_text().splitlines():
        sha256, _, path = line.partition(" ")
        try:
            known[json.loads(path)].add(sha256)
        except ValueError:
            continue
    return known


def _read_manifest(manifest: Path) -> defaultdict[str, set[str]]:
    """Return the checksums of what a run has written before there was a journal."""
    known: defaultdict[str, set[str]] = defaultdict(set)
    try:
        for item in json.loads(manifest.read_bytes())["inputs"]:
            for entry in (item[kind] for kind in ("overlay", "mask") if kind in item):
                known[entry["path"]].add(entry["sha256"])
    except (OSError, ValueError, KeyError):
        return known
    return known


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
