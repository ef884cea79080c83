"""Models that only apply a threshold, as baselines for networks. Their maps are processed like those of any model."""

import hashlib
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_fill_holes

from spheroseg.segmentation.maps import Maps

VERSION = "1"
SMOOTHING_PX = 1.0  # standard deviation, for the picture before the threshold and for the mask after it
STRETCH = (0.1, 99.9)  # percentiles that become 0 and 1
SAUVOLA_WINDOW = 0.5  # of the shorter side; with a window smaller than an object, only its rim is found
SAUVOLA_K = 0.2
SAUVOLA_R = 0.5  # the maximum standard deviation of grey values 0..1

Grey = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


class Threshold:
    """A model that divides the pixels into dark and bright ones. The class with fewer pixels is the objects.

    Holes are filled. The mask is blurred by 1 px to a probability, so that outlines at 0.5 are sub-pixel.
    """

    version = VERSION

    def __init__(self, name: str, is_dark: Callable[[Grey], Mask]) -> None:
        self.name = name
        self.sha256 = hashlib.sha256(f"{name} {VERSION}".encode()).hexdigest()
        self._is_dark = is_dark

    def maps(self, pictures: Sequence[Grey]) -> list[Maps]:
        """Compute the probabilities of pictures (float32, height, width) at full size; 0 if a picture is flat."""
        return [Maps(self._probability(pixels)) for pixels in pictures]

    def _probability(self, pixels: Grey) -> Grey:
        low, high = np.percentile(pixels, STRETCH)
        if high <= low:
            return np.zeros(pixels.shape, np.float32)
        grey = np.clip((pixels - np.float32(low)) / np.float32(high - low), 0, 1)
        grey = np.asarray(cv2.GaussianBlur(grey, (0, 0), SMOOTHING_PX), np.float32)
        masks = [binary_fill_holes(self._is_dark(side)) for side in (grey, 1 - grey)]
        mask = np.asarray(min(masks, key=np.count_nonzero), np.float32)
        return np.asarray(cv2.GaussianBlur(mask, (0, 0), SMOOTHING_PX), np.float32)


def otsu() -> Threshold:
    """Make a model with one threshold per picture, between two classes of grey values (Otsu 1979)."""
    return Threshold("otsu", _is_dark_by_otsu)


def sauvola() -> Threshold:
    """Make a model with a threshold per pixel, from mean and deviation around it (Sauvola and Pietikäinen 2000)."""
    return Threshold("sauvola", _is_dark_by_sauvola)


BASELINES = {"otsu": otsu, "sauvola": sauvola}


def _is_dark_by_otsu(grey: Grey) -> Mask:
    levels = np.round(grey * 255).astype(np.uint8)
    threshold, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return np.asarray(levels <= threshold)


def _is_dark_by_sauvola(grey: Grey) -> Mask:
    side = 2 * round(SAUVOLA_WINDOW * min(grey.shape) / 2) + 1
    precise = grey.astype(np.float64)
    mean = cv2.blur(precise, (side, side))
    deviation = np.sqrt(np.maximum(cv2.blur(precise * precise, (side, side)) - mean * mean, 0))
    return np.asarray(grey < mean * (1 + SAUVOLA_K * (deviation / SAUVOLA_R - 1)))
