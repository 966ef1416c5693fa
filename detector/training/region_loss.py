"""The losses of fine-tuning: softmax over background and classes, masked where a data set does not label a class."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from detector.classes import BACKGROUND


def region_loss(logits: Tensor, labels: Tensor, known: Tensor, unlabelled: float = 0.0) -> Tensor:
    """Return the loss of each region [B]: minus the logarithm of the probability of what is known about it.

    logits: [B, 1 + C]; labels: int64 [B]; known: bool [B, 1 + C], the classes that the region's picture labels, the
    background among them. A region with a label is that class. One without is none of the known classes: background or
    any other, so that the classes that are not known there get no gradient against the background. unlabelled: 0..1,
    the weight of taking it as background all the same; 1 is the plain softmax loss.
    """
    log_p = functional.log_softmax(logits.float(), dim=1)
    plain = -log_p.gather(1, labels[:, None]).squeeze(1)
    possible = ~known
    possible[:, BACKGROUND] = True
    masked = -torch.logsumexp(log_p.masked_fill(~possible, -torch.inf), dim=1)
    background = unlabelled * plain + (1 - unlabelled) * masked
    return torch.where(labels == BACKGROUND, background, plain)


def kept_scores_loss(logits: Tensor, scores: Tensor) -> Tensor:
    """Return how far the network has moved from old scores among the classes, for each region [B].

    logits, scores: [B, 1 + C]. The Kullback-Leibler divergence of the two distributions over the classes, given that
    the region is no background: what is an object may be learned anew, what kind it is must not be forgotten.
    """
    old = scores[:, 1:].float().clamp_min(1e-8)
    old = old / old.sum(dim=1, keepdim=True)
    new = functional.log_softmax(logits[:, 1:].float(), dim=1)
    return (old * (old.log() - new)).sum(dim=1)
