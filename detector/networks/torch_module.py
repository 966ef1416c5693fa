"""The torch module of a network that is given as data."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detector.networks.layers import AvgPool, Branches, Conv, GlobalAvgPool, Layer, MaxPool
from detector.weights import Weights


class ConvReLU(nn.Module):
    """One `Conv` layer: convolution with bias, then ReLU unless it is off."""

    def __init__(self, layer: Conv) -> None:
        super().__init__()
        self.conv = nn.Conv2d(layer.inputs, layer.outputs, layer.kernel, layer.stride, layer.pad)
        self.relu = layer.relu
        self.source = layer.name

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H', W']."""
        x = self.conv(x)
        return x.relu() if self.relu else x


class Concatenated(nn.Module):
    """One `Branches` layer: the branches' outputs side by side along the channels."""

    def __init__(self, layer: Branches) -> None:
        super().__init__()
        self.branches = nn.ModuleList(torch_network(branch) for branch in layer.branches)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, sum of the branches' channels, H', W']."""
        return torch.cat([branch(x) for branch in self.branches], dim=1)


def _module(layer: Layer) -> nn.Module:
    match layer:
        case Conv():
            return ConvReLU(layer)
        case MaxPool(kernel, stride):
            return nn.MaxPool2d(kernel, stride)
        case AvgPool(kernel):
            return nn.AvgPool2d(kernel, 1, kernel // 2, count_include_pad=False)
        case GlobalAvgPool():
            return nn.AdaptiveAvgPool2d(1)
        case Branches():
            return Concatenated(layer)


def torch_network(layers: tuple[Layer, ...]) -> nn.Sequential:
    """Return the module `[B, 3, H, W] -> [B, outputs, 1, 1]` of a network, with torch's initial weights."""
    return nn.Sequential(*(_module(layer) for layer in layers))


def load_into(module: nn.Module, weights: Weights) -> None:
    """Copy `weights` into a module made by `torch_network`."""
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, ConvReLU):
                part.conv.weight.copy_(torch.from_numpy(weights.kernel(part.source)))
                bias = part.conv.bias
                assert bias is not None  # ConvReLU always has one
                bias.copy_(torch.from_numpy(weights.bias(part.source)))
