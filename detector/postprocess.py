"""From scored regions to detections."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from detector.runtimes.base import Scores, Targets
from proposals.box_coding import apply_targets
from proposals.boxes import Boxes, Floats, Indices, descending, iou, nms_per_class
from proposals.types import Proposals


def moved_boxes(boxes: Boxes, targets: Targets, columns: Indices, image_size: tuple[int, int]) -> Boxes:
    """Return each box moved by the targets of its class, and clipped to the picture: float32 [K, 4].

    boxes: [K, 4]; targets: [K, C, 4]; columns: [K], the class of each, 0..C-1; image_size: (width, height).
    """
    moved = apply_targets(boxes, targets[np.arange(len(boxes)), columns])
    return np.clip(moved, 0, np.tile(np.asarray(image_size, np.float32), 2))


def suppressed_again(boxes: Boxes, scores: Floats, columns: Indices, threshold: float) -> Indices:
    """Return which of K boxes are left when each class is suppressed on its own: indices, rising.

    boxes: [K, 4]; scores: [K]; columns: [K], the class of each. A box of which nothing lies in the picture is left out.
    """
    shown = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(axis=1)
    left = [np.zeros(0, np.int64)]
    for column in np.unique(columns):
        own = np.flatnonzero(shown & (columns == column))
        left.append(own[nms_per_class(boxes[own], scores[own, None], threshold)[0]])
    return np.sort(np.concatenate(left))


LEAST = 1e-3  # of a box that no learned one overlaps: its classes keep their order


def objectness(boxes: Boxes, learned: Proposals) -> Floats:
    """Return of each box the largest product of a learned proposal's confidence and its IoU with the box.

    Shapes: boxes [N, 4]; learned: of MultiBox, scores being confidences 0..1 -> float32 [N], 0.001..1.
    """
    found = (iou(boxes, learned.boxes) * learned.scores).max(axis=1, initial=0)
    return np.asarray(np.clip(found, LEAST, 1), np.float32)


def weighed(scores: npt.NDArray[np.float32], of_boxes: Floats | None, share: float) -> npt.NDArray[np.float32]:
    """Return scores [N, C] as scores^(1 - share) * objectness^share: geometric means; as they are without objectness.

    of_boxes: [N], None for none; share: 0..1. Raises: ValueError where the two are not of the same boxes.
    """
    if of_boxes is None or not share:
        return scores
    if len(of_boxes) != len(scores):
        raise ValueError(f"scores of {len(scores)} boxes, but objectness of {len(of_boxes)}")
    return np.asarray(scores ** np.float32(1 - share) * (of_boxes ** np.float32(share))[:, None], np.float32)


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


LEAST_SEEN = 0.01  # that a picture says of a class: no class goes for it alone


def in_context(scores: Scores, seen: Scores, share: float) -> Scores:
    """Return scores [N, 1 + classes] as scores^(1 - share) * seen^share: geometric means with what the picture says.

    seen: scores [P, 1 + classes] of views of the picture, whose mean counts, from `LEAST_SEEN`; share: 0..1, 0: none.
    """
    whole = np.clip(seen.mean(axis=0), LEAST_SEEN, 1)
    return np.asarray(scores ** np.float32(1 - share) * whole ** np.float32(share), np.float32)
