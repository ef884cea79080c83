"""The models: grey values in, the probability of "spheroid" out."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from spheroseg.errors import ModelUnusable
from spheroseg.segmentation import classical


class Model(Protocol):
    """Anything that says where the objects are; it may answer at its own size."""

    name: str
    version: str
    sha256: str

    def probability(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Grey values float32 (height, width) to probabilities 0..1, float32 of any size over the same field."""
        ...


MODELS = (classical.NAME,)


def load_model(name: str) -> Model:
    """The model of that name. Raises `ModelUnusable`, naming those there are."""
    if name == classical.NAME:
        return classical.ClassicalModel()
    raise ModelUnusable(f"there is no model {name!r}: known are {', '.join(MODELS)}")
