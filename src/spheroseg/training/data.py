"""The pictures that models are trained on and judged by: real ones in a folder with a manifest, and drawn scenes.

`manifest.csv` has a row a pair: `image, mask, source, licence, mask_kind, modality, height, width, foreground`, paths
relative to the folder, masks 0 where there is no object. The first folder of a path is the name of its set.
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
# Of scenes, fields and sizes that models are judged by. Training must stay away from it.
TEST_SEED = 990_001
TEST_SCENES = 60
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"})
# No manifest names these: folder inside `unlabelled` -> source, licence, modality.
_UNLABELLED_SOURCES = {
    "invasion": ("rogerh2/SpheroidInvasionAnalysis", "MIT", "fluorescence"),
    "organoids": ("TKassis/OrgaQuant", "MIT", "brightfield"),
}

Grey = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint16]


class Truth(StrEnum):
    """What the mask of a set tells about objects.

    single: there is one. union: where objects are, but not where one ends and the next begins. instances: each
    object has its own number. none: there is no mask.
    """

    SINGLE = "single"
    UNION = "union"
    INSTANCES = "instances"
    NONE = "none"


_SINGLE_OBJECT = frozenset({"spheroids"})


@dataclass(frozen=True, eq=False)
class Sample:
    """One picture with what is known of it.

    `name` is its path inside the data folder; `kind` its modality, or what was drawn. `read` gives grey values
    (float32) and labels (uint16; 0 ground, i object i), both (height, width); no labels where there is no mask. With
    `union` the labels are the connected components.
    """

    set: str
    name: str
    kind: str
    source: str
    licence: str
    truth: Truth
    read: Callable[[], tuple[Grey, Labels | None]]


def read_samples(folder: Path, sets: Sequence[str] = ()) -> list[Sample]:
    """The samples of `sets` in `folder`, by set and name; without `sets` all that have masks.

    Raises DataAway where the folder or a set is not there.
    """
    samples = _labelled(folder)
    if UNLABELLED in sets:
        samples += _unlabelled(folder)
    known = sorted({sample.set for sample in samples})
    for name in sets:
        if name not in known:
            raise DataAway(f"there is no set {name!r} in {folder}: there are {', '.join(known)}")
    return sorted((s for s in samples if not sets or s.set in sets), key=lambda s: (s.set, s.name))


def scene_samples(count: int = TEST_SCENES, seed: int = TEST_SEED) -> Iterator[Sample]:
    """Drawn scenes with exact masks, one at a time."""
    from spheroseg.training.scenes import scenes

    for number, scene in enumerate(scenes(count, seed)):
        yield Sample(
            SCENES,
            f"{SCENES}/{number:03d} {scene.kind}",
            scene.kind,
            "drawn by spheroseg",
            "MIT",
            Truth.INSTANCES,
            partial(as_made, scene.pixels, scene.labels),
        )


def as_made(pixels: Grey, labels: Labels) -> tuple[Grey, Labels | None]:
    """How a sample is read that is in no file."""
    return pixels, labels


def components(mask: npt.NDArray[np.bool_]) -> Labels:
    """The connected components (8 neighbours) of a mask, numbered from 1."""
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    assert count <= np.iinfo(np.uint16).max, "a picture does not hold that many objects"
    return np.asarray(labels, np.uint16)


def _labelled(folder: Path) -> list[Sample]:
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


def _unlabelled(folder: Path) -> list[Sample]:
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
    pixels = _decoded(image)
    if mask is None:
        return pixels, None
    inside = _decoded(mask) > 0
    if inside.shape != pixels.shape:
        raise DataAway(f"{mask} is not as large as {image}: make the mask anew")
    # A stray pixel of the mask is no second spheroid.
    return pixels, inside.astype(np.uint16) if truth == Truth.SINGLE else components(inside)


def _decoded(path: Path) -> Grey:
    try:
        with path.open("rb") as file:
            return decode(file).pixels
    except OSError as error:
        raise DataAway(f"{path} cannot be read ({error.strerror}): the manifest names it") from error
