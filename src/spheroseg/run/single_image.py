"""Segment one image, or measure given objects, in memory: without a queue, a database or an output folder."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spheroseg.errors import BadImage, UnreadableInput
from spheroseg.export.object_table import add_units
from spheroseg.segmentation import measure as measurements
from spheroseg.segmentation.contours import Outline, Polygon, net_area, signed_area, trace
from spheroseg.segmentation.image import GreyImage, grey_image
from spheroseg.segmentation.model import DEFAULT_MODEL, Model, find_model, load_model
from spheroseg.segmentation.parameters import AppliedParameters, Parameters, check_pixel_size
from spheroseg.segmentation.pipeline import Segmentation, outline_objects, read_image
from spheroseg.segmentation.pixel_size import PixelSize
from spheroseg.settings import Settings, read_settings

Row = dict[str, Any]
AnyImage = npt.NDArray[Any] | str | PathLike[str] | bytes
AnyOutline = Outline | npt.NDArray[Any] | Sequence[Sequence[float]]


@dataclass(frozen=True, eq=False)
class ImageSegmentation:
    """The objects found in one image.

    labels: uint16 (height, width); 0 is background, the pixels of object i have the value i, from 1.
    outlines: one per object. `outer` has the shape (n, 2): x and y in px, from the outer corner of the top-left
        pixel, so that the centre of that pixel is (0.5, 0.5). The first point is not repeated. `holes` are like it.
    measurements: one row per object. `object` is its number in `labels`. The names of the values end in their unit:
        `area_px2`, `feret_max_px`, and with a pixel size also `area_um2`, `feret_max_um`. See docs/metrics.md.
    flags: quality flags of the image, such as `no_object_found`. object_flags: those of each object.
    pixel_size: the size in µm and its source; None if it is not known.
    model_name, model_version, model_sha256, parameters: what the objects were found with.
    """

    labels: npt.NDArray[np.uint16]
    outlines: tuple[Outline, ...]
    measurements: list[Row]
    flags: tuple[str, ...]
    object_flags: tuple[tuple[str, ...], ...]
    pixel_size: PixelSize | None
    model_name: str
    model_version: str
    model_sha256: str
    parameters: AppliedParameters


def segment(
    image: AnyImage,
    *,
    model: str | None = None,
    parameters: Parameters | None = None,
    pixel_size_um: float | None = None,
    page: int = 0,
    settings: Settings | None = None,
) -> ImageSegmentation:
    """Find the spheroids in one image and measure them.

    The model is loaded at the first call and kept for the next ones. To segment many files, use `run_images`: it
    works on several at a time, survives interruptions and writes tables.

    Args:
        image: grey values of the shape (height, width), or colours of the shape (height, width, channels) with up to
            4 channels, integers or floats; or the path or the bytes of a PNG, JPEG, BMP or TIFF file.
        model: a name of `spheroseg model list`. By default the one in the settings, or the one shipped.
        parameters: which objects to keep and where their outline runs.
        pixel_size_um: µm per pixel. By default the one that the file states; an array has none.
        page: the page of a multi-page TIFF, from 0.
        settings: by default those of the environment and the .env file.

    Raises:
        BadImage: the array has another shape or dtype, holds NaN or infinity, or the file is damaged or not an image.
        UnreadableInput: the file cannot be opened.
        BadParameters, ModelUnusable, BadSettings: an argument or a setting cannot be used.

    Example:
        >>> from spheroseg import segment
        >>> result = segment("examples/spheroids/image_08.png", pixel_size_um=0.65)
        >>> result.measurements[0]["equivalent_diameter_um"], result.outlines[0].outer.shape
    """
    settings = settings or read_settings()
    grey = _read(image, page, pixel_size_um)
    known = find_model(model or settings.model or DEFAULT_MODEL, settings.model_folders)
    loaded = _load(known.name, known.sha256, tuple(settings.model_folders))
    (maps,) = loaded.maps([grey.pixels])
    return _describe(outline_objects(grey, maps, loaded, parameters or Parameters()))


def measure(
    objects: npt.NDArray[Any] | Sequence[AnyOutline], pixel_size_um: float | None = None
) -> list[dict[str, Any]]:
    """Measure objects that something else has found, or that a person has corrected.

    A label image has no information between its pixels. Its outlines follow the 0.5 level of each object's mask
    (marching squares), so their area is right, but the perimeter of a round object is about 5 % too long and its
    circularity about 10 % too small. Outlines of `segment` are exact to a part of a pixel and have no such bias.

    Args:
        objects: a label image (height, width) of any integer dtype, in which 0 is background and the pixels of an
            object have the same number; or a sequence of outlines, each a `spheroseg` outline or an array of the
            shape (n, 2) with x and y in px.
        pixel_size_um: µm per pixel. Without it there are only values in px.

    Returns:
        One row per object, with the names and units of results.csv. `object` is the number in the label image, or the
        position in the sequence, from 1.

    Raises:
        BadImage: the array is not a label image, an object has separate parts or is too small to have a shape, or an
            outline has too few points or encloses no area.
        BadParameters: the pixel size is not a positive number.

    Example:
        >>> import tifffile
        >>> from spheroseg import measure
        >>> rows = measure(tifffile.imread("results/masks/image_08.tif"), pixel_size_um=0.65)
        >>> rows[0]["area_um2"]
    """
    check_pixel_size(pixel_size_um)
    if isinstance(objects, np.ndarray):
        numbered = list(_trace_labels(objects))
    else:
        numbered = [(number, _to_outline(number, points)) for number, points in enumerate(objects, start=1)]
    return [_row(number, outline, pixel_size_um) for number, outline in numbered]


@lru_cache(maxsize=2)
def _load(name: str, sha256: str, folders: tuple[Path, ...]) -> Model:
    """Load a model. The hash is part of the key, so that a changed model is loaded again."""
    return load_model(name, folders)


def _read(image: AnyImage, page: int, pixel_size_um: float | None) -> GreyImage:
    if isinstance(image, np.ndarray):
        if page != 0:
            raise BadImage(f"there is no page {page}: an array holds one picture")
        return grey_image(image, pixel_size_um)
    try:
        content = image if isinstance(image, bytes) else Path(image).read_bytes()
    except OSError as error:
        raise UnreadableInput(f"cannot read {error.filename}: {error.strerror}") from None
    return read_image(io.BytesIO(content), page, pixel_size_um)


def _describe(found: Segmentation) -> ImageSegmentation:
    um = found.pixel_size.um if found.pixel_size else None
    return ImageSegmentation(
        labels=found.labels,
        outlines=tuple(one.outline for one in found.objects),
        measurements=[_row(number, one.outline, um) for number, one in enumerate(found.objects, start=1)],
        flags=found.flags,
        object_flags=tuple(one.flags for one in found.objects),
        pixel_size=found.pixel_size,
        model_name=found.model_name,
        model_version=found.model_version,
        model_sha256=found.model_sha256,
        parameters=found.parameters,
    )


def _row(number: int, outline: Outline, pixel_size_um: float | None) -> Row:
    return {"object": number, **add_units(vars(measurements.measure(outline)), pixel_size_um)}


def _trace_labels(labels: npt.NDArray[Any]) -> Iterator[tuple[int, Outline]]:
    if labels.ndim != 2:
        raise BadImage(f"the label image has the shape {labels.shape}; it must be (height, width)")
    if not np.issubdtype(labels.dtype, np.integer):
        raise BadImage(
            f"the label image has the dtype {labels.dtype}; it must hold integers, 0 for the background. "
            "Convert it with labels.astype(int), or pass a list of outlines."
        )
    if labels.size and labels.min() < 0:
        raise BadImage(f"the label image holds {labels.min()}; labels must be 0 or more")
    # SciPy takes half a second to load, which users of the other functions need not wait for.
    from scipy.ndimage import find_objects

    numbers, positions = np.unique(labels, return_inverse=True)
    boxes = find_objects(positions.reshape(labels.shape) + 1)
    for number, box in zip(numbers.tolist(), boxes, strict=True):
        if number:
            yield number, _trace_label(labels, number, box)


def _trace_label(labels: npt.NDArray[Any], number: int, box: tuple[slice, ...]) -> Outline:
    # With one pixel of background, except at the edge of the image, where the outline is closed along the edge.
    rows, columns = (slice(max(side.start - 1, 0), side.stop + 1) for side in box)
    mask = (labels[rows, columns] == number).astype(np.float32)
    _, outlines = trace(mask, 0.5, 0.0)
    if not outlines:
        raise BadImage(f"object {number} has {int(mask.sum())} px, which is too small to measure: remove it")
    if len(outlines) > 1:
        raise BadImage(
            f"object {number} has {len(outlines)} separate parts: give each its own number, or keep only one"
        )
    corner = np.array([columns.start, rows.start])
    return Outline(outlines[0].outer + corner, tuple(hole + corner for hole in outlines[0].holes))


def _to_outline(number: int, points: AnyOutline) -> Outline:
    if isinstance(points, Outline):
        return points
    try:
        polygon: Polygon = np.asarray(points, np.float64)
    except (TypeError, ValueError):
        raise BadImage(f"outline {number} is not an array of numbers of the shape (n, 2)") from None
    if polygon.ndim != 2 or polygon.shape[1] != 2:
        raise BadImage(f"outline {number} has the shape {polygon.shape}; it must be (n, 2), x and y in px")
    if not np.isfinite(polygon).all():
        raise BadImage(f"outline {number} holds values that are not finite numbers (NaN or infinity)")
    if len(polygon) > 1 and (polygon[0] == polygon[-1]).all():
        polygon = polygon[:-1]
    if len(polygon) < 3:
        raise BadImage(f"outline {number} has {len(polygon)} different points; it needs at least 3")
    outline = Outline(polygon if signed_area(polygon) > 0 else polygon[::-1])
    if not net_area(outline) > 0:
        raise BadImage(f"outline {number} encloses no area")
    return outline
