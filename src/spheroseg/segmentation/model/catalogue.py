"""Finds models: the built-in one, the shipped ones, and those in the folders of MODEL_DIRS."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from spheroseg.errors import ModelUnusable
from spheroseg.segmentation import classical
from spheroseg.segmentation.maps import Maps
from spheroseg.segmentation.model.card import CARD, NETWORK, Card, read_card, read_network
from spheroseg.segmentation.model.network import Network

DEFAULT_MODEL = "spheroid-unet"
SHIPPED = Path(__file__).parents[2] / "models"


class Model(Protocol):
    """Anything that finds objects in pictures."""

    name: str
    version: str
    sha256: str

    def maps(self, pictures: Sequence[npt.NDArray[np.float32]]) -> list[Maps]:
        """Compute the maps of each picture: float32 grey values (height, width) of any size.

        Several pictures may share an inference; the maps of one do not depend on the others.
        """
        ...


@dataclass(frozen=True)
class KnownModel:
    """A model that was found, but not loaded. `folder` and `card` are None for the built-in one.

    `fault`: why it cannot be used, and what to do. Its version and hash are then empty.
    """

    name: str
    version: str = ""
    sha256: str = ""
    licence: str = ""
    folder: Path | None = None
    card: Card | None = None
    network_sha256: str | None = None
    fault: str | None = None


def known_models(dirs: Sequence[Path] = ()) -> list[KnownModel]:
    """Return all models: the built-in one, then the shipped ones, then those in `dirs`. Unusable ones are included.

    Networks are hashed but not loaded, so this does not notice a file that is not a network.
    """
    built_in = classical.ClassicalModel()
    models = [KnownModel(built_in.name, built_in.version, built_in.sha256, "MIT")]
    models += [_describe_folder(folder) for parent in (SHIPPED, *dirs) for folder in _model_folders(parent)]
    return [_refuse_duplicate(model, models) for model in models]


def _model_folders(parent: Path) -> list[Path]:
    if not parent.is_dir():
        return []
    return sorted(f for f in parent.iterdir() if (f / CARD).exists() or (f / NETWORK).exists())


def _describe_folder(folder: Path) -> KnownModel:
    try:
        card = read_card(folder)
        network = _network_sha256(folder)
    except ModelUnusable as error:
        return KnownModel(folder.name, folder=folder, fault=str(error))
    return KnownModel(card.name, card.version, card.identity(network), card.licence, folder, card, network)


def _network_sha256(folder: Path) -> str:
    path = folder / NETWORK
    if not path.is_file():
        read_network(folder)  # raises ModelUnusable with the reason
    state = path.stat()
    return _hash_network(folder, state.st_mtime_ns, state.st_size, state.st_ino)


@lru_cache(maxsize=64)
def _hash_network(folder: Path, *_file_state: int) -> str:
    return hashlib.sha256(read_network(folder)).hexdigest()


def _refuse_duplicate(model: KnownModel, models: Sequence[KnownModel]) -> KnownModel:
    same = [other for other in models if other.name == model.name]
    if len(same) == 1:
        return model
    places = " and ".join(str(other.folder or "the one built in") for other in same)
    fault = f"two models are called {model.name}: {places}; rename or remove one"
    return KnownModel(model.name, folder=model.folder, fault=fault)


def find_model(name: str, dirs: Sequence[Path] = ()) -> KnownModel:
    """Find the model of that name without loading it. Raise ModelUnusable if there is none, or it cannot be used."""
    known = known_models(dirs)
    for model in known:
        if model.name == name:
            if model.fault:
                raise ModelUnusable(model.fault)
            return model
    missing = "".join(f"; MODEL_DIRS names {folder}, which is no folder" for folder in dirs if not folder.is_dir())
    names = ", ".join(dict.fromkeys(model.name for model in known))
    raise ModelUnusable(
        f"there is no model {name!r}: known are {names}{missing}; "
        "name one of them (MODEL, --model), or put its folder into one of MODEL_DIRS"
    )


def load_model(name: str, dirs: Sequence[Path] = ()) -> Model:
    """Load the model of that name. Raise ModelUnusable as `find_model` does, and for a broken network."""
    known = find_model(name, dirs)
    return classical.ClassicalModel() if known.folder is None else Network(known.folder)
