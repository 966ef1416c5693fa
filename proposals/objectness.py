"""How much of an object MultiBox sees in any box, learned or not; ours, beyond the paper."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from proposals.boxes import Boxes, Floats, iou
from proposals.types import Proposals

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
