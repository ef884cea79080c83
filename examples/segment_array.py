"""Segment one image that is in memory, and measure its objects.

Usage: python segment_array.py [IMAGE]
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from spheroseg import measure, segment

path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "spheroids" / "image_08.png"
pixels = np.asarray(Image.open(path))  # shape (height, width), or (height, width, channels)

result = segment(pixels, pixel_size_um=0.65)
print(f"{len(result.outlines)} objects by {result.model_name}, flags: {', '.join(result.flags) or 'none'}")
for row, outline in zip(result.measurements, result.outlines, strict=True):
    print(f"object {row['object']}: {row['area_um2']:.0f} µm², circularity {row['circularity']:.3f}, ", end="")
    print(f"{len(outline.outer)} outline points from ({outline.outer[0, 0]:.1f}, {outline.outer[0, 1]:.1f})")

# Labels that you have corrected, or that another program has made, are measured in the same way.
labels = result.labels.copy()
labels[:20] = 0
for row in measure(labels, pixel_size_um=0.65):
    print(f"object {row['object']} from the labels: {row['area_um2']:.0f} µm²")
