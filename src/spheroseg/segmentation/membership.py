"""Computes how much each point of the picture belongs to each instance (its membership).

The border between two instances runs where both memberships are equal. Memberships are smooth functions, so borders
do not follow the pixels of the map, and do not depend on the size of the picture.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from spheroseg.segmentation.instances import Instances
from spheroseg.segmentation.watershed import Labels

# px of the map, standard deviation. It removes the steps of a border along pixels, and hardly changes longer bends.
SMOOTHING = 1.5
REACH_PX = 7  # px of the map; at a greater distance from an instance, the membership in it is 0

Numbers = npt.NDArray[np.int32]


class Memberships:
    """The memberships, 0..1, of some instances: their regions of the map with smooth edges.

    They are stored one after the other in one flat array, so that points of many instances are looked up at once.
    """

    def __init__(self, instances: Instances, numbers: Sequence[int]) -> None:
        """`numbers`: the instances, from 1, whose memberships are needed."""
        # Imported here because SciPy takes half a second to load.
        from scipy import ndimage

        boxes = ndimage.find_objects(instances.labels)
        self._instances = instances
        self._corner = np.zeros((len(boxes) + 1, 2), np.intp)
        self._size = np.full((len(boxes) + 1, 2), 2, np.intp)
        self._start = np.zeros(len(boxes) + 1, np.intp)
        pieces = [np.zeros(4, np.float32)]
        length = 4
        for number in numbers:
            (top, left), piece = _soften(instances.labels, number, boxes[number - 1])
            self._corner[number], self._size[number], self._start[number] = (top, left), piece.shape, length
            pieces.append(piece.ravel())
            length += piece.size
        self._values = np.concatenate(pieces)

    def at(
        self, numbers: Numbers, rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp]
    ) -> npt.NDArray[np.float64]:
        """Return the memberships of single pixels of the picture, each in one instance. All arrays: shape (n,).

        Values are interpolated linearly between the pixels of the map.
        """
        height, width = self._size[numbers].T
        top, left = self._corner[numbers].T
        y = np.clip(self._instances.map_rows(rows) - top, 0, height - 1)
        x = np.clip(self._instances.map_columns(columns) - left, 0, width - 1)
        above, before = np.minimum(y.astype(np.intp), height - 2), np.minimum(x.astype(np.intp), width - 2)
        v, u = y - above, x - before
        index = self._start[numbers] + above * width + before
        values = self._values
        upper = values[index] * (1 - u) + values[index + 1] * u
        lower = values[index + width] * (1 - u) + values[index + width + 1] * u
        return np.asarray(upper * (1 - v) + lower * v)

    def over(self, number: int, rows: slice, columns: slice) -> npt.NDArray[np.float32]:
        """Return the memberships in one instance of all pixels of a rectangle, in the shape of the rectangle."""
        height, width = self._size[number]
        top, left = self._corner[number]
        piece = self._values[self._start[number] :][: height * width].reshape(height, width)
        y = np.clip(self._instances.map_rows(np.arange(rows.start, rows.stop)) - top, 0, height - 1)
        x = np.clip(self._instances.map_columns(np.arange(columns.start, columns.stop)) - left, 0, width - 1)
        above, before = np.minimum(y.astype(np.intp), height - 2), np.minimum(x.astype(np.intp), width - 2)
        v, u = (y - above).astype(np.float32)[:, None], (x - before).astype(np.float32)
        across = piece[:, before] * (1 - u) + piece[:, before + 1] * u
        return np.asarray(across[above] * (1 - v) + across[above + 1] * v)

    def box(self, number: int) -> tuple[slice, slice]:
        """Return the rows and columns of the picture outside which the membership in the instance is 0."""
        shape = self._instances.shape
        scale = np.array(shape) / self._instances.labels.shape
        first = np.maximum(0, np.floor((self._corner[number] - 1) * scale)).astype(int)
        last = np.minimum(shape, np.ceil((self._corner[number] + self._size[number] + 1) * scale)).astype(int)
        return slice(int(first[0]), int(last[0])), slice(int(first[1]), int(last[1]))


def _soften(labels: Labels, number: int, box: tuple[slice, ...]) -> tuple[tuple[int, int], npt.NDArray[np.float32]]:
    """Return an instance with smooth edges, and row and column of its upper left pixel in the map."""
    rows, columns = box
    top, bottom = max(0, rows.start - REACH_PX), min(labels.shape[0], rows.stop + REACH_PX)
    left, right = max(0, columns.start - REACH_PX), min(labels.shape[1], columns.stop + REACH_PX)
    inside = (labels[top:bottom, left:right] == number).astype(np.float32)
    # At the border of the map, an object is taken to continue.
    soft = cv2.GaussianBlur(inside, (0, 0), SMOOTHING, borderType=cv2.BORDER_REPLICATE)
    return (top, left), np.pad(np.asarray(soft, np.float32), [(0, max(0, 2 - n)) for n in soft.shape], mode="edge")
