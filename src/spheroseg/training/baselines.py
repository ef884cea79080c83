"""What a network must beat: a threshold, with everything after it done as for any model."""

import hashlib
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_fill_holes

from spheroseg.segmentation.maps import Maps

VERSION = "1"
SMOOTHING = 1.0  # px, standard deviation: of the picture before the threshold, and of the mask after it
STRETCH = (0.1, 99.9)  # percentiles that become 0 and 1
SAUVOLA_WINDOW = 0.5  # of the shorter side; a window smaller than an object finds its rim alone
SAUVOLA_K = 0.2
SAUVOLA_R = 0.5  # greatest standard deviation of grey values 0..1

Grey = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


class Threshold:
    """A model of two grey classes: of what is dark and what is bright, the smaller is the objects.

    Holes are filled. The mask is blurred by 1 px to a probability, so that outlines at 0.5 are sub-pixel.
    """

    version = VERSION

    def __init__(self, name: str, is_dark: Callable[[Grey], Mask]) -> None:
        self.name = name
        self.sha256 = hashlib.sha256(f"{name} {VERSION}".encode()).hexdigest()
        self._is_dark = is_dark

    def maps(self, pictures: Sequence[Grey]) -> list[Maps]:
        """Grey values (height, width) to probabilities of the same size; all 0 where the picture has no contrast."""
        return [Maps(self._probability(pixels)) for pixels in pictures]

    def _probability(self, pixels: Grey) -> Grey:
        low, high = np.percentile(pixels, STRETCH)
        if high <= low:
            return np.zeros(pixels.shape, np.float32)
        grey = np.clip((pixels - np.float32(low)) / np.float32(high - low), 0, 1)
        grey = np.asarray(cv2.GaussianBlur(grey, (0, 0), SMOOTHING), np.float32)
        masks = [binary_fill_holes(self._is_dark(either)) for either in (grey, 1 - grey)]
        mask = np.asarray(min(masks, key=np.count_nonzero), np.float32)
        return np.asarray(cv2.GaussianBlur(mask, (0, 0), SMOOTHING), np.float32)


def otsu() -> Threshold:
    """One threshold for the picture, between two classes of grey values (Otsu 1979)."""
    return Threshold("otsu", _otsu_dark)


def sauvola() -> Threshold:
    """A threshold for each pixel, from mean and deviation around it (Sauvola and Pietikäinen 2000)."""
    return Threshold("sauvola", _sauvola_dark)


BASELINES = {"otsu": otsu, "sauvola": sauvola}


def _otsu_dark(grey: Grey) -> Mask:
    levels = np.round(grey * 255).astype(np.uint8)
    threshold, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return np.asarray(levels <= threshold)


def _sauvola_dark(grey: Grey) -> Mask:
    side = 2 * round(SAUVOLA_WINDOW * min(grey.shape) / 2) + 1
    wide = grey.astype(np.float64)
    mean = cv2.blur(wide, (side, side))
    deviation = np.sqrt(np.maximum(cv2.blur(wide * wide, (side, side)) - mean * mean, 0))
    return np.asarray(grey < mean * (1 + SAUVOLA_K * (deviation / SAUVOLA_R - 1)))
