"""How sure a figure is: the bootstrap over pictures, for one set of predictions or two on the same pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detector.datasets.ground_truth import Doubles, GroundTruth, Longs
from eval.predictions.table import Predictions
from eval.protocols.average_precision import COCO_RECALLS, VOC07_STEPS
from eval.protocols.evaluation import NOT_COUNTED, TRUE_POSITIVE, Evaluation, Matches
from proposals.compiled import compiled_exactly

LEVEL = 0.95
ALL_POINTS, ELEVEN, HUNDRED_AND_ONE = 0, 1, 2
POINTS = {"ilsvrc": ALL_POINTS, "voc10": ALL_POINTS, "voc07": ELEVEN, "coco": HUNDRED_AND_ONE}

Weights = npt.NDArray[np.int32]  # [R, P]: how often each picture was drawn


@dataclass(frozen=True, eq=False)
class Intervals:
    """95 % intervals: of mAP, and of the AP of each class, float64 [C, 2].

    nan where the ground truth is in fewer than two pictures, so that nothing is known of the spread.
    """

    mean: tuple[float, float]
    per_class: Doubles
    resamples: int
    seed: int


def picture_weights(pictures: int, resamples: int, seed: int) -> Weights:
    """Return how often each of `pictures` is drawn in each resample of as many pictures with replacement: [R, P]."""
    if not pictures:
        return np.zeros((resamples, 0), np.int32)
    shares = np.full(pictures, 1 / pictures)
    return np.random.default_rng(seed).multinomial(pictures, shares, size=resamples).astype(np.int32)


def resampled_ap(evaluation: Evaluation, truth: GroundTruth, predictions: Predictions, weights: Weights) -> Doubles:
    """Return the AP of every class in every resample, [R, C]; nan where no ground truth of the class was drawn."""
    parts = [_ap(matches, evaluation.protocol, truth, predictions, weights) for matches in evaluation.all_matches]
    ap: Doubles = np.mean(parts, axis=0)
    return ap


def resampled_map(evaluation: Evaluation, truth: GroundTruth, predictions: Predictions, weights: Weights) -> Doubles:
    """Return mAP in every resample, [R]: the mean over the classes that were drawn, nan without any."""
    return _mean(resampled_ap(evaluation, truth, predictions, weights))


def bootstrap_intervals(
    evaluation: Evaluation, truth: GroundTruth, predictions: Predictions, resamples: int, seed: int = 0
) -> Intervals:
    """Return 95 % intervals of mAP and of each AP, over resamples of the pictures."""
    ap = resampled_ap(evaluation, truth, predictions, picture_weights(len(truth.names), resamples, seed))
    counted = evaluation.matches.counted
    owners = np.unique(np.stack([truth.labels, truth.pictures], axis=1)[counted], axis=0)[:, 0]
    several = np.bincount(owners, minlength=ap.shape[1] + 1)[1:] > 1
    per_class = [
        interval(column, own) for column, own in zip(ap.T, np.where(several, evaluation.ap, np.nan), strict=True)
    ]
    mean = evaluation.mean_ap if len(np.unique(truth.pictures[counted])) > 1 else float("nan")
    return Intervals(
        within(interval(_mean(ap), mean)),
        np.array([within(pair) for pair in per_class]).reshape(-1, 2),
        resamples,
        seed,
    )


def interval(values: Doubles, estimate: float) -> tuple[float, float]:
    """Return the central 95 % of `values`, nan left out, moved so that their median is the `estimate`.

    A resample holds copies of pictures, and the hits of copies have one rank. That lifts AP a little above the estimate
    in most resamples, so plain percentiles could leave the estimate out. (nan, nan) without values.
    """
    values = values[~np.isnan(values)]
    if not len(values) or np.isnan(estimate):
        return float("nan"), float("nan")
    low, middle, high = np.quantile(values, [(1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2])
    return float(low - middle + estimate), float(high - middle + estimate)


def within(pair: tuple[float, float]) -> tuple[float, float]:
    """Return an interval cut to 0..1, where AP lies."""
    low, high = np.clip(pair, 0, 1)
    return float(low), float(high)


def _mean(ap: Doubles) -> Doubles:
    drawn = ~np.isnan(ap)
    count = drawn.sum(axis=1)
    total = np.where(drawn, ap, 0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _ap(matches: Matches, protocol: str, truth: GroundTruth, predictions: Predictions, weights: Weights) -> Doubles:
    """Return AP [R, C] at one IoU threshold."""
    classes = len(matches.positives)
    outcome = matches.outcome[matches.order]
    counted = outcome != NOT_COUNTED
    columns = np.repeat(np.arange(classes), np.diff(matches.starts))[counted]
    rows = np.flatnonzero(matches.counted)
    rows = rows[np.argsort(truth.labels[rows], kind="stable")]
    ap = np.full((len(weights), classes), np.nan)
    _resample(
        weights,
        predictions.pictures[matches.order[counted]],
        outcome[counted] == TRUE_POSITIVE,
        np.searchsorted(columns, np.arange(classes + 1)),
        truth.pictures[rows],
        np.searchsorted(truth.labels[rows], np.arange(1, classes + 2)),
        POINTS[protocol],
        COCO_RECALLS,
        ap,
    )
    return ap


@compiled_exactly
def _resample(
    weights: Weights,
    pictures: npt.NDArray[np.int32],  # of the counted predictions, by class and falling score
    hits: npt.NDArray[np.bool_],
    starts: Longs,  # [C + 1] into the two above
    truth_pictures: Longs,  # of the counted ground truth, by class
    truth_starts: Longs,  # [C + 1]
    points: int,
    recalls: Doubles,
    ap: Doubles,
) -> None:
    """Fill `ap` [R, C]: a prediction or box of a picture that was drawn n times is there n times."""
    longest = np.max(np.diff(starts)) if len(starts) > 1 else 0
    found = np.zeros(longest + 1)  # hits up to and with the n-th drawn true positive
    best = np.zeros(longest + 1)  # precision there, then its envelope
    for sample in range(len(weights)):
        drawn = weights[sample]
        for column in range(len(starts) - 1):
            positives = 0
            for i in range(truth_starts[column], truth_starts[column + 1]):
                positives += drawn[truth_pictures[i]]
            if positives == 0:
                continue
            true, every, count = 0, 0, 0
            for i in range(starts[column], starts[column + 1]):
                times = drawn[pictures[i]]
                every += times
                if hits[i] and times > 0:
                    true += times
                    found[count] = true
                    best[count] = true / every
                    count += 1
            for i in range(count - 2, -1, -1):
                best[i] = max(best[i], best[i + 1])
            if points == ALL_POINTS:
                ap[sample, column] = _area(found[:count], best[:count], positives)
            elif points == ELEVEN:
                ap[sample, column] = _mean_at_tenths(found[:count], best[:count], positives)
            else:
                ap[sample, column] = _mean_at(recalls, found[:count], best[:count], positives)


@compiled_exactly
def _area(found: Doubles, best: Doubles, positives: int) -> float:
    """Return the area under an envelope: `best` [K] precision from `found` [K] hits on."""
    total, before = 0.0, 0.0
    for i in range(len(best)):
        total += best[i] * (found[i] - before)
        before = found[i]
    return total / positives


@compiled_exactly
def _mean_at_tenths(found: Doubles, best: Doubles, positives: int) -> float:
    """Return the mean of an envelope at recall 0, 0.1, ..., 1, compared in whole numbers."""
    total, place = 0.0, 0
    for step in range(VOC07_STEPS + 1):
        while place < len(best) and found[place] * VOC07_STEPS < step * positives:
            place += 1
        if place < len(best):
            total += best[place]
    return total / (VOC07_STEPS + 1)


@compiled_exactly
def _mean_at(recalls: Doubles, found: Doubles, best: Doubles, positives: int) -> float:
    """Return the mean of an envelope at these recalls."""
    total, place = 0.0, 0
    for recall in recalls:
        while place < len(best) and found[place] / positives < recall:
            place += 1
        if place < len(best):
            total += best[place]
    return total / len(recalls)
