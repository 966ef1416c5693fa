"""Networks as data: the few kinds of layer that an Inception network is made of, and what they cost."""

from __future__ import annotations

import difflib
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
    """Maximum over a square window; `pad`: positions on each side that never win.

    ceil: a last window may reach beyond the edge, as in Caffe.
    """

    kernel: int
    stride: int
    pad: int = 0
    ceil: bool = False


@dataclass(frozen=True)
class AvgPool:
    """Mean over a square window; padding is left out of the count."""

    kernel: int
    stride: int = 1
    padding: Padding = "same"

    @property
    def pad(self) -> int:
        """Padding on each side."""
        return self.kernel // 2 if self.padding == "same" else 0


@dataclass(frozen=True)
class LRN:
    """Local response normalisation: x / (k + alpha / size * sum of squares of `size` neighbouring channels) ** beta.

    Krizhevsky et al. 2012, section 3.3; alpha divided by the window, as in Caffe, torch and OpenVINO.
    """

    size: int
    alpha: float
    beta: float
    k: float


@dataclass(frozen=True)
class GlobalAvgPool:
    """Mean over all positions; keeps 1x1 spatial axes."""


@dataclass(frozen=True)
class Branches:
    """Parallel branches whose outputs are concatenated along the channels: the Inception module."""

    name: str
    branches: tuple[tuple[Layer, ...], ...]


@dataclass(frozen=True)
class Auxiliary:
    """A classifier on the side, in training only: the main path goes past it, and inference has none of it."""

    name: str
    layers: tuple[Layer, ...]
    dropout: float  # share of the features dropped before the last layer


@dataclass(frozen=True)
class Members:
    """An ensemble (section 7) whose networks share their first layers: the ends of each, with a classifier at the end.

    The output is the logarithm of the mean of their softmax scores, so that the softmax behind it gives that mean.
    """

    branches: tuple[tuple[Layer, ...], ...]


SMALLEST_SCORE = 1e-30  # below it, the logarithm of a mean is that of this number

Layer = Conv | MaxPool | AvgPool | GlobalAvgPool | LRN | Branches | Auxiliary | Members


def convolutions(layers: tuple[Layer, ...]) -> Iterator[Conv]:
    """Yield every convolution of a network, in the order in which it is defined, those of auxiliary heads included."""
    for layer in layers:
        if isinstance(layer, Conv):
            yield layer
        elif isinstance(layer, Branches | Members):
            for branch in layer.branches:
                yield from convolutions(branch)
        elif isinstance(layer, Auxiliary):
            yield from convolutions(layer.layers)


def has_lrn(layers: tuple[Layer, ...]) -> bool:
    """Return whether a network has local response normalisation."""
    return any(isinstance(layer, LRN) for layer in layers)


def layer_name(layer: Layer) -> str:
    """Return the name of a layer; "" for those without weights."""
    return layer.name if isinstance(layer, Conv | Branches | Auxiliary) else ""


def cut_after(layers: tuple[Layer, ...], name: str) -> int:
    """Return how many layers there are up to the one named `name`, this one and poolings right after it included.

    Raises: ValueError naming the nearest right one, or where nothing would be left to train.
    """
    names = [layer_name(layer) for layer in layers[:-1]]
    if not name or name not in names:
        near = difflib.get_close_matches(name, [n for n in names if n], n=1, cutoff=0.0)
        raise ValueError(f"the network has no layer '{name}' to cut after; the nearest one is '{near[0]}'")
    cut = names.index(name) + 1
    while cut < len(names) and not names[cut]:
        cut += 1
    return cut


Shape = tuple[int, int, int]  # channels, rows, columns


@dataclass(frozen=True)
class Cost:
    """What a stretch of layers costs for one image; `output` is the shape that leaves it."""

    output: Shape
    weights: int
    biases: int
    multiply_adds: int  # of convolutions, biases not counted

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        return self.weights + self.biases


def cost(layers: tuple[Layer, ...], shape: Shape) -> Cost:
    """Return what `layers` cost at inference (auxiliary heads left out) for an input of `shape`.

    Raises: ValueError where the channels do not fit, or a window is larger than the grid.
    """
    weights = biases = multiply_adds = 0
    for layer in layers:
        part = _cost(layer, shape)
        shape = part.output
        weights += part.weights
        biases += part.biases
        multiply_adds += part.multiply_adds
    return Cost(shape, weights, biases, multiply_adds)


def _cost(layer: Layer, shape: Shape) -> Cost:
    channels, rows, columns = shape
    match layer:
        case Conv(name, inputs, outputs, (high, wide)):
            if channels != inputs:
                raise ValueError(f"{name} takes {inputs} channels, {channels} come in")
            rows = _positions(rows, high, layer.stride, layer.pad[0])
            columns = _positions(columns, wide, layer.stride, layer.pad[1])
            weights = inputs * outputs * high * wide
            return Cost((outputs, rows, columns), weights, outputs, weights * rows * columns)
        case MaxPool(kernel, stride, pad, ceil):
            high, wide = (_positions(n, kernel, stride, pad, ceil) for n in (rows, columns))
            return Cost((channels, high, wide), 0, 0, 0)
        case AvgPool(kernel, stride):
            high, wide = (_positions(n, kernel, stride, layer.pad) for n in (rows, columns))
            return Cost((channels, high, wide), 0, 0, 0)
        case GlobalAvgPool():
            return Cost((channels, 1, 1), 0, 0, 0)
        case Members(branches):
            parts = [cost(branch, shape) for branch in branches]
            sums = (sum(getattr(p, name) for p in parts) for name in ("weights", "biases", "multiply_adds"))
            return Cost(parts[0].output, *sums)
        case LRN() | Auxiliary():
            return Cost(shape, 0, 0, 0)
        case Branches(name, branches):
            parts = [cost(branch, shape) for branch in branches]
            grids = {part.output[1:] for part in parts}
            if len(grids) > 1:
                raise ValueError(f"the branches of {name} end in grids of different size: {sorted(grids)}")
            return Cost(
                (sum(part.output[0] for part in parts), *grids.pop()),
                sum(part.weights for part in parts),
                sum(part.biases for part in parts),
                sum(part.multiply_adds for part in parts),
            )


def _positions(length: int, kernel: int, stride: int, pad: int, ceil: bool = False) -> int:
    """Return how many windows fit along one axis; with `ceil`, one more where positions remain (Caffe's pooling)."""
    room = length + 2 * pad - kernel
    if room < 0:
        raise ValueError(f"a window of {kernel} does not fit a grid of {length}")
    count = (room + (stride - 1 if ceil else 0)) // stride + 1
    # as in Caffe and torch, the last window must not start in the padding beyond the edge
    return count - 1 if ceil and (count - 1) * stride >= length + pad else count
