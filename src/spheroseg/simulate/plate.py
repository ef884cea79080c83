"""Draws the files of a simulated plate, one after the other."""

import io
from collections.abc import Iterator
from itertools import groupby

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image as Pillow

from spheroseg.simulate.appearance import Appearance, render
from spheroseg.simulate.design import Design, Format
from spheroseg.simulate.frames import Fault, Frame, plan_frames
from spheroseg.simulate.noise import Map
from spheroseg.simulate.outlines import ShapeSeries

TEXT = b"This is a text under the name of an image.\n"
# Purposes of the random numbers of a well, see `Design.rng`. The growth uses 0.
OUTLINE, APPEARANCE, NOISE = 1, 2, 3


def draw_files(design: Design) -> Iterator[tuple[str, bytes]]:
    """Yield name (with / between folders) and content of all image files, well by well."""
    for _, group in groupby(plan_frames(design), key=lambda frame: frame.plan.well):
        frames = list(group)
        pictures = _draw_pictures(design, frames)
        if frames[0].fault == Fault.STACK:
            stack = np.stack([_quantise(picture, np.uint16) for picture in pictures])
            yield frames[0].name, _encode_tiff(design, stack)
            continue
        for frame, picture in zip(frames, pictures, strict=True):
            yield frame.name, _spoil(_encode(design, _quantise(picture, np.uint8)), frame.fault)


def count_files(design: Design) -> int:
    """Return the number of files that `draw_files` yields."""
    return len({frame.name for frame in plan_frames(design)})


def _draw_pictures(design: Design, frames: list[Frame]) -> Iterator[Map]:
    """Yield the pictures of one well, 0..1 of full scale."""
    well = frames[0].plan.well
    shapes = ShapeSeries.draw(design.rng(well, OUTLINE), design.size)
    appearance = Appearance.draw(design.rng(well, APPEARANCE), design.size, design.pixel_size_um, design.debris)
    noise = design.rng(well, NOISE)
    for frame in frames:
        area = frame.area_um2 / design.pixel_size_um**2
        outline = None if frame.fault == Fault.EMPTY_WELL else shapes.outline_at(frame.hours, area, design.size)
        yield render(appearance, outline, frame.hours, noise, design.noise)


def _quantise(picture: Map, kind: type[np.uint8] | type[np.uint16]) -> npt.NDArray[np.uint8 | np.uint16]:
    return np.round(picture * np.iinfo(kind).max).astype(kind)


def _encode(design: Design, pixels: npt.NDArray[np.uint8 | np.uint16]) -> bytes:
    if design.format == Format.TIF:
        return _encode_tiff(design, pixels)
    file = io.BytesIO()
    Pillow.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _encode_tiff(design: Design, pixels: npt.NDArray[np.uint8 | np.uint16]) -> bytes:
    """Encode as a TIFF of ImageJ with the pixel size. With three dimensions, the first is time, at intervals in s."""
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


def _spoil(data: bytes, fault: Fault | None) -> bytes:
    if fault == Fault.TRUNCATED:
        return data[: len(data) // 2]
    return {Fault.TEXT: TEXT, Fault.ZERO_BYTES: b""}.get(fault, data) if fault else data
