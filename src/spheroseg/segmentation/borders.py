"""Gives the outlines of objects that touch the same points along their common border."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spheroseg.segmentation.membership import Memberships, Numbers

Polygon = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.intp]  # (n, 2): row, column

_OUTSIDE = -1.0
_CORNERS = np.array([(0, 0), (0, 1), (1, 1), (1, 0)])  # row and column of the four pixels of a cell, clockwise
_SIDES = ([0, 1, 3, 0], [1, 2, 2, 3])  # the two corners of each side of a cell, the upper or left one first


@dataclass(frozen=True, eq=False)
class Borders:
    """Moves the outlines of parts onto their common borders. Points are x, y; pixel centres have whole numbers.

    Each outline was traced as if its neighbours were background, so each of its points lies between two pixels. A
    point between two parts moves, between the same two pixels, to where the memberships in both instances are equal.
    Where a border ends, on the outline of the whole or on another border, all parts that meet there get one more
    point. All points are computed from the label image alone, never from the part. Therefore two parts get exactly
    the same points, without a gap or an overlap.

    `probability`: float32 (height, width). `components`: label image of the same shape, in which the parts have the
    numbers from `first_part` on. `instance_of`: the instances of the parts, in order.
    """

    probability: npt.NDArray[np.float32]
    threshold: float
    components: Numbers
    first_part: int
    instance_of: Numbers
    memberships: Memberships

    def align(self, polygon: Polygon, number: int) -> Polygon:
        """Return the polygon (n, 2) of the part `number` with its points on the common borders."""
        before, behind = (rounded(polygon[:, ::-1]).astype(np.intp) for rounded in (np.floor, np.ceil))
        number_before = self._numbers_at(before)
        neighbour = np.where(number_before == number, self._numbers_at(behind), number_before)
        neighbour[neighbour == number] = 0
        moved = polygon.copy()
        is_shared = neighbour > 0
        moved[is_shared] = self._border_points(before[is_shared], behind[is_shared])
        cells = np.floor((polygon + np.roll(polygon, -1, axis=0)) / 2).astype(np.intp)[:, ::-1]
        return self._insert_ends(moved, cells, neighbour, number)

    def _insert_ends(self, moved: Polygon, cells: Pixels, neighbour: Numbers, number: int) -> Polygon:
        """Insert the points at which common borders end. `cells`: the cell that each point shares with the next."""
        following = np.roll(neighbour, -1)
        ends = np.flatnonzero(neighbour != following)
        positions, points = [ends + 1], [self._junctions(cells[ends])]
        # A pixel of this part that touches another part only at a corner of its cell.
        free = np.flatnonzero((neighbour == 0) & (following == 0))
        around = self._numbers_at(cells[free][:, None] + _CORNERS)
        for own in range(4):
            opposite = around[:, (own + 2) % 4]
            is_alone = (around[:, own] == number) & (around[:, [(own + 1) % 4, (own + 3) % 4]] == 0).all(axis=1)
            corners = free[is_alone & (opposite > 0) & (opposite != number)]
            if len(corners):
                positions += [corners + 1, corners + 1]
                points += self._corner_points(moved[corners], cells[corners], own)
        return np.insert(moved, np.concatenate(positions), np.concatenate(points), axis=0)

    def _corner_points(self, starts: Polygon, cells: Pixels, own_corner: int) -> list[Polygon]:
        """Return the points half-way to the part at the opposite corner, the one nearer to `starts` first."""
        own, opposite = cells + _CORNERS[own_corner], cells + _CORNERS[(own_corner + 2) % 4]
        crossings, middles = [], []
        for step in (1, 3):
            background = cells + _CORNERS[(own_corner + step) % 4]
            crossings.append(self._threshold_points(own, background))
            middles.append((crossings[-1] + self._threshold_points(opposite, background)) / 2)
        is_first = np.abs(starts - crossings[0]).sum(axis=1) <= np.abs(starts - crossings[1]).sum(axis=1)
        return [np.where(is_first[:, None], *middles), np.where(is_first[:, None], *middles[::-1])]

    def _junctions(self, cells: Pixels) -> Polygon:
        """Return where borders meet in cells, which are given by their upper left pixel.

        On the outline of the whole, this point is half-way between the two ends of the outline in the cell, so that
        the parts add up to the whole. Inside the whole, it is the mean of all border points of the cell.
        """
        pixels = cells[:, None] + _CORNERS
        first, second = (pixels[:, corners] for corners in _SIDES)
        at_first, at_second = self._numbers_at(first), self._numbers_at(second)
        is_outer = (at_first > 0) != (at_second > 0)
        is_inner = (at_first > 0) & (at_second > 0) & (at_first != at_second)
        points = np.zeros((len(cells), 4, 2))
        points[is_outer] = self._threshold_points(first[is_outer], second[is_outer])
        points[is_inner] = self._border_points(first[is_inner], second[is_inner])
        is_used = np.where(is_outer.any(axis=1)[:, None], is_outer, is_inner)[..., None]
        return np.asarray((points * is_used).sum(axis=1) / is_used.sum(axis=1))

    def _border_points(self, before: Pixels, behind: Pixels) -> Polygon:
        """Return where, between neighbouring pixels of two parts, the memberships in both instances are equal."""
        number_before, number_behind = self._numbers_at(before), self._numbers_at(behind)
        low, high = np.minimum(number_before, number_behind), np.maximum(number_before, number_behind)
        first, second = (self._lead(pixels, low, high) for pixels in (before, behind))
        sign = np.where(number_before == low, 1.0, -1.0)
        # Where pixels were given to a part to keep it connected, the memberships may be equal nowhere. The point is
        # then half-way.
        has_crossing = (sign * first > 0) & (sign * second < 0)
        fraction = np.where(has_crossing, first / np.where(has_crossing, first - second, 1.0), 0.5)
        # Keep the point off the pixels, where points of several borders would coincide.
        return np.asarray((before + np.clip(fraction, 0.01, 0.99)[:, None] * (behind - before))[:, ::-1])

    def _lead(self, pixels: Pixels, one: Numbers, other: Numbers) -> npt.NDArray[np.float64]:
        """Return the memberships in the instances of the parts `one` less those of the parts `other`."""
        rows, columns = self._clip(pixels)
        instance, other_instance = (self.instance_of[numbers - self.first_part] for numbers in (one, other))
        return self.memberships.at(instance, rows, columns) - self.memberships.at(other_instance, rows, columns)

    def _threshold_points(self, one: Pixels, other: Pixels) -> Polygon:
        """Return where the map crosses the threshold between neighbouring pixels."""
        is_swapped = np.any(one > other, axis=1)[:, None]
        first, second = np.where(is_swapped, other, one), np.where(is_swapped, one, other)
        level = self._levels_at(first)
        fraction = (self.threshold - level) / (self._levels_at(second) - level)
        return np.asarray((first + fraction[:, None] * (second - first))[:, ::-1])

    def _numbers_at(self, pixels: Pixels) -> Numbers:
        return np.where(self._is_outside(pixels), np.int32(0), self.components[self._clip(pixels)])

    def _levels_at(self, pixels: Pixels) -> npt.NDArray[np.float64]:
        levels = self.probability[self._clip(pixels)].astype(np.float64)
        return np.where(self._is_outside(pixels), _OUTSIDE, levels)

    def _is_outside(self, pixels: Pixels) -> npt.NDArray[np.bool_]:
        # The tracer repeats the outermost pixels once, so that an outline reaches the border of the picture.
        return np.asarray(((pixels < -1) | (pixels > self.components.shape)).any(axis=-1))

    def _clip(self, pixels: Pixels) -> tuple[Pixels, Pixels]:
        """Return rows and columns, moved to the nearest pixel of the picture."""
        height, width = self.components.shape
        return np.clip(pixels[..., 0], 0, height - 1), np.clip(pixels[..., 1], 0, width - 1)
