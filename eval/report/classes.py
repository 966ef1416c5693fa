"""The classes one by one: bars of AP, and precision-recall curves."""

from __future__ import annotations

import numpy as np

from detector.datasets.ground_truth import Doubles, Longs
from eval.protocols.evaluation import Evaluation
from eval.report.charts import (
    PERCENT_TICKS,
    SLOTS,
    Axis,
    bar,
    chart,
    envelope,
    legend,
    line,
    line_path,
    precision_at,
    spoken,
    step_path,
)
from eval.report.content import ReportContent
from eval.report.markup import Html, element, joined, name_of, percent
from eval.report.tables import Column, cell, table

RECALL_AXIS = Axis("Recall, %", 0.0, 1.0, PERCENT_TICKS)
PRECISION_AXIS = Axis("Precision, %", 0.0, 1.0, PERCENT_TICKS)
TABLE_RECALLS = (0.1, 0.25, 0.5, 0.75, 0.9)

Curve = tuple[Doubles, Doubles]


def by_ap(evaluation: Evaluation) -> Longs:
    """Return the labels that have ground truth, the highest AP first, equal ones by their number."""
    present = evaluation.present
    return present[np.argsort(-evaluation.ap[present - 1], kind="stable")]


def classes_section(content: ReportContent) -> Html:
    """Return the table of the classes with a bar of AP each, and the names of those without ground truth."""
    evaluation, intervals, analysis = content.evaluation, content.intervals, content.analysis
    labels = by_ap(evaluation)
    if not len(labels):
        return element("p", "No class has ground truth.")
    counts = np.diff(evaluation.matches.starts)
    columns = [
        Column("Class", "", "text"),
        Column("AP, %", "bars", "number"),
        Column("Objects", "figure", "number"),
        Column("Predictions", "figure wide", "number"),
        Column("Recall, %", "figure wide", "number"),
    ]
    if analysis is not None:
        columns.append(Column("Costs most, points", "wide"))
    rows = []
    for label in labels.tolist():
        ap, interval, sure = float(evaluation.ap[label - 1]), None, Html("")
        if intervals is not None:
            low, high = intervals.per_class[label - 1].tolist()
            interval = (low, high)
            known = low == low and high == high
            sure = element("span", f"{percent(low, 0)} to {percent(high, 0)}" if known else "–", class_="more")
        recall = evaluation.curve(label)[0]
        reached = float(recall[-1]) if len(recall) else 0.0
        name = evaluation.class_names[label - 1]
        row = [
            cell(name_of(name), name.casefold(), head=True),
            cell(element("div", element("span", percent(ap), class_="amount"), bar(ap, interval), sure), ap, "bars"),
            cell(
                f"{evaluation.matches.positives[label - 1]:,}", int(evaluation.matches.positives[label - 1]), "figure"
            ),
            cell(f"{counts[label - 1]:,}", int(counts[label - 1]), "figure wide"),
            cell(percent(reached), reached, "figure wide"),
        ]
        if analysis is not None:
            row.append(cell(_costs_most(content, label), style="wide"))
        rows.append(row)
    caption = "Average precision by class" + (", with 95 % intervals" if intervals is not None else "")
    search = element(
        "p",
        element("label", "Filter by name ", for_="filter"),
        element("input", type="search", id="filter", autocomplete="off"),
        element("span", id="filter-count", role="status"),
        class_="controls needs-script",
        hidden=True,
    )
    parts = [search, table(caption, columns, rows, "class-table", tall=True)]
    absent = np.flatnonzero(evaluation.matches.positives == 0) + 1
    if len(absent):
        names = [
            element("li", name_of(evaluation.class_names[i - 1]), f" ({counts[i - 1]:,})" if counts[i - 1] else "")
            for i in absent.tolist()
        ]
        head = f"{len(absent):,} of {len(evaluation.class_names):,} classes have no ground truth here"
        text = element("p", "In brackets the predictions of a class; they do not count in mAP.")
        parts.append(element("details", element("summary", head), text, element("ul", *names, class_="names")))
    return joined(parts)


