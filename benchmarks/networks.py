"""The network alone: ONNX Runtime with its threads and optimisations, and PyTorch on the same processor."""

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import numpy.typing as npt

# n, height, width: the first pass of one picture, of eight, and a finer pass.
SHAPES = ((1, 256, 256), (8, 256, 256), (1, 512, 512))
OPTIMISATIONS = ("DISABLE_ALL", "ENABLE_BASIC", "ENABLE_EXTENDED", "ENABLE_ALL")
LEAST_SECONDS = 1.0  # a case is repeated for at least so long, and three times
LEAST_CALLS = 3

Batch = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """What runs the network, set up in which way."""

    engine: str
    threads: int
    optimisation: str = ""


def cases(threads: Sequence[int], with_torch: bool) -> Iterator[Case]:
    for count in threads:
        # What the levels do does not depend on the threads.
        for optimisation in OPTIMISATIONS if count == 1 else OPTIMISATIONS[-1:]:
            yield Case("ONNX Runtime", count, optimisation)
        if with_torch:
            yield Case("PyTorch", count)


def torch_is_there() -> bool:
    return importlib.util.find_spec("torch") is not None


def opened(case: Case, network: Path) -> Callable[[Batch], object]:
    """A function that runs a batch (n, 1, height, width) through the network."""
    return _torch(case) if case.engine == "PyTorch" else _onnx(case, network)


def milliseconds(run: Callable[[Batch], object], shape: tuple[int, int, int], threads: int) -> float:
    """Of one call on a batch of that shape: the quickest, which others on the machine have disturbed least.

    With one thread it is processor time, which on a quiet machine is the same. Several wait for each other, so that
    only the clock tells.
    """
    now = process_time if threads == 1 else perf_counter
    count, height, width = shape
    batch = np.random.default_rng(5).random((count, 1, height, width), np.float32)
    times: list[float] = []
    run(batch)
    while len(times) < LEAST_CALLS or sum(times) < LEAST_SECONDS:
        began = now()
        run(batch)
        times.append(now() - began)
    return 1000 * min(times)


def _onnx(case: Case, network: Path) -> Callable[[Batch], object]:
    onnxruntime: Any = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = case.threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{case.optimisation}")
    session = onnxruntime.InferenceSession(str(network), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: session.run(None, {name: batch})


def _torch(case: Case) -> Callable[[Batch], object]:
    torch: Any = importlib.import_module("torch")
    unet: Any = importlib.import_module("spheroseg.training.unet")
    # Random weights: speed does not depend on them.
    network = unet.Answering(unet.UNet()).eval()
    torch.set_num_threads(case.threads)

    def run(batch: Batch) -> object:
        with torch.inference_mode():
            return network(torch.from_numpy(batch))

    return run
