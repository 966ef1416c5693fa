"""Why a detector is as good as it is: the kind of each false positive and of each missed object, and what it costs.

The kinds of false positives are those of Hoiem et al., "Diagnosing error in object detectors" (ECCV 2012), with
duplicates apart from bad localisation, and the fixes of TIDE (Bolya et al., ECCV 2020).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detector.datasets.ground_truth import Doubles, GroundTruth, Longs
from eval.errors.confusion import best_score, confusion_matrix
from eval.errors.false_positives import FALSE_POSITIVE_KINDS, false_positives, touching
from eval.errors.fixes import false_positive_gains, miss_gains
from eval.errors.hierarchy import similar_classes
from eval.errors.misses import misses
from eval.errors.overlaps import overlapping
from eval.predictions.table import Predictions
from eval.protocols.coco import UNDER_ONE
from eval.protocols.evaluation import Evaluation
from eval.protocols.ilsvrc import IOU, box_thresholds
from proposals.boxes import Boxes
from proposals.types import Proposals


@dataclass(frozen=True, eq=False)
class Analysis:
    """The errors of one evaluation, at its loosest IoU threshold.

    false_positive_kinds: [K], names; false_positives: int64 [C, K], how many of each class of the prediction;
    false_positive_gains: float64 [C, K], the AP that each class would gain were all errors of the kind fixed, nan for
    classes without ground truth; false_positive_kind: int8 [M], by row of the predictions, -1 for what is none.
    miss_kinds: [L], names; misses, miss_gains: as above [C, L]; miss_kind: int8 [N], by row of the ground truth.
    AP is the all-point one here, for every protocol.
    confusion: int64 [C + 1, C + 1], row: true class, 0 background; column: predicted class, 0 missed; of the
    predictions with a score of at least `confusion_score`.
    """

    protocol: str
    class_names: tuple[str, ...]
    false_positive_kinds: tuple[str, ...]
    false_positives: Longs
    false_positive_gains: Doubles
    false_positive_kind: npt.NDArray[np.int8]
    miss_kinds: tuple[str, ...]
    misses: Longs
    miss_gains: Doubles
    miss_kind: npt.NDArray[np.int8]
    confusion: Longs
    confusion_score: float

    @property
    def false_positive_map_gains(self) -> Doubles:
        """The mAP that fixing each kind would gain, [K]: the mean over the classes that have ground truth."""
        return _class_mean(self.false_positive_gains)

    @property
    def miss_map_gains(self) -> Doubles:
        """The mAP that finding the missed objects of each kind would gain, [L]."""
        return _class_mean(self.miss_gains)


def analyse(
    truth: GroundTruth,
    predictions: Predictions,
    evaluation: Evaluation,
    *,
    iou: float | None = None,
    proposals: Mapping[int, Proposals | Boxes] | None = None,
    raw: Predictions | None = None,
    score: float | None = None,
) -> Analysis:
    """Return the errors of `evaluation`, which must be of these `predictions` on this ground truth.

    iou: as the evaluation was given it; proposals, raw: as of `eval.errors.misses`, without them the kinds of misses
    are fewer; score: of the confusion matrix, by default the one of best F1 over all classes.
    """
    matches = evaluation.matches
    thresholds = iou_thresholds(truth, evaluation.protocol, iou)
    pairs = overlapping(predictions.pictures, predictions.boxes, truth.pictures, truth.boxes, touching(thresholds))
    similar = similar_classes(truth.class_names, truth.class_keys)
    wrong = false_positives(truth, predictions, matches, pairs, thresholds, similar)
    reaching = np.zeros(len(predictions), np.bool_)
    about = (wrong.object[pairs.rows] == pairs.objects) & (pairs.ious >= thresholds[pairs.objects])
    reaching[pairs.rows[about]] = True
    missed = misses(truth, predictions, matches, pairs, thresholds, wrong, proposals, raw)
    shown = best_score(predictions.scores, matches) if score is None else score
    classes = len(truth.class_names)
    return Analysis(
        evaluation.protocol,
        truth.class_names,
        FALSE_POSITIVE_KINDS,
        _counts(predictions.labels, wrong.kind, classes, len(FALSE_POSITIVE_KINDS)),
        false_positive_gains(truth, predictions, matches, wrong, reaching),
        wrong.kind,
        missed.kinds,
        _counts(truth.labels, missed.kind, classes, len(missed.kinds)),
        miss_gains(truth, matches, missed),
        missed.kind,
        confusion_matrix(truth, predictions, matches, pairs, thresholds, shown),
        shown,
    )


def iou_thresholds(truth: GroundTruth, protocol: str, iou: float | None = None) -> Doubles:
    """Return the IoU threshold of each ground-truth box, at the loosest one of a protocol, [N]."""
    loosest = IOU if iou is None else iou  # 0.5 in all of them
    if protocol == "ilsvrc":
        return box_thresholds(truth, loosest)
    return np.full(len(truth), min(loosest, UNDER_ONE) if protocol == "coco" else loosest)


def _counts(labels: npt.NDArray[np.integer], kind: npt.NDArray[np.int8], classes: int, kinds: int) -> Longs:
    """Return how many of each class are of each kind, [C, K]."""
    counts = np.zeros((classes, kinds), np.int64)
    chosen = kind >= 0
    np.add.at(counts, (labels[chosen] - 1, kind[chosen]), 1)
    return counts


def _class_mean(gains: Doubles) -> Doubles:
    """Return the mean over the rows [C, K] that are not nan, [K]; nan where all are."""
    present = gains[~np.isnan(gains).any(axis=1)]
    return present.mean(axis=0) if len(present) else np.full(gains.shape[1], np.nan)
