"""The torch module of a network that is given as data, at inference and in training."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from detector.model import BOXES, SVM, Model
from detector.networks.googlenet import DROPOUT
from detector.networks.layers import (
    LRN,
    SMALLEST_SCORE,
    Auxiliary,
    AvgPool,
    Branches,
    Conv,
    GlobalAvgPool,
    Layer,
    MaxPool,
    Members,
    cost,
)
from detector.weights import Weights

Norm = Literal["none", "batch"]
EPSILON = 1e-3  # of batch norm, as TF-Slim's and torchvision's Inception networks


class ConvReLU(nn.Module):
    """One `Conv` layer: convolution with bias, then ReLU unless it is off.

    With norm "batch", for training, batch norm stands between the two and takes the place of the bias. A convolution
    without ReLU is a classifier and keeps its bias.
    """

    def __init__(self, layer: Conv, norm: Norm = "none") -> None:
        super().__init__()
        batch = norm == "batch" and layer.relu
        self.conv = nn.Conv2d(layer.inputs, layer.outputs, layer.kernel, layer.stride, layer.pad, bias=not batch)
        self.norm = nn.BatchNorm2d(layer.outputs, EPSILON) if batch else None
        self.relu = layer.relu
        self.source = layer.name

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H', W']."""
        x = self.conv(x)
        if self.norm is not None:
            x = self.norm(x)
        return x.relu() if self.relu else x


class Concatenated(nn.Module):
    """One `Branches` layer: the branches' outputs side by side along the channels."""

    def __init__(self, layer: Branches, norm: Norm = "none") -> None:
        super().__init__()
        self.branches = nn.ModuleList(torch_network(branch, norm) for branch in layer.branches)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, sum of the branches' channels, H', W']."""
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class AveragedMembers(nn.Module):
    """A `Members` layer: [B, C, H, W] -> the logarithm of the mean softmax scores of the members [B, outputs, 1, 1]."""

    def __init__(self, layer: Members, norm: Norm = "none") -> None:
        super().__init__()
        self.members = nn.ModuleList(torch_network(branch, norm) for branch in layer.branches)

    def forward(self, x: Tensor) -> Tensor:
        """Average in float32, also under autocast."""
        scores = torch.stack([member(x).float().softmax(dim=1) for member in self.members]).mean(dim=0)
        return scores.clamp_min(SMALLEST_SCORE).log()


def _module(layer: Layer, norm: Norm) -> nn.Module:
    match layer:
        case Conv():
            return ConvReLU(layer, norm)
        case MaxPool(kernel, stride, pad, ceil):
            return nn.MaxPool2d(kernel, stride, pad, ceil_mode=ceil)
        case AvgPool(kernel, stride):
            return nn.AvgPool2d(kernel, stride, layer.pad, count_include_pad=False)
        case GlobalAvgPool():
            return nn.AdaptiveAvgPool2d(1)
        case LRN(size, alpha, beta, k):
            return nn.LocalResponseNorm(size, alpha, beta, k)
        case Branches():
            return Concatenated(layer, norm)
        case Members():
            return AveragedMembers(layer, norm)
        case Auxiliary():
            return nn.Identity()  # only a training network has it


def torch_network(layers: tuple[Layer, ...], norm: Norm = "none") -> nn.Sequential:
    """Return the module `[B, 3, H, W] -> [B, outputs, 1, 1]` of a network, with torch's initial weights.

    It has one part for each layer. norm: see ConvReLU; "none" is the network at inference.
    """
    return nn.Sequential(*(_module(layer, norm) for layer in layers))


def load_into(module: nn.Module, weights: Weights) -> None:
    """Copy `weights` into a module made by `torch_network` without batch norm."""
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, ConvReLU):
                copy_into(part, weights)


