"""What an evaluation finds: what became of each prediction, the AP of each class, and their means."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from detector.classes import label_of
from detector.datasets.ground_truth import Doubles, Flags, Longs

TRUE_POSITIVE, FALSE_POSITIVE, NOT_COUNTED = 1, 0, -1


@dataclass(frozen=True, eq=False)
class Matches:
    """What became of each prediction at one IoU threshold.

    order: int64 [M], the rows of the predictions by class, falling score within it (ties as the protocol has them);
    starts: int64 [C + 1], class label c holds order[starts[c - 1] : starts[c]];
    outcome: int8 [M], by row of the predictions: TRUE_POSITIVE, FALSE_POSITIVE or NOT_COUNTED;
    taken: int64 [M], by row of the predictions: the ground-truth row that a true positive took, else -1;
    counted: bool [N], the ground-truth boxes that count; positives: int64 [C], how many of each class.
    """

    order: Longs
    starts: Longs
    outcome: npt.NDArray[np.int8]
    taken: Longs
    counted: Flags
    positives: Longs

    def of_class(self, label: int) -> Longs:
        """Return the rows of the predictions of class `label`, best first."""
        return self.order[self.starts[label - 1] : self.starts[label]]


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """The result of one protocol.

    protocol: ilsvrc, voc07, voc10 or coco; ap: float64 [C], nan for classes without ground truth;
    all_matches: at each IoU threshold of the protocol, the loosest first (COCO has ten, the others one);
    metrics: further named numbers (COCO's twelve); iou: a threshold in place of the protocol's, None for its own.
    """

    protocol: str
    class_names: tuple[str, ...]
    ap: Doubles
    all_matches: tuple[Matches, ...]
    metrics: dict[str, float] = field(default_factory=dict)
    iou: float | None = None

    def __repr__(self) -> str:
        return f"Evaluation({self.protocol}, {len(self.present)} classes with ground truth, mAP {self.mean_ap:.4f})"

    @property
    def matches(self) -> Matches:
        """The matches at the loosest IoU threshold, 0.5 unless asked otherwise (ilsvrc: a threshold a box)."""
        return self.all_matches[0]

    @property
    def present(self) -> Longs:
        """The labels that have ground truth, rising."""
        return np.flatnonzero(self.matches.positives > 0) + 1

    @property
    def mean_ap(self) -> float:
        """mAP over the classes that have ground truth; nan where none has."""
        return float(np.mean(self.ap[self.present - 1])) if len(self.present) else float("nan")

    @property
    def mean_ap_all(self) -> float:
        """mAP over all classes, 0 for those without ground truth: the official figure when every class has some."""
        return float(np.nansum(self.ap) / len(self.ap)) if len(self.ap) else float("nan")

    @property
    def median_ap(self) -> float:
        """Median AP over the classes that have ground truth; nan where none has."""
        return float(np.median(self.ap[self.present - 1])) if len(self.present) else float("nan")

    def curve(self, label: int | str) -> tuple[Doubles, Doubles]:
        """Return recall [K] and precision [K] after each counted prediction of a class (name or label), best first.

        Recall is 0 throughout for a class without ground truth. Raises: ValueError for an unknown class.
        """
        if isinstance(label, str):
            label = label_of(label, self.class_names)
        if not 1 <= label <= len(self.class_names):
            raise ValueError(f"unknown class '{label}' (a name or a label 1..{len(self.class_names)})")
        outcome = self.matches.outcome[self.matches.of_class(label)]
        outcome = outcome[outcome != NOT_COUNTED]
        true = np.cumsum(outcome == TRUE_POSITIVE, dtype=np.float64)
        positives = max(int(self.matches.positives[label - 1]), 1)
        return true / positives, true / np.arange(1, len(true) + 1)
