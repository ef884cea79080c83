"""Give the outputs of every image a file name of their own."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

from spheroseg.run.inputs import RunInput

MAX_NAME_BYTES = 200  # file systems take 255, and page number and suffix are added


def unique_file_names(inputs: Sequence[RunInput]) -> list[str]:
    """Return one file name without suffix per input, all different, also where upper and lower case are the same.

    It is the path of the input with `__` for `/`. The suffix of the input is kept only if the name would not be
    unique without it.
    """
    short_names = [_flatten(item, PurePosixPath(item.name).with_suffix("").as_posix()) for item in inputs]
    full_names = [_flatten(item, item.name) for item in inputs]
    uses = Counter(name.casefold() for name in short_names)
    names: list[str] = []
    taken: set[str] = set()
    for short, full in zip(short_names, full_names, strict=True):
        name = short if uses[short.casefold()] == 1 else full
        while name.casefold() in taken:
            name += "_"
        taken.add(name.casefold())
        names.append(name)
    return names


def _flatten(item: RunInput, path: str) -> str:
    page = "" if item.pages == 1 else f"_p{item.page + 1:0{len(str(item.pages))}d}"
    name = path.replace("/", "__")
    if len(name.encode()) > MAX_NAME_BYTES:
        # The hash keeps names apart that differ only in what is cut off.
        start = name.encode()[: MAX_NAME_BYTES - 9].decode(errors="ignore")
        name = f"{start}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return name + page
