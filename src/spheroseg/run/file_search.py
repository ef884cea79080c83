"""Find files that may be images: in folders to any depth, in zip archives, and those that a person names.

Nothing is copied and no image is opened here. Names are those that people read, from the common folder of all paths.
"""

import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from spheroseg.errors import UnreadableInput
from spheroseg.run.output_names import OUTPUTS, STATE_FOLDER
from spheroseg.storage import file_key, member_key

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})
# These formats cannot be read. They are listed all the same, so that each one is reported with what to do.
FOREIGN_SUFFIXES = frozenset({".czi", ".lif", ".nd2", ".oib", ".oif", ".vsi", ".lsm", ".ims", ".stk"})
_ENCRYPTED = 0x1  # bit of the flags of a zip member


@dataclass
class FoundFiles:
    """files: name by storage key. problems: name and sentence of what cannot be read, by storage key.

    skipped: the names of files that are not images.
    """

    files: dict[str, str] = field(default_factory=dict)
    problems: dict[str, tuple[str, str]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)


def find_files(paths: Sequence[Path]) -> FoundFiles:
    """Find the files under `paths`. What an earlier run has written is left out.

    Raise UnreadableInput if one of `paths` does not exist.
    """
    for path in paths:
        if not path.exists():
            raise UnreadableInput(f"no such file or folder: {path}")
    # Resolved, so that a file is one image however it was named.
    absolute = [
        Path(os.path.realpath(path.parent)) / path.name if path.is_file() else path.resolve() for path in paths
    ]
    base = Path(os.path.commonpath([path if path.is_dir() else path.parent for path in absolute]))
    search = _Search(base)
    for path in absolute:
        if path.is_dir():
            for file in search.walk(path):
                search.add(file, is_named=False)
        else:
            search.add(path, is_named=True)
    return search.found


def natural_key(name: str) -> list[tuple[int, str]]:
    """Return a sort key by which `t2` comes before `t10`."""
    parts: list[tuple[int, str]] = []
    digits = ""
    for character in f"{name} ":
        if character.isdecimal():
            digits += character
            continue
        if digits:
            parts.append((int(digits), ""))
            digits = ""
        parts.append((-1, character))
    return parts


class _Search:
    def __init__(self, base: Path) -> None:
        self._base = base
        self.found = FoundFiles()

    def walk(self, folder: Path) -> Iterator[Path]:
        def report_unreadable(error: OSError) -> None:
            sentence = f"cannot look into the folder: {error.strerror}; give yourself permission to read it"
            self._add_problem(Path(error.filename), sentence)

        visited = {os.path.realpath(folder)}
        for parent, folders, files in os.walk(folder, onerror=report_unreadable, followlinks=True):
            outputs = OUTPUTS if STATE_FOLDER in folders else ()
            to_visit = []
            for name in sorted(folders):
                real = os.path.realpath(os.path.join(parent, name))
                # A link may lead back to a folder above.
                if not name.startswith(".") and name not in outputs and real not in visited:
                    visited.add(real)
                    to_visit.append(name)
            folders[:] = to_visit
            for name in sorted(files):
                if not name.startswith(".") and name not in outputs:
                    yield Path(parent, name)

    def add(self, path: Path, *, is_named: bool) -> None:
        """Add a file. is_named: whether a person named this file, so that it is taken whatever its suffix."""
        suffix = path.suffix.lower()
        if not path.is_file():
            # Reading a pipe or a device would never end, and a broken link has no content.
            self._add_problem(path, "not a regular file")
        elif suffix == ".zip":
            self._add_members(path)
        elif is_named or suffix in IMAGE_SUFFIXES | FOREIGN_SUFFIXES:
            self.found.files.setdefault(file_key(path), self._name(path))
        else:
            self.found.skipped.append(self._name(path))

    def _add_members(self, path: Path) -> None:
        try:
            with zipfile.ZipFile(path) as archive:
                members = [member for member in archive.infolist() if not member.is_dir()]
        except (OSError, zipfile.BadZipFile) as error:
            self._add_problem(path, f"cannot open the zip archive: {error}")
            return
        for member in members:
            inside = PurePosixPath(member.filename)
            if any(part.startswith(".") or part == "__MACOSX" for part in inside.parts):
                continue
            name, key = f"{self._name(path)}/{inside}", member_key(path, member.filename)
            if inside.suffix.lower() not in IMAGE_SUFFIXES | FOREIGN_SUFFIXES:
                self.found.skipped.append(name)
            elif member.flag_bits & _ENCRYPTED:
                self.found.problems[key] = (name, "encrypted in its zip archive: unpack it first")
            else:
                self.found.files.setdefault(key, name)

    def _add_problem(self, path: Path, sentence: str) -> None:
        self.found.problems[file_key(path)] = (self._name(path), sentence)

    def _name(self, path: Path) -> str:
        name = path.relative_to(self._base).as_posix() if path != self._base else path.name
        # A name from an old disk may hold bytes that are not text, but it must be printed and stored.
        return os.fsencode(name).decode("utf-8", "backslashreplace")
