"""Removes regions from a probability map that are too small or too doubtful to be objects."""

import cv2
import numpy as np

from spheroseg.segmentation.model.windows import Grey

CONFIDENT_PROBABILITY = 0.75  # from here on, a pixel counts as confident


def remove_doubtful(probability: Grey, threshold: float, min_area: float, min_confident_share: float) -> None:
    """Set to 0, in place, the regions of a map (height, width) that are no objects.

    Such a region has less than `min_area` (px² of the map) above the threshold, or less than `min_confident_share`
    (0..1) of this area above CONFIDENT_PROBABILITY. Objects that touch count as one region.
    """
    if not (min_area or min_confident_share):
        return
    # Regions extend down to half of the threshold, so that no rim is left if a user sets a lower threshold.
    count, labels = cv2.connectedComponents((probability > threshold / 2).astype(np.uint8), connectivity=8)
    areas = np.bincount(labels[probability > threshold], minlength=count)
    confident = np.bincount(labels[probability > max(CONFIDENT_PROBABILITY, threshold)], minlength=count)
    is_removed = (areas < min_area) | (confident < min_confident_share * areas)
    is_removed[0] = False
    probability[is_removed[labels]] = 0
