"""Average precision from what became of the predictions of one class, best first."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from detector.datasets.ground_truth import Doubles, Flags, Longs
from eval.protocols.evaluation import NOT_COUNTED, TRUE_POSITIVE, Matches

COCO_RECALLS = np.linspace(0.0, 1.0, 101)  # as pycocotools has them
VOC07_STEPS = 10


def envelope(hits: Flags) -> Doubles:
    """Return, for each hit among the predictions `hits` [K], best first, the best precision from there on: [H].

    Only at a hit can precision be highest or recall change, so these values are the whole envelope.
    """
    places = np.flatnonzero(hits)
    precision = np.arange(1, len(places) + 1) / (places + 1)
    return np.maximum.accumulate(precision[::-1])[::-1].astype(np.float64)


def average_precision(hits: Flags, positives: int) -> float:
    """Return the area under the precision envelope over all changes of recall (ILSVRC, VOC since 2010).

    hits: bool [K], the counted predictions of a class, best first; nan without `positives`.
    """
    return float(envelope(hits).sum() / positives) if positives else float("nan")


def average_precision_11(hits: Flags, positives: int) -> float:
    """Return the mean of the envelope at recall 0, 0.1, ..., 1 (VOC 2007); nan without `positives`.

    Recall reaches k/10 when 10 hits >= k positives, in whole numbers, so rounding plays no part.
    """
    if not positives:
        return float("nan")
    needed = -(-np.arange(VOC07_STEPS + 1) * positives // VOC07_STEPS)  # hits, rounded up
    return float(_at(envelope(hits), np.maximum(needed, 1)).mean())


def average_precision_101(hits: Flags, positives: int) -> float:
    """Return the mean of the envelope at recall 0, 0.01, ..., 1 (COCO); nan without `positives`."""
    if not positives:
        return float("nan")
    best = envelope(hits)
    recalls = np.arange(1, len(best) + 1) / positives
    return float(_at(best, np.searchsorted(recalls, COCO_RECALLS) + 1).mean())


def class_average_precision(matches: Matches, measure: Callable[[Flags, int], float] = average_precision) -> Doubles:
    """Return the AP of every class, [C], nan for classes without ground truth."""
    found = np.full(len(matches.positives), np.nan)
    outcome = matches.outcome[matches.order]
    for column in np.flatnonzero(matches.positives > 0):
        own = outcome[matches.starts[column] : matches.starts[column + 1]]
        found[column] = measure(own[own != NOT_COUNTED] == TRUE_POSITIVE, int(matches.positives[column]))
    return found


def _at(best: Doubles, hit: Longs) -> Doubles:
    """Return the envelope at the n-th hit (1-based), 0 where there are fewer."""
    padded: Doubles = np.append(best, 0.0)
    return padded[np.minimum(hit - 1, len(best))]
