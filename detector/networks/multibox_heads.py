"""MultiBox's heads on two grids of a trunk's features, in torch: convolutions, so all places share their weights."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from proposals.boxes import Floats

OUTPUT_STD = 0.01  # of the initial weights of the outputs: they start at the priors and at one confidence
INITIAL_CONFIDENCE = 0.01  # about the share of priors that are matched
MIXED, COARSE_MIXED = 128, 192  # channels of the heads, on both grids and on the coarse one's last convolution


class MultiBoxHeads(nn.Module):
    """Features [B, C1, rows, columns] and [B, C2, fewer rows, fewer columns] -> residuals [B, K, 4] and logits [B, K].

    The order of K is that of `grid_priors`. The coarse features, reduced to 128 channels, are enlarged and added to the
    fine ones (as in Lin et al.'s feature pyramid); a 3x3 convolution on each grid sees the neighbours; a 1x1
    convolution gives five numbers for each shape.
    """

    fine_shapes: Tensor
    coarse_shapes: Tensor

    def __init__(
        self, channels: tuple[int, int], fine_shapes: Floats, coarse_shapes: Floats, mixed: int = MIXED, seed: int = 0
    ) -> None:
        """channels: C1, C2; shapes: [A, 2] widths and heights; mixed: channels; weights are drawn from `seed`.

        The global generator is left as it was. Raises: ValueError for no shapes or numbers below 1.
        """
        super().__init__()
        if min(*channels, len(fine_shapes), len(coarse_shapes), mixed) < 1:
            raise ValueError("channels and the numbers of shapes must be at least 1")
        wide = mixed * COARSE_MIXED // MIXED
        self.register_buffer("fine_shapes", torch.from_numpy(np.array(fine_shapes, np.float32)))
        self.register_buffer("coarse_shapes", torch.from_numpy(np.array(coarse_shapes, np.float32)))
        with torch.random.fork_rng(devices=[]):  # PyTorch draws weights of its own first
            self.fine_reduce = nn.Conv2d(channels[0], mixed, 1)
            self.coarse_reduce = nn.Conv2d(channels[1], mixed, 1)
            self.fine_mixed = nn.Conv2d(mixed, mixed, 3, padding=1)
            self.coarse_mixed = nn.Conv2d(mixed, wide, 3, padding=1)
            self.fine_outputs = nn.Conv2d(mixed, 5 * len(fine_shapes), 1)
            self.coarse_outputs = nn.Conv2d(wide, 5 * len(coarse_shapes), 1)
        self._initialise(torch.Generator().manual_seed(seed))

    def _initialise(self, generator: torch.Generator) -> None:
        for layer in (self.fine_reduce, self.coarse_reduce, self.fine_mixed, self.coarse_mixed):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
        for output in (self.fine_outputs, self.coarse_outputs):
            nn.init.normal_(output.weight, std=OUTPUT_STD, generator=generator)
            assert output.bias is not None
            # else the many unmatched priors would dominate the first steps
            nn.init.constant_(output.bias.data[4::5], math.log(INITIAL_CONFIDENCE / (1 - INITIAL_CONFIDENCE)))

    def forward(self, fine: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
        """Return residuals and logits."""
        reduced = self.coarse_reduce(coarse)
        enlarged = functional.interpolate(reduced, size=fine.shape[-2:], mode="nearest")
        x = torch.relu(self.fine_reduce(fine) + enlarged)
        outputs = (
            self.fine_outputs(torch.relu(self.fine_mixed(x))),
            self.coarse_outputs(torch.relu(self.coarse_mixed(torch.relu(reduced)))),
        )
        rows = [output.permute(0, 2, 3, 1).reshape(len(output), -1, 5) for output in outputs]
        every = torch.cat(rows, dim=1)
        return every[..., :4], every[..., 4]

    def arrays(self) -> dict[str, Floats]:
        """Return float32 copies of the weights and the shapes, by name, as a weights file has them."""
        return {
            name: np.array(tensor.detach().to("cpu", torch.float32).numpy()) for name, tensor in self._tensors().items()
        }

    def load_arrays(self, arrays: Mapping[str, Floats]) -> None:
        """Take the weights and the shapes of `arrays`. Raises: ValueError for other names or shapes of arrays."""
        tensors = self._tensors()
        for name in sorted(tensors.keys() | arrays.keys()):
            if name not in tensors or name not in arrays or arrays[name].shape != tuple(tensors[name].shape):
                raise ValueError(f"{name} does not fit these heads")
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(torch.from_numpy(np.array(arrays[name], np.float32)))

    def _tensors(self) -> dict[str, Tensor]:
        return {**dict(self.named_buffers()), **dict(self.named_parameters())}
