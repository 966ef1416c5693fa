"""What one picture gives to the stages after fine-tuning: its regions, their features, and which objects they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from detector.datasets.class_maps import AMBIGUOUS
from proposals.boxes import Boxes, Floats, Indices, Mask, as_boxes, iou


@dataclass(frozen=True, eq=False, repr=False)
class PictureFeatures:
    """N regions of one picture with features of D numbers, and the G objects among C classes that lie in it.

    features: float32 [N, D], pooled, unscaled; boxes: float32 [N, 4], half-open pixels, ground truth rows first;
    labels: int64 [N], 1..C for a ground-truth row, 0 for a proposal;
    truth_boxes: float32 [G, 4], truth_labels: int64 [G], the ground-truth rows again in their order and, anywhere
    between them, objects of which only AMBIGUOUS is known (no rows: they are examples of nothing);
    known: bool [C], the classes that this picture's data set labels exhaustively: only of these an unlabelled region
    is a negative.
    Raises: ValueError when shapes or values do not fit together, or a number is not finite.
    """

    features: Floats
    boxes: Boxes
    labels: Indices
    truth_boxes: Boxes
    truth_labels: Indices
    known: Mask

    def __post_init__(self) -> None:
        for name, kind, axes in (
            ("features", np.float32, "ND"),
            ("labels", np.int64, "N"),
            ("truth_labels", np.int64, "G"),
            ("known", np.bool_, "C"),
        ):
            array = np.asarray(getattr(self, name), dtype=kind)
            if array.ndim != len(axes):
                raise ValueError(f"{name} must have shape [{', '.join(axes)}], got {list(array.shape)}")
            object.__setattr__(self, name, array)
        for name, labels in (("boxes", self.labels), ("truth_boxes", self.truth_labels)):
            object.__setattr__(self, name, as_boxes(getattr(self, name)))
            if len(getattr(self, name)) != len(labels):
                raise ValueError(f"{len(getattr(self, name))} {name}, {len(labels)} labels: each box needs one")
        if len(self.features) != len(self.boxes):
            raise ValueError(f"{len(self.boxes)} boxes, {len(self.features)} rows of features: each box needs one")
        if not np.isfinite(self.features).all():
            row = int(np.flatnonzero(~np.isfinite(self.features).all(axis=1))[0])
            raise ValueError(f"the features of region {row} are not finite; extract this picture again")
        last = len(self.known)
        if ((self.labels < 0) | (self.labels > last)).any():
            raise ValueError(f"a label is not in 0..{last}")
        strange = (self.truth_labels < 1) & (self.truth_labels != AMBIGUOUS)
        if (strange | (self.truth_labels > last)).any():
            raise ValueError(f"the label of an object is neither in 1..{last} nor {AMBIGUOUS} (ambiguous)")
        rows, told = self.labels > 0, self.truth_labels > 0
        if rows.any() and not rows[: np.count_nonzero(rows)].all():
            raise ValueError("the ground-truth rows must come before the proposals")
        if not np.array_equal(self.labels[rows], self.truth_labels[told]) or not np.array_equal(
            self.boxes[rows], self.truth_boxes[told]
        ):
            raise ValueError("the ground-truth rows are not the objects of the ground truth, in the same order")

    def __len__(self) -> int:
        """The number of regions."""
        return len(self.boxes)

    def __repr__(self) -> str:
        return f"PictureFeatures({len(self):,} regions, {len(self.truth_boxes)} objects of {len(self.known)} classes)"


Pictures = Sequence[PictureFeatures] | Callable[[], Iterator[PictureFeatures]]  # can be gone through more than once


def each_picture(pictures: Pictures, classes: int) -> Iterator[PictureFeatures]:
    """Go through the pictures once, checking that they fit together.

    Raises: ValueError for a picture of another number of classes than `classes`, or of features of another length
    than the first's, and where there is no picture at all.
    """
    length: int | None = None
    for index, picture in enumerate(pictures() if callable(pictures) else pictures):
        length = picture.features.shape[1] if length is None else length
        if len(picture.known) != classes:
            raise ValueError(f"picture {index} tells of {len(picture.known)} classes, not of {classes}")
        if picture.features.shape[1] != length:
            raise ValueError(
                f"picture {index} has features of {picture.features.shape[1]} numbers, the first of {length}; "
                "extract all of them with one network"
            )
        yield picture
    if length is None:
        raise ValueError("there is no picture to train on; pass a sequence, or a function that starts again each time")


def class_overlaps(picture: PictureFeatures) -> Floats:
    """Return the best IoU of each region with the ground truth of each class: float32 [N, C], 0 where there is none.

    Ambiguous objects are of no class here: `ambiguous_overlaps`.
    """
    overlaps = np.zeros((len(picture), len(picture.known)), np.float32)
    pairs = iou(picture.boxes, picture.truth_boxes)  # [N, G]
    for label in np.unique(picture.truth_labels[picture.truth_labels > 0]):
        overlaps[:, label - 1] = pairs[:, picture.truth_labels == label].max(axis=1)
    return overlaps


def ambiguous_overlaps(picture: PictureFeatures) -> Floats:
    """Return the best IoU of each region with an object whose class cannot be told: float32 [N], 0 without any."""
    pairs = iou(picture.boxes, picture.truth_boxes[picture.truth_labels == AMBIGUOUS])
    return np.asarray(pairs.max(axis=1, initial=0), dtype=np.float32)


def feature_norms(picture: PictureFeatures) -> float:
    """Return the sum of the Euclidean norms of the picture's features, for `feature_scale`."""
    return float(np.linalg.norm(picture.features, axis=1).sum(dtype=np.float64))


def feature_scale(norms: float, regions: int, target: float) -> float:
    """Return the factor that brings features to the mean norm `target`, at which R-CNN's C and lambda were chosen.

    norms: the sum of the norms over `regions` regions; where that is 0 there is nothing to scale, and the factor is 1.
    Source: `rcnn_scale_features.m`; R-CNN takes the mean over 200 regions of each of 200 pictures, here all count.
    """
    return target * regions / norms if norms > 0 else 1.0
