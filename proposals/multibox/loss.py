"""The loss of MultiBox (Erhan et al., CVPR 2014, section 3).

    F       = alpha * F_match + F_conf
    F_match = 1/2 * sum_ij x_ij * || l_i - g_j ||^2
    F_conf  = - sum_ij x_ij log c_i - sum_i (1 - sum_j x_ij) log(1 - c_i)

x_ij = 1 where prior i is assigned to ground truth j, l_i the predicted residual, g_j the residual of the ground truth,
c_i the sigmoid of the logit. All is divided by the number of assigned pairs of the mini-batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from proposals.boxes import Boxes, Mask, area, iou
from proposals.multibox.coding import ALPHA, encode, normalised
from proposals.multibox.matching import Match, match_full_cost, match_to_priors

NEAR = (0.1, 0.5)  # IoU with a labelled box, from and below; Fast R-CNN (section 2.3) takes its background there


class MultiBoxLoss(NamedTuple):
    """Scalars: total = location + confidence; location = alpha * F_match / pairs; confidence = F_conf / pairs."""

    total: Tensor
    location: Tensor
    confidence: Tensor


def multibox_loss(
    locations: Tensor,
    logits: Tensor,
    priors: Boxes,
    truth: Sequence[Boxes],
    unlabelled: npt.ArrayLike | None = None,
    near_negatives: bool = False,
    alpha: float = ALPHA,
    matching: Literal["priors", "predictions"] = "priors",
) -> MultiBoxLoss:
    """Return the loss of a mini-batch, divided by its number of assigned pairs (by 1 where there is none).

    Shapes: locations [B, K, 4] residuals, logits [B, K], priors [K, 4] and each of `truth` [G, 4], normalised to 0..1.
    Ground truth without area is left out: no box overlaps it. matching: see `proposals.multibox.matching`.

    unlabelled: bool [B], the pictures from partly labelled data. What lies under an unmatched prior there may be an
    object without a label, so such a prior has no confidence loss. near_negatives: it has one after all where the
    prior's best IoU with a labelled box is in [0.1, 0.5): it shows a known object and shows it badly, and without any
    negative the confidence would only learn to rise. Beyond 0.5 it is a fair box of the object, left out.

    The gradient flows through locations and logits alone; the assignment is a constant. Raises: ValueError for boxes
    outside 0..1, shapes that do not fit each other, an unknown matching, or predictions to match that are not finite.
    """
    priors = normalised(priors)
    batch, count = len(truth), len(priors)
    if locations.shape != (batch, count, 4) or logits.shape != (batch, count):
        raise ValueError(
            f"{batch} pictures and {count} priors need locations [{batch}, {count}, 4] and logits [{batch}, {count}], "
            f"got {list(locations.shape)} and {list(logits.shape)}"
        )
    if matching not in ("priors", "predictions"):
        raise ValueError(f"unknown matching '{matching}'; there are priors, predictions")
    partly = np.zeros(batch, np.bool_) if unlabelled is None else np.asarray(unlabelled, np.bool_)
    if partly.shape != (batch,):
        raise ValueError(f"unlabelled must have shape [{batch}], one flag for each picture, got {list(partly.shape)}")
    labelled = [_with_area(boxes) for boxes in truth]
    negatives = np.ones((batch, count), np.bool_)
    for picture in np.flatnonzero(partly):
        negatives[picture] = _near(priors, labelled[picture]) if near_negatives else False
    if matching == "priors":
        matches = [match_to_priors(priors, boxes) for boxes in labelled]
    else:
        matches = _match_predictions(locations, logits, priors, labelled, negatives, alpha)
    return _loss(locations, logits, priors, labelled, negatives, matches, alpha)


def _with_area(boxes: Boxes) -> Boxes:
    boxes = normalised(boxes)
    return boxes[area(boxes) > 0]


def _near(priors: Boxes, labelled: Boxes) -> Mask:
    """Return [K]: which priors overlap a labelled box, but none of them well."""
    best = iou(priors, labelled).max(axis=1, initial=0)
    return np.asarray((best >= np.float32(NEAR[0])) & (best < np.float32(NEAR[1])))


def _match_predictions(
    locations: Tensor, logits: Tensor, priors: Boxes, labelled: list[Boxes], negatives: Mask, alpha: float
) -> list[Match]:
    arrays = [tensor.detach().to("cpu", torch.float64).numpy() for tensor in (locations, logits)]
    return [
        match_full_cost(arrays[0][i], arrays[1][i], priors, boxes, alpha, negatives[i])
        for i, boxes in enumerate(labelled)
    ]


def _loss(
    locations: Tensor,
    logits: Tensor,
    priors: Boxes,
    labelled: list[Boxes],
    negatives: Mask,
    matches: list[Match],
    alpha: float,
) -> MultiBoxLoss:
    device = locations.device
    dtype = torch.promote_types(locations.dtype, torch.float32)  # half precision would lose small probabilities
    pictures = np.repeat(np.arange(len(matches)), [len(match.priors) for match in matches])  # [M]
    matched = np.concatenate([np.zeros(0, np.int64), *(match.priors for match in matches)])  # [M]
    boxes = [
        np.zeros((0, 4), np.float32),
        *(known[match.truth] for known, match in zip(labelled, matches, strict=True)),
    ]
    targets = torch.from_numpy(encode(np.concatenate(boxes), priors[matched])).to(device, dtype)  # [M, 4]
    positive = np.zeros(negatives.shape, np.float32)
    positive[pictures, matched] = 1
    counted = torch.from_numpy(np.maximum(negatives, positive).astype(np.float32)).to(device, dtype)  # [B, K]
    rows, columns = (torch.from_numpy(index).to(device) for index in (pictures, matched))

    pairs = max(len(matched), 1)
    predicted = locations[rows, columns].to(dtype)
    location = alpha / 2 * (predicted - targets).square().sum() / pairs
    confidence = functional.binary_cross_entropy_with_logits(
        logits.to(dtype), torch.from_numpy(positive).to(device, dtype), weight=counted, reduction="sum"
    )
    confidence = confidence / pairs
    return MultiBoxLoss(location + confidence, location, confidence)
