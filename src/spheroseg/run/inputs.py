"""From the paths that a person names to the list of images: folders, files, zip archives, pages of stacks.

Nothing is copied and no file is judged here: what looks like an image becomes an image to segment, and the worker
that reads it says what is wrong with it. Only what cannot be read at all is listed with its problem.
"""

import hashlib
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, cast

from spheroseg.errors import BadImage, ChoosePlane, UnreadableInput
from spheroseg.segmentation.planes import NO_CHOICE, PlaneChoice, choose_pages
from spheroseg.segmentation.stack import PagePosition, read_pages
from spheroseg.storage import ImageStore, file_key, member_key

# What a run keeps in its folder, and what it writes there for people.
STATE_FOLDER = ".spheroseg"
OUTPUTS = (
    "results.csv",
    "overlays",
    "masks",
    "rois",
    "geojson",
    "coco.json",
    "bundle.zip",
    "manifest.json",
    "growth.csv",
    "growth.xlsx",
    "growth.parquet",
    "wells.csv",
    "conditions.csv",
    "fits.csv",
    "endpoint.csv",
    "ic50.csv",
    "charts",
    "contact",
)
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})
# Not read, but a person who hands in a folder of them must hear so.
FOREIGN_SUFFIXES = frozenset({".czi", ".lif", ".nd2", ".oib", ".oif", ".vsi", ".lsm", ".ims", ".stk"})


@dataclass(frozen=True)
class RunInput:
    """One page of one file. `name` is the path as people read it; `page` counts from 0, `pages` is all of them.

    The rest is what the file says of the page, as in `PagePosition`.
    """

    name: str
    storage_key: str
    sha256: str = ""
    page: int = 0
    pages: int = 1
    problem: tuple[str, str] | None = None
    t: int | None = None
    z: int | None = None
    channel: int | None = None
    time_h: float | None = None
    channel_name: str = ""

    @property
    def label(self) -> str:
        return self.name if self.pages == 1 else f"{self.name} page {self.page + 1}"


@dataclass(frozen=True)
class InputList:
    """`skipped` names the files that were left alone because they are no images."""

    inputs: list[RunInput]
    skipped: list[str]


@dataclass
class _Found:
    files: dict[str, str] = field(default_factory=dict)  # storage key -> name
    problems: dict[str, RunInput] = field(default_factory=dict)  # by storage key
    skipped: list[str] = field(default_factory=list)

    def add_problem(self, path: Path, base: Path, code: str, sentence: str) -> None:
        key = file_key(path)
        self.problems[key] = RunInput(_name(path, base), key, problem=(code, sentence))


def find_inputs(
    paths: Sequence[Path],
    *,
    choice: PlaneChoice = NO_CHOICE,
    progress: Callable[[int, int], None] | None = None,
) -> InputList:
    """List the images under `paths`, with checksums, in the order of their names.

    choice: of the pages of stacks; a file of which it does not tell what to take is listed with that problem.
    progress: called with (read, found). Raises UnreadableInput where one of `paths` does not exist.
    """
    found = _find(paths)
    inputs = list(found.problems.values())
    store = ImageStore(".")
    with ThreadPoolExecutor(max_workers=4) as pool:
        for done, pages in enumerate(pool.map(partial(_read, store, choice), found.files.items()), start=1):
            inputs.extend(pages)
            if progress:
                progress(done, len(found.files))
    return _sorted(inputs, found)


def find_names(paths: Sequence[Path]) -> InputList:
    """The same by name alone: no file is opened, so checksums are empty and every file counts as one page.

    Raises UnreadableInput where one of `paths` does not exist.
    """
    found = _find(paths)
    named = [RunInput(name, key) for key, name in found.files.items()]
    return _sorted([*found.problems.values(), *named], found)


def _find(paths: Sequence[Path]) -> _Found:
    for path in paths:
        if not path.exists():
            raise UnreadableInput(f"no such file or folder: {path}")
    # One spelling for one file, so that it is one image however it was named.
    absolute = [
        Path(os.path.realpath(path.parent)) / path.name if path.is_file() else path.resolve() for path in paths
    ]
    base = Path(os.path.commonpath([path if path.is_dir() else path.parent for path in absolute]))
    found = _Found()
    for path in absolute:
        if path.is_dir():
            for file in _walk(path, base, found):
                _add(file, base, found, is_named=False)
        else:
            _add(path, base, found, is_named=True)
    return found


