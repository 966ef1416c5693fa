"""Small data sets and predictions for the tests of the evaluator, by hand and at random."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from detector.datasets.ground_truth import GroundTruth
from eval.predictions.table import Predictions

CLASSES = 3
Box = Sequence[float]


def truth_of(
    objects: Sequence[tuple[int, int, Box]],
    pictures: int = 1,
    class_names: Sequence[str] = ("cat", "dog", "bird"),
    difficult: Sequence[int] = (),
    crowd: Sequence[int] = (),
    **fields: Any,
) -> GroundTruth:
    """Return a data set of objects (picture 0.., label, half-open box); difficult, crowd: which of them are."""
    objects = sorted(objects, key=lambda row: row[0])
    boxes = np.array([box for _, _, box in objects], np.float64).reshape(-1, 4)
    rows = np.arange(len(objects))
    data = {
        "names": tuple(f"p{i}" for i in range(pictures)),
        "numbers": np.arange(1, pictures + 1),
        "sizes": np.full((pictures, 2), 100),
        "paths": (None,) * pictures,
        "class_names": tuple(class_names),
        "class_keys": tuple(class_names),
        "pictures": np.array([picture for picture, _, _ in objects], np.int64),
        "labels": np.array([label for _, label, _ in objects], np.int64),
        "boxes": boxes,
        "difficult": np.isin(rows, difficult),
        "crowd": np.isin(rows, crowd),
        "areas": np.prod(boxes[:, 2:] - boxes[:, :2], axis=1),
    }
    return GroundTruth(**(data | fields))


def predictions_of(found: Sequence[tuple[int, int, float, Box]]) -> Predictions:
    """Return predictions (picture 0.., label, score, half-open box)."""
    pictures, labels, scores, sides = ([row[i] for row in found] for i in range(4))
    return Predictions(
        np.array(pictures, np.int32),
        np.array(labels, np.int32),
        np.array(scores, np.float64),
        np.array(sides, np.float64).reshape(-1, 4),
    )


def ground_truth(
    rows: Sequence[tuple[int, int, Box]],
    numbers: Sequence[int],
    difficult: Sequence[bool] = (),
    blacklist: Sequence[tuple[int, int]] = (),
    crowd: Sequence[bool] = (),
    class_names: Sequence[str] = ("cat", "dog", "bird"),
) -> GroundTruth:
    """Return a data set of pictures with these numbers; rows: number of the picture, label, 1-based inclusive box."""
    place = {number: i for i, number in enumerate(numbers)}
    order = sorted(range(len(rows)), key=lambda i: place[rows[i][0]])
    return truth_of(
        [(place[rows[i][0]], rows[i][1], _half_open(rows[i][2])) for i in order],
        len(numbers),
        class_names,
        [k for k, i in enumerate(order) if difficult and difficult[i]],
        [k for k, i in enumerate(order) if crowd and crowd[i]],
        names=tuple(f"p{n}" for n in numbers),
        numbers=np.array(numbers),
        class_keys=("1", "2", "3"),
        blacklist=np.array([(place[n], c) for n, c in blacklist], np.int64).reshape(-1, 2),
    )


def predicted(rows: Sequence[tuple[int, int, float, Box]], numbers: Sequence[int]) -> Predictions:
    """Return the predictions of rows: number of the picture, label, score, 1-based inclusive box."""
    place = {number: i for i, number in enumerate(numbers)}
    return predictions_of([(place[n], label, score, _half_open(box)) for n, label, score, box in rows])


def _half_open(box: Box) -> Box:
    return box[0] - 1, box[1] - 1, box[2], box[3]


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
