"""The confusion matrix of a detector: what objects are taken for, at one score."""

from __future__ import annotations

import numpy as np

from detector.datasets.ground_truth import Doubles, Flags, GroundTruth, Longs
from eval.errors.overlaps import Pairs
from eval.predictions.table import Predictions
from eval.protocols.evaluation import FALSE_POSITIVE, NOT_COUNTED, TRUE_POSITIVE, Matches
from proposals.compiled import compiled_exactly


def confusion_matrix(
    truth: GroundTruth,
    predictions: Predictions,
    matches: Matches,
    pairs: Pairs,
    thresholds: Doubles,
    score: float,
) -> Longs:
    """Return how often objects of a class are taken for another, [C + 1, C + 1]; row: truth, column: prediction.

    Only what counts, and only predictions with a score of at least `score`. True positives are on the diagonal. The
    others, best first, each take the free object of another class with the largest IoU that reaches its threshold.
    Without such an object a prediction is in row 0, background (a duplicate too). An object that nothing takes is in
    column 0, missed. So the rows 1..C add up to the ground truth, the columns 1..C to the predictions.
    pairs: of the predictions, at IoUs not above `thresholds` [N].
    """
    count = len(truth.class_names) + 1
    shown = (matches.outcome != NOT_COUNTED) & (predictions.scores >= score)
    free = matches.counted.copy()
    meant = np.full(len(predictions), -1, np.int64)
    right = np.flatnonzero(shown & (matches.outcome == TRUE_POSITIVE))
    meant[right] = matches.taken[right]
    free[matches.taken[right]] = False
    wrong = shown & (matches.outcome == FALSE_POSITIVE)
    pairs = pairs.where(
        wrong[pairs.rows]
        & (pairs.ious >= thresholds[pairs.objects])
        & (predictions.labels[pairs.rows] != truth.labels[pairs.objects])
    )
    order = np.lexsort((-pairs.ious, pairs.rows, -predictions.scores[pairs.rows]))
    _take(pairs.rows[order], pairs.objects[order], free, meant)
    matrix = np.zeros((count, count), np.int64)
    rows = np.flatnonzero(shown)
    true = np.append(truth.labels, 0)[meant[rows]]  # -1, which takes nothing, is the 0 at the end
    np.add.at(matrix, (true, predictions.labels[rows]), 1)
    matrix[:, 0] = np.bincount(truth.labels[free], minlength=count)
    return matrix


def best_score(scores: Doubles, matches: Matches) -> float:
    """Return the score that gives the best F1 over all classes together, a fair place to look at confusions.

    Of equally good ones the highest; infinity without a true positive (then nothing is worth showing).
    """
    counted = matches.outcome != NOT_COUNTED
    scores, right = scores[counted], matches.outcome[counted] == TRUE_POSITIVE
    if not right.any():
        return float("inf")
    order = np.argsort(-scores, kind="stable")
    scores = scores[order]
    f1 = 2 * np.cumsum(right[order]) / (np.arange(1, len(order) + 1) + matches.positives.sum())
    last = np.append(scores[1:] != scores[:-1], True)  # of equal scores all are shown or none
    return float(scores[np.argmax(np.where(last, f1, -1.0))])


@compiled_exactly
def _take(rows: Longs, objects: Longs, free: Flags, meant: Longs) -> None:
    """Let each prediction of the pairs, in their order, take the first object that is still free."""
    for pair in range(len(rows)):
        row, other = rows[pair], objects[pair]
        if meant[row] < 0 and free[other]:
            meant[row] = other
            free[other] = False
