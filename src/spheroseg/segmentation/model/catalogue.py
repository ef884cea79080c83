"""Which models there are: the built-in one, the shipped ones, and those in the folders of MODEL_DIRS."""

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
    """Anything that says where the objects are."""

    name: str
    version: str
    sha256: str

    def maps(self, pictures: Sequence[npt.NDArray[np.float32]]) -> list[Maps]:
        """The maps of each picture, float32 grey values (height, width) of any size, run together where that helps.

        What comes out for a picture does not depend on those beside it.
        """
        ...


@dataclass(frozen=True)
class KnownModel:
    """A model that was found, not loaded. `folder` and `card` are None for the built-in one.

    `fault`: why it cannot be used, and what to do; its version and hash are then empty.
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
    """All models, the built-in one first, then the shipped ones, then those in `dirs`; also the unusable ones.

    Networks are hashed, not loaded: a file that is no network is not noticed here.
    """
    built_in = classical.ClassicalModel()
    found = [KnownModel(built_in.name, built_in.version, built_in.sha256, "MIT")]
    found += [_known(folder) for place in (SHIPPED, *dirs) for folder in _model_folders(place)]
    return [_told_apart(model, found) for model in found]


def _model_folders(place: Path) -> list[Path]:
    if not place.is_dir():
        return []
    return sorted(f for f in place.iterdir() if (f / CARD).exists() or (f / NETWORK).exists())


def _known(folder: Path) -> KnownModel:
    try:
        card = read_card(folder)
        network = _network_sha256(folder)
    except ModelUnusable as error:
        return KnownModel(folder.name, folder=folder, fault=str(error))
    return KnownModel(card.name, card.version, card.identity(network), card.licence, folder, card, network)


def _network_sha256(folder: Path) -> str:
    path = folder / NETWORK
    if not path.is_file():
        read_network(folder)
    state = path.stat()
    return _hashed(folder, state.st_mtime_ns, state.st_size, state.st_ino)


@lru_cache(maxsize=64)
def _hashed(folder: Path, *_: int) -> str:
    return hashlib.sha256(read_network(folder)).hexdigest()


def _told_apart(model: KnownModel, found: Sequence[KnownModel]) -> KnownModel:
    same = [other for other in found if other.name == model.name]
    if len(same) == 1:
        return model
    places = " and ".join(str(other.folder or "the one built in") for other in same)
    fault = f"two models are called {model.name}: {places}; rename or remove one"
    return KnownModel(model.name, folder=model.folder, fault=fault)


def find_model(name: str, dirs: Sequence[Path] = ()) -> KnownModel:
    """The model of that name, not loaded. Raises ModelUnusable, naming those there are or what is wrong with it."""
    known = known_models(dirs)
    for model in known:
        if model.name == name:
            if model.fault:
                raise ModelUnusable(model.fault)
            return model
    missing = "".join(f"; MODEL_DIRS names {place}, which is no folder" for place in dirs if not place.is_dir())
    names = ", ".join(dict.fromkeys(model.name for model in known))
    raise ModelUnusable(
        f"there is no model {name!r}: known are {names}{missing}; "
        "name one of them (MODEL, --model), or put its folder into one of MODEL_DIRS"
    )


def load_model(name: str, dirs: Sequence[Path] = ()) -> Model:
    """The model of that name, ready for work. Raises ModelUnusable like `find_model`, and for a broken network."""
    found = find_model(name, dirs)
    return classical.ClassicalModel() if found.folder is None else Network(found.folder)
