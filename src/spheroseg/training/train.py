"""Trains a network with the recipe of the shipped one. The result is reproducible from the seed.

The first stage is long and uses no spheroids. The second is short and continues with spheroids. Therefore a
cross-validation on the spheroids only repeats the second stage.
"""

import copy
import logging
import multiprocessing
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

from spheroseg.training import crops
from spheroseg.training.crops import Crop, Crops, Source
from spheroseg.training.data import SCENES, Sample
from spheroseg.training.unet import CHANNELS, MULTIPLE, ProbabilityOutput, UNet

OPSET = 18
RATE = 3e-3  # maximum learning rate of the first stage
TUNING_RATE = 1e-3  # maximum learning rate of the second stage
DECAY = 0.995  # of the running mean of the weights; the mean is the network that is shipped
WEIGHT_DECAY = 1e-3
DISTANCE_WEIGHT = 4.0
SEEDS_PER_RECIPE = 64  # each process of a recipe draws scenes with its own seed
MAX_WAIT = timedelta(minutes=20)  # of a process for the others, which may still be drawing scenes

# Called with the step and the loss.
Progress = Callable[[int, float], None]


@dataclass(frozen=True)
class Recipe:
    """The recipe of a network.

    steps, tuning: the number of batches of `batch` crops in the first and in the second stage.
    processes: the number of processes that share each batch of the first stage. It changes the resulting network.
    scenes: the number of scenes to cut crops from in the first stage. The second stage uses a third of it.
    device: the PyTorch device; None for the best available.
    """

    steps: int = 3000
    tuning: int = 250
    batch: int = 16
    processes: int = 2
    scenes: int = 3400
    seed: int = 1
    device: str | None = None


@dataclass(frozen=True)
class _Stage:
    """One stage in one process.

    `shares`: the share of each set among the crops; other sets are not used. `batch`: crops per step.
    """

    steps: int
    batch: int
    scenes: int
    seed: int
    rate: float
    shares: Mapping[str, float]


def train(samples: Sequence[Sample], recipe: Recipe, progress: Progress) -> UNet:
    """Run the first stage: train a network from scratch, without spheroids.

    It uses one core per process, or a GPU. `progress` is called with the step and the mean loss every 25 steps. The
    same samples and recipe give the same crops in the same order, and on the same machine the same network.
    """
    if recipe.processes == 1:
        return _run_first_stage(samples, recipe, 0, progress)
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        rendezvous = Path(folder) / "rendezvous"
        others = [
            context.Process(target=_run_helper, args=(samples, recipe, rank, rendezvous), daemon=True)
            for rank in range(1, recipe.processes)
        ]
        for other in others:
            other.start()
        try:
            # If another process ends early, the next exchange of gradients fails in this one too.
            return _join_first_stage(samples, recipe, 0, rendezvous, progress)
        finally:
            for other in others:
                other.kill()
                other.join()


