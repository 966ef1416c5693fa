"""The official ILSVRC detection metric (devkit 2014, eval_detection.m)."""

from __future__ import annotations

import numpy as np

from detector.datasets.ground_truth import Doubles, GroundTruth, Longs
from eval.predictions.table import Predictions
from eval.protocols.average_precision import class_average_precision
from eval.protocols.evaluation import Evaluation
from eval.protocols.matching import best_free, match, rank

IOU = 0.5
TOLERANCE = 10  # pixels that small boxes are forgiven


def box_thresholds(truth: GroundTruth, iou: float = IOU) -> Doubles:
    """Return the IoU threshold of each ground-truth box, [N]: min(iou, w h / ((w + 10) (h + 10)))."""
    w, h = (truth.boxes[:, 2:] - truth.boxes[:, :2]).T
    forgiving: Doubles = w * h / ((w + TOLERANCE) * (h + TOLERANCE))
    return np.minimum(iou, forgiving)


def evaluate_ilsvrc(truth: GroundTruth, predictions: Predictions, iou: float = IOU) -> Evaluation:
    """Return the evaluation of `predictions` by the official protocol.

    Each prediction of a picture, by falling score, takes the free box of its class with the largest IoU that reaches
    the threshold of that box. Pairs on the blacklist count neither way, nor do crowds (ILSVRC has none). Equal scores
    are in the order of the pictures' numbers, then in that of the predictions.
    """
    pictures, classes = max(len(truth.names), 1), len(truth.class_names)
    barred = np.zeros((pictures, classes + 1), np.bool_)
    barred[truth.blacklist[:, 0], truth.blacklist[:, 1]] = True
    matches = match(
        truth,
        predictions,
        rank(predictions, classes, picture_rank(truth)),
        box_thresholds(truth, iou),
        best_free,
        ignored=barred[truth.pictures, truth.labels] | truth.crowd,
        uncounted=barred[predictions.pictures, predictions.labels],
    )
    return Evaluation("ilsvrc", truth.class_names, class_average_precision(matches), (matches,))


def picture_rank(truth: GroundTruth) -> Longs:
    """Return the place of each picture [P] in the order of the pictures' numbers."""
    return np.argsort(np.argsort(truth.numbers, kind="stable"), kind="stable")
