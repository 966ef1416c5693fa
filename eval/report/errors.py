"""Where AP is lost: kinds of errors, confused classes, and what the proposals cover."""

from __future__ import annotations

import numpy as np

from detector.datasets.ground_truth import Doubles, Longs
from eval.analysis import Analysis
from eval.misses import BADLY_LOCALISED, BELOW_THRESHOLD, MISCLASSIFIED, NO_PROPOSAL, NOT_FOUND, SUPPRESSED
from eval.report.charts import PERCENT_TICKS, SLOTS, Axis, bar_cell, chart, legend, line, line_path, spoken
from eval.report.content import RecallCurves, ReportContent
from eval.report.markup import Html, element, joined, name_of, percent
from eval.report.tables import Column, cell, table

MOST_PAIRS = 20
WITHOUT_ANALYSIS = "The errors were not analysed for this report."
MEANINGS = {
    "duplicate": "the object had been found already, by a better prediction",
    "localisation": "the right class, but the box overlaps the object too little",
    "similar class": "on an object of a class with the same parent in the hierarchy",
    "other class": "on an object of another class",
    "background": "on no object of these classes",
    NO_PROPOSAL: "no proposal of the picture overlaps it enough",
    SUPPRESSED: "a box of its class was there, and was lost among its neighbours",
    MISCLASSIFIED: "a wrong prediction of another class is there",
    BADLY_LOCALISED: "a wrong prediction of its class touches it, but overlaps too little",
    BELOW_THRESHOLD: "a proposal was there, but no prediction came of it",
    NOT_FOUND: "no prediction explains why",
}


def errors_section(content: ReportContent) -> Html:
    """Return the kinds of false positives and of missed objects: how many, and the mAP that each costs."""
    analysis = content.analysis
    if analysis is None:
        return element("p", WITHOUT_ANALYSIS)
    text = (
        "What mAP would gain were all errors of one kind fixed and nothing else. The gains do not add up: one fix "
        "often uncovers another error."
    )
    if analysis.protocol not in ("ilsvrc", "voc10"):
        text += " AP of all points at the loosest IoU is meant here, whatever the protocol."
    return joined(
        [
            element("p", text),
            _kinds(
                "False positives by kind",
                analysis.false_positive_kinds,
                analysis.false_positives.sum(axis=0),
                analysis.false_positive_map_gains,
                "false-positives",
            ),
            _kinds(
                "Missed objects by kind",
                analysis.miss_kinds,
                analysis.misses.sum(axis=0),
                analysis.miss_map_gains,
                "misses",
            ),
        ]
    )


def _kinds(caption: str, kinds: tuple[str, ...], counts: Longs, gains: Doubles, identifier: str) -> Html:
    total = max(int(counts.sum()), 1)
    highest = max(float(np.nanmax(gains, initial=0.0)), 1e-9)
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
    pairs = confused_pairs(analysis)
    if np.isinf(analysis.confusion_score):
        return element("p", "No prediction is right, so there is no score at which confusions could be counted.")
    text = (
        f"Objects that no right prediction took and a wrong one of another class did, among the predictions of at "
        f"least {analysis.confusion_score:.3g}."
    )
    intro = element("p", text)
    if not pairs:
        return joined([intro, element("p", "No class is taken for another.")])
    rows = [
        (
            cell(name_of(analysis.class_names[true - 1]), head=True),
            cell(name_of(analysis.class_names[predicted - 1])),
            cell(f"{count:,}", count, "figure"),
            cell(percent(share), share, "figure"),
        )
        for true, predicted, count, share in pairs
    ]
    columns = (
        Column("Object"),
        Column("Taken for"),
        Column("Times", "figure"),
        Column("% of the objects", "figure"),
    )
    return joined([intro, table("The most frequent confusions", columns, rows, "confusions")])


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
