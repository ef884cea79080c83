"""The ground of a picture: what its grey values would be without the objects."""

import cv2
import numpy as np
import numpy.typing as npt

Map = npt.NDArray[np.float32]
Mask = npt.NDArray[np.uint8]

SIDE = 192  # px; light varies slowly, so it is fitted on a small copy
ROUNDS = 12
TUKEY = 3.5  # robust standard deviations beyond which a pixel has no say in the surface
BELONGS = 3.0  # robust standard deviations within which a pixel counts as ground
REACH = 1 / 8  # of the longer side: scale of what remains of uneven light after the surface


def ground(grey: Map, support: Mask | None = None) -> Map:
    """Smooth estimate of the ground under `grey` (height, width), robust to objects on less than half of it.

    A quadratic surface fitted with Tukey's biweight (Beaton and Tukey 1974), then the slow remainder by normalised
    convolution (Knutsson and Westin 1993) over the pixels near the surface. With `support`, only pixels where it
    is not 0 are taken for possible ground.
    """
    height, width = grey.shape
    scale = min(1.0, SIDE / max(height, width))
    size = (max(8, round(width * scale)), max(8, round(height * scale)))
    small = np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.float32)
    use = np.ones(small.shape, bool)
    if support is not None:
        use = cv2.resize(support, size, interpolation=cv2.INTER_NEAREST) > 0
    surface, spread = _surface(small, use)
    rest = small - surface
    near = ((np.abs(rest) < BELONGS * spread) & use).astype(np.uint8)
    # Specks of agreement inside an object are chance, and its blurred rim is not ground.
    near = cv2.morphologyEx(cv2.erode(near, np.ones((3, 3), np.uint8)), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    weight = near.astype(np.float32)
    sigma = max(size) * REACH
    blurred = cv2.GaussianBlur(rest * weight, (0, 0), sigma)
    smooth = surface + blurred / (cv2.GaussianBlur(weight, (0, 0), sigma) + 0.05)
    return cv2.resize(smooth.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR).astype(
        np.float32, copy=False
    )


def _surface(small: Map, use: npt.NDArray[np.bool_]) -> tuple[Map, float]:
    height, width = small.shape
    y, x = np.mgrid[0:height, 0:width]
    x, y = 2 * x.ravel() / width - 1, 2 * y.ravel() / height - 1
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)
    values, chosen = small.ravel().astype(np.float64), use.ravel()
    picked, target = terms[chosen], values[chosen]
    coefficients = np.zeros(6)
    coefficients[0] = np.median(target)
    for _ in range(ROUNDS):
        residual = target - picked @ coefficients
        scale = TUKEY * (1.4826 * np.median(np.abs(residual)) + 1e-6)
        weighted = picked * (np.clip(1 - (residual / scale) ** 2, 0, None) ** 2)[:, None]
        coefficients = np.linalg.lstsq(weighted.T @ picked, weighted.T @ target, rcond=None)[0]
    spread = 1.4826 * float(np.median(np.abs(target - picked @ coefficients))) + 1e-6
    return (terms @ coefficients).reshape(small.shape).astype(np.float32), spread
