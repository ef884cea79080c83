"""The maps that a model computes from a picture."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Maps:
    """Maps of one picture, float32 (height, width), at the size at which the model works.

    `probability`: that a pixel belongs to an object, 0..1. `distance`: 0 outside every object, rising to 1 where an
    object is deepest, so that touching objects can be separated; None if the model does not compute it.
    """

    probability: npt.NDArray[np.float32]
    distance: npt.NDArray[np.float32] | None = None
