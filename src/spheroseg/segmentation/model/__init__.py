"""Models compute from grey values where the objects are.

A model is a folder with `model.onnx` and `model.json`. Only the built-in classical model has no folder. No other
package uses ONNX Runtime.
"""

from spheroseg.segmentation.model.card import Card, read_card
from spheroseg.segmentation.model.catalogue import (
    DEFAULT_MODEL,
    KnownModel,
    Model,
    find_model,
    known_models,
    load_model,
)
from spheroseg.segmentation.model.network import Network

__all__ = [
    "DEFAULT_MODEL",
    "Card",
    "KnownModel",
    "Model",
    "Network",
    "find_model",
    "known_models",
    "load_model",
    "read_card",
]
