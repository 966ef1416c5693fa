"""From scored regions to detections: weigh, suppress, regress, vote, soften.

R-CNN has `suppress` (threshold and non-maximum suppression, class by class) and, where a model brings it, `regress`.
Weighing, voting and softening are ours or of later papers, and each can be left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from detector.detections import Detections
from detector.runtimes.base import Deltas, Scores
from proposals.boxes import Boxes, Floats, Indices, apply_deltas, descending, iou, nms_per_class
from proposals.types import Sources

LEAST_SEEN = 0.01  # of a class in an image: context alone rules no class out
VOTE_POWER = 2  # of the scores, ours; 1 in arXiv:1505.01749


@dataclass(frozen=True, eq=False)
class Regions:
    """All regions of an image with the scores of all classes, before any is left out.

    boxes: [N, 4]; scores: float32 [N, classes], background left out; sources: [N]; image_size: (width, height);
    deltas: [N, classes, 4] of the box regression, None without; power: that of the networks' part in the scores.
    """

    boxes: Boxes
    scores: Scores
    sources: Sources
    image_size: tuple[int, int]
    deltas: Deltas | None = None
    power: float = 1.0

    def moved(self, rows: Indices, columns: Indices) -> Boxes:
        """Return the boxes of regions as their classes see them, moved by their deltas and clipped: float32 [K, 4].

        rows: [K], of regions; columns: [K], of classes. Source: R-CNN, appendix C.
        """
        if self.deltas is None:
            return self.boxes[rows]
        moved = apply_deltas(self.boxes[rows], self.deltas[rows, columns])
        return np.clip(moved, 0, np.tile(np.asarray(self.image_size, np.float32), 2))


@dataclass(frozen=True, eq=False)
class Candidates:
    """K regions, each for one class, that may become detections.

    rows: [K], of the regions; columns: [K], of the classes; boxes: [K, 4], where they are by now; scores: [K], 0..1.
    """

    regions: Regions
    rows: Indices
    columns: Indices
    boxes: Boxes
    scores: Floats

    def select(self, which: npt.NDArray[np.bool_] | Indices) -> Candidates:
        """Return those of a mask [K], or of indices."""
        return replace(
            self,
            rows=self.rows[which],
            columns=self.columns[which],
            boxes=self.boxes[which],
            scores=self.scores[which],
        )

    def detections(self, class_names: tuple[str, ...]) -> Detections:
        """Return them as detections, by falling score."""
        return Detections(
            boxes=self.boxes,
            scores=self.scores,
            labels=self.columns + 1,
            sources=self.regions.sources[self.rows],
            image_size=self.regions.image_size,
            class_names=class_names,
        ).ordered()


def weigh(regions: Regions, weights: Floats, share: float) -> Regions:
    """Return the scores as scores^(1 - share) * weights^share: geometric means.

    weights: [N, 1], the objectness of the proposals, or [1, classes] of the image, as `in_context`; share: 0..1.
    """
    if not share:
        return regions
    scores = regions.scores ** np.float32(1 - share) * weights ** np.float32(share)
    return replace(regions, scores=np.asarray(scores, np.float32), power=regions.power * (1 - share))


def in_context(seen: Scores) -> Floats:
    """Return the score of each class in the image as a whole, at least 0.01: float32 [1, classes], for `weigh`.

    seen: scores [P, 1 + classes] of views of the image (`detector.whole_crops.image_views`), whose mean counts.
    """
    return np.asarray(np.clip(seen[:, 1:].mean(axis=0, keepdims=True), LEAST_SEEN, 1), np.float32)


def suppress(regions: Regions, overlap: float, threshold: float, top: int | None = None) -> Candidates:
    """Return what the threshold and non-maximum suppression, class by class, leave (R-CNN).

    overlap: IoU above which the worse of two regions goes; threshold: least score; top: at most so many a class.
    """
    rows, columns = nms_per_class(regions.boxes, regions.scores, overlap, threshold, top)
    return Candidates(regions, rows, columns, regions.boxes[rows], np.minimum(regions.scores[rows, columns], 1))


def regress(found: Candidates, overlap: float) -> Candidates:
    """Return the candidates moved by the deltas of their class, and suppressed once more.

    As `rcnn_test_bbox_regressor.m` does: after non-maximum suppression, as boxes that stood apart may now be one. The
    scores stay those of the unmoved regions. Boxes of which nothing lies in the image are left out.
    """
    moved = found.regions.moved(found.rows, found.columns)
    shown = ((moved[:, 2:] - moved[:, :2]) > 0).all(axis=1)
    left = [np.zeros(0, np.int64)]
    for column in np.unique(found.columns):
        own = np.flatnonzero(shown & (found.columns == column))
        left.append(own[nms_per_class(moved[own], found.scores[own, None], overlap)[0]])
    return replace(found, boxes=moved).select(np.sort(np.concatenate(left)))


def vote(found: Candidates, overlap: float, power: float = VOTE_POWER) -> Candidates:
    """Return the candidates, each at the mean of all regions that found the same thing, as its class sees them.

    Those count that overlap it by IoU `overlap` or more, weighed by score ** power, the suppressed among them. A box
    without such regions, or with such of score 0, stays. Source: arXiv:1505.01749, section 5 (there: IoU 0.5).
    """
    regions, voted = found.regions, found.boxes.copy()
    every = np.arange(len(regions.boxes))
    for column in np.unique(found.columns).tolist():
        own = found.columns == column
        voters = regions.moved(every, np.full(len(every), column))
        voted[own] = voted_boxes(found.boxes[own], voters, regions.scores[:, column], overlap, power)
    return replace(found, boxes=voted)


def voted_boxes(boxes: Boxes, voters: Boxes, scores: Floats, overlap: float, power: float = VOTE_POWER) -> Boxes:
    """Return each box as the mean of the voters that overlap it by IoU `overlap` or more, weighed by score ** power.

    Shapes: boxes [K, 4]; voters [N, 4] and scores [N] of the same class -> float32 [K, 4].
    """
    weights = np.where(iou(boxes, voters) >= overlap, np.asarray(scores, np.float64) ** power, 0)  # [K, N]
    total = weights.sum(axis=1, keepdims=True)
    sums = np.stack([(weights * side).sum(axis=1) for side in voters.T.astype(np.float64)], axis=1)
    return np.asarray(np.where(total > 0, sums / np.where(total > 0, total, 1), boxes), np.float32)


def soften(found: Candidates, overlap: float, threshold: float) -> Candidates:
    """Return the candidates with lower scores where they lie on a better one of their class.

    Votes move boxes of a class onto each other that suppression had told apart. The factor is 1 - IoU, with the largest
    IoU, of `overlap` or more, that a box has with any better one; of equal scores the first is the better. It is one of
    the networks' part of the score, and so has that part's power (`Regions.power`). Those that fall below `threshold`
    are left out. Source: linear Soft-NMS, arXiv:1704.04503, which multiplies the factors of all better boxes.
    """
    scores = np.array(found.scores, np.float32)
    for column in np.unique(found.columns).tolist():
        own = np.flatnonzero(found.columns == column)
        own = own[descending(found.scores[own])]
        largest = np.tril(iou(found.boxes[own], found.boxes[own]), -1).max(axis=1, initial=0)  # with the better ones
        scores[own] *= np.where(largest >= overlap, (1 - largest) ** np.float32(found.regions.power), np.float32(1))
    return replace(found, scores=scores).select(scores >= threshold)
