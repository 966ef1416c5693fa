"""What the page says: the numbers of each section, as the template takes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from detector.datasets.ground_truth import Doubles, GroundTruth
from eval.errors.analysis import Analysis
from eval.errors.confusion import best_score
from eval.errors.false_positives import TOUCHING
from eval.errors.misses import BADLY_LOCALISED, BELOW_THRESHOLD, MISCLASSIFIED, NO_PROPOSAL, NOT_FOUND, SUPPRESSED
from eval.protocols import title as protocol_title
from eval.protocols.ilsvrc import IOU, TOLERANCE
from eval.report.charts import SLOTS, TABLE_RECALLS, precision_recall, recall_chart
from eval.report.examples import STYLES, examples, score_pictures
from eval.summary import Scored, class_rows
from proposals.boxes import Boxes
from proposals.recall import average_recall, best_overlaps, recall

MOST_PAIRS = 20
TALLEST = 40  # rows of a table that are shown without an inner scroll bar
LEAST_GAIN = 0.0005  # of a kind of error that is worth naming, in AP
TINY = 0.00005  # scores below are 0 to the four places that are printed
RECALL_IOUS = np.linspace(0.5, 1.0, 51)
MEANINGS = {
    "duplicate": "reaches an object of its class that another prediction had found",
    "localisation": "touches an object of its class, but does not reach it",
    "similar class": "touches an object of a class with the same parent in the hierarchy",
    "other class": "touches an object of another class",
    "background": "touches no object",
    NO_PROPOSAL: "no proposal of the picture reaches it",
    SUPPRESSED: "a box of its class reaches it, but was lost among its neighbours",
    MISCLASSIFIED: "a wrong prediction of another class reaches it",
    BADLY_LOCALISED: "a wrong prediction of its class touches it, but does not reach it",
    BELOW_THRESHOLD: "a proposal reaches it, but no prediction came of it",
    NOT_FOUND: "no prediction explains why",
}


@dataclass(frozen=True)
class Kind:
    """A row of a table of errors; gain: the mAP that fixing the kind would gain; width: of its bar, 0..1."""

    name: str
    meaning: str
    count: int
    share: float
    gain: float
    width: float


@dataclass(frozen=True)
class Confusion:
    """A pair of classes: `times` objects of `true` are taken for `predicted`, a `share` of its objects."""

    true: str
    predicted: str
    times: int
    share: float


def page_context(
    scored: Scored,
    proposals: Mapping[int, Boxes] | None = None,
    pictures: int = 6,
    provenance: tuple[tuple[str, str], ...] = (),
) -> dict[str, Any]:
    """Return the variables of report.html.j2.

    proposals: by picture 0..P-1, for the curve of their recall; pictures: shown at most in each row of examples, 0 for
    none; provenance: what made the report, (name, value) each.
    """
    evaluation, truth, predictions = scored.evaluation, scored.truth, scored.predictions
    rows = class_rows(evaluation, scored.intervals)
    counts = np.diff(evaluation.matches.starts)
    absent = (np.flatnonzero(evaluation.matches.positives == 0) + 1).tolist()
    f1_score = best_score(predictions.scores, evaluation.matches)
    scores = score_pictures(truth, predictions, evaluation)
    files = any(path is not None for path in truth.paths)
    return {
        "scored": scored,
        "evaluation": evaluation,
        "intervals": scored.intervals,
        "analysis": scored.analysis,
        "protocol": protocol_title(evaluation),
        "provenance": provenance,
        "objects": int(evaluation.matches.positives.sum()),
        "pictures_with_objects": len(np.unique(truth.pictures[evaluation.matches.counted])),
        "rows": rows,
        "absent": [(evaluation.class_names[label - 1], int(counts[label - 1])) for label in absent],
        "curves": precision_recall(evaluation, [row["label"] for row in rows]) if rows else None,
        **({} if scored.analysis is None else _errors(scored.analysis, rows, predictions.scores)),
        "recall": None if proposals is None else _recall(truth, proposals),
        "files": files,
        "pictures": pictures,
        "examples": examples(scored, scores, pictures) if files and pictures else None,
        "styles": STYLES,
        "iou": IOU if evaluation.iou is None else evaluation.iou,
        "touching": min(TOUCHING, IOU if evaluation.iou is None else evaluation.iou),
        "several_ious": len(evaluation.all_matches) > 1,
        "other_points": {"voc07": "11 points", "coco": "101 points"}.get(evaluation.protocol),
        "tolerance": TOLERANCE,
        "f1_score": None if np.isinf(f1_score) else f1_score,
        "f1_shown": at_least(f1_score, predictions.scores),
        "slots": SLOTS,
        "table_recalls": TABLE_RECALLS,
        "tallest": TALLEST,
        "most_pairs": MOST_PAIRS,
    }


def _errors(analysis: Analysis, rows: list[dict[str, Any]], scores: Doubles) -> dict[str, Any]:
    """Return what the sections of errors and of confusions need."""
    wrong = analysis.confusion[1:, 1:]
    return {
        "costs": {row["label"]: costs_most(analysis, row["label"]) for row in rows},
        "error_tables": error_tables(analysis),
        "confusions": confused_pairs(analysis),
        "confusion_total": int(wrong.sum() - np.trace(wrong)),
        "confusion_score": None if np.isinf(analysis.confusion_score) else analysis.confusion_score,
        "confusion_shown": at_least(analysis.confusion_score, scores),
    }


def costs_most(analysis: Analysis, label: int) -> tuple[str, float] | None:
    """Return the kind of error whose fix would gain a class the most AP, and how much; None where none gains."""
    gains = np.concatenate([analysis.false_positive_gains[label - 1], analysis.miss_gains[label - 1]])
    kinds = (*analysis.false_positive_kinds, *(f"missed: {kind}" for kind in analysis.miss_kinds))
    if np.isnan(gains).all() or np.nanmax(gains) < LEAST_GAIN:
        return None
    worst = int(np.nanargmax(gains))
    return kinds[worst], float(gains[worst])


def error_tables(analysis: Analysis) -> list[tuple[str, str, list[Kind]]]:
    """Return (id, caption, rows) of the false positives and of the missed objects; their bars have one scale."""
    tables = (
        ("false-positives", "False positives by kind", analysis.false_positive_kinds, analysis.false_positives),
        ("misses", "Missed objects by kind", analysis.miss_kinds, analysis.misses),
    )
    gains = (analysis.false_positive_map_gains, analysis.miss_map_gains)
    highest = max(float(np.nanmax(np.concatenate(gains), initial=0.0)), 1e-9)
    found = []
    for (identifier, caption, kinds, counts), own in zip(tables, gains, strict=True):
        totals = counts.sum(axis=0)
        total = max(int(totals.sum()), 1)
        rows = [
            Kind(kind, MEANINGS[kind], count, count / total, gain, max(gain, 0.0) / highest)
            for kind, count, gain in zip(kinds, totals.tolist(), own.tolist(), strict=True)
        ]
        found.append((identifier, f"{caption}: {int(totals.sum()):,}", rows))
    return found


def confused_pairs(analysis: Analysis) -> list[Confusion]:
    """Return the pairs of classes that are taken for one another most often, the most frequent first."""
    wrong = analysis.confusion[1:, 1:].copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_PAIRS]
    totals = analysis.confusion[1:].sum(axis=1)
    found = []
    for true, predicted in zip(*(side.tolist() for side in np.unravel_index(order, wrong.shape)), strict=True):
        times = int(wrong[true, predicted])
        if times:
            names = analysis.class_names[true], analysis.class_names[predicted]
            found.append(Confusion(*names, times, times / int(totals[true])))
    return found


def _recall(truth: GroundTruth, proposals: Mapping[int, Boxes]) -> dict[str, Any]:
    """Return how much of the ground truth the proposals cover: chart, average recall, and (IoU, recall) of a table."""
    overlaps = np.zeros((1, len(truth)), np.float32)
    for index, boxes in proposals.items():
        rows = truth.of_picture(index)
        overlaps[:, rows] = best_overlaps(truth.boxes[rows].astype(np.float32), boxes, [len(boxes)])
    overlaps = overlaps[:, ~truth.crowd]
    curve, average = recall(overlaps, RECALL_IOUS)[0], float(average_recall(overlaps)[0])
    places = np.linspace(0, len(RECALL_IOUS) - 1, 11).round().astype(int).tolist()
    table = [(float(RECALL_IOUS[i]), float(curve[i])) for i in places]
    return {"chart": recall_chart(RECALL_IOUS, curve, average), "average": average, "table": table}


def at_least(score: float, scores: Doubles) -> str:
    """Return in words which of the `scores` [M] are at least `score`, as "with a score of at least 0.7"."""
    if not len(scores) or score <= scores.min():
        return "of any score"
    if 0 < score < TINY:
        return "of almost any score"
    return f"with a score of at least {readable(score)}"


def readable(score: float) -> str:
    """Return a score to three digits, small ones to four places, never with an exponent."""
    if abs(score) < 0.001:
        return f"{round(score, 4) + 0.0:g}"
    return np.format_float_positional(score, precision=3, fractional=False, trim="-")
