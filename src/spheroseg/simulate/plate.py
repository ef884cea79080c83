"""The files of a simulated plate, one after the other."""

import io
from collections.abc import Iterator
from itertools import groupby

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image as Pillow

from spheroseg.simulate.design import Design, Format
from spheroseg.simulate.frames import Fault, Frame, frames
from spheroseg.simulate.outlines import Map, Wobble
from spheroseg.simulate.picture import Look, photograph

TEXT = b"This is a text under the name of an image.\n"
# Streams of random numbers of a well; 0 is its law.
OUTLINE, LOOK, NOISE = 1, 2, 3


def files(design: Design) -> Iterator[tuple[str, bytes]]:
    """Names (with / between folders) and contents of all images, well by well."""
    for _, of_well in groupby(frames(design), key=lambda frame: frame.of.well):
        shown = list(of_well)
        pictures = _pictures(design, shown)
        if shown[0].fault == Fault.STACK:
            stack = np.stack([_rounded(picture, np.uint16) for picture in pictures])
            yield shown[0].name, _tiff(design, stack)
            continue
        for frame, picture in zip(shown, pictures, strict=True):
            yield frame.name, _spoilt(_encoded(design, _rounded(picture, np.uint8)), frame.fault)


def count(design: Design) -> int:
    """How many files `files` yields."""
    return len({frame.name for frame in frames(design)})


def _pictures(design: Design, shown: list[Frame]) -> Iterator[Map]:
    well = shown[0].of.well
    wobble = Wobble.of(design.rng(well, OUTLINE), design.size)
    look = Look.of(design.rng(well, LOOK), design.size, design.pixel_size_um, design.debris)
    noise = design.rng(well, NOISE)
    for frame in shown:
        area = frame.area_um2 / design.pixel_size_um**2
        outline = None if frame.fault == Fault.EMPTY_WELL else wobble.at(frame.hours, area, design.size)
        yield photograph(look, outline, frame.hours, noise, design.noise)


def _rounded(picture: Map, kind: type[np.uint8] | type[np.uint16]) -> npt.NDArray[np.uint8 | np.uint16]:
    return np.round(picture * np.iinfo(kind).max).astype(kind)


def _encoded(design: Design, pixels: npt.NDArray[np.uint8 | np.uint16]) -> bytes:
    if design.format == Format.TIF:
        return _tiff(design, pixels)
    file = io.BytesIO()
    Pillow.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _tiff(design: Design, pixels: npt.NDArray[np.uint8 | np.uint16]) -> bytes:
    """With the pixel size as ImageJ writes it; the first of three dimensions is time, in ImageJ's seconds."""
    is_stack = pixels.ndim == 3
    time = {"finterval": design.interval_h * 3600, "tunit": "s"} if is_stack else {}
    file = io.BytesIO()
    tifffile.imwrite(
        file,
        pixels,
        imagej=True,
        compression="zlib",
        software="spheroseg",
        resolution=(1 / design.pixel_size_um, 1 / design.pixel_size_um),
        metadata={"axes": "TYX" if is_stack else "YX", "unit": "um", **time},
    )
    return file.getvalue()


def _spoilt(data: bytes, fault: Fault | None) -> bytes:
    if fault == Fault.TRUNCATED:
        return data[: len(data) // 2]
    return {Fault.TEXT: TEXT, Fault.ZERO_BYTES: b""}.get(fault, data) if fault else data
