"""How well proposals cover the ground truth: recall, average recall and MABO, for any number of boxes.

Everything follows from one number: the best IoU of a ground-truth box with the best-ranked proposals of its picture.
Take it picture by picture with `best_overlaps`, concatenate along the last axis, and measure once:

  overlaps = np.concatenate([best_overlaps(truth, found, (100, 1000)) for truth, found in pictures], axis=1)
  recall(overlaps, [0.5, 0.7])  # [2 numbers of boxes, 2 thresholds]

Without ground truth there is nothing to recall: every measure is then nan, not 0 and not 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from proposals.boxes import Boxes, Floats, as_boxes, iou

Measures = npt.NDArray[np.float64]
Labels = npt.NDArray[np.integer]

LOOSEST = 0.5  # IoU at which average recall begins (Hosang et al.); the criterion of PASCAL VOC


def best_overlaps(truth: Boxes, proposals: Boxes, counts: Sequence[int] | npt.NDArray[np.integer]) -> Floats:
    """Return the best IoU of each ground-truth box of one picture with the first n proposals, for each n of `counts`.

    Shapes: truth [M, 4], proposals [N, 4] best first, counts [C] -> [C, M], values 0..1. A count beyond N means all
    of them; without a proposal the overlap is 0. A count more costs next to nothing.
    Raises: ValueError for arrays that are no boxes, or counts that are no list of whole numbers >= 0.
    """
    truth, proposals = as_boxes(truth), as_boxes(proposals)
    wanted = np.asarray(counts)
    if wanted.size == 0:
        wanted = wanted.astype(np.int64)  # an empty list is read as floats
    if wanted.ndim != 1 or not np.issubdtype(wanted.dtype, np.integer) or (wanted < 0).any():
        raise ValueError(f"counts must be a list of whole numbers of at least 0, got {counts}")
    best = np.zeros((len(truth), len(proposals) + 1), np.float32)  # column n: among the first n
    np.maximum.accumulate(iou(truth, proposals), axis=1, out=best[:, 1:])
    return np.ascontiguousarray(best[:, np.minimum(wanted, len(proposals))].T)


def recall(overlaps: Floats, thresholds: npt.ArrayLike) -> Measures:
    """Return the share of the ground-truth boxes whose best overlap reaches each threshold (IoU >= threshold).

    Shapes: overlaps [..., M] of `best_overlaps`, thresholds [T] -> [..., T]; nan where M is 0.
    Raises: ValueError for overlaps outside 0..1, and thresholds that are no list.
    """
    overlaps = _checked(overlaps)
    limits = np.asarray(thresholds, dtype=overlaps.dtype)  # so that an IoU of 7/10 reaches the threshold 0.7
    if limits.ndim != 1:
        raise ValueError(f"thresholds must have shape [T], got {list(limits.shape)}")
    return _mean((overlaps[..., None, :] >= limits[:, None]).astype(np.float64))


def average_recall(overlaps: Floats) -> Measures:
    """Return average recall: twice the area below recall over the IoU thresholds 0.5 .. 1.

    Shapes: overlaps [..., M] of `best_overlaps` -> [...], 0..1; nan where M is 0. Each ground-truth box is recalled up
    to its own best overlap, so the area is exactly the mean of max(overlap - 0.5, 0), no sum over sampled thresholds
    (Hosang et al., "What makes for effective detection proposals?", arXiv:1502.05082, average recall).
    Raises: ValueError for overlaps outside 0..1.
    """
    above = np.maximum(_checked(overlaps).astype(np.float64) - LOOSEST, 0)
    return _mean(above / (1 - LOOSEST))


def abo(overlaps: Floats, labels: Labels) -> tuple[Labels, Measures]:
    """Return the classes that have ground truth, rising, and the average best overlap of each (IJCV 2013, section 5).

    Shapes: overlaps [..., M] of `best_overlaps`, labels [M], whole numbers -> [K], [..., K]; K is 0 where M is.
    Raises: ValueError for overlaps outside 0..1, or labels of another shape or kind.
    """
    overlaps = _checked(overlaps)
    labels = np.asarray(labels)
    if labels.shape != overlaps.shape[-1:] or not (len(labels) == 0 or np.issubdtype(labels.dtype, np.integer)):
        raise ValueError(
            f"labels must be {overlaps.shape[-1]} whole numbers, one for each ground-truth box, "
            f"got {labels.dtype} {list(labels.shape)}"
        )
    order = np.argsort(labels, kind="stable")
    classes, starts, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    sums = np.add.reduceat(overlaps[..., order].astype(np.float64), starts, axis=-1)
    return classes, sums / sizes


def mabo(overlaps: Floats, labels: Labels) -> Measures:
    """Return the mean over the classes of their average best overlap (IJCV 2013, section 5).

    Shapes: overlaps [..., M] of `best_overlaps`, labels [M] -> [...], 0..1; nan where M is 0. A class counts as much
    as any other, however many boxes it has; a class without ground truth does not count. Raises: as `abo`.
    """
    return _mean(abo(overlaps, labels)[1])


def _checked(overlaps: Floats) -> Floats:
    """Raise ValueError unless `overlaps` is [..., M] with values 0..1; return it as floats."""
    overlaps = np.asarray(overlaps, np.float32)
    if overlaps.ndim == 0:
        raise ValueError("overlaps must have shape [..., M], got a single number")
    if not ((overlaps >= 0) & (overlaps <= 1)).all():
        raise ValueError("overlaps must lie between 0 and 1")
    return overlaps


def _mean(values: Measures) -> Measures:
    """Return the mean over the last axis, nan where that is empty: [..., M] -> [...]."""
    if values.shape[-1] == 0:
        return np.full(values.shape[:-1], np.nan)
    return np.asarray(values.mean(axis=-1))
