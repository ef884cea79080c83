"""Segment one image file in a single call, as a worker does in several steps."""

from typing import BinaryIO

from spheroseg.segmentation.image import GreyImage
from spheroseg.segmentation.model import Model
from spheroseg.segmentation.parameters import Parameters
from spheroseg.segmentation.pipeline import Segmentation, outline_objects, read_image


def segment(
    file: BinaryIO,
    model: Model,
    parameters: Parameters,
    page: int = 0,
    pixel_size_um: float | None = None,
) -> tuple[Segmentation, GreyImage]:
    """Decode one page, find the objects and measure them. Return them with the decoded image."""
    image = read_image(file, page, pixel_size_um)
    (maps,) = model.maps([image.pixels])
    return outline_objects(image, maps, model, parameters), image
