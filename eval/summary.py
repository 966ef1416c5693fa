"""A scored data set in words: as text for a terminal, and as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from detector.datasets.ground_truth import Doubles, Flags, GroundTruth, Longs
from eval.bootstrap import Intervals
from eval.errors.analysis import Analysis
from eval.predictions.table import Predictions
from eval.protocols import title as protocol_title
from eval.protocols.evaluation import NOT_COUNTED, TRUE_POSITIVE, Evaluation
from proposals.console import printable

SHOWN = 12  # classes at either end of the table, without --per-class


@dataclass(frozen=True, eq=False)
class Scored:
    """Predictions on a data set, their evaluation, and what else was found about them.

    title: of the data set; notes: lines that change how the numbers are to be read.
    """

    title: str
    truth: GroundTruth
    predictions: Predictions
    evaluation: Evaluation
    intervals: Intervals | None = None
    analysis: Analysis | None = None
    notes: tuple[str, ...] = ()


def as_text(scored: Scored, per_class: bool = False) -> str:
    """Return the summary for a terminal: mAP, median AP, the classes by falling AP, and the errors if analysed.

    per_class: all classes, not only both ends of the table.
    """
    evaluation, intervals, truth = scored.evaluation, scored.intervals, scored.truth
    matches, present = evaluation.matches, evaluation.present
    classes, objects = len(evaluation.class_names), int(matches.positives.sum())
    counted = int((matches.outcome != NOT_COUNTED).sum())
    lines = [
        f"{protocol_title(evaluation)} on {printable(scored.title)}",
        f"{len(truth.names):,} pictures, {objects:,} ground-truth boxes of {len(present):,} classes, "
        f"{counted:,} predictions",
        "",
    ]
    errors = "" if scored.analysis is None else errors_as_text(scored.analysis)
    if not len(present):
        return "\n".join([*lines, "no ground truth of these classes here, so there is no mean"]) + "\n" + errors
    if len(present) < classes:
        lines += [
            f"{classes - len(present):,} of the {classes:,} classes have no ground truth here; the means are over the "
            f"{len(present):,} that have some",
            "",
        ]
    spread = f"   95 % interval {_spread(list(intervals.mean))}" if intervals else ""
    lines += [f"mAP                  {_percent(evaluation.mean_ap):>6} %{spread}"]
    lines += [f"median AP            {_percent(evaluation.median_ap):>6} %"]
    if len(present) < classes:
        lines += [f"mAP over all {classes:<6}  {_percent(evaluation.mean_ap_all):>6} %"]
    lines += [f"{name:<20} {_percent(v):>6}{' %' * (v == v)}" for name, v in evaluation.metrics.items() if name != "AP"]
    lines += ["", *_table(evaluation, intervals, per_class)]
    return "\n".join(lines) + "\n" + errors


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


def _table(evaluation: Evaluation, intervals: Intervals | None, per_class: bool) -> list[str]:
    rows = class_rows(evaluation, intervals)
    width = max(5, *(len(printable(row["class"])) for row in rows))
    head = f"{'class':<{width}}  {'AP':>6}  {'95 % interval' if intervals else '':13}  objects  predictions   found"
    lines = [
        f"{printable(row['class']):<{width}}  {_percent(row['ap']):>6}  {_spread(row['interval']):13}  "
        f"{row['objects']:7,}  {row['predictions']:11,}  {_percent(row['recall']):>6}"
        for row in rows
    ]
    if not per_class and len(lines) > 2 * SHOWN + 1:
        middle = f"... {len(lines) - 2 * SHOWN} classes between; --per-class prints all"
        lines = [*lines[:SHOWN], middle, *lines[-SHOWN:]]
    return [head.rstrip(), *(line.rstrip() for line in lines)]


def class_rows(evaluation: Evaluation, intervals: Intervals | None) -> list[dict[str, Any]]:
    """Return a row a class that has ground truth, by falling AP; AP and recall from 0 to 1."""
    matches = evaluation.matches
    found = _per_class(evaluation, matches.outcome == TRUE_POSITIVE)
    counted = _per_class(evaluation, matches.outcome != NOT_COUNTED)
    order = sorted(evaluation.present.tolist(), key=lambda label: -float(evaluation.ap[label - 1]))
    return [
        {
            "class": evaluation.class_names[label - 1],
            "label": label,
            "ap": float(evaluation.ap[label - 1]),
            "interval": intervals.per_class[label - 1].tolist() if intervals else None,
            "objects": int(matches.positives[label - 1]),
            "predictions": int(counted[label - 1]),
            "true_positives": int(found[label - 1]),
            "recall": float(found[label - 1] / matches.positives[label - 1]),
        }
        for label in order
    ]


def _per_class(evaluation: Evaluation, chosen: Flags) -> Longs:
    """Return how many predictions of each class are `chosen` (by row)."""
    matches = evaluation.matches
    running = np.concatenate([[0], np.cumsum(chosen[matches.order])])
    counts: Longs = running[matches.starts[1:]] - running[matches.starts[:-1]]
    return counts


def as_json(scored: Scored) -> str:
    """Return the summary as one JSON object; what is not a number becomes null."""
    evaluation, intervals, analysis = scored.evaluation, scored.intervals, scored.analysis
    matches = evaluation.matches
    document: dict[str, Any] = {
        "data": scored.title,
        "protocol": evaluation.protocol,
        "iou": evaluation.iou,
        "pictures": len(scored.truth.names),
        "objects": int(matches.positives.sum()),
        "predictions": int((matches.outcome != NOT_COUNTED).sum()),
        "classes": len(evaluation.class_names),
        "classes_present": len(evaluation.present),
        "mean_ap": evaluation.mean_ap,
        "mean_ap_interval": list(intervals.mean) if intervals else None,
        "mean_ap_all_classes": evaluation.mean_ap_all,
        "median_ap": evaluation.median_ap,
        "metrics": evaluation.metrics,
        "resamples": intervals.resamples if intervals else 0,
        "per_class": class_rows(evaluation, intervals),
        "notes": list(scored.notes),
    }
    if analysis is not None:
        document["errors"] = {
            "false_positives": _kinds(
                analysis.false_positive_kinds, analysis.false_positives, analysis.false_positive_map_gains
            ),
            "missed": _kinds(analysis.miss_kinds, analysis.misses, analysis.miss_map_gains),
        }
    return json.dumps(_without_nan(document), ensure_ascii=False, indent=1) + "\n"


def _kinds(kinds: tuple[str, ...], counts: Longs, gains: Doubles) -> dict[str, Any]:
    totals = counts.sum(axis=0).tolist()
    return {
        kind: {"count": count, "mean_ap_gain": gain}
        for kind, count, gain in zip(kinds, totals, gains.tolist(), strict=True)
    }


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _percent(value: float) -> str:
    return f"{100 * value:.2f}" if np.isfinite(value) else "-"


def _spread(pair: list[float] | None) -> str:
    """Return an interval, a dash for one that is unknown, nothing for None."""
    if pair is None:
        return ""
    return f"{_percent(pair[0])} .. {_percent(pair[1])}" if np.isfinite(pair[0]) else "-"
