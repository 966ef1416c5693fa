"""The kind of each missed object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from detector.datasets.ground_truth import Doubles, Flags, GroundTruth
from eval.errors.false_positives import DUPLICATE, FalsePositives
from eval.errors.overlaps import Pairs, overlapping
from eval.predictions.table import Predictions
from eval.protocols.evaluation import FALSE_POSITIVE, TRUE_POSITIVE, Matches
from proposals.boxes import Boxes
from proposals.types import Proposals

NO_PROPOSAL, SUPPRESSED, MISCLASSIFIED = "no proposal", "suppressed", "misclassified"
BADLY_LOCALISED, BELOW_THRESHOLD, NOT_FOUND = "badly localised", "below threshold", "not found"
KINDS_WITH_PROPOSALS = (NO_PROPOSAL, SUPPRESSED, MISCLASSIFIED, BADLY_LOCALISED, BELOW_THRESHOLD)
KINDS_WITHOUT = (SUPPRESSED, MISCLASSIFIED, BADLY_LOCALISED, NOT_FOUND)


class Misses(NamedTuple):
    """The names of the kinds, and by row of the ground truth [N] the index of its kind, -1 for what is not missed."""

    kinds: tuple[str, ...]
    kind: npt.NDArray[np.int8]


def misses(
    truth: GroundTruth,
    predictions: Predictions,
    matches: Matches,
    pairs: Pairs,
    thresholds: Doubles,
    wrong: FalsePositives,
    proposals: Mapping[int, Proposals | Boxes] | None = None,
    raw: Predictions | None = None,
) -> Misses:
    """Return the kind of each object that counts and that no prediction took, the first that fits:

    no proposal: no proposal of its picture reaches its threshold;
    suppressed: a box of its class reaches its threshold but is lost among its neighbours: it is in `raw` and was
    suppressed, or it took (or is a duplicate of) another object;
    misclassified: a false positive of another class, no duplicate there, reaches its threshold;
    badly localised: a false positive of its class, no duplicate, touches it;
    below threshold: what is left, a proposal reaches it and no prediction came of it: its score was too low.
    Without `proposals` there is no "no proposal", and what is left is "not found".
    proposals: by picture 0..P-1; a picture that it lacks has none. raw: all boxes with a score that would have been
    shown, before non-maximum suppression. The other arguments are those of `false_positives`, and its result.
    """
    missed = matches.counted.copy()
    missed[matches.taken[matches.outcome == TRUE_POSITIVE]] = False
    pairs = pairs.where(missed[pairs.objects])
    reached = pairs.ious >= thresholds[pairs.objects]
    same = predictions.labels[pairs.rows] == truth.labels[pairs.objects]
    blamed = (matches.outcome[pairs.rows] == FALSE_POSITIVE) & (wrong.kind[pairs.rows] != DUPLICATE)

    def any_of(chosen: Flags) -> Flags:
        found = np.zeros(len(truth), np.bool_)
        found[pairs.objects[chosen]] = True
        return found

    lost = any_of(same & reached)
    if raw is not None:
        lost |= _reached_by(raw, truth, np.where(missed, thresholds, np.inf))
    fits = {
        SUPPRESSED: lost,
        MISCLASSIFIED: any_of(~same & reached & blamed),
        BADLY_LOCALISED: any_of(same & blamed),
    }
    if proposals is not None:
        fits = {NO_PROPOSAL: ~_proposed(proposals, truth, missed, thresholds), **fits}
    kinds = KINDS_WITHOUT if proposals is None else KINDS_WITH_PROPOSALS
    kind = np.full(len(truth), len(kinds) - 1, np.int8)
    for index, name in reversed(list(enumerate(kinds[:-1]))):
        kind[fits[name]] = index
    kind[~missed] = -1
    return Misses(kinds, kind)


def _reached_by(raw: Predictions, truth: GroundTruth, lowest: Doubles) -> Flags:
    """Return whether a box of its own class reaches each object, [N]."""
    pairs = overlapping(raw.pictures, raw.boxes, truth.pictures, truth.boxes, lowest)
    found = np.zeros(len(truth), np.bool_)
    found[pairs.objects[raw.labels[pairs.rows] == truth.labels[pairs.objects]]] = True
    return found


def _proposed(
    proposals: Mapping[int, Proposals | Boxes], truth: GroundTruth, missed: Flags, thresholds: Doubles
) -> Flags:
    """Return whether a proposal reaches each missed object, [N]; a picture at a time, so as to hold few proposals."""
    found = np.zeros(len(truth), np.bool_)
    for picture in np.unique(truth.pictures[missed]).tolist():
        if picture not in proposals:
            continue
        given = proposals[picture]
        boxes = given.boxes if isinstance(given, Proposals) else np.asarray(given, np.float32).reshape(-1, 4)
        rows = truth.of_picture(picture)
        alone = np.zeros(len(boxes), np.int64), boxes, np.zeros(rows.stop - rows.start, np.int64), truth.boxes[rows]
        pairs = overlapping(*alone, thresholds[rows])
        found[rows.start + pairs.objects] = True
    return found
