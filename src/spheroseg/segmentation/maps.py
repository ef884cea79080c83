"""What a model says of a picture."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Maps:
    """Maps over the field of one picture, float32 (height, width), at whatever size the model works.

    `probability`: 0..1 that a pixel belongs to an object. `distance`: 0 outside every object, rising to 1 where an
    object is deepest, so that touching objects can be told apart; None from a model that does not tell.
    """

    probability: npt.NDArray[np.float32]
    distance: npt.NDArray[np.float32] | None = None
