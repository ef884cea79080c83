"""`model.json`: the name of a network, its input and output, and its measured quality."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from spheroseg.errors import ModelUnusable
from spheroseg.segmentation.model.windows import MAX_PASS_SIDE_PX, TILE_SIDE_PX, round_up

CARD = "model.json"
NETWORK = "model.onnx"

Name = Annotated[str, Field(min_length=1)]
Side = Annotated[int, Field(ge=16, le=MAX_PASS_SIDE_PX)]


class _Section(BaseModel):
    # Forbid extra fields, because a misspelt one would be ignored silently.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class NetworkInput(_Section):
    """The input of the network.

    `low`, `high`: percentiles of the grey values that become 0 and 1. `multiple`: px; height and width must be
    multiples of it. `margin`: distance in px from the edge of a window within which its output is unreliable.
    """

    name: Name = "image"
    low: Annotated[float, Field(ge=0, le=100)] = 0.5
    high: Annotated[float, Field(ge=0, le=100)] = 99.5
    multiple: Annotated[int, Field(ge=1, le=256)] = 1
    margin: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _check_ranges(self) -> "NetworkInput":
        if self.low >= self.high:
            raise ValueError(f"low ({self.low:g}) must be below high ({self.high:g})")
        max_margin = (TILE_SIDE_PX // self.multiple - 1) // 2 * self.multiple
        if round_up(self.margin, self.multiple) > max_margin:
            raise ValueError(f"margin must be at most {max_margin}, so that a tile of {TILE_SIDE_PX} px has a middle")
        return self


class NetworkOutput(_Section):
    """The names of the network's outputs. `distance`: None if it has none."""

    probability: Name = "probability"
    distance: Name | None = None


class Scale(_Section):
    """The sizes of the passes, px.

    `side`, `finest`: longer side of the first and of the finest pass. `object_px`: a finer pass follows if objects
    have a smaller diameter. `large_px`: a coarser pass follows if they have a larger one. None: no such pass.
    """

    side: Side
    large_px: Annotated[float, Field(gt=0)] | None = None
    object_px: Annotated[float, Field(gt=0)] | None = None
    finest: Side | None = None

    @model_validator(mode="after")
    def _check_order(self) -> "Scale":
        if (self.object_px is None) != (self.finest is None):
            raise ValueError("object_px and finest go together: give both, or side alone")
        if self.finest is not None and self.finest < self.side:
            raise ValueError(f"finest ({self.finest}) must be at least side ({self.side})")
        if self.large_px is not None and self.object_px is not None and self.large_px <= self.object_px:
            raise ValueError(f"large_px ({self.large_px:g}) must be above object_px ({self.object_px:g})")
        return self


class Card(_Section):
    """The content of `model.json`. docs/model.md explains the fields.

    `debris`: regions with less than this share of the area of a typical object are removed. `least_sure`: regions
    with less than this share of confident area are removed. `training` and `quality` may have any fields, which are
    displayed unchanged.
    """

    format: Literal[1]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    version: Name
    licence: Name
    description: str = ""
    input: NetworkInput
    output: NetworkOutput
    scale: Scale | None = None
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    debris: Annotated[float, Field(ge=0, lt=1)] = 0.0
    least_sure: Annotated[float, Field(ge=0, lt=1)] = 0.0
    training: dict[str, Any] = {}
    quality: dict[str, Any] = {}

    def identity(self, network_sha256: str) -> str:
        """Return the SHA-256 of the model. It covers exactly what changes a result.

        `network_sha256`: the SHA-256 of `model.onnx`.
        """
        relevant = self.model_dump(include={"name", "version", "input", "output", "scale", "threshold", "debris"})
        # Fields without an effect are left out, so that models that are older than these fields keep their hash.
        if self.least_sure:
            relevant["least_sure"] = self.least_sure
        if self.scale and self.scale.large_px is None:
            del relevant["scale"]["large_px"]
        canonical = json.dumps(relevant, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(f"{network_sha256}\n{canonical}".encode()).hexdigest()


def read_card(folder: Path) -> Card:
    """Read the card of the model in `folder`. Raise ModelUnusable, naming every mistake in it."""
    path = folder / CARD
    try:
        card = Card.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ModelUnusable(f"{folder} has no {CARD}: write one, docs/model.md says what belongs in it") from None
    except OSError as error:
        raise ModelUnusable(f"{path} cannot be read: {error.strerror or error}") from None
    except ValidationError as error:
        faults = "; ".join(_describe(detail) for detail in error.errors())
        raise ModelUnusable(f"{path} cannot be used: {faults}") from None
    if card.name != folder.absolute().name:
        raise ModelUnusable(
            f"{path} says that the model is called {card.name}, but its folder is {folder.absolute().name}: "
            "rename one of them"
        )
    return card


def _describe(detail: ErrorDetails) -> str:
    field = ".".join(str(part) for part in detail["loc"])
    problem = {
        "missing": "is missing",
        "extra_forbidden": "there is no such field: correct its name, or move it into training or quality",
    }.get(detail["type"], f"{detail['msg']}, it is {detail['input']!r:.60}")
    if detail["type"] in ("value_error", "json_invalid"):
        problem = detail["msg"].removeprefix("Value error, ")
    return f"{field}: {problem}" if field else problem


def read_network(folder: Path) -> bytes:
    """Read the bytes of `model.onnx`. Raise ModelUnusable if they cannot be read."""
    try:
        return (folder / NETWORK).read_bytes()
    except FileNotFoundError:
        raise ModelUnusable(f"{folder} has no {NETWORK}: put the network there") from None
    except OSError as error:
        raise ModelUnusable(f"{folder / NETWORK} cannot be read: {error.strerror or error}") from None
