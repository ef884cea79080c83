"""Estimates the background of a picture: its grey values without the objects."""

import cv2
import numpy as np
import numpy.typing as npt

Map = npt.NDArray[np.float32]
Mask = npt.NDArray[np.uint8]

MAX_SIDE_PX = 192  # longer side of the copy to which the surface is fitted; light varies slowly
FIT_ROUNDS = 12  # of reweighting
MAX_FIT_DEVIATION = 3.5  # robust standard deviations beyond which a pixel has no weight in the fit (Tukey)
MAX_BACKGROUND_DEVIATION = 3.0  # robust standard deviations within which a pixel counts as background
# Standard deviation of the blur of the residuals, as a share of the longer side.
SMOOTHING_SHARE = 1 / 8

# The constants as they enter the hash of `classical-contrast`, see `classical`. Never rename a key.
HASHED_CONSTANTS = {
    "SIDE": MAX_SIDE_PX,
    "ROUNDS": FIT_ROUNDS,
    "TUKEY": MAX_FIT_DEVIATION,
    "BELONGS": MAX_BACKGROUND_DEVIATION,
    "REACH": SMOOTHING_SHARE,
}


def estimate_background(grey: Map, support: Mask | None = None) -> Map:
    """Return a smooth estimate of the background under `grey`, float32 (height, width).

    It is robust to objects that cover less than half of the picture. A quadratic surface is fitted with Tukey's
    biweight (Beaton and Tukey 1974). The residuals of the pixels near the surface are smoothed by normalised
    convolution (Knutsson and Westin 1993) and added. With `support`, only pixels where it is not 0 may be background.
    """
    height, width = grey.shape
    scale = min(1.0, MAX_SIDE_PX / max(height, width))
    size = (max(8, round(width * scale)), max(8, round(height * scale)))
    small = np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.float32)
    is_candidate = np.ones(small.shape, bool)
    if support is not None:
        is_candidate = cv2.resize(support, size, interpolation=cv2.INTER_NEAREST) > 0
    surface, spread = _fit_surface(small, is_candidate)
    remainder = small - surface
    near = ((np.abs(remainder) < MAX_BACKGROUND_DEVIATION * spread) & is_candidate).astype(np.uint8)
    # Specks inside an object are near the surface by chance, and its blurred rim is not background.
    near = cv2.morphologyEx(cv2.erode(near, np.ones((3, 3), np.uint8)), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    weight = near.astype(np.float32)
    sigma = max(size) * SMOOTHING_SHARE
    blurred = cv2.GaussianBlur(remainder * weight, (0, 0), sigma)
    smooth = surface + blurred / (cv2.GaussianBlur(weight, (0, 0), sigma) + 0.05)
    return cv2.resize(smooth.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR).astype(
        np.float32, copy=False
    )


def _fit_surface(small: Map, is_candidate: npt.NDArray[np.bool_]) -> tuple[Map, float]:
    """Return a quadratic surface through the candidates, and the robust standard deviation from it."""
    height, width = small.shape
    y, x = np.mgrid[0:height, 0:width]
    x, y = 2 * x.ravel() / width - 1, 2 * y.ravel() / height - 1
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)
    values, chosen = small.ravel().astype(np.float64), is_candidate.ravel()
    picked, target = terms[chosen], values[chosen]
    coefficients = np.zeros(6)
    coefficients[0] = np.median(target)
    for _ in range(FIT_ROUNDS):
        residual = target - picked @ coefficients
        scale = MAX_FIT_DEVIATION * (1.4826 * np.median(np.abs(residual)) + 1e-6)
        weighted = picked * (np.clip(1 - (residual / scale) ** 2, 0, None) ** 2)[:, None]
        coefficients = np.linalg.lstsq(weighted.T @ picked, weighted.T @ target, rcond=None)[0]
    spread = 1.4826 * float(np.median(np.abs(target - picked @ coefficients))) + 1e-6
    return (terms @ coefficients).reshape(small.shape).astype(np.float32), spread
