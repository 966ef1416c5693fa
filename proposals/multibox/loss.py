"""The loss of MultiBox, for priors of which several answer for one object and tens of thousands for none.

    loss = location + confidence, each divided by the weight of the assigned priors

Three things differ from the F of Erhan et al. (CVPR 2014, section 3): a squared location loss and a logistic
confidence loss, with one prior for each object. Every prior that overlaps an object well is assigned
to it, not one alone (Faster R-CNN, section 3.1.2), and each object weighs by the root of their number. The location
loss is Huber's (Fast R-CNN, section 2.3), so that a far corner does not outweigh the rest. In the confidence loss what
is already right counts less, (1 - p)^1 (Lin et al., focal loss), since almost every prior is background.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from proposals.boxes import Boxes, Indices, Mask, area, iou
from proposals.multibox.priors import encode

NEAR = 0.1  # IoU with a known object from which a prior is background where others may lack a box
GOOD = 0.5  # IoU from which a prior is assigned to an object: the criterion of the evaluation
BAD = 0.4  # IoU below which it is background; what lies between has no confidence loss
BEST, LEAST = 3, 0.2  # so many best priors of an object are assigned in any case, if their IoU is above the second


class MultiBoxLoss(NamedTuple):
    """Scalars: total = location + confidence."""

    total: Tensor
    location: Tensor
    confidence: Tensor


class OverlapMatch(NamedTuple):
    """priors int64 [M], rising, none twice; truth int64 [M], the object of each; negatives bool [K]: background."""

    priors: Indices
    truth: Indices
    negatives: Mask


def match_by_overlap(priors: Boxes, truth: Boxes, partly: bool = False) -> OverlapMatch:
    """Assign to each object the priors with an IoU of at least 0.5, and its three best ones above 0.2.

    Shapes: priors [K, 4], truth [G, 4] in the same coordinates. A prior that could go to several objects goes to the
    one that it overlaps best; of the best ones of each object, to the smallest. partly: objects may lack a box, so that
    priors far from every known one (IoU below 0.1) are no background.
    """
    if not len(truth):
        none = np.zeros(0, np.int64)
        return OverlapMatch(none, none, np.full(len(priors), not partly))
    overlaps = iou(priors, truth)  # [K, G]
    best = overlaps.max(axis=1)
    owner = overlaps.argmax(axis=1)
    assigned = best >= GOOD
    count = min(BEST, len(priors))
    nearest = np.argpartition(-overlaps, count - 1, axis=0)[:count]  # [3, G]
    for number in np.argsort(-area(truth), kind="stable").tolist():
        own = nearest[:, number][overlaps[nearest[:, number], number] > LEAST]
        assigned[own], owner[own] = True, number
    chosen = np.flatnonzero(assigned)
    negatives = (best < BAD) & ~assigned & (best >= NEAR if partly else True)
    return OverlapMatch(chosen, owner[chosen].astype(np.int64), negatives)


def multibox_loss(
    locations: Tensor,
    logits: Tensor,
    priors: Boxes,
    truth: Sequence[Boxes],
    partly: npt.ArrayLike | None = None,
) -> MultiBoxLoss:
    """Return the loss of a mini-batch, divided by the weights of its assigned priors (by 1 at least).

    Shapes: locations [B, K, 4] residuals, logits [B, K], priors [K, 4] of `grid_priors`, each of `truth` [G, 4],
    normalised; partly: bool [B], pictures in which not every object has a box. Objects without area are left out.
    """
    flags = np.zeros(len(truth), np.bool_) if partly is None else np.asarray(partly, np.bool_)
    positive, weight = (np.zeros(tuple(logits.shape), np.float32) for _ in range(2))
    rows, columns, targets = [], [], []
    for picture, boxes in enumerate(truth):
        known = boxes[area(boxes) > 0]
        match = match_by_overlap(priors, known, bool(flags[picture]))
        weight[picture, match.negatives] = 1
        counts = np.bincount(match.truth, minlength=len(known))
        weight[picture, match.priors] = 1 / np.sqrt(counts[match.truth])
        positive[picture, match.priors] = 1
        rows.append(np.full(len(match.priors), picture))
        columns.append(match.priors)
        targets.append(encode(known[match.truth], priors[match.priors]))
    at = torch.from_numpy(np.concatenate(rows)), torch.from_numpy(np.concatenate(columns))
    right, counted = (torch.from_numpy(array).to(logits.device) for array in (positive, weight))
    wanted = torch.from_numpy(np.concatenate(targets)).to(locations.device)
    total = (right * counted).sum().clamp(min=1)

    errors = functional.smooth_l1_loss(locations[at].float(), wanted, reduction="none").sum(dim=1)
    location = (counted[at] * errors).sum() / total
    logits = logits.float()
    probability = torch.sigmoid(logits)
    wrong = torch.where(right > 0, 1 - probability, probability).detach()
    entropy = functional.binary_cross_entropy_with_logits(logits, right, reduction="none")
    confidence = (counted * wrong * entropy).sum() / total
    return MultiBoxLoss(location + confidence, location, confidence)
