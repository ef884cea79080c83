"""Divides a picture into windows that the network processes one by one. The margins of its answers are discarded.

Overlapping tiles of bounded size leave no seams (Ronneberger, Fischer and Brox 2015, "overlap-tile strategy") and
bound the memory, however large the picture is.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Grey = npt.NDArray[np.float32]

TILE_SIDE_PX = 1024  # the longest side of a window
MAX_PASS_SIDE_PX = 4096  # the longer side of any pass; it bounds the memory


class Span(NamedTuple):
    """A window along one side, px: its start, its length, and the part of the side for which its answer is kept."""

    begin: int
    length: int
    kept: slice


@dataclass(frozen=True)
class Window:
    """A window of a picture, px. `kept`: the rows and columns of the picture for which its answer is kept."""

    top: int
    left: int
    height: int
    width: int
    kept: tuple[slice, slice]


def round_up(length: int, multiple: int) -> int:
    """Return the least multiple of `multiple` that is not below `length`."""
    return -(-length // multiple) * multiple


def split_side(length: int, multiple: int, margin: int, tile: int = TILE_SIDE_PX) -> list[Span]:
    """Divide a side of `length` px into spans of one length, at most `tile` px and a multiple of `multiple`.

    The kept parts cover 0..length once. Each is at least `margin` px away from the cuts of its window. The last
    window may reach beyond `length`, up to the next multiple.
    """
    padded = round_up(length, multiple)
    size = min(padded, tile // multiple * multiple)
    margin = round_up(margin, multiple)
    spans: list[Span] = []
    kept_until, begin = 0, 0
    while True:
        begin = min(begin, padded - size)
        is_last = begin + size == padded
        end = length if is_last else begin + size - margin
        spans.append(Span(begin, size, slice(kept_until, end)))
        if is_last:
            return spans
        kept_until, begin = end, begin + size - 2 * margin


def split_picture(shape: tuple[int, ...], multiple: int, margin: int, tile: int = TILE_SIDE_PX) -> Iterator[Window]:
    """Yield the windows of a picture of `shape` (height, width), row by row; the limits are those of `split_side`."""
    height, width = shape
    columns = split_side(width, multiple, margin, tile)
    for row in split_side(height, multiple, margin, tile):
        for column in columns:
            yield Window(row.begin, column.begin, row.length, column.length, (row.kept, column.kept))
