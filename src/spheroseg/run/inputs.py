"""Lists the images of a run under the paths that the user names: one entry per image, or per page of a stack.

A file that looks like an image becomes an input, and the worker that reads it reports what is wrong with it. Only
files that cannot be read at all, or that need a choice of planes, are listed here with their problem.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from spheroseg.errors import BadImage, ChoosePlane, UnreadableInput
from spheroseg.run.file_search import FoundFiles, find_files, natural_key
from spheroseg.segmentation.planes import NO_CHOICE, PlaneChoice, choose_pages
from spheroseg.segmentation.stack import PagePosition, read_pages
from spheroseg.storage import ImageStore

READING_THREADS = 4


@dataclass(frozen=True)
class RunInput:
    """One page of one file.

    name: the displayed path. page: the number of the page, from 0. pages: the number of pages of the file. sha256:
    the hash of the file. problem: error code and sentence if the page cannot be segmented. The other fields
    are what the file states about the page, see `PagePosition`.
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
        """The name, with the page number from 1 if the file has several pages."""
        return self.name if self.pages == 1 else f"{self.name} page {self.page + 1}"


@dataclass(frozen=True)
class InputList:
    """The images of a run in the order of their names, and the names of the files that are not images."""

    inputs: list[RunInput]
    skipped: list[str]


def find_inputs(
    paths: Sequence[Path],
    *,
    choice: PlaneChoice = NO_CHOICE,
    progress: Callable[[int, int], None] | None = None,
) -> InputList:
    """List the images under `paths` with their checksums.

    choice: which pages of stacks to take; a stack that needs another choice is listed with that problem.
    progress: called with the number of files read so far, and of all files. Raise UnreadableInput if one of `paths`
    does not exist.
    """
    found = find_files(paths)
    inputs: list[RunInput] = []
    store = ImageStore(".")
    with ThreadPoolExecutor(READING_THREADS) as pool:
        for done, pages in enumerate(pool.map(partial(_read_file, store, choice), found.files.items()), start=1):
            inputs.extend(pages)
            if progress:
                progress(done, len(found.files))
    return _sort(inputs, found)


def find_names(paths: Sequence[Path]) -> InputList:
    """List the images under `paths` by name alone, without opening them: one page per file, and no checksums.

    Raise UnreadableInput if one of `paths` does not exist.
    """
    found = find_files(paths)
    return _sort([RunInput(name, key) for key, name in found.files.items()], found)


def _sort(inputs: Sequence[RunInput], found: FoundFiles) -> InputList:
    unreadable = [
        RunInput(name, key, problem=(UnreadableInput.code, sentence))
        for key, (name, sentence) in found.problems.items()
    ]
    in_order = sorted([*unreadable, *inputs], key=lambda item: (natural_key(item.name), item.page))
    return InputList(in_order, sorted(found.skipped))


def _read_file(store: ImageStore, choice: PlaneChoice, file_and_name: tuple[str, str]) -> Iterable[RunInput]:
    key, name = file_and_name
    try:
        with store.open(key) as file:
            sha256 = hashlib.file_digest(cast(Any, file), "sha256").hexdigest()
            file.seek(0)
            try:
                pages = read_pages(file)
            except BadImage:
                # The worker gets the same error and reports it as the error of the task.
                pages = [PagePosition(0)]
        chosen = choose_pages(pages, choice)
    except ChoosePlane as error:
        return [RunInput(name, key, problem=(error.code, str(error)))]
    except Exception as error:
        # An error in one file must not stop the listing of the others.
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
