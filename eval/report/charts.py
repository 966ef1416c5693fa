"""Charts as inline SVG: lines told apart by dashes as well as by colour, and bars for table cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detector.datasets.ground_truth import Doubles
from eval.report.markup import Html, element, joined, number, percent

LEFT, TOP, WIDTH, HEIGHT = 64, 40, 520, 340  # the plot inside the drawing, in its units; the text stands around it
RIGHT, BOTTOM = 20, 68
SLOTS = 8  # line styles in page.css besides that of the mean


@dataclass(frozen=True)
class Axis:
    """A linear axis from `low` to `high`, with a caption and ticks (value, text)."""

    caption: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]


PERCENT_TICKS = tuple((step / 5, f"{20 * step}") for step in range(6))


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
    left = LEFT + WIDTH * (x - across.low) / (across.high - across.low)
    top = TOP + HEIGHT * (1 - (y - up.low) / (up.high - up.low))
    points = [f"{number(a)} {number(b)}" for a, b in zip(left.tolist(), top.tolist(), strict=True)]
    return "M" + "L".join(points)


def line(path: str, name: str, style: str, identifier: str | None = None) -> Html:
    """Return one line of a chart; `style` is "mean", "slot1" .. "slot8", or "" for a line that is not shown."""
    classes = f"line shown {style}" if style else "line"
    return element("path", element("title", name), d=path, class_=classes, id=identifier)


def line_sample(style: str) -> Html:
    """Return a short piece of a line for a legend."""
    stroke = element("path", d="M1 6H43", class_=f"line shown {style}")
    return element("svg", stroke, class_="sample", viewBox="0 0 44 12", width=44, height=12, aria_hidden="true")


def chart(identifier: str, title: str, description: str, across: Axis, up: Axis, lines: Sequence[Html]) -> Html:
    """Return a chart of lines with its axes; `title` and `description` are what a screen reader says of it."""
    right, bottom = LEFT + WIDTH, TOP + HEIGHT
    grid, texts = [], []
    for value, text in up.ticks:
        y = TOP + HEIGHT * (1 - (value - up.low) / (up.high - up.low))
        grid.append(element("path", d=f"M{LEFT} {number(y)}H{right}"))
        texts.append(element("text", text, x=LEFT - 10, y=y, class_="tick end"))
    for value, text in across.ticks:
        x = LEFT + WIDTH * (value - across.low) / (across.high - across.low)
        grid.append(element("path", d=f"M{number(x)} {TOP}V{bottom}"))
        texts.append(element("text", text, x=x, y=bottom + 24, class_="tick middle"))
    texts += [
        element("text", across.caption, x=LEFT + WIDTH / 2, y=bottom + 56, class_="axis middle"),
        element("text", up.caption, x=LEFT, y=TOP - 16, class_="axis"),
    ]
    return element(
        "svg",
        element("title", title, id=f"{identifier}-title"),
        element("desc", description, id=f"{identifier}-text"),
        element("g", *grid, class_="grid"),
        *lines,
        element("g", *texts, class_="texts"),
        id=identifier,
        class_="chart",
        viewBox=f"0 0 {right + RIGHT} {bottom + BOTTOM}",
        role="img",
        aria_labelledby=f"{identifier}-title {identifier}-text",
    )


def legend(entries: Sequence[tuple[str, Html]], identifier: str | None = None) -> Html:
    """Return the legend of lines: (style, text) each."""
    items = [element("li", line_sample(style), element("span", text)) for style, text in entries]
    return element("ul", *items, class_="legend", id=identifier)


def bar(share: float, interval: tuple[float, float] | None = None) -> Html:
    """Return a bar of `share` 0..1 of its cell's width, with a whisker over an `interval`; nothing where nan."""
    if not 0 <= share <= 1:
        return Html("")
    parts = [element("rect", class_="fill", width=100 * share, height=10)]
    if interval is not None and interval[0] == interval[0] and interval[1] == interval[1]:
        low, high = (100 * min(max(end, 0.0), 1.0) for end in interval)
        parts.append(element("path", class_="whisker", d=f"M{number(low)} 5H{number(high)}"))
    return element(
        "svg",
        *parts,
        class_="bar",
        viewBox="0 0 100 10",
        preserveAspectRatio="none",
        aria_hidden="true",
    )


def bar_cell(share: float, text: str | None = None, style: str = "") -> Html:
    """Return a table cell with a bar and its share in percent, or another text."""
    amount = element("span", text or f"{percent(share)} %", class_="amount")
    return element("td", amount, bar(share), class_=f"bar-cell {style}".rstrip())


def spoken(values: Sequence[tuple[str, float]]) -> str:
    """Return named shares as one sentence for a chart's description."""
    return "; ".join(joined([name, f" {percent(value)} %"]) for name, value in values)
