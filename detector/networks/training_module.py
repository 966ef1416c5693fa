"""A network in training: dropout, batch norm and auxiliary classifiers around the layers that inference has.

`fold` turns what was trained into the arrays of the inference network.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from detector.networks.costs import cost
from detector.networks.googlenet import DROPOUT
from detector.networks.layers import Auxiliary, Conv, Layer
from detector.networks.torch_module import ConvReLU, Norm, copy_into, torch_network
from detector.weights import Weights

CLASSIFIER_STD = 0.01  # of a classifier's initial weights
LARGEST_GRID = 100  # that an auxiliary head may ask for


class Logits(NamedTuple):
    """What a training network returns: logits [B, classes], and in training mode those of each auxiliary head."""

    main: Tensor
    auxiliary: tuple[Tensor, ...]


class AuxiliaryHead(nn.Module):
    """One `Auxiliary` layer: [B, C, H, W] -> logits [B, classes]."""

    def __init__(self, layer: Auxiliary, norm: Norm) -> None:
        super().__init__()
        *body, classifier = layer.layers
        self.body = torch_network(tuple(body), norm)
        self.dropout = nn.Dropout(layer.dropout)
        self.classifier = torch_network((classifier,))
        self.name = layer.name
        self.smallest = _smallest_grid(layer.layers)

    def forward(self, x: Tensor) -> Tensor:
        """Raises: ValueError where the grid is smaller than the head's windows."""
        if min(x.shape[2:]) < self.smallest:
            raise ValueError(
                f"the auxiliary classifier {self.name} needs a grid of {self.smallest}, got {min(x.shape[2:])}; train "
                "on larger crops or without auxiliary classifiers"
            )
        logits: Tensor = self.classifier(self.dropout(self.body(x)))
        return logits.flatten(1)


class TrainingNetwork(nn.Module):
    """See `training_network`; `parts` has one module for each layer of the network, dropout before the last one."""

    def __init__(self, layers: tuple[Layer, ...], norm: Norm, dropout: float) -> None:
        super().__init__()
        self.parts = nn.ModuleList()
        for layer in layers:
            if layer is layers[-1]:
                self.parts.append(nn.Dropout(dropout))
            if isinstance(layer, Auxiliary):
                self.parts.append(AuxiliaryHead(layer, norm))
            else:
                self.parts.append(torch_network((layer,), norm))

    def forward(self, x: Tensor) -> Logits:
        """Float [B, 3, H, W], normalised as at inference."""
        auxiliary = []
        for part in self.parts:
            if not isinstance(part, AuxiliaryHead):
                x = part(x)
            elif self.training:
                auxiliary.append(part(x))
        return Logits(x.flatten(1), tuple(auxiliary))

    def convolutions(self) -> list[ConvReLU]:
        """Return the convolutions that inference has, in the order of the layers."""
        main = [part for part in self.parts if not isinstance(part, AuxiliaryHead)]
        return [module for part in main for module in part.modules() if isinstance(module, ConvReLU)]


def training_network(
    layers: tuple[Layer, ...], norm: Norm = "none", dropout: float = DROPOUT, seed: int = 0
) -> TrainingNetwork:
    """Return the network of `layers` for training, initialised from `seed`.

    norm: "batch" puts batch norm between each convolution and its ReLU, in the bias's place; dropout: share of the
    features dropped before the classifier (GoogLeNet section 5: 0.4). Weights start from He et al. 2015's normal
    distribution (variance 2 / inputs), those of classifiers from a standard deviation of 0.01, biases from 0, batch
    norm from scale 1 and shift 0. Raises: ValueError where the last layer is no classifier.
    """
    if not layers or not isinstance(layers[-1], Conv) or layers[-1].relu:
        raise ValueError("a training network ends in a classifier: a convolution without ReLU")
    with torch.random.fork_rng(devices=[]):  # torch's own initial values, drawn here and replaced below
        network = TrainingNetwork(layers, norm, dropout)
    generator = torch.Generator().manual_seed(seed)
    for part in network.modules():
        if isinstance(part, ConvReLU):
            if part.relu:
                nn.init.kaiming_normal_(part.conv.weight, nonlinearity="relu", generator=generator)
            else:
                nn.init.normal_(part.conv.weight, std=CLASSIFIER_STD, generator=generator)
            if part.conv.bias is not None:
                nn.init.zeros_(part.conv.bias)
    return network


def start_from(network: TrainingNetwork, weights: Weights) -> tuple[str, ...]:
    """Copy those `weights` whose name and shape `network` has; return the names of the convolutions left as they were.

    For fine-tuning: a classifier of other classes starts afresh. Raises: ValueError for a network with batch norm, as
    it is folded into stored weights, or when nothing fits.
    """
    left = []
    parts = network.convolutions()
    with torch.no_grad():
        for part in parts:
            stored = weights.arrays.get(f"{part.source}.weight")
            if stored is not None and stored.shape == tuple(part.conv.weight.shape):
                copy_into(part, weights)
            else:
                left.append(part.source)
    if len(left) == len(parts):
        raise ValueError("no convolution of these weights fits the network; they belong to another one")
    return tuple(left)


def fold(network: TrainingNetwork) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of the inference network, float32: NAME.weight [out, in, h, w] and NAME.bias [out].

    Batch norm becomes part of both: weight x gamma / sqrt(variance + epsilon), and beta - mean x the same factor.
    """
    arrays: dict[str, npt.NDArray[Any]] = {}
    for part in network.convolutions():
        weight, bias = _float64(part.conv.weight), np.zeros(part.conv.out_channels)
        if part.conv.bias is not None:
            bias = _float64(part.conv.bias)
        if part.norm is not None:
            mean, variance = part.norm.running_mean, part.norm.running_var
            assert mean is not None and variance is not None  # ConvReLU's batch norm always has both
            factor = _float64(part.norm.weight) / np.sqrt(_float64(variance) + part.norm.eps)
            weight = weight * factor[:, None, None, None]
            bias = _float64(part.norm.bias) + (bias - _float64(mean)) * factor
        arrays[f"{part.source}.weight"] = weight.astype(np.float32)
        arrays[f"{part.source}.bias"] = bias.astype(np.float32)
    return arrays


def _float64(values: Tensor) -> npt.NDArray[np.float64]:
    return values.detach().cpu().double().numpy()


def _smallest_grid(layers: tuple[Layer, ...]) -> int:
    """Return the smallest grid on which every window of `layers` fits. Raises: ValueError where none does."""
    channels = next(layer.inputs for layer in layers if isinstance(layer, Conv))
    reason = None
    for size in range(1, LARGEST_GRID + 1):
        try:
            cost(layers, (channels, size, size))
        except ValueError as error:
            reason = error
        else:
            return size
    raise ValueError(f"these layers fit no grid: {reason}")
