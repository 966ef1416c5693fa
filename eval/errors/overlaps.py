"""Which boxes overlap which ground truth: all pairs of a data set, by one kernel, for the error analysis."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from detector.datasets.ground_truth import Doubles, Longs
from proposals.compiled import compiled_exactly


class Pairs(NamedTuple):
    """K pairs of a box and a ground-truth box of its picture, by rising row of the boxes, then of the ground truth."""

    rows: Longs
    objects: Longs
    ious: Doubles

    def where(self, chosen: npt.NDArray[np.bool_]) -> Pairs:
        """Return the pairs of a mask [K]."""
        return Pairs(self.rows[chosen], self.objects[chosen], self.ious[chosen])


def overlapping(
    pictures: npt.NDArray[np.integer],
    boxes: npt.NDArray[np.floating],
    truth_pictures: Longs,
    truth_boxes: Doubles,
    lowest: Doubles,
) -> Pairs:
    """Return the pairs with an IoU above 0 and at least `lowest` [N] of the ground-truth box.

    Shapes: pictures [M] of the boxes [M, 4], in any order; truth_pictures [N], never falling, of truth_boxes [N, 4].
    IoU is computed, and rounded, as `eval.protocols.matching` does.
    """
    last = max(pictures.max(initial=-1), truth_pictures.max(initial=-1))
    firsts = np.searchsorted(
        truth_pictures, np.arange(last + 2)
    )  # the objects of picture p: firsts[p] .. firsts[p + 1]
    arguments = (pictures.astype(np.int64), boxes.astype(np.float64), firsts, truth_boxes, lowest)
    count = _pairs(*arguments, np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    found = Pairs(np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count))
    _pairs(*arguments, *found)
    return found


@compiled_exactly
def _pairs(
    pictures: Longs,
    boxes: Doubles,
    firsts: Longs,  # [P + 1]
    truth_boxes: Doubles,
    lowest: Doubles,
    rows: Longs,
    objects: Longs,
    ious: Doubles,
) -> int:
    """Return the number of pairs; fill `rows`, `objects` and `ious` with as many as they have room for."""
    count = 0
    for row in range(len(pictures)):
        x1, y1, x2, y2 = boxes[row, 0], boxes[row, 1], boxes[row, 2], boxes[row, 3]
        own = (x2 - x1) * (y2 - y1)
        for other in range(firsts[pictures[row]], firsts[pictures[row] + 1]):
            width = min(x2, truth_boxes[other, 2]) - max(x1, truth_boxes[other, 0])
            height = min(y2, truth_boxes[other, 3]) - max(y1, truth_boxes[other, 1])
            if not (width > 0 and height > 0):
                continue
            shared = width * height
            area = (truth_boxes[other, 2] - truth_boxes[other, 0]) * (truth_boxes[other, 3] - truth_boxes[other, 1])
            iou = shared / (own + area - shared)
            if iou > 0 and iou >= lowest[other]:
                if count < len(rows):
                    rows[count], objects[count], ious[count] = row, other, iou
                count += 1
    return count
