"""Training: the recipe of the shipped network, repeatable from its seed.

In two stages: a long one without any spheroid, and a short one that goes on from there with them. So a
cross-validation on the spheroids repeats the short one alone.
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
from spheroseg.training.unet import CHANNELS, MULTIPLE, Answering, UNet

OPSET = 18
RATE = 3e-3
TUNING_RATE = 1e-3
DECAY = 0.995  # of the running mean of the weights, which is what is shipped
WEIGHT_DECAY = 1e-3
DISTANCE_WEIGHT = 4.0
SEEDS = 64  # that a recipe has for its scenes: each of its processes draws its own
PATIENCE = timedelta(minutes=20)  # of a process for the others, which may have more scenes to draw

# Told the step and the loss.
Progress = Callable[[int, float], None]


@dataclass(frozen=True)
class Recipe:
    """steps, tuning: batches of `batch` crops in the first and the second stage.

    processes: that share each batch of the first; with another number it is another network. scenes: how many are
    drawn to cut from in the first; a third of it in the second. device: None for the best there is.
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
    """`shares`: of the crops, by set; the other sets are left alone. `batch`: crops of this process."""

    steps: int
    batch: int
    scenes: int
    seed: int
    rate: float
    shares: Mapping[str, float]


def train(samples: Sequence[Sample], recipe: Recipe, progress: Progress) -> UNet:
    """The first stage: a network that has seen no spheroid, from nothing.

    On a core for each of its processes, or on a GPU. `progress` is told the step and the mean loss every 25 steps.
    The same samples and recipe give the same crops in the same order, and on the same machine the same network.
    """
    if recipe.processes == 1:
        return _first(samples, recipe, 0, progress)
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as place:
        meeting = Path(place) / "meeting"
        others = [
            context.Process(target=_helped, args=(samples, recipe, rank, meeting), daemon=True)
            for rank in range(1, recipe.processes)
        ]
        for other in others:
            other.start()
        try:
            # Where one of them ends early, the next exchange fails here too.
            return _met(samples, recipe, 0, meeting, progress)
        finally:
            for other in others:
                other.kill()
                other.join()


