"""The metric of Pascal VOC: 11 points of recall in 2007, all of them since 2010 (VOCdevkit, VOCevaldet.m)."""

from __future__ import annotations

import numpy as np

from detector.datasets.ground_truth import GroundTruth
from eval.predictions.table import Predictions
from eval.protocols.average_precision import average_precision, average_precision_11, class_average_precision
from eval.protocols.evaluation import Evaluation
from eval.protocols.matching import best_of_all, match, rank

IOU = 0.5
MEASURES = {2007: average_precision_11, 2010: average_precision}


def evaluate_voc(truth: GroundTruth, predictions: Predictions, year: int = 2010, iou: float = IOU) -> Evaluation:
    """Return the evaluation of `predictions` as in VOC `year`, 2007 or 2010.

    A prediction belongs to the box of its class with the largest IoU, taken or not; one that belongs to a difficult
    box does not count. Equal scores keep their order. Raises: ValueError for another year.
    """
    if year not in MEASURES:
        raise ValueError(f"the VOC metric is that of 2007 or of 2010 and later, got {year}")
    matches = match(
        truth,
        predictions,
        rank(predictions, len(truth.class_names)),
        np.full(len(truth), iou),
        best_of_all,
        ignored=truth.difficult | truth.crowd,
    )
    ap = class_average_precision(matches, MEASURES[year])
    return Evaluation("voc07" if year == 2007 else "voc10", truth.class_names, ap, (matches,))
