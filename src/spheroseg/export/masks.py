"""Label images that Fiji, QuPath and Python open with the correct pixel size."""

import io

import numpy as np
import numpy.typing as npt
import tifffile

from spheroseg.segmentation.image import PixelSize


def encode_mask(labels: npt.NDArray[np.uint16], pixel_size: PixelSize | None) -> bytes:
    """Return a deflate-compressed TIFF of `labels` (height, width), in which 0 is background and i is object i.

    A known pixel size is written as ImageJ does: `unit=micron` and pixels per µm in the resolution tags.
    """
    # The description of ImageJ is written here, because the ImageJ mode of tifffile does not compress.
    lines = ["ImageJ=1.54f"]
    if pixel_size is not None:
        lines.append("unit=micron")
    if labels.any():
        lines += ["min=0.0", f"max={float(labels.max())}"]  # otherwise an image of few objects opens all black
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