def tune(base: UNet, samples: Sequence[Sample], recipe: Recipe, progress: Progress, part: int = 0) -> UNet:
    """The second stage: another network, that goes on from `base` with the spheroids among `samples`.

    `part`: networks of different parts see different crops. Else as `train`.
    """
    seed = recipe.seed + 1 + part
    torch.manual_seed(seed)
    stage = _Stage(
        recipe.tuning, recipe.batch, max(1, recipe.scenes // 3), seed * SEEDS, TUNING_RATE, crops.TUNING_SHARES
    )
    return _trained(copy.deepcopy(base), samples, recipe, stage, progress)


def _helped(samples: Sequence[Sample], recipe: Recipe, rank: int, meeting: Path) -> None:
    _met(samples, recipe, rank, meeting, lambda *_: None)


def _met(samples: Sequence[Sample], recipe: Recipe, rank: int, meeting: Path, progress: Progress) -> UNet:
    """The first stage as one of several processes that find each other by the file `meeting`."""
    distributed.init_process_group(
        "gloo", init_method=meeting.as_uri(), rank=rank, world_size=recipe.processes, timeout=PATIENCE
    )
    try:
        return _first(samples, recipe, rank, progress)
    finally:
        distributed.destroy_process_group()


def _first(samples: Sequence[Sample], recipe: Recipe, rank: int, progress: Progress) -> UNet:
    # All begin with the same weights.
    torch.manual_seed(recipe.seed)
    shared = recipe.processes
    stage = _Stage(
        recipe.steps,
        max(1, recipe.batch // shared),
        max(1, recipe.scenes // shared),
        recipe.seed * SEEDS + rank,
        RATE,
        crops.BASE_SHARES,
    )
    return _trained(UNet(), samples, recipe, stage, progress)


def _trained(start: UNet, samples: Sequence[Sample], recipe: Recipe, stage: _Stage, progress: Progress) -> UNet:
    # Threads of several networks that are trained side by side would wait for each other most of the time.
    torch.set_num_threads(1)
    where = torch.device(recipe.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    network = start.train().to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
    averaged = AveragedModel(network, multi_avg_fn=_averaged, use_buffers=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=stage.rate, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, stage.rate, total_steps=stage.steps, pct_start=0.1)
    stream = Crops(_sources(samples, stage), stage.seed, stage.shares)
    losses: list[float] = []
    for step in range(1, stage.steps + 1):
        grey, targets, told = (part.to(where) for part in _stacked(stream.batch(stage.batch)))
        # bfloat16 keeps the range of float32, so that no loss has to be scaled.
        with torch.autocast(where.type, dtype=torch.bfloat16):
            logits = network(grey.contiguous(memory_format=torch.channels_last))
        loss = _loss(logits.float(), targets, told)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if distributed.is_initialized():
            _exchange([weights.grad for weights in network.parameters() if weights.grad is not None])
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        averaged.update_parameters(network)
        losses.append(float(loss.detach()))
        if step % 25 == 0:
            progress(step, float(np.mean(losses[-25:])))
    found = averaged.module.cpu().float().eval()
    assert isinstance(found, UNet)
    return found


def export(network: UNet, folder: Path) -> None:
    """Write `model.onnx` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    # It tells at length which operators of other libraries it does not know.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    answering = Answering(network).eval()
    free = {
        0: torch.export.Dim("n"),
        2: MULTIPLE * torch.export.Dim("rows"),
        3: MULTIPLE * torch.export.Dim("columns"),
    }
    example = torch.zeros(2, 1, 4 * MULTIPLE, 6 * MULTIPLE)
    program = torch.onnx.export(
        answering,
        (example,),
        dynamo=True,
        input_names=["image"],
        output_names=["probability", "distance"],
        dynamic_shapes={"image": free},
        opset_version=OPSET,
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    # Where in which file of this machine each operator was written is nobody's business.
    for part in (model, model.graph, *model.graph.node, *model.graph.value_info):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def recipe_record(recipe: Recipe) -> dict[str, Any]:
    """What `model.json` tells of how the network came about."""
    return {
        **asdict(recipe),
        "network": f"U-Net, channels {', '.join(map(str, CHANNELS))}",
        "side_px": crops.SIDE,
        "scene_sides_px": list(crops.SCENE_SIDES),
        "border_weight": crops.BORDER / crops.KNOWN,
        "shares": crops.BASE_SHARES,
        "tuning_shares": crops.TUNING_SHARES,
        "zooms": {name: list(zooms) for name, zooms in crops.ZOOMS.items()},
        "rate": RATE,
        "tuning_rate": TUNING_RATE,
        "torch": torch.__version__,
    }


def _sources(samples: Sequence[Sample], stage: _Stage) -> dict[str, list[Source]]:
    sources = {
        name: crops.from_samples(sample for sample in samples if sample.set == name)
        for name in stage.shares
        if name != SCENES
    }
    return {SCENES: crops.from_scenes(stage.scenes, stage.seed), **sources}


def _exchange(gradients: Sequence[Tensor]) -> None:
    """Each becomes its mean over all processes."""
    together = torch.cat([gradient.reshape(-1) for gradient in gradients]).cpu()
    distributed.all_reduce(together)
    together /= distributed.get_world_size()
    means = torch.split(together, [gradient.numel() for gradient in gradients])
    for gradient, mean in zip(gradients, means, strict=True):
        gradient.copy_(mean.view(gradient.shape))


def _averaged(
    mean: tuple[Tensor, ...] | list[Tensor], current: tuple[Tensor, ...] | list[Tensor], count: Tensor | int
) -> None:
    """Running means; the first steps count little, or a short training would ship much of where it began."""
    weight = 1 - min(DECAY, (1 + float(count)) / (10 + float(count)))
    for one, other in zip(mean, current, strict=True):
        if one.is_floating_point():
            one.lerp_(other, weight)
        else:
            one.copy_(other)


def _stacked(batch: list[Crop]) -> tuple[Tensor, Tensor, Tensor]:
    grey = np.stack([crop.grey for crop in batch])[:, None]
    targets = np.stack([np.stack([crop.probability, crop.distance]) for crop in batch])
    told = np.stack([crop.told for crop in batch])
    return torch.from_numpy(grey), torch.from_numpy(targets), torch.from_numpy(told)


def _loss(logits: Tensor, targets: Tensor, told: Tensor) -> Tensor:
    """Binary cross-entropy and soft Dice (Milletari et al. 2016) of the probability, L1 of the distance."""
    probability, truth = torch.sigmoid(logits[:, 0]), targets[:, 0]
    entropy = functional.binary_cross_entropy_with_logits(logits[:, 0], truth)
    both = (probability * truth).sum((1, 2))
    dice = 1 - (2 * both + 50) / (probability.sum((1, 2)) + truth.sum((1, 2)) + 50)
    distance = functional.smooth_l1_loss(torch.sigmoid(logits[:, 1]), targets[:, 1], reduction="none", beta=0.1)
    return entropy + 0.5 * dice.mean() + DISTANCE_WEIGHT * (distance * told).mean()
