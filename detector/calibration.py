"""The intervals of an 8-bit network, found on crops: what each convolution's output needs of 256 levels.

The float network runs once over the crops; of every output a histogram is kept. The upper end of an interval is the
one with the least squared error of rounding and clipping together (as Sung et al. 2015, arXiv 1511.06488, section 3).
ReLU outputs begin at 0.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from detector.model import Model
from detector.networks.torch_module import ConvReLU
from detector.runtimes.classifier import Crops
from detector.runtimes.torch_runtime import load_network

BINS = 2048
STEPS = 255  # of 256 levels
CANDIDATES = 128  # upper ends tried, evenly spaced
BATCH = 8
SMALLEST = 1e-6  # upper end of an output that is always zero

Doubles = npt.NDArray[np.float64]


class Histogram:
    """Counts of positive values in BINS bins of [0, top]; `top` doubles when a value lies beyond it."""

    def __init__(self) -> None:
        self.counts: Doubles = np.zeros(BINS)
        self.top = 0.0
        self.largest = 0.0

    def add(self, values: Tensor) -> None:
        """Count the values above zero."""
        largest = float(values.max())
        if largest <= 0:
            return
        if not np.isfinite(largest):
            raise ValueError("an output of the network is not a finite number on these crops; train it again")
        self.largest = max(self.largest, largest)
        self.top = self.top or largest
        while self.top < largest:
            self.top *= 2
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(axis=1), np.zeros(BINS // 2)])
        positive = values[values > 0].float()
        self.counts += torch.histc(positive, BINS, 0, self.top).double().numpy()


def best_end(counts: Doubles, top: float, largest: float) -> float:
    """Return the upper end, `largest` at most, that rounds the values of a histogram with the least squared error.

    counts: [BINS] of [0, top]; all in a bin count as its centre.
    """
    if largest <= 0:
        return SMALLEST
    centres = (np.arange(len(counts)) + 0.5) * (top / len(counts))
    ends = largest * np.arange(1, CANDIDATES + 1) / CANDIDATES
    step = ends[:, None] / STEPS
    rounded = np.minimum(np.round(centres / step), STEPS) * step  # [CANDIDATES, BINS]
    return float(ends[((rounded - centres) ** 2 @ counts).argmin()])


def calibrate(
    model: Model, crops: Crops, advance: Callable[[int], None] = lambda steps: None
) -> dict[str, npt.NDArray[np.float32]]:
    """Return the interval float32 [2] of each convolution with ReLU, by name, found on `crops` [N, size, size, 3].

    `advance` is called with the number of crops done. Raises: ValueError for damaged weights, or outputs that are not
    finite; OSError when the weights cannot be read.
    """
    network = load_network(model).eval().to(memory_format=torch.channels_last)
    histograms: dict[str, Histogram] = {}

    def count(module: torch.nn.Module, inputs: object, output: Tensor) -> None:
        assert isinstance(module, ConvReLU)
        histograms[module.source].add(output)

    for part in network.modules():
        if isinstance(part, ConvReLU) and part.relu:
            histograms[part.source] = Histogram()
            part.register_forward_hook(count)
    with torch.inference_mode():
        for start in range(0, len(crops), BATCH):
            batch = torch.from_numpy(crops[start : start + BATCH])
            network((batch.permute(0, 3, 1, 2).float() - model.mean) / model.scale)
            advance(len(batch))
    return {
        name: np.array([0, best_end(found.counts, found.top, found.largest)], np.float32)
        for name, found in histograms.items()
    }
