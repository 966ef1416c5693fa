"""Networks as data: the few kinds of layer that an Inception network is made of.

A network is a tuple of layers in the paper's order. The torch module and the OpenVINO graph are both built from
the same tuple, so the two runtimes cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Padding = Literal["same", "valid"]  # "same": (kernel - 1) / 2 on each side


@dataclass(frozen=True)
class Conv:
    """Convolution with bias, followed by ReLU unless `relu` is off; `kernel` is (height, width)."""

    name: str
    inputs: int
    outputs: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: Padding = "same"
    relu: bool = True

    @property
    def pad(self) -> tuple[int, int]:
        """Zero padding on each side, (rows, columns)."""
        return ((self.kernel[0] - 1) // 2, (self.kernel[1] - 1) // 2) if self.padding == "same" else (0, 0)


@dataclass(frozen=True)
class MaxPool:
    """Maximum over a square window, without padding."""

    kernel: int
    stride: int


@dataclass(frozen=True)
class AvgPool:
    """Mean over a square window of stride 1, padded to keep the size; the padding is left out of the count."""

    kernel: int


@dataclass(frozen=True)
class GlobalAvgPool:
    """Mean over all positions; keeps 1x1 spatial axes."""


@dataclass(frozen=True)
class Branches:
    """Parallel branches whose outputs are concatenated along the channels: the Inception module."""

    name: str
    branches: tuple[tuple[Layer, ...], ...]


Layer = Conv | MaxPool | AvgPool | GlobalAvgPool | Branches


def convolutions(layers: tuple[Layer, ...]) -> Iterator[Conv]:
    """Yield every convolution of a network, in the order in which it is defined."""
    for layer in layers:
        if isinstance(layer, Conv):
            yield layer
        elif isinstance(layer, Branches):
            for branch in layer.branches:
                yield from convolutions(branch)
