"""Two sets of predictions on one ground truth: mAP and AP of each class, and a paired bootstrap over the pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detector.datasets.ground_truth import Doubles, GroundTruth
from eval.bootstrap import LEVEL, interval, picture_weights, resampled_map, within
from eval.predictions.table import Predictions
from eval.protocols import evaluate, title
from eval.protocols.evaluation import Evaluation


@dataclass(frozen=True)
class Side:
    """One of the two: its mAP with the 95 % interval, and how many predictions it has."""

    mean_ap: float
    mean_ap_interval: tuple[float, float]
    predictions: int


@dataclass(frozen=True)
class ClassRow:
    """One class that has ground truth: its AP on each side, B's less A's, and counts of boxes and predictions."""

    name: str
    a: float
    b: float
    difference: float
    objects: int
    predictions_a: int
    predictions_b: int


@dataclass(frozen=True)
class Comparison:
    """B against A; shares 0..1.

    difference: mAP of B less that of A; better, equal: the shares of the resamples in which B's mAP is the higher
    one, or exactly the same; classes: those with ground truth, B's largest gain first.
    """

    protocol: str
    title: str
    iou: float | None
    pictures: int
    objects: int
    a: Side
    b: Side
    difference: float
    interval: tuple[float, float]
    better: float
    equal: float
    resamples: int
    seed: int
    classes: tuple[ClassRow, ...]


def compare_predictions(
    truth: GroundTruth,
    a: Predictions,
    b: Predictions,
    protocol: str = "ilsvrc",
    iou: float | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Return how predictions `b` differ from predictions `a` on `truth`.

    iou: a threshold other than the protocol's; resamples: of the pictures, the same for both. Raises: ValueError for
    an unknown protocol or an IoU out of range, or where there is no ground truth that counts.
    """
    evaluations = evaluate(protocol, truth, a, iou), evaluate(protocol, truth, b, iou)
    if not len(evaluations[0].present):
        raise ValueError(
            "the data set has no ground truth that counts, so there is no AP to compare; is --split right?"
        )
    weights = picture_weights(len(truth.names), resamples, seed)
    means = [resampled_map(e, truth, p, weights) for e, p in zip(evaluations, (a, b), strict=True)]
    differences = means[1] - means[0]
    differences = differences[~np.isnan(differences)]  # a resample may hold no ground truth
    sides = [
        Side(e.mean_ap, within(interval(mean, e.mean_ap)), len(p))
        for e, mean, p in zip(evaluations, means, (a, b), strict=True)
    ]
    difference = sides[1].mean_ap - sides[0].mean_ap
    return Comparison(
        protocol=protocol,
        title=title(evaluations[0]),
        iou=iou,
        pictures=len(truth.names),
        objects=int(evaluations[0].matches.positives.sum()),
        a=sides[0],
        b=sides[1],
        difference=difference,
        interval=_percentiles(differences),
        better=float(np.mean(differences > 0)) if len(differences) else float("nan"),
        equal=float(np.mean(differences == 0)) if len(differences) else float("nan"),
        resamples=resamples,
        seed=seed,
        classes=_classes(truth, evaluations, (a, b)),
    )


def _percentiles(differences: Doubles) -> tuple[float, float]:
    """Return the central 95 % of the resampled differences, which agree with the share of those above 0.

    They are not moved as those of one mAP are: what the copies of a resample lift, they lift on both sides.
    """
    if not len(differences):
        return float("nan"), float("nan")
    low, high = np.quantile(differences, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _classes(
    truth: GroundTruth, evaluations: tuple[Evaluation, Evaluation], predictions: tuple[Predictions, Predictions]
) -> tuple[ClassRow, ...]:
    """Return the classes that have ground truth, B's largest gain first; equal ones in the order of the labels."""
    counts = [np.bincount(p.labels, minlength=len(truth.class_names) + 1).tolist() for p in predictions]
    first, second = (e.ap.tolist() for e in evaluations)
    positives = evaluations[0].matches.positives.tolist()
    rows = [
        ClassRow(
            name=truth.class_names[label - 1],
            a=first[label - 1],
            b=second[label - 1],
            difference=second[label - 1] - first[label - 1],
            objects=positives[label - 1],
            predictions_a=counts[0][label],
            predictions_b=counts[1][label],
        )
        for label in evaluations[0].present.tolist()
    ]
    return tuple(sorted(rows, key=lambda row: -row.difference))
