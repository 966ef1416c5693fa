"""How well each picture went: a score a picture, and the ones worth looking at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detector.datasets.ground_truth import Doubles, GroundTruth, Longs
from eval.errors.confusion import best_score
from eval.predictions.table import Predictions
from eval.protocols.evaluation import FALSE_POSITIVE, TRUE_POSITIVE, Evaluation


@dataclass(frozen=True, eq=False)
class PictureScores:
    """The F1 of each of P pictures among the predictions of at least `threshold`.

    F1 = 2 hits / (2 hits + wrong + missed), float64 [P], nan where nothing counts; hits, wrong, missed: int64 [P].
    """

    threshold: float
    f1: Doubles
    hits: Longs
    wrong: Longs
    missed: Longs


def score_pictures(truth: GroundTruth, predictions: Predictions, evaluation: Evaluation) -> PictureScores:
    """Return the score of each picture, at the threshold that makes F1 largest over all of them.

    One threshold for all classes, as one who uses the detector sets it; infinity without a hit.
    """
    matches, count = evaluation.matches, len(truth.names)
    threshold = best_score(predictions.scores, matches)
    kept = predictions.scores >= threshold
    hits = np.bincount(predictions.pictures[kept & (matches.outcome == TRUE_POSITIVE)], minlength=count)
    wrong = np.bincount(predictions.pictures[kept & (matches.outcome == FALSE_POSITIVE)], minlength=count)
    missed = np.bincount(truth.pictures[matches.counted], minlength=count) - hits
    total = 2 * hits + wrong + missed
    f1 = np.where(total > 0, 2 * hits / np.maximum(total, 1), np.nan)
    return PictureScores(threshold, f1, hits, wrong, missed)


def best_pictures(scores: PictureScores) -> Longs:
    """Return the pictures with a hit, the highest F1 first, of equal ones that with the most hits."""
    order = np.lexsort((-scores.hits, -scores.f1))
    return order[scores.hits[order] > 0]


def worst_pictures(scores: PictureScores) -> Longs:
    """Return the pictures with an error, the lowest F1 first, of equal ones that with the most errors."""
    errors = scores.wrong + scores.missed
    order = np.lexsort((-errors, scores.f1))
    return order[errors[order] > 0]


def confident_errors(predictions: Predictions, evaluation: Evaluation) -> Longs:
    """Return the false positive of the highest score of each picture that has one, the highest first: rows."""
    rows = np.flatnonzero(evaluation.matches.outcome == FALSE_POSITIVE)
    rows = rows[np.argsort(-predictions.scores[rows], kind="stable")]
    first = np.unique(predictions.pictures[rows], return_index=True)[1]
    return rows[np.sort(first)]
