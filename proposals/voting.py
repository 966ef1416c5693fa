"""Box voting: a detection's box is the mean of all boxes that found the same thing (Gidaris and Komodakis 2015).

Votes move boxes of a class onto each other that suppression had told apart; these then lose score (Bodla et al. 2017).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from proposals.boxes import Boxes, Floats, Indices, descending, iou

POWER = 2  # of the scores, ours; 1 in arXiv:1505.01749


def voted_boxes(boxes: Boxes, voters: Boxes, scores: Floats, overlap: float, power: float = POWER) -> Boxes:
    """Return each box as the mean of the voters that overlap it by IoU `overlap` or more, weighed by score ** power.

    Shapes: boxes [K, 4], those that non-maximum suppression left of one class; voters [N, 4] and scores [N] of the same
    class, those suppressed among them -> float32 [K, 4]. A box without voters, or with such of score 0, stays.
    Source: arXiv:1505.01749, section 5 (there: IoU 0.5).
    """
    weights = np.where(iou(boxes, voters) >= overlap, np.asarray(scores, np.float64) ** power, 0)  # [K, N]
    total = weights.sum(axis=1, keepdims=True)
    sums = np.stack([(weights * side).sum(axis=1) for side in voters.T.astype(np.float64)], axis=1)
    return np.asarray(np.where(total > 0, sums / np.where(total > 0, total, 1), boxes), np.float32)


def vote_per_class(
    boxes: Boxes, columns: Indices, voters: Callable[[int], Boxes], scores: Floats, overlap: float, power: float = POWER
) -> Boxes:
    """Return the boxes of all classes, each voted on by the boxes that its class has.

    Shapes: boxes [K, 4] of the classes `columns` [K]; voters: class -> [N, 4]; scores [N, C] -> float32 [K, 4].
    """
    voted = boxes.copy()
    for column in np.unique(columns).tolist():
        own = columns == column
        voted[own] = voted_boxes(boxes[own], voters(column), scores[:, column], overlap, power)
    return voted


def softened_per_class(boxes: Boxes, scores: Floats, columns: Indices, overlap: float, power: float = 1) -> Floats:
    """Return the scores, those of boxes that overlap a better one of their class by `overlap` or more lowered.

    The factor is (1 - IoU) ** power, with the largest IoU that the box has with any better one; of equal scores the
    first is the better. Shapes: boxes [K, 4], scores [K], columns [K], the class of each -> float32 [K].
    Source: linear Soft-NMS, arXiv:1704.04503, which multiplies the factors of all better boxes.
    """
    found = np.array(scores, np.float32)
    for column in np.unique(columns).tolist():
        own = np.flatnonzero(columns == column)
        own = own[descending(scores[own])]
        largest = np.tril(iou(boxes[own], boxes[own]), -1).max(axis=1, initial=0)  # [K], with the better ones
        found[own] *= np.where(largest >= overlap, (1 - largest) ** np.float32(power), np.float32(1))
    return found
