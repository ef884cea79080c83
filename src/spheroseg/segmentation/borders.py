"""The outlines of objects that touch, along the one line that both have in common."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spheroseg.segmentation.separate import Shares

Polygon = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.intp]  # (n, 2): row, column
Numbers = npt.NDArray[np.int32]

_OUTSIDE = -1.0
_CORNERS = np.array([(0, 0), (0, 1), (1, 1), (1, 0)])  # row and column, around a cell of four pixels
_SIDES = ([0, 1, 3, 0], [1, 2, 2, 3])  # of a cell: its two corners, the upper or left one first


@dataclass(frozen=True, eq=False)
class Borders:
    """Lays the outlines of parts on their common lines. Points are x, y, and whole numbers at the centres of pixels.

    Each outline was traced as if the neighbours were ground, so its points lie between two pixels of a grid. A point
    between two parts moves, on that same piece of the grid, to where both owners have the same share. Where a line
    ends, on the outline of the whole or on another line, all who meet there have one more point. Both are computed
    from what is there and not from who asks, so that two parts have the very same points, nothing lies between them
    and nothing in both.

    components: the label image. first: its first number that is a part; owner_of: the owners of those.
    """

    probability: npt.NDArray[np.float32]
    threshold: float
    components: Numbers
    first: int
    owner_of: Numbers
    shares: Shares

    def laid(self, polygon: Polygon, number: int) -> Polygon:
        """The polygon of the part `number` with its points on the common lines."""
        before, behind = (rounded(polygon[:, ::-1]).astype(np.intp) for rounded in (np.floor, np.ceil))
        at_before = self._number(before)
        neighbour = np.where(at_before == number, self._number(behind), at_before)
        neighbour[neighbour == number] = 0
        moved = polygon.copy()
        shared = neighbour > 0
        moved[shared] = self._between(before[shared], behind[shared])
        cells = np.floor((polygon + np.roll(polygon, -1, axis=0)) / 2).astype(np.intp)[:, ::-1]
        return self._with_ends(moved, cells, neighbour, number)

    def _with_ends(self, moved: Polygon, cells: Pixels, neighbour: Numbers, number: int) -> Polygon:
        """With the points at which common lines end. cells: that which each point and the next have in common."""
        following = np.roll(neighbour, -1)
        ends = np.flatnonzero(neighbour != following)
        at, points = [ends + 1], [self._junctions(cells[ends])]
        # Around one pixel of ours, opposite to one of another part: the two touch at a corner.
        free = np.flatnonzero((neighbour == 0) & (following == 0))
        around = self._number(cells[free][:, None] + _CORNERS)
        for mine in range(4):
            facing = around[:, (mine + 2) % 4]
            alone = (around[:, mine] == number) & (around[:, [(mine + 1) % 4, (mine + 3) % 4]] == 0).all(axis=1)
            corners = free[alone & (facing > 0) & (facing != number)]
            if len(corners):
                at += [corners + 1, corners + 1]
                points += self._corners(moved[corners], cells[corners], mine)
        return np.insert(moved, np.concatenate(at), np.concatenate(points), axis=0)

    def _corners(self, starts: Polygon, cells: Pixels, mine: int) -> list[Polygon]:
        """Half-way to the part on the opposite corner, on either side; first on that of `starts`."""
        own, opposite = cells + _CORNERS[mine], cells + _CORNERS[(mine + 2) % 4]
        ours, middles = [], []
        for step in (1, 3):
            ground = cells + _CORNERS[(mine + step) % 4]
            ours.append(self._crossing(own, ground))
            middles.append((ours[-1] + self._crossing(opposite, ground)) / 2)
        nearer = np.abs(starts - ours[0]).sum(axis=1) <= np.abs(starts - ours[1]).sum(axis=1)
        return [np.where(nearer[:, None], *middles), np.where(nearer[:, None], *middles[::-1])]

    def _junctions(self, cells: Pixels) -> Polygon:
        """Where the lines meet in cells, given by the pixel at their upper left.

        On the outline of the whole, half-way between its two ends in the cell, so that the parts add up to the
        whole; inside it, in the middle of all lines.
        """
        pixels = cells[:, None] + _CORNERS
        first, second = (pixels[:, corners] for corners in _SIDES)
        at_first, at_second = self._number(first), self._number(second)
        outer = (at_first > 0) != (at_second > 0)
        inner = (at_first > 0) & (at_second > 0) & (at_first != at_second)
        points = np.zeros((len(cells), 4, 2))
        points[outer] = self._crossing(first[outer], second[outer])
        points[inner] = self._between(first[inner], second[inner])
        used = np.where(outer.any(axis=1)[:, None], outer, inner)[..., None]
        return np.asarray((points * used).sum(axis=1) / used.sum(axis=1))

    def _between(self, before: Pixels, behind: Pixels) -> Polygon:
        """Where, between two neighbouring pixels of two parts, both parts own as much."""
        at_before, at_behind = self._number(before), self._number(behind)
        low, high = np.minimum(at_before, at_behind), np.maximum(at_before, at_behind)
        first, second = (self._lead(pixels, low, high) for pixels in (before, behind))
        sign = np.where(at_before == low, 1.0, -1.0)
        # Where pixels were given to a part so that it is in one piece, half-way is as good as any.
        agree = (sign * first > 0) & (sign * second < 0)
        share = np.where(agree, first / np.where(agree, first - second, 1.0), 0.5)
        # Never on a pixel, where points of several lines would fall together.
        return np.asarray((before + np.clip(share, 0.01, 0.99)[:, None] * (behind - before))[:, ::-1])

    def _lead(self, pixels: Pixels, one: Numbers, other: Numbers) -> npt.NDArray[np.float64]:
        """By how much the owners of the parts `one` have more of these pixels than those of `other`."""
        rows, columns = self._within(pixels)
        mine, others = (self.owner_of[numbers - self.first] for numbers in (one, other))
        return self.shares.at(mine, rows, columns) - self.shares.at(others, rows, columns)

    def _crossing(self, one: Pixels, other: Pixels) -> Polygon:
        """Where between two neighbouring pixels the map passes the threshold."""
        swap = np.any(one > other, axis=1)[:, None]
        first, second = np.where(swap, other, one), np.where(swap, one, other)
        level = self._level(first)
        share = (self.threshold - level) / (self._level(second) - level)
        return np.asarray((first + share[:, None] * (second - first))[:, ::-1])

    def _number(self, pixels: Pixels) -> Numbers:
        return np.where(self._is_outside(pixels), np.int32(0), self.components[self._within(pixels)])

    def _level(self, pixels: Pixels) -> npt.NDArray[np.float64]:
        found = self.probability[self._within(pixels)].astype(np.float64)
        return np.where(self._is_outside(pixels), _OUTSIDE, found)

    def _is_outside(self, pixels: Pixels) -> npt.NDArray[np.bool_]:
        # The tracer repeats the outermost pixels once, so that an outline reaches the border of the picture.
        return np.asarray(((pixels < -1) | (pixels > self.components.shape)).any(axis=-1))

    def _within(self, pixels: Pixels) -> tuple[Pixels, Pixels]:
        height, width = self.components.shape
        return np.clip(pixels[..., 0], 0, height - 1), np.clip(pixels[..., 1], 0, width - 1)
