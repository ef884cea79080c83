"""Makes smooth random fields for textures and uneven light."""

import math

import cv2
import numpy as np
import numpy.typing as npt

Map = npt.NDArray[np.float32]


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], scale_px: float, blur: float = 1.0) -> Map:
    """Return smooth random values, float32 of `shape` (height, width), with mean 0 and standard deviation 1.

    Structures measure about `scale_px`. White noise is drawn on a grid of half that spacing, blurred by a Gaussian of
    `blur` grid points, and enlarged by cubic interpolation.
    """
    height, width = shape
    spacing = max(1.0, scale_px / 2)
    rows, columns = max(2, math.ceil(height / spacing) + 3), max(2, math.ceil(width / spacing) + 3)
    values = cv2.GaussianBlur(rng.standard_normal((rows, columns), np.float32), (0, 0), blur)
    size = (max(width, math.ceil(columns * spacing)), max(height, math.ceil(rows * spacing)))
    enlarged = cv2.resize(values, size, interpolation=cv2.INTER_CUBIC)[:height, :width]
    return np.asarray((enlarged - enlarged.mean()) / (enlarged.std() + 1e-6), np.float32)
