"""The torch module of a network that is given as data."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from detector.model import BOXES
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
            return nn.Identity()  # only a training network has it (training_module.py)


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


def with_targets(network: nn.Module, weights: Weights) -> None:
    """Let the classifier of `network` give the targets of the box regression too: its outputs [1 + C + 4 C].

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

    margins: [N, 1 + C], column 0 being of no account.
    """
    scores = margins[:, 1:].sigmoid()
    return torch.cat([1 - scores.amax(dim=1, keepdim=True), scores], dim=1)
