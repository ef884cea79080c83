"""Compressed TIFF pages without imagecodecs: the same pixels, or a sentence that names the extra."""

import hashlib
import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow

from spheroseg.segmentation import codecs
from spheroseg.segmentation.image import decode

RNG = np.random.default_rng(0)
GREY = (np.add.outer(np.arange(90), np.arange(133)) % 256 + RNG.normal(0, 4, (90, 133))).clip(0, 255).astype(np.uint8)
RGB = np.dstack([GREY, np.roll(GREY, 30, 1), 255 - GREY])
PICTURES: dict[str, Any] = {
    "grey": GREY,
    "grey16": GREY.astype(np.uint16) * 200,
    "float": GREY.astype(np.float32) / 7,
    "rgb": RGB,
    "rgb16": RGB.astype(np.uint16) * 99,
}
# Prints the SHA-256 of the pixels of every file, or why it cannot be read, as if imagecodecs were not installed.
READ = """
import hashlib, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name == "imagecodecs":
            raise ModuleNotFoundError("No module named 'imagecodecs'", name=name)

sys.meta_path.insert(0, Absent())
from spheroseg.errors import BadImage
from spheroseg.segmentation.image import decode
for path in sys.argv[1:]:
    try:
        print(hashlib.sha256(decode(open(path, "rb")).pixels).hexdigest())
    except BadImage as error:
        print(error.code, error)
"""


def files(folder: Path) -> Iterator[Path]:
    """Pictures in every kind of compression that the core reads."""
    for name, pixels in PICTURES.items():
        for compression in ("lzw", "packbits", "zlib"):
            path = folder / f"{compression}_{name}.tif"
            tifffile.imwrite(path, pixels, compression=compression, rowsperstrip=17)
            yield path
            tifffile.imwrite(path := folder / f"tiled_{path.name}", pixels, compression=compression, tile=(32, 64))
            yield path
            if compression != "packbits":
                path = folder / f"predicted_{compression}_{name}.tif"
                predictor = 3 if name == "float" else 2
                tifffile.imwrite(path, pixels, compression=compression, predictor=predictor, byteorder=">")
                yield path
    for name in ("grey", "rgb"):
        for space in ("minisblack",) if name == "grey" else ("rgb", "ycbcr"):
            path = folder / f"jpeg_{name}_{space}.tif"
            tifffile.imwrite(path, PICTURES[name], compression="jpeg", photometric=space)
            yield path
        # Pillow's have the tables that all strips share in a place of their own.
        Pillow.fromarray(PICTURES[name]).save(path := folder / f"pillow_{name}.tif", compression="jpeg")
        yield path


def read_without_imagecodecs(*paths: Path) -> list[str]:
    done = subprocess.run([sys.executable, "-c", READ, *map(str, paths)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_core_reads_the_same_pixels_as_imagecodecs(tmp_path: Path) -> None:
    paths = list(files(tmp_path))
    expected = [hashlib.sha256(decode(io.BytesIO(path.read_bytes())).pixels.tobytes()).hexdigest() for path in paths]
    found = read_without_imagecodecs(*paths)
    assert {path.name for path, a, b in zip(paths, expected, found, strict=True) if a != b} == set()


def test_what_needs_the_extra_says_so(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "jpeg2000.tif", GREY, compression="jpeg2000")
    tifffile.imwrite(tmp_path / "zstd.tif", GREY, compression="zstd")
    Pillow.fromarray(GREY > 99).save(tmp_path / "fax.tif", compression="group4")
    tifffile.imwrite(tmp_path / "bits.tif", GREY > 99, compression="lzw", photometric="minisblack")
    for answer in read_without_imagecodecs(*sorted(tmp_path.iterdir())):
        assert answer.startswith("unsupported_image this TIFF is compressed (")
        assert "needs the extra 'codecs': pip install 'spheroseg[codecs]'" in answer


def test_a_damaged_page_is_refused_without_imagecodecs_too(tmp_path: Path) -> None:
    path = tmp_path / "damaged.tif"
    tifffile.imwrite(path, GREY, compression="lzw")
    data = bytearray(path.read_bytes())
    data[-len(data) // 2 :] = b"\xff" * (len(data) // 2)
    path.write_bytes(data)
    (answer,) = read_without_imagecodecs(path)
    assert answer.startswith("bad_image")


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_packed_integers_are_those_of_imagecodecs(bits: int) -> None:
    for row in (0, 13, 16):
        data = RNG.integers(0, 256, bits * (40 if row else 65)).astype(np.uint8).tobytes()
        expected = imagecodecs.packints_decode(data, np.uint16, bits, runlen=row)
        assert np.array_equal(codecs.packints_decode(data, np.uint16, bits, runlen=row), expected)
