"""The heads of MultiBox on a trunk's features: a residual and a confidence for each prior."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from proposals.boxes import Boxes, Floats
from proposals.multibox.coding import normalised

REDUCED, HIDDEN = 128, 1024  # channels and units, as in GoogLeNet's auxiliary classifiers (section 5)
OUTPUT_STD = 0.01  # of the initial weights of the two outputs: they start at the priors and at one confidence
INITIAL_CONFIDENCE = 0.01  # about the share of priors that are matched: a few of a few hundred


class MultiBoxHeads(nn.Module):
    """Features [B, C, rows, columns] -> residuals [B, K, 4] and logits [B, K], in the order of the priors.

    1x1 convolution + ReLU, flattened, linear + ReLU (+ dropout), and a linear layer each for residuals and logits.
    """

    priors: Tensor

    def __init__(
        self,
        channels: int,
        grid: tuple[int, int],
        priors: Boxes,
        reduced: int = REDUCED,
        hidden: int = HIDDEN,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> None:
        """Take `priors` [K, 4], normalised, and weights drawn from `seed`; the global generator is left as it was.

        channels, grid: the features' C and (rows, columns); reduced: channels after the convolution; hidden: units;
        dropout: share of hidden units dropped in training. Raises: ValueError for no priors, priors outside
        0..1, or numbers below 1.
        """
        super().__init__()
        rows, columns = grid
        boxes = normalised(priors)
        if min(channels, rows, columns, reduced, hidden, len(boxes)) < 1:
            raise ValueError("channels, grid, reduced, hidden and the number of priors must be at least 1")
        self.features_shape = (channels, rows, columns)
        self.register_buffer("priors", torch.from_numpy(boxes.copy()))
        with torch.random.fork_rng(devices=[]):  # PyTorch draws weights of its own first
            self.reduce = nn.Conv2d(channels, reduced, 1)
            self.hidden = nn.Linear(reduced * rows * columns, hidden)
            self.dropout = nn.Dropout(dropout)
            self.locations = nn.Linear(hidden, 4 * len(boxes))
            self.confidences = nn.Linear(hidden, len(boxes))
        self._initialise(torch.Generator().manual_seed(seed))

    def _initialise(self, generator: torch.Generator) -> None:
        for layer in (self.reduce, self.hidden):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
        for output in (self.locations, self.confidences):
            nn.init.normal_(output.weight, std=OUTPUT_STD, generator=generator)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
        # else the many unmatched priors would dominate the first steps
        nn.init.constant_(self.confidences.bias, math.log(INITIAL_CONFIDENCE / (1 - INITIAL_CONFIDENCE)))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Raises: ValueError for features of another shape."""
        if features.shape[1:] != self.features_shape:
            wanted = ", ".join(str(side) for side in self.features_shape)
            raise ValueError(f"the heads take features [B, {wanted}], got {list(features.shape)}")
        x = torch.relu(self.reduce(features)).flatten(1)
        x = self.dropout(torch.relu(self.hidden(x)))
        return self.locations(x).unflatten(1, (-1, 4)), self.confidences(x)

    def arrays(self) -> dict[str, Floats]:
        """Return float32 copies of all weights and of the priors, by name, for `load_arrays` and `heads_nodes`.

        Names: priors; weight and bias of reduce, hidden, locations and confidences, as in `hidden.weight`.
        """
        return {
            name: np.array(tensor.detach().to("cpu", torch.float32).numpy()) for name, tensor in self._tensors().items()
        }

    def load_arrays(self, arrays: Mapping[str, Floats]) -> None:
        """Take the weights and the priors of `arrays`. Raises: ValueError for missing or unknown names or shapes."""
        tensors = self._tensors()
        if arrays.keys() != tensors.keys():
            raise ValueError(
                f"the heads hold {', '.join(sorted(tensors))}; got {', '.join(sorted(arrays)) or 'nothing'}"
            )
        for name, tensor in tensors.items():
            if arrays[name].shape != tuple(tensor.shape):
                raise ValueError(f"{name} must have shape {list(tensor.shape)}, got {list(arrays[name].shape)}")
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(torch.from_numpy(np.array(arrays[name], np.float32)))

    def _tensors(self) -> dict[str, Tensor]:
        return {**dict(self.named_buffers()), **dict(self.named_parameters())}
