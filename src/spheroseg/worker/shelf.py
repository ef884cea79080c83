"""The models that a child process has loaded: the one that a task names, and the one before it."""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from spheroseg.errors import ModelUnusable
from spheroseg.segmentation.model import Model, load_model

KEPT = 2


class Shelf:
    """Loads what tasks ask for, keeping the last two: tasks of several batches come mixed."""

    def __init__(self, dirs: Sequence[Path]) -> None:
        self._dirs = dirs
        self._loaded: OrderedDict[tuple[str, str], Model] = OrderedDict()

    def model(self, name: str, sha256: str | None) -> Model:
        """The model of that name and hash; None takes the hash that the name has now.

        Raises ModelUnusable where it is not here, cannot be loaded, or has another hash.
        """
        model = self._loaded.get((name, sha256 or ""))
        if model is None:
            # Also where one of this name is loaded: its folder may hold a newer version by now.
            model = load_model(name, self._dirs)
        if sha256 not in (None, model.sha256):
            raise ModelUnusable(
                f"the task asks for the model {name} with the hash {sha256:.12}…, this worker has one with "
                f"{model.sha256:.12}…: install the same files and the same version of spheroseg on every machine, "
                "or submit the images again"
            )
        key = (name, model.sha256)
        self._loaded[key] = model
        self._loaded.move_to_end(key)
        while len(self._loaded) > KEPT:
            self._loaded.popitem(last=False)
        return model
