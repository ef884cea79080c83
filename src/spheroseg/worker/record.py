"""The record of a segmentation, as `segmentation_results` stores it."""

import functools
import platform
from dataclasses import asdict
from importlib.metadata import version

import numpy as np

from spheroseg import __version__
from spheroseg.segmentation.measure import METRICS_VERSION
from spheroseg.segmentation.pipeline import Segmentation
from spheroseg.worker.pipe import Record

# The measured numbers may depend on the versions of these.
LIBRARIES = ("numpy", "onnxruntime", "opencv-python-headless", "scipy", "tifffile")


def make_record(segmentation: Segmentation) -> Record:
    """Return the record of `segmentation`. Outlines are in pixels, rounded to 0.001."""
    return {
        "width": segmentation.width,
        "height": segmentation.height,
        "pixel_size": segmentation.pixel_size.to_record() if segmentation.pixel_size else None,
        "flags": list(segmentation.flags),
        "objects": [
            {
                "outer": np.round(segmented.outline.outer, 3).tolist(),
                "holes": [np.round(hole, 3).tolist() for hole in segmented.outline.holes],
                "measurements": asdict(segmented.measurements),
                "flags": list(segmented.flags),
            }
            for segmented in segmentation.objects
        ],
        "model": {
            "name": segmentation.model_name,
            "version": segmentation.model_version,
            "sha256": segmentation.model_sha256,
        },
        "parameters": segmentation.parameters,
        "metrics_version": METRICS_VERSION,
        "versions": _versions(),
    }


@functools.cache
def _versions() -> dict[str, str]:
    # Cached because the versions are read from files, and cannot change while the process runs.
    return {
        "spheroseg": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
    }
