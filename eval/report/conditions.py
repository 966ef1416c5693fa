"""Under which conditions a table counts, in words: the IoU from which on, and the score from which on."""

from __future__ import annotations

import numpy as np

from detector.datasets.ground_truth import Doubles
from eval.errors.false_positives import TOUCHING
from eval.protocols.evaluation import Evaluation
from eval.protocols.ilsvrc import IOU

TINY = 0.00005  # scores below are 0 to the four places that are printed


def loosest_iou(evaluation: Evaluation) -> float:
    """Return the IoU that the loosest matches ask for: 0.5 in every protocol, or the one that was asked for."""
    return IOU if evaluation.iou is None else evaluation.iou


def touching_iou(evaluation: Evaluation) -> float:
    """Return the IoU from which on a box touches an object."""
    return min(TOUCHING, loosest_iou(evaluation))


def reaching(evaluation: Evaluation) -> str:
    """Return the IoU from which on a box reaches an object, as "IoU 0.5 or more"."""
    less = ", less for small boxes" if evaluation.protocol == "ilsvrc" else ""
    return f"IoU {loosest_iou(evaluation):g} or more{less}"


def at_least(score: float, scores: Doubles) -> str:
    """Return which of the predictions with `scores` [M] are meant, as "with a score of at least 0.7"."""
    if not len(scores) or score <= scores.min():
        return "of any score"
    if 0 < score < TINY:
        return "of almost any score"
    return f"with a score of at least {readable(score)}"


def readable(score: float) -> str:
    """Return a score to three digits, small ones to four places, never with an exponent."""
    if abs(score) < 0.001:
        return f"{round(score, 4) + 0.0:g}"
    return np.format_float_positional(score, precision=3, fractional=False, trim="-")
