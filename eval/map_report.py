"""Why a figure is what it is: the error analysis of `eval.map`, on the terminal and in the HTML report."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from detector.datasets.ground_truth import GroundTruth
from eval.bootstrap import Intervals
from eval.detector_run import Found
from eval.errors.analysis import Analysis, analyse
from eval.predictions.table import Predictions
from eval.protocols.evaluation import Evaluation
from eval.report import RecallCurves, ReportContent, write_report
from proposals.recall import average_recall, best_overlaps, recall

THRESHOLDS = np.linspace(0.5, 1.0, 51)


def error_analysis(
    truth: GroundTruth, predictions: Predictions, evaluation: Evaluation, found: Found | None, iou: float | None
) -> Analysis:
    """Return the errors; what a run of the detector has `found` besides tells the misses apart more finely."""
    if found is None or found.proposals is None:
        return analyse(truth, predictions, evaluation, iou=iou)
    return analyse(truth, predictions, evaluation, iou=iou, proposals=found.proposals, raw=found.scored)


def errors_as_text(analysis: Analysis) -> str:
    """Return the kinds of errors, how many there are, and what mAP would gain were all of a kind mended."""
    lines = ["", f"{'errors':<28}  {'count':>9}  mAP gained if mended"]
    for title, kinds, counts, gains in (
        ("false positive", analysis.false_positive_kinds, analysis.false_positives, analysis.false_positive_map_gains),
        ("missed", analysis.miss_kinds, analysis.misses, analysis.miss_map_gains),
    ):
        for kind, count, gain in zip(kinds, counts.sum(axis=0).tolist(), gains.tolist(), strict=True):
            shown = f"{100 * gain:+.2f}" if np.isfinite(gain) else "-"
            lines.append(f"{f'{title}: {kind}':<28}  {count:9,}  {shown:>6}")
    return "\n".join(lines) + "\n"


def proposal_recall(truth: GroundTruth, found: Found) -> RecallCurves:
    """Return how much of the ground truth the proposals of a run cover, from the best one of each box."""
    overlaps = np.zeros((1, len(truth)), np.float32)
    for index, boxes in (found.proposals or {}).items():
        rows = truth.of_picture(index)
        overlaps[:, rows] = best_overlaps(truth.boxes[rows].astype(np.float32), boxes, [len(boxes)])
    overlaps = overlaps[:, ~truth.crowd]
    return RecallCurves(
        THRESHOLDS,
        (("proposals of the detector", recall(overlaps, THRESHOLDS)[0], float(average_recall(overlaps)[0])),),
    )


def write_map_report(
    path: Path,
    title: str,
    truth: GroundTruth,
    predictions: Predictions,
    evaluation: Evaluation,
    intervals: Intervals | None,
    analysis: Analysis,
    notes: list[str],
    found: Found | None,
    provenance: tuple[tuple[str, str], ...] = (),
) -> None:
    """Write the report as one HTML file. Raises: OSError."""
    content = ReportContent(
        title=f"Detection on {title}",
        data=f"{title}: {len(truth.names):,} pictures, {len(truth):,} boxes; {len(predictions):,} predictions.",
        truth=truth,
        predictions=predictions,
        evaluation=evaluation,
        intervals=intervals,
        analysis=analysis,
        recall=proposal_recall(truth, found) if found is not None and found.proposals else None,
        notes=tuple(notes),
        provenance=provenance,
    )
    write_report(path, content)
