"""The measures of `python -m eval.recall`, and how they are shown: tables, JSON and a plot."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detector.datasets.ground_truth import Doubles, Longs
from proposals.boxes import Floats
from proposals.recall import abo, average_recall, mabo, recall

ALL = np.iinfo(np.int64).max  # as a number of boxes: all there are
CURVE = np.linspace(0, 1, 101)  # IoU thresholds of the whole curve
SHOWN = tuple(range(50, 100, 5))  # those in the table, in hundredths
COVERAGE = 50  # the threshold of coverage, in hundredths (Szegedy et al. 2014, section 8)
SIZES = (("small", 0, 32**2), ("medium", 32**2, 96**2), ("large", 96**2, np.inf))  # square pixels, as COCO's


@dataclass(frozen=True, eq=False)
class Group:
    """The recall of some of the objects: their name and number, coverage and average recall at each count, [K]."""

    name: str
    objects: int
    coverage: Doubles
    average_recall: Doubles


@dataclass(frozen=True, eq=False)
class Coverage:
    """How well proposals cover ground truth, at K numbers of boxes a picture.

    counts: the numbers, ALL for all; boxes: float64 [K], how many there were, the mean over the pictures;
    recall: float64 [K, 101], at the IoU thresholds CURVE; average_recall, mabo: float64 [K]; all nan without objects;
    sizes, classes: the same by size and by class of the object, those without objects left out.
    """

    counts: tuple[int, ...]
    pictures: int
    objects: int
    boxes: Doubles
    recall: Doubles
    average_recall: Doubles
    mabo: Doubles
    sizes: tuple[Group, ...]
    classes: tuple[Group, ...]

    @property
    def coverage(self) -> Doubles:
        """Recall at IoU 0.5, [K]."""
        found: Doubles = self.recall[:, COVERAGE]
        return found


def measure(
    overlaps: Floats,
    labels: Longs,
    areas: Doubles,
    numbers: Longs,
    counts: Sequence[int],
    class_names: Sequence[str],
) -> Coverage:
    """Return the measures of `overlaps` [K, M], the best IoUs of M objects at `counts` [K] (`best_overlaps`).

    Shapes: labels, areas [M] of the objects, areas in square pixels; numbers [P], the boxes of each picture.
    """
    limits = np.array(counts, np.int64)
    mean_boxes = np.minimum(numbers, limits[:, None]).mean(axis=1) if len(numbers) else np.zeros(len(limits))
    present, _ = abo(overlaps, labels)
    return Coverage(
        tuple(counts),
        len(numbers),
        overlaps.shape[1],
        mean_boxes,
        recall(overlaps, CURVE),
        average_recall(overlaps),
        mabo(overlaps, labels),
        tuple(
            _group(name, overlaps[:, inside])
            for name, low, high in SIZES
            if (inside := (areas >= low) & (areas < high)).any()
        ),
        tuple(_group(class_names[label - 1], overlaps[:, labels == label]) for label in present.tolist()),
    )


def _group(name: str, overlaps: Floats) -> Group:
    coverage = recall(overlaps, CURVE[[COVERAGE]])[:, 0]
    return Group(name, overlaps.shape[1], coverage, average_recall(overlaps))


def as_text(found: Coverage, per_class: bool) -> str:
    """Return the tables; shares 0..1."""
    headings = [count_name(count) for count in found.counts]
    by_count = [
        [heading, f"{boxes:,.0f}", *_shares([*row[[COVERAGE, 70, 90]], average, overlap])]
        for heading, boxes, row, average, overlap in zip(
            headings, found.boxes, found.recall, found.average_recall, found.mabo, strict=True
        )
    ]
    curve = [[f"{hundredths / 100:.2f}", *_shares(found.recall[:, hundredths])] for hundredths in SHOWN]
    parts = [
        _table(["boxes", "mean", "coverage", "R@0.70", "R@0.90", "AR", "MABO"], by_count),
        "recall by IoU (rows) and number of boxes\n" + _table(["IoU", *headings], curve),
        "coverage by size of the object (small below 32 x 32 pixels, large from 96 x 96) and number of boxes\n"
        + _groups(found.sizes, headings, "size"),
    ]
    if per_class:
        best_first = sorted(found.classes, key=lambda group: (-group.coverage[-1], -group.average_recall[-1]))
        parts.append("coverage by class and number of boxes\n" + _groups(best_first, headings, "class"))
    return "\n".join(parts)


def as_json(found: Coverage) -> dict[str, object]:
    """Return the measures as JSON has them: nan is null, and so is the count that means all."""
    return {
        "pictures": found.pictures,
        "objects": found.objects,
        "counts": [None if count == ALL else count for count in found.counts],
        "mean_boxes": _plain(found.boxes),
        "coverage": _plain(found.coverage),
        "average_recall": _plain(found.average_recall),
        "mabo": _plain(found.mabo),
        "iou": [round(iou, 2) for iou in CURVE.tolist()],
        "recall": [_plain(row) for row in found.recall],
        "sizes": [_group_json(group) for group in found.sizes],
        "classes": [_group_json(group) for group in found.classes],
    }


def as_plot(found: Coverage, suffix: str) -> bytes:
    """Return a drawing, `png` or `svg`: recall by IoU, and coverage and average recall by number of boxes."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    by_iou, by_count = figure.subplots(1, 2)
    for count, row, average in zip(found.counts, found.recall, found.average_recall, strict=True):
        by_iou.plot(CURVE, row, label=f"{count_name(count)} boxes, AR {average:.3f}")
    by_iou.set(xlabel="IoU", ylabel="recall", xlim=(0.5, 1), ylim=(0, 1))
    by_iou.legend(fontsize="small")
    by_count.plot(found.boxes, found.coverage, marker="o", label="coverage (recall at IoU 0.5)")
    by_count.plot(found.boxes, found.average_recall, marker="s", label="average recall")
    by_count.set(xlabel="boxes a picture, mean", xscale="log" if found.boxes.any() else "linear", ylim=(0, 1))
    by_count.legend(fontsize="small")
    for axes in (by_iou, by_count):
        axes.grid(alpha=0.3)
    content = io.BytesIO()
    with rc_context({"svg.hashsalt": "recall"}):  # the same measures give the same file
        figure.savefig(content, format=suffix, dpi=150, metadata={"Date": None} if suffix == "svg" else None)
    return content.getvalue()


def count_name(count: int) -> str:
    """Return a number of boxes as it is shown."""
    return "all" if count == ALL else str(count)


def _groups(groups: Sequence[Group], headings: Sequence[str], what: str) -> str:
    rows = [[group.name, str(group.objects), *_shares([*group.coverage, group.average_recall[-1]])] for group in groups]
    return _table([what, "objects", *headings, f"AR {headings[-1]}"], rows)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return lines with aligned columns, the first to the left, the others to the right."""
    lines = [headings, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    return "".join(
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))])
        + "\n"
        for line in lines
    )


def _shares(values: Sequence[float] | Doubles) -> list[str]:
    return ["-" if np.isnan(value) else f"{value:.3f}" for value in values]


def _plain(values: Doubles) -> list[float | None]:
    return [None if np.isnan(value) else value for value in values.tolist()]


def _group_json(group: Group) -> dict[str, object]:
    return {
        "name": group.name,
        "objects": group.objects,
        "coverage": _plain(group.coverage),
        "average_recall": _plain(group.average_recall),
    }
