"""The head of the report: mAP, what it is a mean over, and how sure it is."""

from __future__ import annotations

from eval.report.content import ReportContent
from eval.report.markup import Html, counted, element, joined, name_of, percent
from eval.report.tables import Column, cell, table


def summary_section(content: ReportContent) -> Html:
    """Return the main figures as tiles, the notes, and the further numbers of the protocol."""
    evaluation, truth, intervals = content.evaluation, content.truth, content.intervals
    present, classes = len(evaluation.present), len(evaluation.class_names)
    tiles = [_tile("mAP", _figure(evaluation.mean_ap, 2), _interval_text(content), "main")]
    if present < classes:
        tiles.append(_tile(f"mAP over all {classes}", _figure(evaluation.mean_ap_all, 2), "0 for absent classes"))
    objects, boxes = int(evaluation.matches.positives.sum()), len(truth)
    tiles += [
        _tile("Median AP", _figure(evaluation.median_ap, 2), "over the same classes as mAP"),
        _tile("Classes", f"{present:,}", f"of {classes:,} have ground truth" if present < classes else "all of them"),
        _tile("Pictures", f"{len(truth.names):,}", f"{_with_objects(content):,} with objects"),
        _tile("Objects", f"{objects:,}", f"{boxes - objects:,} more do not count" if boxes > objects else "all count"),
        _tile("Predictions", f"{len(content.predictions):,}", _per_picture(content)),
    ]
    parts = [element("dl", *tiles, class_="tiles")]
    notes = list(content.notes)
    if 0 < present < classes:
        notes.insert(
            0,
            f"Not every class has ground truth here: mAP is the mean over the {present} that do; over all {classes} it "
            f"is {percent(evaluation.mean_ap_all, 2)} %.",
        )
    if not present:
        notes.insert(0, "No object of this data set counts, so there is no mAP.")
    if intervals is not None:
        notes.append(
            f"Intervals are 95 % bootstrap intervals: {intervals.resamples:,} resamples of the pictures, seed "
            f"{intervals.seed}."
        )
    if notes:
        parts.append(element("ul", *[element("li", note) for note in notes], class_="notes"))
    if evaluation.metrics:
        rows = [
            (cell(name_of(name), head=True), cell(f"{percent(value)} %", value, "figure"))
            for name, value in evaluation.metrics.items()
        ]
        columns = (Column("Metric"), Column("Value", "figure"))
        parts.append(table("Metrics of the protocol", columns, rows, "metrics"))
    return joined(parts)


def _tile(title: str, value: str, text: str, style: str = "") -> Html:
    return element(
        "div",
        element("dt", title),
        element("dd", element("span", value, class_="value"), element("span", text, class_="more")),
        class_=f"tile {style}".rstrip(),
    )


def _figure(share: float, places: int) -> str:
    return f"{percent(share, places)} %" if share == share else "none"


def _interval_text(content: ReportContent) -> str:
    if content.intervals is None or content.intervals.mean[0] != content.intervals.mean[0]:
        return "mean average precision"
    low, high = content.intervals.mean
    return f"95 % interval {percent(low)} to {percent(high)} %"


def _with_objects(content: ReportContent) -> int:
    return len(set(content.truth.pictures[content.evaluation.matches.counted].tolist()))


def _per_picture(content: ReportContent) -> str:
    pictures = len(content.truth.names)
    return f"{len(content.predictions) / pictures:.1f} a picture" if pictures else counted(0, "picture")