def tune(base: UNet, samples: Sequence[Sample], recipe: Recipe, progress: Progress, part: int = 0) -> UNet:
    """Run the second stage: train a copy of `base` further, with the spheroids among `samples`.

    `part`: networks with different parts see different crops. Everything else is as in `train`.
    """
    seed = recipe.seed + 1 + part
    torch.manual_seed(seed)
    stage = _Stage(
        recipe.tuning,
        recipe.batch,
        max(1, recipe.scenes // 3),
        seed * SEEDS_PER_RECIPE,
        TUNING_RATE,
        crops.TUNING_SHARES,
    )
    return _run_stage(copy.deepcopy(base), samples, recipe, stage, progress)


def _run_helper(samples: Sequence[Sample], recipe: Recipe, rank: int, rendezvous: Path) -> None:
    _join_first_stage(samples, recipe, rank, rendezvous, lambda *_: None)


def _join_first_stage(
    samples: Sequence[Sample], recipe: Recipe, rank: int, rendezvous: Path, progress: Progress
) -> UNet:
    """Run the first stage as one of several processes, which find each other through the file `rendezvous`."""
    distributed.init_process_group(
        "gloo", init_method=rendezvous.as_uri(), rank=rank, world_size=recipe.processes, timeout=MAX_WAIT
    )
    try:
        return _run_first_stage(samples, recipe, rank, progress)
    finally:
        distributed.destroy_process_group()


def _run_first_stage(samples: Sequence[Sample], recipe: Recipe, rank: int, progress: Progress) -> UNet:
    # All processes start with the same weights.
    torch.manual_seed(recipe.seed)
    processes = recipe.processes
    stage = _Stage(
        recipe.steps,
        max(1, recipe.batch // processes),
        max(1, recipe.scenes // processes),
        recipe.seed * SEEDS_PER_RECIPE + rank,
        RATE,
        crops.BASE_SHARES,
    )
    return _run_stage(UNet(), samples, recipe, stage, progress)


def _run_stage(start: UNet, samples: Sequence[Sample], recipe: Recipe, stage: _Stage, progress: Progress) -> UNet:
    """Train `start`. Return a network on the CPU with the running mean of its weights."""
    # Several networks are trained at the same time. With more threads, they would mostly wait for each other.
    torch.set_num_threads(1)
    device = torch.device(recipe.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    network = start.train().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    averaged = AveragedModel(network, multi_avg_fn=_update_means, use_buffers=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=stage.rate, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, stage.rate, total_steps=stage.steps, pct_start=0.1)
    stream = Crops(_sources(samples, stage), stage.seed, stage.shares)
    losses: list[float] = []
    for step in range(1, stage.steps + 1):
        grey, targets, distance_weight = (part.to(device) for part in _stack(stream.batch(stage.batch)))
        # bfloat16 has the range of float32, so the loss does not have to be scaled.
        with torch.autocast(device.type, dtype=torch.bfloat16):
            logits = network(grey.contiguous(memory_format=torch.channels_last))
        loss = _loss(logits.float(), targets, distance_weight)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if distributed.is_initialized():
            _average_gradients([weights.grad for weights in network.parameters() if weights.grad is not None])
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        averaged.update_parameters(network)
        losses.append(float(loss.detach()))
        if step % 25 == 0:
            progress(step, float(np.mean(losses[-25:])))
    mean_network = averaged.module.cpu().float().eval()
    assert isinstance(mean_network, UNet)
    return mean_network


def export(network: UNet, folder: Path) -> None:
    """Write the network as `model.onnx` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    # The exporter logs every operator of other libraries that it does not support.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    shipped = ProbabilityOutput(network).eval()
    dynamic_axes = {
        0: torch.export.Dim("n"),
        2: MULTIPLE * torch.export.Dim("rows"),
        3: MULTIPLE * torch.export.Dim("columns"),
    }
    example = torch.zeros(2, 1, 4 * MULTIPLE, 6 * MULTIPLE)
    program = torch.onnx.export(
        shipped,
        (example,),
        dynamo=True,
        input_names=["image"],
        output_names=["probability", "distance"],
        dynamic_shapes={"image": dynamic_axes},
        opset_version=OPSET,
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    # Remove the paths of source files on this machine, which PyTorch writes for each operator.
    for part in (model, model.graph, *model.graph.node, *model.graph.value_info):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def recipe_record(recipe: Recipe) -> dict[str, Any]:
    """Return what `model.json` states about the training of the network."""
    return {
        **asdict(recipe),
        "network": f"U-Net, channels {', '.join(map(str, CHANNELS))}",
        "side_px": crops.SIDE,
        "scene_sides_px": list(crops.SCENE_SIDES),
        "border_weight": crops.BORDER_WEIGHT / crops.KNOWN_WEIGHT,
        "shares": crops.BASE_SHARES,
        "tuning_shares": crops.TUNING_SHARES,
        "zooms": {name: list(zooms) for name, zooms in crops.ZOOMS.items()},
        "rate": RATE,
        "tuning_rate": TUNING_RATE,
        "torch": torch.__version__,
    }


def _sources(samples: Sequence[Sample], stage: _Stage) -> dict[str, list[Source]]:
    sources = {
        name: crops.sources_from_samples(sample for sample in samples if sample.set == name)
        for name in stage.shares
        if name != SCENES
    }
    return {SCENES: crops.sources_from_scenes(stage.scenes, stage.seed), **sources}


def _average_gradients(gradients: Sequence[Tensor]) -> None:
    """Replace each gradient by its mean over all processes, in place."""
    together = torch.cat([gradient.reshape(-1) for gradient in gradients]).cpu()
    distributed.all_reduce(together)
    together /= distributed.get_world_size()
    means = torch.split(together, [gradient.numel() for gradient in gradients])
    for gradient, mean in zip(gradients, means, strict=True):
        gradient.copy_(mean.view(gradient.shape))


def _update_means(
    mean: tuple[Tensor, ...] | list[Tensor], current: tuple[Tensor, ...] | list[Tensor], count: Tensor | int
) -> None:
    """Update the running means of the weights. The decay is lower at first, to forget the start quickly."""
    weight = 1 - min(DECAY, (1 + float(count)) / (10 + float(count)))
    for one, other in zip(mean, current, strict=True):
        if one.is_floating_point():
            one.lerp_(other, weight)
        else:
            one.copy_(other)


def _stack(batch: list[Crop]) -> tuple[Tensor, Tensor, Tensor]:
    grey = np.stack([crop.grey for crop in batch])[:, None]
    targets = np.stack([np.stack([crop.probability, crop.distance]) for crop in batch])
    weights = np.stack([crop.distance_weight for crop in batch])
    return torch.from_numpy(grey), torch.from_numpy(targets), torch.from_numpy(weights)


def _loss(logits: Tensor, targets: Tensor, distance_weight: Tensor) -> Tensor:
    """Return cross-entropy and soft Dice (Milletari et al. 2016) of the probability, smooth L1 of the distance."""
    probability, truth = torch.sigmoid(logits[:, 0]), targets[:, 0]
    entropy = functional.binary_cross_entropy_with_logits(logits[:, 0], truth)
    both = (probability * truth).sum((1, 2))
    dice = 1 - (2 * both + 50) / (probability.sum((1, 2)) + truth.sum((1, 2)) + 50)
    distance = functional.smooth_l1_loss(torch.sigmoid(logits[:, 1]), targets[:, 1], reduction="none", beta=0.1)
    return entropy + 0.5 * dice.mean() + DISTANCE_WEIGHT * (distance * distance_weight).mean()
