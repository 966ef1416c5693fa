"""The lines of the charts: precision-recall curves and recall by IoU, as paths in the units of the drawing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detector.datasets.ground_truth import Doubles
from eval.protocols.evaluation import Evaluation

LEFT, TOP, WIDTH, HEIGHT = 64, 40, 520, 340  # the plot inside the drawing, in its units
RIGHT, BOTTOM = 20, 68
SLOTS = 8  # line styles in page.css besides that of the mean
PERCENT_TICKS = tuple((step / 5, f"{20 * step}") for step in range(6))
TABLE_RECALLS = (0.1, 0.25, 0.5, 0.75, 0.9)
GRID = np.linspace(0, 1, 101)  # recalls at which the mean curve is taken


@dataclass(frozen=True)
class Axis:
    """A linear axis from `low` to `high`, with a caption and ticks (value, text)."""

    caption: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]

    def share(self, value: float | Doubles) -> float | Doubles:
        """Return where values lie on the axis, 0 at `low`, 1 at `high`."""
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Line:
    """One line of a chart; style: "mean", "slot1" .. "slot8" of page.css, or "" for a line that is not shown."""

    path: str
    name: str
    style: str
    id: str = ""


@dataclass(frozen=True)
class Chart:
    """A chart of lines; `title` and `description` are what a screen reader says of it."""

    id: str
    title: str
    description: str
    across: Axis
    up: Axis
    lines: tuple[Line, ...]


RECALL_AXIS = Axis("Recall, %", 0.0, 1.0, PERCENT_TICKS)
PRECISION_AXIS = Axis("Precision, %", 0.0, 1.0, PERCENT_TICKS)


@dataclass(frozen=True, eq=False)
class Curves:
    """Precision-recall curves: of some classes at first, the slot of each by label; and precision in a table.

    rows: (name, precision at TABLE_RECALLS), the mean over the classes first.
    """

    chart: Chart
    slots: dict[int, int]
    rows: tuple[tuple[str, list[float]], ...]


def precision_recall(evaluation: Evaluation, ranked: Sequence[int]) -> Curves:
    """Return the curves of the labels `ranked`, best AP first: the best, the middle and the worst of them shown."""
    names = evaluation.class_names
    curves = {label: envelope(*evaluation.curve(label)) for label in ranked}
    mean = np.mean([precision_at(curve, GRID) for curve in curves.values()], axis=0)
    shown = dict.fromkeys((ranked[0], ranked[len(ranked) // 2], ranked[-1]))  # each once
    slots = {label: slot for slot, label in enumerate(shown, 1)}
    lines = [
        Line(step_path(curve), names[label - 1], f"slot{slots[label]}" if label in slots else "", id=f"curve-{label}")
        for label, curve in curves.items()
    ]
    lines.append(Line(line_path(GRID, mean, RECALL_AXIS, PRECISION_AXIS), "Mean over the classes", "mean"))
    of_mean = [float(mean[round(100 * recall)]) for recall in TABLE_RECALLS]
    said = "; ".join(
        f"at recall {100 * recall:.0f} % {100 * value:.1f} %"
        for recall, value in zip(TABLE_RECALLS, of_mean, strict=True)
    )
    chart = Chart(
        "curves-chart",
        "Precision-recall curves",
        f"Mean precision over the classes: {said}. The table below has all classes.",
        RECALL_AXIS,
        PRECISION_AXIS,
        tuple(lines),
    )
    at = np.array(TABLE_RECALLS)
    rows = [(names[label - 1], precision_at(curve, at).tolist()) for label, curve in curves.items()]
    return Curves(chart, slots, (("Mean over the classes", of_mean), *rows))


def recall_chart(thresholds: Doubles, recall: Doubles, average: float) -> Chart:
    """Return the chart of the recall [T] of proposals at rising IoU `thresholds` [T]."""
    low, high = float(thresholds[0]), float(thresholds[-1])
    across = Axis("IoU at least", low, high, tuple((v, f"{v:.2g}") for v in np.linspace(low, high, 6).tolist()))
    up = Axis("Recall, %", 0.0, 1.0, PERCENT_TICKS)
    name = "proposals of the detector"
    lines = () if np.isnan(recall).any() else (Line(line_path(thresholds, recall, across, up), name, "slot1"),)
    said = f"average recall of {name} {100 * average:.1f} %. The table below has the numbers."
    return Chart("recall-chart", "Recall of the proposals by IoU", said, across, up, lines)


def envelope(recall: Doubles, precision: Doubles) -> tuple[Doubles, Doubles]:
    """Return the recalls [K] at which a precision-recall curve steps, and the best precision from there on [K].

    Shapes: recall [N] never falling, precision [N]; the interpolation under which AP of all points is the area.
    """
    rising = np.flatnonzero(np.diff(recall, prepend=0.0) > 0)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return recall[rising], best[rising]


def precision_at(curve: tuple[Doubles, Doubles], recall: Doubles) -> Doubles:
    """Return the precision [K] of an envelope at each recall [K]; 0 beyond its end."""
    steps, precision = curve
    place = np.searchsorted(steps, recall - 1e-9)
    return np.append(precision, 0.0)[place]


def step_path(curve: tuple[Doubles, Doubles]) -> str:
    """Return the path of an envelope, its steps rounded to whole units of the drawing: WIDTH of them at most."""
    recall, precision = curve
    if not len(recall):
        return ""
    across = LEFT + np.rint(WIDTH * recall).astype(np.int64)
    down = TOP + np.rint(HEIGHT * (1 - precision)).astype(np.int64)
    last = np.flatnonzero(np.diff(across, append=-1))  # of the steps that share one unit
    across, down = across[last], down[last]
    parts = [f"M{LEFT} {down[0]}"]
    for before, x, y in zip(np.append(down[0], down[:-1]).tolist(), across.tolist(), down.tolist(), strict=True):
        if y != before:
            parts.append(f"V{y}")
        if y == before and parts[-1][0] == "H":
            parts.pop()
        parts.append(f"H{x}")
    return "".join(parts)


def line_path(x: Doubles, y: Doubles, across: Axis, up: Axis) -> str:
    """Return the path through the points (x [K], y [K])."""
    left, top = LEFT + WIDTH * np.asarray(across.share(x)), TOP + HEIGHT * (1 - np.asarray(up.share(y)))
    points = [f"{number(a)} {number(b)}" for a, b in zip(left.tolist(), top.tolist(), strict=True)]
    return "M" + "L".join(points)


def number(value: float, places: int = 2) -> str:
    """Return a number as markup has it, to two `places` at most."""
    return f"{value:.{places}f}".rstrip("0").rstrip(".") if value % 1 else f"{value:.0f}"
