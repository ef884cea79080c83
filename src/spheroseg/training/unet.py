"""Defines the network: a U-Net that computes for each pixel whether it belongs to an object, and how deep inside.

Architecture after Ronneberger, Fischer and Brox 2015 (arXiv:1505.04597), with batch normalisation, padded
convolutions and nearest-neighbour upsampling.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

# Processors compute 16 channels at a time, so 12 channels would take as long.
CHANNELS = (16, 32, 64, 96, 128)
MULTIPLE = 2 ** (len(CHANNELS) - 1)  # height and width must be multiples of this


class Block(nn.Sequential):
    """Two 3 × 3 convolutions, each with batch normalisation and ReLU."""

    def __init__(self, before: int, after: int) -> None:
        layers: list[nn.Module] = []
        for channels in (before, after):
            layers += [nn.Conv2d(channels, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        super().__init__(*layers)


class UNet(nn.Module):
    """Maps normalised grey values (n, 1, height, width) to logits (n, 2, height, width): probability and distance."""

    def __init__(self, channels: Sequence[int] = CHANNELS) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            Block(before, after) for before, after in zip((1, *channels), channels, strict=False)
        )
        self.shrink = nn.ModuleList(nn.Conv2d(deep, flat, 1) for flat, deep in itertools.pairwise(channels))
        self.up = nn.ModuleList(Block(2 * flat, flat) for flat in channels[:-1])
        self.head = nn.Conv2d(channels[0], 2, 1)

    def forward(self, grey: Tensor) -> Tensor:
        skips: list[Tensor] = []
        x = grey
        for level, block in enumerate(self.down):
            x = block(functional.max_pool2d(x, 2) if level else x)
            skips.append(x)
        for level in reversed(range(len(self.up))):
            x = functional.interpolate(self.shrink[level](x), scale_factor=2.0, mode="nearest")
            x = self.up[level](torch.cat([x, skips[level]], 1))
        logits: Tensor = self.head(x)
        return logits


class ProbabilityOutput(nn.Module):
    """The network as shipped. It returns probability and distance, 0..1, each (n, 1, height, width)."""

    def __init__(self, network: UNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        maps = torch.sigmoid(self.network(image))
        return maps[:, :1], maps[:, 1:]
