"""`model.json`: what a network is called, what it takes, what it gives, and how good it is."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from spheroseg.errors import ModelUnusable
from spheroseg.segmentation.model.passes import LARGEST_SIDE, TILE, aligned

CARD = "model.json"
NETWORK = "model.onnx"

Name = Annotated[str, Field(min_length=1)]
Side = Annotated[int, Field(ge=16, le=LARGEST_SIDE)]


class _Part(BaseModel):
    # A field with a slip in its name would otherwise change nothing, in silence.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Input(_Part):
    """`low`, `high`: percentiles of the grey values that become 0 and 1. `multiple`, `margin`: px of a pass."""

    name: Name = "image"
    low: Annotated[float, Field(ge=0, le=100)] = 0.5
    high: Annotated[float, Field(ge=0, le=100)] = 99.5
    multiple: Annotated[int, Field(ge=1, le=256)] = 1
    margin: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _fits(self) -> "Input":
        if self.low >= self.high:
            raise ValueError(f"low ({self.low:g}) must be below high ({self.high:g})")
        most = (TILE // self.multiple - 1) // 2 * self.multiple
        if aligned(self.margin, self.multiple) > most:
            raise ValueError(f"margin must be at most {most}, so that a tile of {TILE} px has a middle")
        return self


class Output(_Part):
    """Names of the network's outputs."""

    probability: Name = "probability"
    distance: Name | None = None


class Scale(_Part):
    """`side`, `finest`: longer side of the first and the finest pass, px.

    `object_px`, `large_px`: diameters below which a finer pass is worth while, and above which a coarser one is.
    """

    side: Side
    large_px: Annotated[float, Field(gt=0)] | None = None
    object_px: Annotated[float, Field(gt=0)] | None = None
    finest: Side | None = None

    @model_validator(mode="after")
    def _together(self) -> "Scale":
        if (self.object_px is None) != (self.finest is None):
            raise ValueError("object_px and finest go together: give both, or side alone")
        if self.finest is not None and self.finest < self.side:
            raise ValueError(f"finest ({self.finest}) must be at least side ({self.side})")
        if self.large_px is not None and self.object_px is not None and self.large_px <= self.object_px:
            raise ValueError(f"large_px ({self.large_px:g}) must be above object_px ({self.object_px:g})")
        return self


class Card(_Part):
    """All of `model.json`. `training` and `quality` are the author's own words, shown as they are."""

    format: Literal[1]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    version: Name
    licence: Name
    description: str = ""
    input: Input
    output: Output
    scale: Scale | None = None
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    debris: Annotated[float, Field(ge=0, lt=1)] = 0.0
    least_sure: Annotated[float, Field(ge=0, lt=1)] = 0.0
    training: dict[str, Any] = {}
    quality: dict[str, Any] = {}

    def identity(self, network_sha256: str) -> str:
        """The sha256 of the model: what changes a result changes it, and nothing else does."""
        meant = self.model_dump(include={"name", "version", "input", "output", "scale", "threshold", "debris"})
        # Only where they do something, so that models from before they were there are still themselves.
        if self.least_sure:
            meant["least_sure"] = self.least_sure
        if self.scale and self.scale.large_px is None:
            del meant["scale"]["large_px"]
        canonical = json.dumps(meant, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(f"{network_sha256}\n{canonical}".encode()).hexdigest()


def read_card(folder: Path) -> Card:
    """The card of the model in `folder`. Raises ModelUnusable, naming every mistake in it."""
    path = folder / CARD
    try:
        card = Card.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ModelUnusable(f"{folder} has no {CARD}: write one, docs/model.md says what belongs in it") from None
    except OSError as error:
        raise ModelUnusable(f"{path} cannot be read: {error.strerror or error}") from None
    except ValidationError as error:
        faults = "; ".join(_fault(fault) for fault in error.errors())
        raise ModelUnusable(f"{path} cannot be used: {faults}") from None
    if card.name != folder.absolute().name:
        raise ModelUnusable(
            f"{path} says that the model is called {card.name}, but its folder is {folder.absolute().name}: "
            "rename one of them"
        )
    return card


def _fault(fault: Any) -> str:
    where = ".".join(str(part) for part in fault["loc"])
    words = {
        "missing": "is missing",
        "extra_forbidden": "there is no such field: correct its name, or move it into training or quality",
    }.get(fault["type"], f"{fault['msg']}, it is {fault['input']!r:.60}")
    if fault["type"] in ("value_error", "json_invalid"):
        words = str(fault["msg"]).removeprefix("Value error, ")
    return f"{where}: {words}" if where else words


def read_network(folder: Path) -> bytes:
    """The bytes of `model.onnx`. Raises ModelUnusable."""
    try:
        return (folder / NETWORK).read_bytes()
    except FileNotFoundError:
        raise ModelUnusable(f"{folder} has no {NETWORK}: put the network there") from None
    except OSError as error:
        raise ModelUnusable(f"{folder / NETWORK} cannot be read: {error.strerror or error}") from None
