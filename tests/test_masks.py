import io

import numpy as np
import pytest
import tifffile

from spheroseg.export.masks import encode_mask
from spheroseg.segmentation.image import PixelSize, decode

LABELS = np.zeros((40, 60), np.uint16)
LABELS[5:20, 5:30] = 1
LABELS[25:35, 40:55] = 40_000


def test_a_mask_reads_back_unchanged() -> None:
    with tifffile.TiffFile(io.BytesIO(encode_mask(LABELS, None))) as tiff:
        assert tiff.pages[0].dtype == np.uint16
        assert np.array_equal(tiff.asarray(), LABELS)


@pytest.mark.parametrize("um", [0.65, 1.0, 0.1083, 3.2])
def test_the_pixel_size_is_stored(um: float) -> None:
    image = decode(io.BytesIO(encode_mask(LABELS, PixelSize(um, "option"))))
    assert image.pixel_size is not None
    assert image.pixel_size.um == pytest.approx(um, rel=1e-6)
    assert image.pixel_size.source == "ImageJ"


def test_the_unit_is_written_for_imagej() -> None:
    with tifffile.TiffFile(io.BytesIO(encode_mask(LABELS, PixelSize(0.5, "OME-XML")))) as tiff:
        assert tiff.is_imagej
        assert tiff.imagej_metadata is not None
        assert tiff.imagej_metadata["unit"] == "micron"


def test_without_a_pixel_size_none_is_invented() -> None:
    assert decode(io.BytesIO(encode_mask(LABELS, None))).pixel_size is None


def test_a_mask_is_compressed() -> None:
    assert len(encode_mask(np.zeros((1000, 1000), np.uint16), None)) < 20_000
