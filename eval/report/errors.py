"""Where AP is lost: kinds of errors, confused classes, and what the proposals cover."""

from __future__ import annotations

import numpy as np

from detector.datasets.ground_truth import Doubles, Longs
from eval.errors.analysis import Analysis
from eval.errors.confusion import best_score
from eval.errors.misses import BADLY_LOCALISED, BELOW_THRESHOLD, MISCLASSIFIED, NO_PROPOSAL, NOT_FOUND, SUPPRESSED
from eval.report.charts import PERCENT_TICKS, SLOTS, Axis, bar_cell, chart, legend, line, line_path, spoken
from eval.report.conditions import at_least, reaching, touching_iou
from eval.report.content import RecallCurves, ReportContent
from eval.report.markup import Html, element, joined, name_of, percent
from eval.report.reading import unlike_map
from eval.report.tables import Column, cell, table

MOST_PAIRS = 20
WITHOUT_ANALYSIS = "The errors were not analysed for this report."
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


def errors_section(content: ReportContent) -> Html:
    """Return the kinds of false positives and of missed objects: how many, and the mAP that each costs."""
    analysis = content.analysis
    if analysis is None:
        return element("p", WITHOUT_ANALYSIS)
    evaluation = content.evaluation
    conditions = (
        f"Predictions of every score count here. A box touches an object from IoU {touching_iou(evaluation):g} on, and "
        f"reaches it at {reaching(evaluation)}. The confusions further below can be fewer: they ask for a box that "
        "reaches the object, and for a score."
    )
    text = (
        "The gain is what mAP would rise by were all errors of one kind fixed and nothing else. The gains do not add "
        f"up: one fix often uncovers another error. {unlike_map(evaluation)}".rstrip()
    )
    gains = np.concatenate([analysis.false_positive_map_gains, analysis.miss_map_gains])
    highest = max(float(np.nanmax(gains, initial=0.0)), 1e-9)  # one scale for both tables
    return joined(
        [
            element("p", conditions),
            element("p", text),
            _kinds(
                "False positives by kind",
                analysis.false_positive_kinds,
                analysis.false_positives.sum(axis=0),
                analysis.false_positive_map_gains,
                highest,
                "false-positives",
            ),
            _kinds(
                "Missed objects by kind",
                analysis.miss_kinds,
                analysis.misses.sum(axis=0),
                analysis.miss_map_gains,
                highest,
                "misses",
            ),
        ]
    )


def _kinds(
    caption: str, kinds: tuple[str, ...], counts: Longs, gains: Doubles, highest: float, identifier: str
) -> Html:
    """Return the table of kinds; `highest` is the gain whose bar is as wide as its cell."""
    total = max(int(counts.sum()), 1)
    rows = []
    for kind, count, gain in zip(kinds, counts.tolist(), gains.tolist(), strict=True):
        meaning = MEANINGS.get(kind)
        name = element("span", kind[:1].upper() + kind[1:])
        more = element("span", meaning, class_="more") if meaning else Html("")
        gained = f"+{percent(gain, 2)}" if gain == gain else "–"
        rows.append(
            (
                cell(joined([name, more]), head=True, style="kind"),
                cell(f"{count:,}", count, "figure"),
                bar_cell(count / total, style="wide"),
                bar_cell(max(gain, 0.0) / highest, gained, "gain"),
            )
        )
    columns = (Column("Kind"), Column("Number", "figure"), Column("Share", "wide"), Column("mAP gained, points"))
    return table(f"{caption}: {int(counts.sum()):,}", columns, rows, identifier)


