"""Provides the pictures for training and evaluation: labelled ones from a folder with a manifest, and drawn scenes.

`manifest.csv` has one row per pair of image and mask, with the columns `image, mask, source, licence, mask_kind,
modality, height, width, foreground`. Paths are relative to the folder, and the first folder of a path is the name of
the set. Masks are 0 where there is no object.
"""

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
import numpy.typing as npt

from spheroseg.errors import DataAway
from spheroseg.segmentation.image import decode

MANIFEST = "manifest.csv"
UNLABELLED = "unlabelled"
SCENES = "scenes"
FIELDS = "fields"
SIZES = "sizes"
# The seed of the scenes, fields and single spheroids for evaluation. Training must not use it.
TEST_SEED = 990_001
TEST_SCENES = 60
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"})
# Source, licence and modality of the folders inside `unlabelled`, which the manifest does not list.
_UNLABELLED_SOURCES = {
    "invasion": ("rogerh2/SpheroidInvasionAnalysis", "MIT", "fluorescence"),
    "organoids": ("TKassis/OrgaQuant", "MIT", "brightfield"),
}

Grey = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint16]


class Truth(StrEnum):
    """The kind of the masks of a set.

    single: there is one object. union: the mask shows where objects are, but does not separate them. instances: each
    object has its own number. none: there is no mask.
    """

    SINGLE = "single"
    UNION = "union"
    INSTANCES = "instances"
    NONE = "none"


_SINGLE_OBJECT = frozenset({"spheroids"})


@dataclass(frozen=True, eq=False)
class Sample:
    """One picture with its truth.

    `name`: path inside the data folder. `kind`: modality, or kind of scene. `read` returns grey values (float32)
    and labels (uint16; 0 background, i object i), both (height, width). It returns None instead of labels if there is
    no mask. For a `union`, the labels are the connected components.
    """

    set: str
    name: str
    kind: str
    source: str
    licence: str
    truth: Truth
    read: Callable[[], tuple[Grey, Labels | None]]


def read_samples(folder: Path, sets: Sequence[str] = ()) -> list[Sample]:
    """Return the samples of `sets` in `folder`, sorted by set and name; without `sets`, all that have masks.

    Raise DataAway if the folder or a set does not exist.
    """
    samples = _list_labelled(folder)
    if UNLABELLED in sets:
        samples += _list_unlabelled(folder)
    known = sorted({sample.set for sample in samples})
    for name in sets:
        if name not in known:
            raise DataAway(f"there is no set {name!r} in {folder}: there are {', '.join(known)}")
    return sorted((s for s in samples if not sets or s.set in sets), key=lambda s: (s.set, s.name))


def scene_samples(count: int = TEST_SCENES, seed: int = TEST_SEED) -> Iterator[Sample]:
    """Draw scenes with exact masks, one at a time."""
    from spheroseg.training.scenes import draw_scenes

    for number, scene in enumerate(draw_scenes(count, seed)):
        yield Sample(
            SCENES,
            f"{SCENES}/{number:03d} {scene.kind}",
            scene.kind,
            "drawn by spheroseg",
            "MIT",
            Truth.INSTANCES,
            partial(return_drawn, scene.pixels, scene.labels),
        )


def return_drawn(pixels: Grey, labels: Labels) -> tuple[Grey, Labels | None]:
    """Return the arguments: the `read` of a sample that was drawn and is not in a file."""
    return pixels, labels


def components(mask: npt.NDArray[np.bool_]) -> Labels:
    """Return the connected components (8 neighbours) of a mask, numbered from 1."""
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    assert count <= np.iinfo(np.uint16).max, "a picture does not hold that many objects"
    return np.asarray(labels, np.uint16)


def _list_labelled(folder: Path) -> list[Sample]:
    manifest = folder / MANIFEST
    try:
        with manifest.open(newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise DataAway(
            f"no data at {folder} ({error.strerror}): name a folder that holds {MANIFEST} with --data"
        ) from error
    try:
        return [_sample(folder, row) for row in rows]
    except KeyError as error:
        raise DataAway(
            f"{manifest} has no column {error}: see spheroseg.training.data for what it must have"
        ) from None


def _sample(folder: Path, row: dict[str, str]) -> Sample:
    set_ = PurePosixPath(row["image"]).parts[0]
    truth = Truth.SINGLE if set_ in _SINGLE_OBJECT else Truth.UNION
    return Sample(
        set_,
        row["image"],
        row["modality"],
        row["source"],
        row["licence"],
        truth,
        partial(_read, folder / row["image"], folder / row["mask"], truth),
    )


def _list_unlabelled(folder: Path) -> list[Sample]:
    samples = []
    for path in sorted((folder / UNLABELLED).rglob("*")):
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        source, licence, kind = _UNLABELLED_SOURCES.get(path.parent.name, ("unknown", "unknown", "unknown"))
        name = path.relative_to(folder).as_posix()
        samples.append(
            Sample(UNLABELLED, name, kind, source, licence, Truth.NONE, partial(_read, path, None, Truth.NONE))
        )
    return samples


def _read(image: Path, mask: Path | None, truth: Truth) -> tuple[Grey, Labels | None]:
    pixels = _decode(image)
    if mask is None:
        return pixels, None
    inside = _decode(mask) > 0
    if inside.shape != pixels.shape:
        raise DataAway(f"{mask} is not as large as {image}: make the mask anew")
    # In a set of pictures with one object, a separate pixel of the mask is not a second spheroid.
    return pixels, inside.astype(np.uint16) if truth == Truth.SINGLE else components(inside)


def _decode(path: Path) -> Grey:
    try:
        with path.open("rb") as file:
            return decode(file).pixels
    except OSError as error:
        raise DataAway(f"{path} cannot be read ({error.strerror}): the manifest names it") from error
