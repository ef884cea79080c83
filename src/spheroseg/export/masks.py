"""Label images that Fiji, QuPath and Python open with the right scale."""

import io

import numpy as np
import numpy.typing as npt
import tifffile

from spheroseg.segmentation.image import PixelSize


def encode_mask(labels: npt.NDArray[np.uint16], pixel_size: PixelSize | None) -> bytes:
    """A TIFF of `labels` (height, width; 0 is ground, i is object i), deflate-compressed.

    The pixel size, where known, is written as ImageJ does: `unit=micron` and pixels per µm in the resolution tags.
    """
    # The description is ImageJ's own, written by hand: tifffile's ImageJ mode does not compress.
    lines = ["ImageJ=1.54f"]
    if pixel_size is not None:
        lines.append("unit=micron")
    if labels.any():
        lines += ["min=0.0", f"max={float(labels.max())}"]  # or a picture of few objects opens all black
    file = io.BytesIO()
    tifffile.imwrite(
        file,
        np.ascontiguousarray(labels, np.uint16),
        photometric="minisblack",
        compression="zlib",
        description="\n".join(lines) + "\n",
        metadata=None,
        resolution=None if pixel_size is None else (1 / pixel_size.um, 1 / pixel_size.um),
        resolutionunit="NONE",
    )
    return file.getvalue()
