"""The AP that a detector would gain were all errors of one kind fixed (TIDE: Bolya et al., ECCV 2020, section 2.3)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from detector.datasets.ground_truth import Doubles, Flags, GroundTruth, Longs
from eval.errors.false_positives import (
    FALSE_POSITIVE_KINDS,
    LOCALISATION,
    OTHER,
    SIMILAR,
    FalsePositives,
)
from eval.errors.misses import Misses
from eval.predictions.table import Predictions
from eval.protocols.average_precision import average_precision
from eval.protocols.evaluation import NOT_COUNTED, TRUE_POSITIVE, Matches


def false_positive_gains(
    truth: GroundTruth,
    predictions: Predictions,
    matches: Matches,
    wrong: FalsePositives,
    reaching: Flags,
) -> Doubles:
    """Return the all-point AP that each class gains when all false positives of a kind are fixed, [C, K] >= 0.

    Duplicates and background are taken away. A badly localised one becomes a true positive of its object if that
    counts and is free, and it is the best-ranked of them; the others are taken away. One of another class likewise,
    in the class of the object and with its own score, if its box is right (`reaching`, bool [M]: it reaches the
    threshold of its object). nan for classes without ground truth.
    """
    free = matches.counted.copy()
    free[matches.taken[matches.outcome == TRUE_POSITIVE]] = False
    place = np.empty(len(predictions), np.int64)
    place[matches.order] = np.arange(len(predictions))
    gains = np.full((len(truth.class_names), len(FALSE_POSITIVE_KINDS)), np.nan)
    for kind in range(len(FALSE_POSITIVE_KINDS)):
        rows = np.flatnonzero(wrong.kind == kind)
        fixed = np.zeros(0, np.int64)
        if kind in (LOCALISATION, SIMILAR, OTHER):
            able = rows[free[wrong.object[rows]] & (reaching[rows] | (kind == LOCALISATION))]
            fixed = _best_of_each(able, wrong.object[able], predictions.scores, place)
        moved = fixed if kind != LOCALISATION else np.zeros(0, np.int64)
        turned = fixed if kind == LOCALISATION else np.zeros(0, np.int64)
        gone = wrong.kind == kind
        gone[turned] = False
        right = matches.outcome == TRUE_POSITIVE
        right[turned] = True
        new_labels = truth.labels[wrong.object[moved]]
        for column, ranked, hits in _classes(matches):
            kept = ~gone[ranked]
            after = right[ranked][kept]
            joining = predictions.scores[moved[new_labels == column + 1]]
            if len(joining):
                before = predictions.scores[ranked[kept]]
                after = np.insert(after, np.searchsorted(-before, -joining, side="right"), True)
            gains[column, kind] = _gain(hits, after, int(matches.positives[column]))
    return gains


def miss_gains(truth: GroundTruth, matches: Matches, missed: Misses) -> Doubles:
    """Return the all-point AP that each class gains when the missed objects of a kind are found, [C, L] >= 0.

    They are found by predictions that rank before all others: the most there is to gain, defined as well for a class
    of which nothing is found (TIDE takes them out of the ground truth instead). nan for classes without ground truth.
    """
    gains = np.full((len(truth.class_names), len(missed.kinds)), np.nan)
    for column, _, hits in _classes(matches):
        own = missed.kind[truth.labels == column + 1]
        for index in range(len(missed.kinds)):
            found = np.ones(int((own == index).sum()), np.bool_)
            gains[column, index] = _gain(hits, np.concatenate([found, hits]), int(matches.positives[column]))
    return gains


def _classes(matches: Matches) -> Iterator[tuple[int, Longs, Flags]]:
    """Yield of each class with ground truth its column, its counted predictions, best first, and which are right."""
    for column in np.flatnonzero(matches.positives > 0).tolist():
        ranked = matches.of_class(column + 1)
        ranked = ranked[matches.outcome[ranked] != NOT_COUNTED]
        yield column, ranked, matches.outcome[ranked] == TRUE_POSITIVE


def _best_of_each(rows: Longs, objects: Longs, scores: Doubles, place: Longs) -> Longs:
    """Return of the `rows` about the same object the one with the highest score, of equal ones the first in place."""
    order = np.lexsort((place[rows], -scores[rows], objects))
    firsts: Longs = order[np.diff(objects[order], prepend=-1) != 0]
    return rows[firsts]


def _gain(before: Flags, after: Flags, positives: int) -> float:
    return average_precision(after, positives) - average_precision(before, positives)
