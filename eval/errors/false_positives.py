"""The kind of each false positive."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from detector.datasets.ground_truth import Doubles, GroundTruth, Longs
from eval.errors.overlaps import Pairs
from eval.predictions.table import Predictions
from eval.protocols.evaluation import FALSE_POSITIVE, Matches

DUPLICATE, LOCALISATION, SIMILAR, OTHER, BACKGROUND = range(5)
FALSE_POSITIVE_KINDS = ("duplicate", "localisation", "similar class", "other class", "background")
TOUCHING = 0.1  # IoU below which a box has nothing to do with an object (Hoiem et al. 2012, section 2.2)


class FalsePositives(NamedTuple):
    """By row of the predictions [M]: the kind, and the ground-truth row that it is about; -1 for what has none."""

    kind: npt.NDArray[np.int8]
    object: Longs


def false_positives(
    truth: GroundTruth,
    predictions: Predictions,
    matches: Matches,
    pairs: Pairs,
    thresholds: Doubles,
    similar: npt.NDArray[np.bool_],
) -> FalsePositives:
    """Return the kind of each false positive, the first that fits:

    duplicate: it reaches the threshold of an object of its class (that another prediction took);
    localisation: it touches an object of its class;
    similar class, other class: it touches an object of a class that is similar to its own, of any other class;
    background: it touches nothing.
    An object is touched from IoU 0.1 on, or from its threshold where that is lower (`touching`). Of several objects
    it is about the one with the largest IoU, the first of equals. All annotated objects are there to be confused with,
    those that do not count as well.
    pairs: of the predictions, at `touching`; thresholds: [N]; similar: [C + 1, C + 1] of `similar_classes`.
    """
    kind = np.full(len(predictions), -1, np.int8)
    about = np.full(len(predictions), -1, np.int64)
    wrong = matches.outcome == FALSE_POSITIVE
    kind[wrong] = BACKGROUND
    pairs = pairs.where(wrong[pairs.rows])
    if len(pairs.rows):
        label, other = predictions.labels[pairs.rows], truth.labels[pairs.objects]
        own_kind = np.where(pairs.ious >= thresholds[pairs.objects], DUPLICATE, LOCALISATION)
        pair_kind = np.where(label == other, own_kind, np.where(similar[label, other], SIMILAR, OTHER))
        firsts = np.flatnonzero(np.diff(pairs.rows, prepend=-1))  # where the pairs of the next prediction begin
        kind[pairs.rows[firsts]] = np.minimum.reduceat(pair_kind, firsts)
        ious = np.where(pair_kind == kind[pairs.rows], pairs.ious, -1.0)
        best = np.repeat(np.maximum.reduceat(ious, firsts), np.diff(firsts, append=len(ious)))
        chosen = np.flatnonzero(ious == best)[::-1]  # so that the first of equals is written last
        about[pairs.rows[chosen]] = pairs.objects[chosen]
    return FalsePositives(kind, about)


def touching(thresholds: Doubles) -> Doubles:
    """Return the IoU from which on a box has to do with each object: TOUCHING, or its threshold if that is lower."""
    return np.minimum(TOUCHING, thresholds)