def copy_into(part: ConvReLU, weights: Weights) -> None:
    """Copy the weights of one convolution. Raises: ValueError where its bias was left to batch norm."""
    if part.conv.bias is None:
        raise ValueError(f"{part.source}: weights with batch norm folded in need a network with norm 'none'")
    part.conv.weight.copy_(torch.from_numpy(weights.kernel(part.source)))
    part.conv.bias.copy_(torch.from_numpy(weights.bias(part.source)))


def with_deltas(network: nn.Module, weights: Weights) -> None:
    """Let the classifier of `network` give the deltas of the box regression too: its outputs [1 + C + 4 C].

    Both are linear in the same features, so that one convolution makes them.
    """
    last = [part for part in network.modules() if isinstance(part, ConvReLU)][-1]
    kernel, bias = weights.kernel(BOXES)[:, :, None, None], weights.bias(BOXES)
    assert last.conv.bias is not None  # a classifier has one
    old, old_bias = last.conv.weight.detach(), last.conv.bias.detach()
    wider = nn.Conv2d(old.shape[1], len(old) + len(kernel), 1)
    assert wider.bias is not None
    with torch.no_grad():
        wider.weight.copy_(torch.cat([old, torch.from_numpy(np.ascontiguousarray(kernel)).to(old)]))
        wider.bias.copy_(torch.cat([old_bias, torch.from_numpy(bias).to(old)]))
    last.conv = wider.to(old.device)


def margin_scores(margins: Tensor) -> Tensor:
    """Return the scores [N, 1 + C] of SVMs: the sigmoid of each margin, and as background's 1 less the largest.

    margins: [N, 1 + C], of which column 0 is not read.
    """
    scores = margins[:, 1:].sigmoid()
    return torch.cat([1 - scores.amax(dim=1, keepdim=True), scores], dim=1)


class Scorer(nn.Module):
    """Crops to scores: normalisation, network, standardised logits, softmax, and the sum over the classes' leaves.

    Of a model with SVMs: normalisation, network, and the sigmoids of their margins. Behind the scores stand the deltas
    of a network that `with_deltas` has widened.
    """

    leaves: Tensor

    def __init__(
        self, model: Model, network: nn.Module, leaves: npt.NDArray[np.float32] | None, deltas: bool = False
    ) -> None:
        """leaves: [outputs of the network, 1 + classes], or None where the outputs are the classes already."""
        super().__init__()
        self.network = network.eval()
        self.mean, self.factor, self.sharpness = model.mean, 1 / model.scale, model.sharpness
        self.outputs = model.classes if deltas else 0  # 0: all are scores
        self.sums, self.margins = leaves is not None, model.head == SVM
        self.register_buffer("leaves", torch.from_numpy(leaves) if leaves is not None else torch.zeros(0))

    def forward(self, crops: Tensor) -> Tensor:
        """Uint8 [B, size, size, 3] -> float32 [B, 1 + classes (+ 4 classes)]."""
        return self.scores(self.network(self.normalised(crops)))

    def normalised(self, crops: Tensor) -> Tensor:
        """Uint8 [B, size, size, 3] -> float32 [B, 3, size, size]."""
        return (crops.permute(0, 3, 1, 2).float() - self.mean) * self.factor

    def scores(self, rows: Tensor) -> Tensor:
        """The network's output [B, outputs, 1, 1] or [B, outputs] -> float32 [B, 1 + classes (+ 4 classes)]."""
        rows = rows.flatten(1).float()
        logits = rows[:, : self.outputs] if self.outputs else rows
        if self.margins:
            scores = margin_scores(logits)
        else:
            if self.sharpness:
                centred = logits - logits.mean(dim=1, keepdim=True)
                deviation = (centred * centred).mean(dim=1, keepdim=True).sqrt()
                logits = centred * (self.sharpness / deviation)
            scores = logits.softmax(dim=1)
        if self.sums:
            scores = scores @ self.leaves
        return torch.cat([scores, rows[:, self.outputs :]], dim=1) if self.outputs else scores


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