def _costs_most(content: ReportContent, label: int) -> str:
    """Return the kind of error whose fix would gain this class the most AP."""
    analysis = content.analysis
    if analysis is None:
        return ""
    gains = np.concatenate([analysis.false_positive_gains[label - 1], analysis.miss_gains[label - 1]])
    kinds = (*analysis.false_positive_kinds, *(f"missed: {kind}" for kind in analysis.miss_kinds))
    if not len(gains) or np.isnan(gains).all() or np.nanmax(gains) < 0.0005:
        return "–"
    worst = int(np.nanargmax(gains))
    return f"{kinds[worst]}, {percent(float(gains[worst]))}"


def curves_section(content: ReportContent) -> Html:
    """Return the precision-recall curves of all classes in one chart, four of them shown, and as a table."""
    evaluation = content.evaluation
    labels = by_ap(evaluation)
    if not len(labels):
        return element("p", "No class has ground truth.")
    curves = {label: envelope(*evaluation.curve(label)) for label in labels.tolist()}
    grid = np.linspace(0, 1, 101)
    mean = np.mean([precision_at(curve, grid) for curve in curves.values()], axis=0)
    ranked = labels.tolist()
    chosen = dict.fromkeys((ranked[0], ranked[len(ranked) // 2], ranked[-1]))  # best, median and worst, each once
    slots = {label: slot + 1 for slot, label in enumerate(chosen)}
    lines = [
        line(
            step_path(curve),
            evaluation.class_names[label - 1],
            f"slot{slots[label]}" if label in slots else "",
            f"curve-{label}",
        )
        for label, curve in curves.items()
    ]
    lines.append(line(line_path(grid, mean, RECALL_AXIS, PRECISION_AXIS), "Mean over the classes", "mean"))
    said = spoken([(f"at recall {percent(r, 0)} %", float(mean[round(100 * r)])) for r in TABLE_RECALLS])
    picture = chart(
        "curves-chart",
        "Precision-recall curves",
        f"Mean precision over the classes: {said}. The table below has all classes.",
        RECALL_AXIS,
        PRECISION_AXIS,
        lines,
    )
    entries = [("mean", Html("Mean over the classes"))]
    entries += [(f"slot{slot}", _legend_text(evaluation, label)) for label, slot in slots.items()]
    figure = element("figure", picture, legend(entries, "curves-legend"), class_="plot")
    return joined(
        [
            element("div", figure, _picker(evaluation, ranked, slots), class_="with-picker"),
            element(
                "details",
                element("summary", "The curves as a table"),
                _curve_table(evaluation, curves, mean),
            ),
        ]
    )


def _legend_text(evaluation: Evaluation, label: int) -> Html:
    return joined([name_of(evaluation.class_names[label - 1]), f" {percent(float(evaluation.ap[label - 1]))} %"])


def _picker(evaluation: Evaluation, ranked: list[int], slots: dict[int, int]) -> Html:
    """Return the check boxes that choose the curves."""
    boxes = [
        element(
            "label",
            element(
                "input",
                type="checkbox",
                autocomplete="off",
                value=str(label),
                checked=label in slots,
                data_slot=slots.get(label),
            ),
            element("span", _legend_text(evaluation, label)),
        )
        for label in ranked
    ]
    buttons = [
        element("button", text, type="button", data_pick=what)
        for text, what in (("Best five", "best"), ("Worst five", "worst"), ("None", "none"))
    ]
    return element(
        "fieldset",
        element("legend", f"Classes to draw, {SLOTS} at most"),
        element("p", *buttons, class_="buttons"),
        element("label", "Find a class ", element("input", type="search", id="find-curve", autocomplete="off")),
        element("div", *boxes, class_="choices"),
        element("p", id="picker-status", role="status"),
        id="picker",
        class_="needs-script",
        hidden=True,
    )


def _curve_table(evaluation: Evaluation, curves: dict[int, Curve], mean: Doubles) -> Html:
    columns = [Column("Class"), *(Column(f"at recall {percent(r, 0)} %", "figure") for r in TABLE_RECALLS)]
    at = np.array(TABLE_RECALLS)
    rows = [[cell("Mean over the classes", head=True), *_figures(mean[np.rint(100 * at).astype(np.int64)])]]
    for label, curve in curves.items():
        name = name_of(evaluation.class_names[label - 1])
        rows.append([cell(name, head=True), *_figures(precision_at(curve, at))])
    return table("Precision in percent by recall", columns, rows, "curve-table", tall=True)


def _figures(values: Doubles) -> list[Html]:
    return [cell(percent(value), style="figure") for value in values.tolist()]
