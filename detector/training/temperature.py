"""Scores that mean something: a temperature and an offset of the background, fitted on held-out regions.

Mini-batches hold a quarter foreground, pictures a few percent. So each held-out region counts as many times as there
are regions like it in its picture (Guo et al. 2017, with one more number for the background).
"""

from __future__ import annotations

import torch
from torch import Tensor

from detector.classes import BACKGROUND
from detector.networks.torch_module import ConvReLU
from detector.training.region_loss import region_loss

ROUNDS = 100  # of L-BFGS


def fit_temperature(
    logits: Tensor, labels: Tensor, known: Tensor, weights: Tensor, unlabelled: float
) -> tuple[float, float]:
    """Return temperature T and offset b, so that softmax(logits / T + b at the background) has the least loss.

    logits: [N, 1 + C]; labels: int64 [N]; known: bool [N, 1 + C]; weights: [N]; unlabelled: as of `region_loss`.
    Without regions of both kinds: 1 and 0.
    """
    if not ((labels == BACKGROUND).any() and (labels > BACKGROUND).any()):
        return 1.0, 0.0
    logits, weights = logits.double(), weights.double() / weights.double().sum()
    fitted = torch.zeros(2, dtype=torch.float64, requires_grad=True)  # log T, b
    optimizer = torch.optim.LBFGS([fitted], max_iter=ROUNDS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = (weights * region_loss(_moved(logits, fitted), labels, known, unlabelled)).sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return float(fitted[0].detach().exp()), float(fitted[1].detach())


def _moved(logits: Tensor, fitted: Tensor) -> Tensor:
    offset = torch.zeros(logits.shape[1], dtype=logits.dtype)
    offset[BACKGROUND] = 1
    return logits * torch.exp(-fitted[0]) + offset * fitted[1]


@torch.no_grad()
def fold_temperature(classifier: ConvReLU, temperature: float, offset: float) -> None:
    """Make the classifier give logits / temperature, the background's with `offset` added."""
    assert classifier.conv.bias is not None  # a classifier has one
    classifier.conv.weight /= temperature
    classifier.conv.bias /= temperature
    classifier.conv.bias[BACKGROUND] += offset
