"""Which prediction takes which ground-truth box, greedy by falling score: a kernel for each protocol's rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from detector.datasets.ground_truth import Doubles, Flags, GroundTruth, Longs
from eval.predictions.table import Predictions
from eval.protocols.evaluation import FALSE_POSITIVE, NOT_COUNTED, TRUE_POSITIVE, Matches
from proposals.compiled import compiled_exactly


class Problem(NamedTuple):
    """M predictions and N ground-truth boxes as a rule takes them.

    order: the rows of the predictions, best first; keys [M], of class and picture; boxes [M, 4];
    truth_keys [N], never falling; rows [N], the ground-truth row at each of these places; by row: truth_boxes [N, 4];
    thresholds [N], the IoU that each needs; ignored [N], what does not count; crowd [N].
    """

    order: Longs
    keys: Longs
    boxes: Doubles
    truth_keys: Longs
    rows: Longs
    truth_boxes: Doubles
    thresholds: Doubles
    ignored: Flags
    crowd: Flags


Outcomes = npt.NDArray[np.int8]
Rule = Callable[[Problem, Outcomes, Longs], None]  # fills outcome [M] and taken [M], the row that each takes


def rank(predictions: Predictions, classes: int, picture_rank: Longs | None = None) -> tuple[Longs, Longs]:
    """Return the rows of the predictions by class and falling score, and where each class starts: [M], [C + 1].

    Equal scores are in the order of `picture_rank` [P] of their pictures, if given, then in that of the predictions.
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
    rule: Rule,
    ignored: Flags,
    uncounted: Flags | None = None,
) -> Matches:
    """Return what becomes of each prediction.

    thresholds: the IoU that each ground-truth box [N] needs; rule: `best_free`, `best_of_all` or
    `best_free_or_crowd`; ignored: bool [N], boxes that do not count, nor do predictions that take them; uncounted:
    bool [M], predictions that do not count from the start. IoU of half-open boxes here is that of +1 widths on 1-based
    inclusive ones.
    """
    order, starts = ranking
    keys = _keys(predictions.labels, predictions.pictures, len(truth.names))
    truth_keys = _keys(truth.labels, truth.pictures, len(truth.names))
    rows = np.lexsort((ignored, truth_keys))  # of a class in a picture, what counts comes first
    if rule is best_of_all:
        rows = np.argsort(truth_keys, kind="stable")
    outcome = np.full(len(predictions), FALSE_POSITIVE, np.int8)
    if uncounted is not None:
        outcome[uncounted] = NOT_COUNTED
    taken = np.full(len(predictions), -1, np.int64)
    boxes, truth_boxes = predictions.boxes, truth.boxes
    problem = Problem(
        order, keys, boxes, truth_keys[rows], rows, truth_boxes, thresholds, np.asarray(ignored), truth.crowd
    )
    rule(problem, outcome, taken)
    positives = np.bincount(truth.labels[~ignored], minlength=len(truth.class_names) + 1)[1:]
    return Matches(order, starts, outcome, taken, ~ignored, positives)


def _keys(labels: npt.NDArray[np.integer], pictures: npt.NDArray[np.integer], count: int) -> Longs:
    return labels.astype(np.int64) * max(count, 1) + pictures


@compiled_exactly
def best_free(problem: Problem, outcome: Outcomes, taken: Longs) -> None:
    """ILSVRC: a prediction takes the best of the boxes that are free and whose own threshold it reaches."""
    p = problem
    free = np.ones(len(p.rows), np.bool_)  # by place in `rows`
    for row in p.order:
        if outcome[row] == NOT_COUNTED:
            continue
        place = np.searchsorted(p.truth_keys, p.keys[row])
        best, best_iou = -1, 0.0
        while place < len(p.rows) and p.truth_keys[place] == p.keys[row]:
            other = p.rows[place]
            if p.ignored[other] and best >= 0 and not p.ignored[p.rows[best]]:
                break  # a box that counts has been found
            if free[place]:
                iou = _shared(p.boxes[row], p.truth_boxes[other], False)
                if iou > best_iou and iou >= p.thresholds[other]:
                    best, best_iou = place, iou
            place += 1
        if best < 0:
            continue
        if p.ignored[p.rows[best]]:
            outcome[row] = NOT_COUNTED
        else:
            outcome[row] = TRUE_POSITIVE
            taken[row] = p.rows[best]
            free[best] = False


@compiled_exactly
def best_of_all(problem: Problem, outcome: Outcomes, taken: Longs) -> None:
    """VOC: a prediction belongs to the box with the largest IoU; where that one is taken, it is a false positive."""
    p = problem
    free = np.ones(len(p.rows), np.bool_)
    for row in p.order:
        if outcome[row] == NOT_COUNTED:
            continue
        place = np.searchsorted(p.truth_keys, p.keys[row])
        best, best_iou = -1, 0.0
        while place < len(p.rows) and p.truth_keys[place] == p.keys[row]:
            iou = _shared(p.boxes[row], p.truth_boxes[p.rows[place]], False)
            if iou > best_iou:
                best, best_iou = place, iou
            place += 1
        if best < 0 or best_iou < p.thresholds[p.rows[best]]:
            continue
        if p.ignored[p.rows[best]]:
            outcome[row] = NOT_COUNTED
        elif free[best]:
            outcome[row] = TRUE_POSITIVE
            taken[row] = p.rows[best]
            free[best] = False


@compiled_exactly
def best_free_or_crowd(problem: Problem, outcome: Outcomes, taken: Longs) -> None:
    """COCO: a prediction takes the best free box, the last of equal ones; else a crowd that holds enough of it.

    Any number of predictions can take a crowd; its threshold is on the share of the prediction inside it.
    """
    p = problem
    free = np.ones(len(p.rows), np.bool_)
    for row in p.order:
        if outcome[row] == NOT_COUNTED:
            continue
        place = np.searchsorted(p.truth_keys, p.keys[row])
        best, best_iou = -1, 0.0
        while place < len(p.rows) and p.truth_keys[place] == p.keys[row]:
            other = p.rows[place]
            if p.ignored[other] and best >= 0 and not p.ignored[p.rows[best]]:
                break  # a box that counts has been found
            if free[place] or p.crowd[other]:
                iou = _shared(p.boxes[row], p.truth_boxes[other], p.crowd[other])
                if iou > 0 and iou >= best_iou and iou >= p.thresholds[other]:
                    best, best_iou = place, iou
            place += 1
        if best < 0:
            continue
        free[best] = False
        if p.ignored[p.rows[best]]:
            outcome[row] = NOT_COUNTED
        else:
            outcome[row] = TRUE_POSITIVE
            taken[row] = p.rows[best]


@compiled_exactly
def _shared(box: Doubles, other: Doubles, of_box: bool) -> float:
    """Return the IoU of two boxes, or where `of_box` the share of the first one that lies in the other."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    if not (width > 0 and height > 0):
        return 0.0
    own, shared = (box[2] - box[0]) * (box[3] - box[1]), width * height
    if of_box:
        return float(shared / own)
    return float(shared / (own + (other[2] - other[0]) * (other[3] - other[1]) - shared))
