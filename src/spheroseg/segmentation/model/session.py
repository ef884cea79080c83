"""Sessions of ONNX Runtime. No other module imports it."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from spheroseg.errors import ModelUnusable
from spheroseg.segmentation.model.windows import Grey


class TensorInfo(Protocol):
    """An input or output of a network. A dimension of `shape` is a name or None unless its size is fixed."""

    name: str
    type: str
    shape: Sequence[int | str | None]


class RunOptions(Protocol):
    """Options of one inference."""

    log_severity_level: int

    def add_run_config_entry(self, key: str, value: str, /) -> None: ...


class Session(Protocol):
    """The part of `onnxruntime.InferenceSession` that is used here."""

    def get_inputs(self) -> Sequence[TensorInfo]: ...

    def get_outputs(self) -> Sequence[TensorInfo]: ...

    def run(
        self, output_names: Sequence[str], input_feed: Mapping[str, Grey], run_options: RunOptions, /
    ) -> Sequence[npt.NDArray[np.float32]]: ...


def open_session(content: bytes, path: Path) -> Session:
    """Load the network in `content`, to run on one thread. Raise ModelUnusable, which names `path`, if it fails."""
    # Imported only when a network is used, because it takes a fifth of a second.
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # A worker slot uses one core. Several slots that each start a thread per core would slow each other down.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session: Session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelUnusable(f"{path} cannot be loaded: {describe(error)}; export it again") from error
    return session


def make_run_options(*, shrinks_memory: bool) -> RunOptions:
    """Return options for one inference. With `shrinks_memory`, unused memory is freed after it."""
    import onnxruntime

    options: RunOptions = onnxruntime.RunOptions()
    options.log_severity_level = 4
    if shrinks_memory:
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


def describe(error: Exception) -> str:
    """Return the first line of an error of ONNX Runtime, without its codes and the place in its own source."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (/\S+ .*?\) )?", "", line).rstrip(".")
