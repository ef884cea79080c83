"""Whether what a network takes and gives is what `model.json` says, as far as the file itself tells."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spheroseg.segmentation.model.card import Card

LEAST_OPSET = 13
FLOAT = "tensor(float)"

# What is wrong, and what to do.
Fault = tuple[str, str]


def faults(session: Any, card: "Card") -> Iterator[Fault]:
    """What is wrong with inputs and outputs of the session, nothing where all is well."""
    inputs = {entry.name: entry for entry in session.get_inputs()}
    outputs = {entry.name: entry for entry in session.get_outputs()}
    if set(inputs) != {card.input.name}:
        yield (
            f"the network takes {_names(inputs)}, model.json says {card.input.name}",
            "correct input.name, or export the network with this one input",
        )
    else:
        yield from _entry_faults("input", inputs[card.input.name])
    for field, name in (("probability", card.output.probability), ("distance", card.output.distance)):
        if name is None:
            continue
        if name not in outputs:
            yield (
                f"the network gives {_names(outputs)}, and no {name}",
                f"correct output.{field} in model.json",
            )
        else:
            yield from _entry_faults("output", outputs[name])


def _entry_faults(kind: str, entry: Any) -> Iterator[Fault]:
    if entry.type != FLOAT:
        yield f"the {kind} {entry.name} is {entry.type}, not float32", "export the network with float32 there"
    if len(entry.shape) != 4:
        yield (
            f"the {kind} {entry.name} has {len(entry.shape)} dimensions, not 4",
            "export it as (n, 1, height, width)",
        )
        return
    n, channels, height, width = entry.shape
    if isinstance(channels, int) and channels != 1:
        yield f"the {kind} {entry.name} has {channels} channels, not 1", "export it as (n, 1, height, width)"
    fixed = [f"{what} {size}" for what, size in (("n", n), ("height", height), ("width", width)) if _is_fixed(size)]
    # An output whose size is only fixed in words, or not told, shows itself when it is run.
    if fixed and kind == "input":
        yield (
            f"the input {entry.name} has a fixed size ({', '.join(fixed)})",
            "export it with dynamic axes for n, height and width",
        )


def _is_fixed(size: Any) -> bool:
    return isinstance(size, int)


def _names(entries: Any) -> str:
    return ", ".join(entries) or "nothing"


def opset(content: bytes) -> int | None:
    """The version of ONNX's own operators that a network is written in; None where the bytes are no network.

    Read from the file itself, because ONNX Runtime does not tell it.
    """
    try:
        for number, value in _fields(memoryview(content)):
            # ModelProto.opset_import: a domain, empty for ONNX's own, and a version.
            if number == 8 and isinstance(value, memoryview):
                entry = dict(_fields(value))
                if bytes(entry.get(1, b"")) in (b"", b"ai.onnx"):
                    version = entry.get(2)
                    return version if isinstance(version, int) else None
    except (IndexError, ValueError):
        return None
    return None


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The numbered fields of a protobuf message: varints and length-delimited ones. ValueError for others."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        if key & 7 == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
        elif key & 7 == 2:
            size, at = _varint(data, at)
            if at + size > len(data):
                raise ValueError("breaks off")
            yield key >> 3, data[at : at + size]
            at += size
        else:
            raise ValueError("no such field in a network")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
