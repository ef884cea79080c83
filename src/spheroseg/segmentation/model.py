"""The models: grey values in, the probability of "spheroid" out."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from spheroseg.errors import ModelUnusable
from spheroseg.segmentation import classical
from spheroseg.segmentation.maps import Maps


class Model(Protocol):
    """Anything that says where the objects are."""

    name: str
    version: str
    sha256: str

    def maps(self, pictures: Sequence[npt.NDArray[np.float32]]) -> list[Maps]:
        """The maps of each picture, float32 grey values (height, width) of any size, run together where that helps.

        What comes out for a picture does not depend on those beside it.
        """
        ...


MODELS = (classical.NAME,)


def load_model(name: str) -> Model:
    """The model of that name. Raises `ModelUnusable`, naming those there are."""
    if name == classical.NAME:
        return classical.ClassicalModel()
    raise ModelUnusable(f"there is no model {name!r}: known are {', '.join(MODELS)}")
