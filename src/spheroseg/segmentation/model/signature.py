"""Checks the inputs and outputs of a network against `model.json`, without running it."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from spheroseg.segmentation.model.card import Card
from spheroseg.segmentation.model.session import Session, TensorInfo

MIN_OPSET = 13
FLOAT = "tensor(float)"


class Mismatch(NamedTuple):
    """A difference between a network and its card, and how to fix it."""

    problem: str
    remedy: str


def find_mismatches(session: Session, card: Card) -> Iterator[Mismatch]:
    """Yield the inputs and outputs of a session that do not match the card."""
    inputs = {entry.name: entry for entry in session.get_inputs()}
    outputs = {entry.name: entry for entry in session.get_outputs()}
    if set(inputs) != {card.input.name}:
        yield Mismatch(
            f"the network takes {_join(inputs)}, model.json says {card.input.name}",
            "correct input.name, or export the network with this one input",
        )
    else:
        yield from _find_tensor_mismatches("input", inputs[card.input.name])
    for field, name in (("probability", card.output.probability), ("distance", card.output.distance)):
        if name is None:
            continue
        if name not in outputs:
            yield Mismatch(
                f"the network gives {_join(outputs)}, and no {name}",
                f"correct output.{field} in model.json",
            )
        else:
            yield from _find_tensor_mismatches("output", outputs[name])


def _find_tensor_mismatches(kind: str, entry: TensorInfo) -> Iterator[Mismatch]:
    if entry.type != FLOAT:
        yield Mismatch(
            f"the {kind} {entry.name} is {entry.type}, not float32", "export the network with float32 there"
        )
    if len(entry.shape) != 4:
        yield Mismatch(
            f"the {kind} {entry.name} has {len(entry.shape)} dimensions, not 4",
            "export it as (n, 1, height, width)",
        )
        return
    n, channels, height, width = entry.shape
    if isinstance(channels, int) and channels != 1:
        yield Mismatch(
            f"the {kind} {entry.name} has {channels} channels, not 1",
            "export it as (n, 1, height, width)",
        )
    sizes = (("n", n), ("height", height), ("width", width))
    fixed = [f"{dimension} {size}" for dimension, size in sizes if isinstance(size, int)]
    # Outputs are not checked here: their declared size may be wrong or missing. The trials run the network.
    if fixed and kind == "input":
        yield Mismatch(
            f"the input {entry.name} has a fixed size ({', '.join(fixed)})",
            "export it with dynamic axes for n, height and width",
        )


def _join(names: Iterable[str]) -> str:
    return ", ".join(names) or "nothing"


def read_opset(content: bytes) -> int | None:
    """Return the version of ONNX's own operators that a network is written in; None if the bytes are not a network.

    It is read from the protobuf itself (`ModelProto.opset_import`), because ONNX Runtime does not report it.
    """
    try:
        for number, value in _read_fields(memoryview(content)):
            # ModelProto.opset_import: a domain, empty for ONNX's own, and a version.
            if number == 8 and isinstance(value, memoryview):
                entry = dict(_read_fields(value))
                if bytes(entry.get(1, b"")) in (b"", b"ai.onnx"):
                    version = entry.get(2)
                    return version if isinstance(version, int) else None
    except (IndexError, ValueError):
        return None
    return None


def _read_fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield the varint and length-delimited fields of a protobuf message. Raise ValueError for other kinds."""
    position = 0
    while position < len(data):
        key, position = _read_varint(data, position)
        if key & 7 == 0:
            value, position = _read_varint(data, position)
            yield key >> 3, value
        elif key & 7 == 2:
            size, position = _read_varint(data, position)
            if position + size > len(data):
                raise ValueError("the message is truncated")
            yield key >> 3, data[position : position + size]
            position += size
        else:
            raise ValueError("this kind of field does not occur in a network")


def _read_varint(data: memoryview, position: int) -> tuple[int, int]:
    """Return the number at `position`, and the position after it."""
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
