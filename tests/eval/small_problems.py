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
NUMBERS = [7, 3, 11, 5]  # not in the order of the pictures
SCORES = [0.1, 0.5, 0.5, 0.7, 0.9]  # many ties
scores = st.sampled_from(SCORES)


def random_problem(seed: int) -> tuple[list, list]:  # type: ignore[type-arg]
    """Return objects, some near others, and predictions, many near an object; the fourth picture has no objects."""
    random = np.random.default_rng(seed)

    def box() -> tuple[float, ...]:
        large = random.random() < 0.5
        x, y = random.integers(1, 31 if large else 13, 2)
        w, h = random.integers(20, 61, 2) if large else random.integers(0, 15, 2)
        return float(x), float(y), float(x + w), float(y + h)

    def label() -> int:
        return int(random.integers(1, CLASSES + 1))

    def near(box: tuple[float, ...]) -> tuple[float, ...]:
        jitter = random.integers(-3, 4, 4) * (random.random() < 0.8)
        x1, y1, x2, y2 = (a + b for a, b in zip(box, jitter.tolist(), strict=True))
        return x1, y1, max(x1, x2), max(y1, y2)

    truth, found = [], []
    for _ in range(random.integers(0, 10)):
        if truth and random.random() < 0.4:
            number, own, other = truth[random.integers(len(truth))]
            truth.append((number, own, near(other)))
        else:
            truth.append((NUMBERS[random.integers(3)], label(), box()))
    for _ in range(random.integers(0, 15)):
        score = SCORES[random.integers(len(SCORES))]
        if truth and random.random() < 0.5:
            number, own, other = truth[random.integers(len(truth))]
            found.append((number, own, score, near(other)))
        else:
            found.append((NUMBERS[random.integers(4)], label(), score, box()))
    return truth, found