def confusion_section(content: ReportContent) -> Html:
    """Return the pairs of classes that are taken for one another most often."""
    analysis = content.analysis
    if analysis is None:
        return element("p", WITHOUT_ANALYSIS)
    evaluation, pairs = content.evaluation, confused_pairs(analysis)
    if np.isinf(analysis.confusion_score):
        return element("p", "No prediction is right, so there is no score at which confusions could be counted.")
    scores = content.predictions.scores
    text = (
        "Objects that no right prediction took and that a wrong one of another class reaches "
        f"({reaching(evaluation)}), among the predictions {at_least(analysis.confusion_score, scores)}"
    )
    if analysis.confusion_score == best_score(scores, evaluation.matches):
        text += " (the F1 threshold, explained at the end)"
    text += (
        f". The errors above count every score, and a mere touch from IoU {touching_iou(evaluation):g} on, so that "
        "their numbers can be larger."
    )
    intro = element("p", text)
    if not pairs:
        return joined([intro, element("p", "Under these conditions no class is taken for another.")])
    rows = [
        (
            cell(name_of(analysis.class_names[true - 1]), head=True),
            cell(name_of(analysis.class_names[predicted - 1])),
            cell(f"{count:,}", count, "figure"),
            cell(percent(share), share, "figure wide"),
        )
        for true, predicted, count, share in pairs
    ]
    columns = (
        Column("Object"),
        Column("Taken for"),
        Column("Times", "figure"),
        Column("% of the objects", "figure wide"),
    )
    total = int(analysis.confusion[1:, 1:].sum() - np.trace(analysis.confusion[1:, 1:]))
    caption = f"Confusions: {total:,}" + (f", the {MOST_PAIRS} most frequent pairs" if len(pairs) == MOST_PAIRS else "")
    return joined([intro, table(caption, columns, rows, "confusions")])


def confused_pairs(analysis: Analysis) -> list[tuple[int, int, int, float]]:
    """Return (true label, predicted label, times, share of the true class), the most frequent first."""
    wrong = analysis.confusion[1:, 1:].copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_PAIRS]
    totals = analysis.confusion[1:].sum(axis=1)
    found = []
    for true, predicted in zip(*(side.tolist() for side in np.unravel_index(order, wrong.shape)), strict=True):
        count = int(wrong[true, predicted])
        if count:
            found.append((true + 1, predicted + 1, count, count / int(totals[true])))
    return found


def recall_section(curves: RecallCurves) -> Html:
    """Return the recall of proposals over the IoU that is asked for, as a chart and as a table."""
    low, high = float(curves.thresholds[0]), float(curves.thresholds[-1])
    ticks = tuple((value, f"{value:.2g}") for value in np.linspace(low, high, 6).tolist())
    across = Axis("IoU at least", low, high, ticks)
    up = Axis("Recall, %", 0.0, 1.0, PERCENT_TICKS)
    shown = curves.curves[:SLOTS]
    lines = [
        line(line_path(curves.thresholds, recall, across, up), name, f"slot{slot}")
        for slot, (name, recall, _) in enumerate(shown, 1)
        if not np.isnan(recall).any()
    ]
    said = spoken([(f"average recall of {name}", average) for name, _, average in shown])
    description = f"{said}. The table below has the numbers." if shown else "No curves."
    picture = chart("recall-chart", "Recall of the proposals by IoU", description, across, up, lines)
    entries = [
        (f"slot{slot}", joined([name_of(name), f", average recall {percent(average)} %"]))
        for slot, (name, _, average) in enumerate(shown, 1)
    ]
    places = np.unique(np.rint(np.linspace(0, len(curves.thresholds) - 1, 11)).astype(np.int64)).tolist()
    columns = [Column("Proposals"), Column("Average recall", "figure")]
    columns += [Column(f"IoU {curves.thresholds[i]:.3g}", "figure") for i in places]
    rows = [
        [
            cell(name_of(name), head=True),
            *(cell(percent(float(value)), style="figure") for value in (average, *(recall[i] for i in places))),
        ]
        for name, recall, average in curves.curves
    ]
    numbers = table("Recall of the proposals in percent", columns, rows, "recall-table")
    return joined(
        [
            element("p", "The share of the objects that some proposal overlaps by at least the IoU."),
            element("figure", picture, legend(entries), class_="plot"),
            element("details", element("summary", "The curves as a table"), numbers),
        ]
    )
