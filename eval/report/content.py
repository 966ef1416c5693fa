"""What an HTML report is made from."""

from __future__ import annotations

from dataclasses import dataclass

from detector.datasets.ground_truth import Doubles, GroundTruth
from eval.bootstrap import Intervals
from eval.errors.analysis import Analysis
from eval.predictions.table import Predictions
from eval.protocols.evaluation import Evaluation


@dataclass(frozen=True, eq=False)
class RecallCurves:
    """Coverage of the ground truth by proposals: thresholds [T], rising IoU; (name, recall [T], average recall) each.

    Raises ValueError without thresholds, or where a curve has another length.
    """

    thresholds: Doubles
    curves: tuple[tuple[str, Doubles, float], ...]

    def __post_init__(self) -> None:
        if len(self.thresholds) < 2 or not (self.thresholds[1:] > self.thresholds[:-1]).all():
            raise ValueError("recall curves need at least two rising IoU thresholds")
        for name, recall, _ in self.curves:
            if len(recall) != len(self.thresholds):
                raise ValueError(f"recall of {name}: {len(recall)} values for {len(self.thresholds)} thresholds")


@dataclass(frozen=True, eq=False)
class ReportContent:
    """Everything that a report shows.

    title and data (one sentence on the data set and the detector) stand at the head; notes are lines that change how
    the numbers are to be read; the pictures are read from `truth.paths`, up to `examples` of them for each of three
    rows (0: none); when: a date to print, or None, so that the same input gives the same bytes; provenance: what made
    the report, (name, value) each, such as the detector, the file of the predictions, the version.
    """

    title: str
    data: str
    truth: GroundTruth
    predictions: Predictions
    evaluation: Evaluation
    intervals: Intervals | None = None
    analysis: Analysis | None = None
    recall: RecallCurves | None = None
    notes: tuple[str, ...] = ()
    examples: int = 6
    when: str | None = None
    provenance: tuple[tuple[str, str], ...] = ()
