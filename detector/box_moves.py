"""Box regression at test: each detection's box moved to where its class expects the object (R-CNN, appendix C).

As `rcnn_test_bbox_regressor.m` does: after non-maximum suppression, by the targets of the detection's own class, and
suppressed once more, as boxes that stood apart may now be one. The scores stay those of the unmoved regions.
"""

from __future__ import annotations

import numpy as np

from detector.runtimes.classifier import Targets
from proposals.box_coding import apply_targets
from proposals.boxes import Boxes, Floats, Indices, nms_per_class


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
