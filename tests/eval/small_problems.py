"""Small data sets and predictions for the tests of the evaluator, by hand and at random."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from detector.datasets.ground_truth import GroundTruth
from eval.predictions.table import Predictions

CLASSES = 3


def ground_truth(
    rows: list[tuple[int, int, tuple[float, float, float, float]]],
    numbers: list[int],
    difficult: list[bool] | None = None,
    blacklist: list[tuple[int, int]] | None = None,
    crowd: list[bool] | None = None,
    class_names: tuple[str, ...] = ("cat", "dog", "bird"),
) -> GroundTruth:
    """Return a data set of pictures with these numbers; rows: number of the picture, label, 1-based inclusive box."""
    place = {number: i for i, number in enumerate(numbers)}
    order = sorted(range(len(rows)), key=lambda i: place[rows[i][0]])
    boxes = np.array([rows[i][2] for i in order], np.float64).reshape(-1, 4) - [1, 1, 0, 0]
    return GroundTruth(
        names=tuple(f"p{n}" for n in numbers),
        numbers=np.array(numbers),
        sizes=np.full((len(numbers), 2), 100),
        paths=(None,) * len(numbers),
        class_names=class_names,
        class_keys=("1", "2", "3"),
        pictures=np.array([place[rows[i][0]] for i in order], np.int64),
        labels=np.array([rows[i][1] for i in order], np.int64),
        boxes=boxes,
        difficult=np.array([bool(difficult and difficult[i]) for i in order]),
        crowd=np.array([bool(crowd and crowd[i]) for i in order]),
        areas=np.prod(boxes[:, 2:] - boxes[:, :2], axis=1),
        blacklist=np.array([(place[n], c) for n, c in blacklist or []], np.int64).reshape(-1, 2),
    )


def predicted(rows: list[tuple[int, int, float, tuple[float, float, float, float]]], numbers: list[int]) -> Predictions:
    """Return the predictions of rows: number of the picture, label, score, 1-based inclusive box."""
    place = {number: i for i, number in enumerate(numbers)}
    return Predictions(
        np.array([place[r[0]] for r in rows], np.int32),
        np.array([r[1] for r in rows], np.int32),
        np.array([r[2] for r in rows], np.float64),
        np.array([r[3] for r in rows], np.float64).reshape(-1, 4) - [1, 1, 0, 0],
    )


boxes = st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(0, 14), st.integers(0, 14)).map(
    lambda b: (float(b[0]), float(b[1]), float(b[0] + b[2]), float(b[1] + b[3]))
)
large = st.tuples(st.integers(1, 30), st.integers(1, 30), st.integers(20, 60), st.integers(20, 60)).map(
    lambda b: (float(b[0]), float(b[1]), float(b[0] + b[2]), float(b[1] + b[3]))
)
NUMBERS = [7, 3, 11, 5]  # not in the order of the pictures
objects = st.lists(st.tuples(st.sampled_from(NUMBERS[:3]), st.integers(1, CLASSES), boxes | large), max_size=9)
scores = st.sampled_from([0.1, 0.5, 0.5, 0.7, 0.9])  # many ties


@st.composite
def problems(draw: st.DrawFn) -> tuple[list, list]:
    """Objects, and predictions of which many lie on or near one; the fourth picture has no objects."""
    truth = draw(objects)
    free = st.tuples(st.sampled_from(NUMBERS), st.integers(1, CLASSES), scores, boxes | large)
    kinds = [free]
    if truth:
        jitter = st.tuples(*[st.integers(-3, 3)] * 4)
        kinds.append(
            st.tuples(st.sampled_from(truth), scores, jitter).map(
                lambda t: (
                    t[0][0],
                    t[0][1],
                    t[1],
                    tuple(float(a + b) for a, b in zip(t[0][2], t[2], strict=True)),
                )
            )
        )
    return truth, draw(st.lists(st.one_of(*kinds), max_size=14))
