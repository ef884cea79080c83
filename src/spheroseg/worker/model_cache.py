"""ModelCache: the models that a child process has loaded."""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from spheroseg.errors import ModelUnusable
from spheroseg.segmentation.model import Model, load_model

MAX_MODELS = 2


class ModelCache:
    """Loads models from `dirs` and keeps the last MAX_MODELS, because tasks of several batches come mixed."""

    def __init__(self, dirs: Sequence[Path]) -> None:
        self._dirs = dirs
        self._loaded: OrderedDict[tuple[str, str], Model] = OrderedDict()

    def get(self, name: str, sha256: str | None) -> Model:
        """Return the model with that name and hash. If the hash is None, return the version that is installed now.

        Raises ModelUnusable if the model is not installed, cannot be loaded, or has another hash.
        """
        model = self._loaded.get((name, sha256 or ""))
        if model is None:
            # Load it even if another version of the name is loaded: the folder may hold a newer one by now.
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
        while len(self._loaded) > MAX_MODELS:
            self._loaded.popitem(last=False)
        return model
