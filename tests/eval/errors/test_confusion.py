"""The confusion matrix: by hand, by a literal reference, and what must always hold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_problems import predictions_of, truth_of

from detector.datasets.ground_truth import GroundTruth
from eval.errors.confusion import best_score, confusion_matrix
from eval.errors.overlaps import overlapping
from eval.predictions.table import Predictions
from eval.protocols import evaluate
from eval.protocols.evaluation import FALSE_POSITIVE, NOT_COUNTED, TRUE_POSITIVE, Evaluation

THRESHOLD = 0.5


def make_truth(objects: list[tuple[int, int, tuple[int, ...]]], difficult: int = -1) -> GroundTruth:
    return truth_of(objects, 2, difficult=[difficult])


def matrix_of(truth: GroundTruth, found: Predictions, score: float) -> tuple[list[list[int]], Evaluation]:
    evaluation = evaluate("voc10", truth, found)
    thresholds = np.full(len(truth), THRESHOLD)
    pairs = overlapping(found.pictures, found.boxes, truth.pictures, truth.boxes, thresholds / 5)
    return confusion_matrix(truth, found, evaluation.matches, pairs, thresholds, score).tolist(), evaluation


A, B, C = (0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10)


def test_by_hand() -> None:
    truth = make_truth([(0, 1, A), (0, 2, B), (0, 3, C), (1, 1, A)])
    found = predictions_of(
        [
            (0, 1, 0.9, A),  # right
            (0, 1, 0.8, A),  # again: background
            (0, 1, 0.7, B),  # a two taken for a one
            (0, 3, 0.6, B),  # which is no longer free: background
            (0, 2, 0.2, C),  # below the score: the three is missed
            (1, 2, 0.5, (0, 0, 10, 4)),  # does not reach it: background
        ]
    )
    matrix, _ = matrix_of(truth, found, 0.3)
    assert matrix == [[0, 1, 1, 1], [1, 1, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0]]
    matrix, _ = matrix_of(truth, found, 0.2)  # at least: the score itself is shown
    assert matrix[3] == [0, 0, 1, 0]


def test_a_true_positive_below_the_score_leaves_its_object_to_another_class() -> None:
    truth = make_truth([(0, 1, A)])
    found = predictions_of([(0, 1, 0.1, A), (0, 2, 0.9, A)])
    assert matrix_of(truth, found, 0.5)[0][1] == [0, 0, 1, 0]
    assert matrix_of(truth, found, 0.1)[0][:2] == [[0, 0, 1, 0], [0, 1, 0, 0]]


def test_the_object_with_the_largest_iou_is_taken_and_difficult_ones_are_not_there() -> None:
    objects = [(0, 2, (0, 0, 10, 8)), (0, 3, A)]
    found = predictions_of([(0, 1, 0.9, A)])
    assert matrix_of(make_truth(objects), found, 0.0)[0] == [[0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]]
    found = predictions_of([(0, 1, 0.9, A), (0, 3, 0.8, A)])
    matrix, _ = matrix_of(make_truth(objects, difficult=1), found, 0.0)
    assert matrix == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]


def test_nothing() -> None:
    zeros = np.zeros((4, 4)).tolist()
    assert matrix_of(make_truth([]), predictions_of([]), 0.0)[0] == zeros
    assert matrix_of(make_truth([(0, 1, A)]), predictions_of([(0, 1, 0.5, A)]), np.inf)[0][1] == [1, 0, 0, 0]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([], np.inf),
        ([(0, 1, 0.9, C)], np.inf),
        ([(0, 1, 0.9, A)], 0.9),
        ([(0, 1, 0.9, A), (0, 2, 0.8, C)], 0.9),
        ([(0, 2, 0.9, C), (0, 1, 0.8, A)], 0.8),
        ([(0, 1, 0.9, A), (0, 2, 0.8, C), (0, 2, 0.7, B)], 0.7),  # 2/3, 1/2, 4/5
        ([(0, 1, 0.9, A), (0, 2, 0.9, C)], 0.9),  # a tie is shown whole
    ],
)
def test_best_score(found: list[tuple[int, int, float, tuple[int, ...]]], expected: float) -> None:
    predictions = predictions_of(found)
    evaluation = evaluate("voc10", make_truth([(0, 1, A), (0, 2, B)]), predictions)
    assert best_score(predictions.scores, evaluation.matches) == expected


side = st.integers(0, 5)
box = st.tuples(side, side, side, side).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))
label, picture = st.integers(1, 3), st.integers(0, 1)


@settings(max_examples=200, deadline=None)
@given(
    objects=st.lists(st.tuples(picture, label, box), max_size=6).map(lambda o: sorted(o, key=lambda x: x[0])),
    found=st.lists(st.tuples(picture, label, st.sampled_from([0.1, 0.2, 0.3, 0.4]), box), max_size=10),
    difficult=st.integers(-1, 5),
    score=st.sampled_from([0.0, 0.2, 0.35]),
)
def test_agrees_with_the_literal_reference(
    objects: list[tuple[int, int, tuple[int, ...]]],
    found: list[tuple[int, int, float, tuple[int, ...]]],
    difficult: int,
    score: float,
) -> None:
    truth, predictions = make_truth(objects, difficult), predictions_of(found)
    matrix, evaluation = matrix_of(truth, predictions, score)
    matches = evaluation.matches
    expected = np.zeros((4, 4), np.int64)
    shown = [i for i in range(len(found)) if matches.outcome[i] != NOT_COUNTED and found[i][2] >= score]
    free = set(np.flatnonzero(matches.counted).tolist())
    for i in shown:
        if matches.outcome[i] == TRUE_POSITIVE:
            free.discard(int(matches.taken[i]))
            expected[found[i][1], found[i][1]] += 1
    for i in sorted((i for i in shown if matches.outcome[i] == FALSE_POSITIVE), key=lambda i: -found[i][2]):
        best, best_iou = -1, 0.0
        for g in sorted(free):
            a, b = found[i][3], objects[g][2]
            w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
            if objects[g][0] != found[i][0] or objects[g][1] == found[i][1] or w <= 0 or h <= 0:
                continue
            iou = w * h / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h)
            if iou >= THRESHOLD and iou > best_iou:
                best, best_iou = g, iou
        free.discard(best)
        expected[objects[best][1] if best >= 0 else 0, found[i][1]] += 1
    for g in free:
        expected[objects[g][1], 0] += 1
    assert matrix == expected.tolist()
    assert expected[1:].sum(axis=1).tolist() == matches.positives.tolist()
    assert expected[:, 1:].sum() == len(shown)
