"""Small networks for the tests of model folders: a blur and a sigmoid, so that bright is an object."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

DYNAMIC = ("n", 1, "height", "width")


def card(called: str, /, **changes: Any) -> dict[str, Any]:
    """Return a `model.json` that fits `network`. `changes` replace its fields; None removes one."""
    fields = {
        "format": 1,
        "name": called,
        "version": "1",
        "licence": "MIT",
        "description": "bright is an object",
        "input": {"name": "image", "low": 0.5, "high": 99.5, "multiple": 8, "margin": 16},
        "output": {"probability": "probability", "distance": "distance"},
        "scale": {"side": 64, "object_px": 12, "finest": 512},
        "training": {"data": "none"},
        "quality": {"brightfield": {"iou": [0.9, 0.91]}},
        **changes,
    }
    return {key: value for key, value in fields.items() if value is not None}


def network(
    *,
    reach: int = 3,
    opset: int = 17,
    shape: tuple[str | int, ...] = DYNAMIC,
    element: int = TensorProto.FLOAT,
    last: str = "Sigmoid",
    pools: bool = False,
    halves: bool = False,
) -> bytes:
    """Return an ONNX file.

    `reach`: px on which an answer depends. `last`: the last operator. `pools`: depends on the whole picture.
    `halves`: accepts only even sizes.
    """
    side = 2 * reach + 1
    kernel = np.full((1, 1, side, side), 20 / side**2, np.float32)
    kind = helper.tensor_dtype_to_np_dtype(element)
    weights = [
        numpy_helper.from_array(kernel.astype(kind), "kernel"),
        numpy_helper.from_array(np.full(1, -10, kind), "bias"),
    ]
    nodes = [
        helper.make_node("Conv", ["image", "kernel", "bias"], ["blurred"], pads=[reach] * 4),
        helper.make_node(last, ["blurred"], ["probability"]),
        helper.make_node("Mul", ["probability", "probability"], ["distance"]),
    ]
    if pools:
        nodes[:1] = [
            helper.make_node("GlobalAveragePool", ["image"], ["all"]),
            helper.make_node("Sub", ["image", "all"], ["centred"]),
            helper.make_node("Conv", ["centred", "kernel", "bias"], ["blurred"], pads=[reach] * 4),
        ]
    if halves:
        weights.append(numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "twice"))
        nodes[1:1] = [
            helper.make_node("MaxPool", ["blurred"], ["half"], kernel_shape=[2, 2], strides=[2, 2]),
            helper.make_node("Resize", ["half", "", "twice"], ["again"], mode="nearest"),
            helper.make_node("Add", ["again", "blurred"], ["sum"]),
        ]
        nodes[-2] = helper.make_node(last, ["sum"], ["probability"])
    graph = helper.make_graph(
        nodes,
        "blur",
        [helper.make_tensor_value_info("image", element, shape)],
        [helper.make_tensor_value_info(name, element, shape) for name in ("probability", "distance")],
        weights,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return bytes(made.SerializeToString())


def model_folder(parent: Path, called: str = "blur", content: bytes | None = None, **changes: Any) -> Path:
    """Make a model folder in `parent`. `changes`: see `card`."""
    folder = parent / called
    folder.mkdir(parents=True)
    (folder / "model.json").write_text(json.dumps(card(called, **changes)))
    (folder / "model.onnx").write_bytes(network() if content is None else content)
    return folder


__all__ = ["card", "model_folder", "network", "onnx"]
