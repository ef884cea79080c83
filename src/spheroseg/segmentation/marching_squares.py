"""Computes the contour lines of a map by marching squares, and the pixels inside a polygon.

The results equal those of `skimage.measure.find_contours` and `skimage.draw.polygon`, bit for bit and in the same
order; the tests compare them. Points are (row, column); pixel centres have whole numbers.
"""

from collections import deque

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]

TOP, BOTTOM, LEFT, RIGHT = range(4)
# Pixels times corners of a polygon that are compared at once. This takes about 300 MB of memory.
MAX_COMPARISONS = 4_000_000
# The number of a square of four pixels is the sum over its high pixels: 1 upper left, 2 upper right, 4 lower left, 8
# lower right. For each number: the edges by which the line enters and leaves, with the low pixels on its left. High
# pixels that touch at a corner are connected, so squares 6 and 9 have two lines.
LINES = {
    1: [(TOP, LEFT)],
    2: [(RIGHT, TOP)],
    3: [(RIGHT, LEFT)],
    4: [(LEFT, BOTTOM)],
    5: [(TOP, BOTTOM)],
    6: [(LEFT, TOP), (RIGHT, BOTTOM)],
    7: [(RIGHT, BOTTOM)],
    8: [(BOTTOM, RIGHT)],
    9: [(TOP, RIGHT), (BOTTOM, LEFT)],
    10: [(BOTTOM, TOP)],
    11: [(BOTTOM, LEFT)],
    12: [(LEFT, RIGHT)],
    13: [(TOP, RIGHT)],
    14: [(LEFT, TOP)],
}
LINE_COUNT = np.array([len(LINES.get(square, ())) for square in range(16)])
EDGES = np.array([(LINES.get(square, []) + [(0, 0)] * 2)[:2] for square in range(16)])


def contour_lines(values: npt.NDArray[np.float64], level: float) -> list[Points]:
    """Return the lines where `values` (height, width) cross `level`, each of shape (n, 2).

    Points are interpolated linearly between pixel centres. A closed line repeats its first point at the end, and runs
    so that the low values are on its left. Lines are ordered by their first square, row by row.

    Source: Lorensen and Cline 1987, https://doi.org/10.1145/37401.37422, in two dimensions.
    """
    high = (values > level).astype(np.uint8)
    squares = high[:-1, :-1] | high[:-1, 1:] << 1 | high[1:, :-1] << 2 | high[1:, 1:] << 3
    rows, columns = np.nonzero((squares > 0) & (squares < 15))
    squares = squares[rows, columns]
    upper_left, upper_right = values[rows, columns], values[rows, columns + 1]
    lower_left, lower_right = values[rows + 1, columns], values[rows + 1, columns + 1]
    # Points are complex numbers, row + column i, because Python looks those up quickly in a dict.
    crossings = np.stack(
        [
            rows + 1j * (columns + _fraction(upper_left, upper_right, level)),
            rows + 1 + 1j * (columns + _fraction(lower_left, lower_right, level)),
            rows + _fraction(upper_left, lower_left, level) + 1j * columns,
            rows + _fraction(upper_right, lower_right, level) + 1j * (columns + 1),
        ],
        axis=1,
    )
    counts = LINE_COUNT[squares]
    square = np.repeat(np.arange(len(squares)), counts)
    is_second = np.zeros(len(square), np.intp)
    is_second[1:] = square[1:] == square[:-1]
    edges = EDGES[squares[square], is_second]
    return _join_segments(crossings[square, edges[:, 0]].tolist(), crossings[square, edges[:, 1]].tolist())


def pixels_inside(polygon: Points, shape: tuple[int, ...]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return rows and columns of the pixels whose centres are in `polygon` or on its edge, in an image of `shape`."""
    low, top = np.maximum(polygon.min(axis=0), 0).astype(int), np.ceil(polygon.max(axis=0)).astype(int)
    top = np.minimum(top, np.array(shape[:2]) - 1)
    spans = (np.arange(first, last + 1) for first, last in zip(low, top, strict=True))
    rows, columns = (grid.ravel() for grid in np.meshgrid(*spans, indexing="ij"))
    # Work in blocks to bound the memory, because every pixel is compared with every corner.
    step = max(1, MAX_COMPARISONS // len(polygon))
    blocks = [slice(start, start + step) for start in range(0, len(rows), step)]
    is_inside = np.concatenate([_is_inside(polygon, rows[block], columns[block]) for block in blocks] or [rows < 0])
    return rows[is_inside], columns[is_inside]


def _is_inside(polygon: Points, rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
    # The corners of the polygon relative to each pixel (y1, x1), and for each the corner before it (y0, x0).
    y1, x1 = polygon[:, 0] - rows[:, None], polygon[:, 1] - columns[:, None]
    y0, x0 = np.roll(y1, 1, axis=1), np.roll(x1, 1, axis=1)
    is_corner = ((np.abs(x1) < 1e-12) & (np.abs(y1) < 1e-12)).any(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = (x1 * y0 - x0 * y1) / (y0 - y1)
    to_the_right = (((y1 > 0) != (y0 > 0)) & (crossing > 0)).sum(axis=1) % 2
    to_the_left = (((y1 < 0) != (y0 < 0)) & (crossing < 0)).sum(axis=1) % 2
    # For a pixel on an edge, one of the two counts is odd and the other even.
    return np.asarray(is_corner | (to_the_right == 1) | (to_the_left == 1))


def _fraction(start: Points, end: Points, level: float) -> Points:
    """Return the fraction, 0 to 1, of the way from `start` to `end` at which `level` lies; 0 if they are equal."""
    difference = end - start
    return np.divide(level - start, difference, out=np.zeros_like(start), where=difference != 0)


def _join_segments(tails: list[complex], heads: list[complex]) -> list[Points]:
    """Join the segments from `tails[i]` to `heads[i]` at their common ends. Return the lines in order."""
    lines: dict[int, deque[complex]] = {}
    starts: dict[complex, int] = {}
    ends: dict[complex, int] = {}
    for number, (tail, head) in enumerate(zip(tails, heads, strict=True)):
        # The line only touches this square, at a pixel that is exactly at the level. It runs through a neighbour.
        if tail == head:
            continue
        before, after = ends.pop(tail, None), starts.pop(head, None)
        if before is None and after is None:
            lines[number] = deque((tail, head))
            starts[tail] = ends[head] = number
        elif before is None and after is not None:
            lines[after].appendleft(tail)
            starts[tail] = after
        elif before is not None and (after is None or after == before):
            lines[before].append(head)
            if after is None:
                ends[head] = before
        elif before is not None and after is not None:
            # The older line is kept, because lines are ordered by their first square.
            if before < after:
                lines[before].extend(lines.pop(after))
            else:
                starts.pop(lines[before][0], None)
                lines[after].extendleft(reversed(lines.pop(before)))
            kept = min(before, after)
            starts[lines[kept][0]] = ends[lines[kept][-1]] = kept
    return [np.array(lines[number]).view(np.float64).reshape(-1, 2) for number in sorted(lines)]
