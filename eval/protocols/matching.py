"""Which prediction takes which ground-truth box: one kernel, greedy by falling score, for all protocols."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from detector.datasets.ground_truth import Doubles, Flags, GroundTruth, Longs
from eval.predictions.table import Predictions
from eval.protocols.evaluation import FALSE_POSITIVE, NOT_COUNTED, TRUE_POSITIVE, Matches
from proposals.compiled import compiled_exactly

# What a prediction may take:
BEST_FREE = 0  # ILSVRC: the best of the boxes that are still free and whose own threshold it reaches
BEST = 1  # VOC: the best of all; if that one is taken, the prediction is a false positive
BEST_FREE_OR_CROWD = 2  # COCO: the best free one; else a crowd, by the share of the prediction inside it


def rank(predictions: Predictions, classes: int, picture_rank: Longs | None = None) -> tuple[Longs, Longs]:
    """Return the rows of the predictions by class and falling score, and where each class starts: [M], [C + 1].

    Equal scores stand in the order of `picture_rank` [P] of their pictures, if given, then in that of the predictions.
    """
    rows = np.arange(len(predictions))
    if picture_rank is not None:
        ranks = picture_rank[predictions.pictures]
        if (ranks[1:] < ranks[:-1]).any():
            rows = np.argsort(ranks, kind="stable")
    rows = rows[np.argsort(-predictions.scores[rows], kind="stable")]
    labels = predictions.labels.astype(np.uint16 if classes < 2**16 else np.int64)  # 16 bits are sorted by radix
    rows = rows[np.argsort(labels[rows], kind="stable")]
    counts = np.bincount(predictions.labels, minlength=classes + 1)[1:]
    return rows, np.concatenate([[0], np.cumsum(counts)])


def match(
    truth: GroundTruth,
    predictions: Predictions,
    ranking: tuple[Longs, Longs],
    thresholds: Doubles,
    rule: int,
    ignored: Flags,
    uncounted: Flags | None = None,
) -> Matches:
    """Return what becomes of each prediction.

    thresholds: the IoU that each ground-truth box [N] asks for; rule: BEST_FREE, BEST or BEST_FREE_OR_CROWD;
    ignored: bool [N], boxes that do not count, nor do predictions that take them; uncounted: bool [M], predictions
    that do not count from the start. IoU of half-open boxes here is that of +1 widths on 1-based inclusive ones.
    """
    order, starts = ranking
    classes = len(truth.class_names)
    keys = _keys(predictions.labels, predictions.pictures, len(truth.names))
    truth_keys = _keys(truth.labels, truth.pictures, len(truth.names))
    by_key = np.argsort(truth_keys, kind="stable")
    if rule != BEST:  # what counts comes first, as in COCO
        by_key = np.lexsort((ignored, truth_keys))
    outcome = np.full(len(predictions), FALSE_POSITIVE, np.int8)
    if uncounted is not None:
        outcome[uncounted] = NOT_COUNTED
    taken = np.full(len(predictions), -1, np.int64)
    _match(
        order,
        keys,
        predictions.boxes,
        truth_keys[by_key],
        by_key,
        truth.boxes,
        thresholds,
        ignored,
        truth.crowd,
        rule,
        outcome,
        taken,
    )
    positives = np.bincount(truth.labels[~ignored], minlength=classes + 1)[1:]
    return Matches(order, starts, outcome, taken, ~ignored, positives)


def _keys(labels: npt.NDArray[np.integer], pictures: npt.NDArray[np.integer], count: int) -> Longs:
    return labels.astype(np.int64) * max(count, 1) + pictures


@compiled_exactly
def _match(
    order: Longs,
    keys: Longs,
    boxes: Doubles,
    truth_keys: Longs,  # [N], rising
    rows: Longs,  # [N], the ground-truth row of each key
    truth_boxes: Doubles,
    thresholds: Doubles,
    ignored: Flags,
    crowd: Flags,
    rule: int,
    outcome: npt.NDArray[np.int8],
    taken: Longs,
) -> None:
    """Fill `outcome` [M] and `taken` [M], the predictions seen in the order of `order`."""
    free = np.ones(len(rows), np.bool_)  # by place in `rows`
    for row in order:
        if outcome[row] == NOT_COUNTED:
            continue
        key = keys[row]
        place = np.searchsorted(truth_keys, key)
        best, best_iou = -1, -1.0
        x1, y1, x2, y2 = boxes[row, 0], boxes[row, 1], boxes[row, 2], boxes[row, 3]
        own = (x2 - x1) * (y2 - y1)
        while place < len(rows) and truth_keys[place] == key:
            other = rows[place]
            if rule != BEST and best >= 0 and ignored[other] and not ignored[rows[best]]:
                break  # a box that counts has been found
            if rule == BEST or free[place] or (rule == BEST_FREE_OR_CROWD and crowd[other]):
                width = min(x2, truth_boxes[other, 2]) - max(x1, truth_boxes[other, 0])
                height = min(y2, truth_boxes[other, 3]) - max(y1, truth_boxes[other, 1])
                iou = 0.0
                if width > 0 and height > 0:
                    shared = width * height
                    area = (truth_boxes[other, 2] - truth_boxes[other, 0]) * (
                        truth_boxes[other, 3] - truth_boxes[other, 1]
                    )
                    union = own if rule == BEST_FREE_OR_CROWD and crowd[other] else own + area - shared
                    iou = shared / union
                better = iou > best_iou or (rule == BEST_FREE_OR_CROWD and iou == best_iou)
                if iou > 0 and better and (rule == BEST or iou >= thresholds[other]):
                    best, best_iou = place, iou
            place += 1
        if best < 0 or best_iou < thresholds[rows[best]]:
            continue
        if ignored[rows[best]]:
            outcome[row] = NOT_COUNTED
            if rule == BEST_FREE_OR_CROWD:
                free[best] = False
        elif free[best]:
            outcome[row] = TRUE_POSITIVE
            taken[row] = rows[best]
            free[best] = False