def _sorted(inputs: Sequence[RunInput], found: _Found) -> InputList:
    return InputList(sorted(inputs, key=lambda item: (_natural(item.name), item.page)), sorted(found.skipped))


def _walk(folder: Path, base: Path, found: _Found) -> Iterator[Path]:
    def unreadable(error: OSError) -> None:
        where = Path(error.filename)
        sentence = f"cannot look into the folder: {error.strerror}; give yourself the right to read it"
        found.add_problem(where, base, UnreadableInput.code, sentence)

    seen = {os.path.realpath(folder)}
    for parent, folders, files in os.walk(folder, onerror=unreadable, followlinks=True):
        # What a run wrote is no input, neither of this run nor of another.
        left_out = OUTPUTS if STATE_FOLDER in folders else ()
        wanted = []
        for name in sorted(folders):
            real = os.path.realpath(os.path.join(parent, name))
            # A link may lead back to where we come from.
            if not name.startswith(".") and name not in left_out and real not in seen:
                seen.add(real)
                wanted.append(name)
        folders[:] = wanted
        yield from (Path(parent, name) for name in sorted(files) if not name.startswith(".") and name not in left_out)


def _add(path: Path, base: Path, found: _Found, *, is_named: bool) -> None:
    suffix = path.suffix.lower()
    if not path.is_file():
        # A pipe or a device would never end; a broken link has nothing.
        found.add_problem(path, base, UnreadableInput.code, "not a regular file")
    elif suffix == ".zip":
        _add_members(path, base, found)
    elif is_named or suffix in IMAGE_SUFFIXES | FOREIGN_SUFFIXES:
        found.files.setdefault(file_key(path), _name(path, base))
    else:
        found.skipped.append(_name(path, base))


def _add_members(path: Path, base: Path, found: _Found) -> None:
    name = _name(path, base)
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
    except (OSError, zipfile.BadZipFile) as error:
        found.add_problem(path, base, UnreadableInput.code, f"cannot open the zip archive: {error}")
        return
    for member in members:
        inside = PurePosixPath(member.filename)
        if any(part.startswith(".") or part == "__MACOSX" for part in inside.parts):
            continue
        if inside.suffix.lower() not in IMAGE_SUFFIXES | FOREIGN_SUFFIXES:
            found.skipped.append(f"{name}/{inside}")
        elif member.flag_bits & 0x1:
            problem = (UnreadableInput.code, "encrypted in its zip archive: unpack it first")
            key = member_key(path, member.filename)
            found.problems[key] = RunInput(f"{name}/{inside}", key, problem=problem)
        else:
            found.files.setdefault(member_key(path, member.filename), f"{name}/{inside}")


def _read(store: ImageStore, choice: PlaneChoice, found: tuple[str, str]) -> Iterable[RunInput]:
    key, name = found
    try:
        with store.open(key) as file:
            sha256 = hashlib.file_digest(cast(Any, file), "sha256").hexdigest()
            file.seek(0)
            try:
                pages = read_pages(file)
            except BadImage:
                # The worker meets the same error and reports it as the task's own.
                pages = [PagePosition(0)]
        chosen = choose_pages(pages, choice)
    except ChoosePlane as error:
        return [RunInput(name, key, problem=(error.code, str(error)))]
    except Exception as error:
        # Whatever one file does to us, it is that file's problem and not the end of the list.
        sentence = str(error) or type(error).__name__
        return [RunInput(name, key, problem=(UnreadableInput.code, sentence))]
    return [
        RunInput(
            name,
            key,
            sha256,
            page.page,
            len(pages),
            t=page.t,
            z=page.z,
            channel=page.channel,
            time_h=page.time_h,
            channel_name=page.channel_name,
        )
        for page in chosen
    ]


def _name(path: Path, base: Path) -> str:
    name = path.relative_to(base).as_posix() if path != base else path.name
    # A name from an old disk may hold bytes that are no text; it must be printable and storable all the same.
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _natural(name: str) -> list[tuple[int, str]]:
    """A sort key by which `t2` comes before `t10`."""
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
