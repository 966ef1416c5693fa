"""Box voting by hand, against a loop, and where nobody votes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from detector.postprocess import softened_per_class, vote_per_class, voted_boxes
from proposals.boxes import as_boxes, iou

CORNERS = arrays(np.float32, (6, 2, 2), elements=st.integers(0, 20).map(float))
SCORES, SCORES_OF_NINE = (arrays(np.float32, count, elements=st.floats(0, 1, width=32)) for count in (6, 9))


def test_by_hand():
    """The second voter overlaps the first box by 0.8 and counts a quarter of it; the third, by 0.25, is no voter."""
    voters = as_boxes([[0, 0, 10, 10], [0, 0, 8, 10], [0, 0, 5, 5]])
    found = voted_boxes(voters[:1], voters, np.array([0.8, 0.4, 1.0], np.float32), 0.5)
    np.testing.assert_allclose(found, [[0, 0, 0.8 * 10 + 0.2 * 8, 10]], rtol=1e-6)
    assert found.dtype == np.float32


def test_an_overlap_of_just_so_much_votes():
    voters = as_boxes([[0, 0, 10, 10], [0, 0, 5, 10]])
    scores = np.array([0.5, 0.5], np.float32)
    np.testing.assert_allclose(voted_boxes(voters[:1], voters, scores, 0.5), [[0, 0, 7.5, 10]])
    np.testing.assert_array_equal(voted_boxes(voters[:1], voters, scores, np.nextafter(0.5, 1)), voters[:1])


def test_boxes_without_voters_stay():
    boxes = as_boxes([[0, 0, 10, 10], [3, 3, 3, 9]])  # the second is empty and overlaps nothing, not even itself
    np.testing.assert_array_equal(voted_boxes(boxes, boxes, np.zeros(2, np.float32), 0.5), boxes)
    np.testing.assert_array_equal(voted_boxes(boxes[1:], boxes, np.ones(2, np.float32), 0.5), boxes[1:])
    np.testing.assert_array_equal(voted_boxes(boxes, as_boxes([]), np.zeros(0, np.float32), 0.5), boxes)
    assert voted_boxes(as_boxes([]), boxes, np.ones(2, np.float32), 0.5).shape == (0, 4)


@given(CORNERS, CORNERS, SCORES, st.sampled_from([0.3, 0.5, 0.9]))
def test_against_a_loop(a: np.ndarray, b: np.ndarray, scores: np.ndarray, overlap: float):
    boxes, voters = (as_boxes(np.sort(corners, axis=1).reshape(-1, 4)) for corners in (a, b))
    found = voted_boxes(boxes, voters, scores, overlap)
    for row, box in enumerate(boxes):
        votes = [
            (float(score) ** 2, voter)
            for score, voter in zip(scores, voters, strict=True)
            if iou(box[None], voter[None])[0, 0] >= overlap
        ]
        total = sum(weight for weight, _ in votes)
        wanted = sum(weight * voter.astype(np.float64) for weight, voter in votes) / total if total else box
        assert found[row] == pytest.approx(wanted, rel=1e-5, abs=1e-5)


def test_each_class_has_votes_of_its_own():
    """Both classes keep box 0; only in the second has box 1 a score. Its voters lie ten pixels to the right."""
    boxes = as_boxes([[0, 0, 10, 10], [0, 0, 8, 10]])
    scores = np.array([[0.5, 0.5], [0.0, 0.5]], np.float32)

    def voters(column: int) -> np.ndarray:
        return boxes + np.float32([10, 0, 10, 0]) * column

    kept = np.stack([boxes[0], voters(1)[0]])
    found = vote_per_class(kept, np.array([0, 1]), voters, scores, 0.5)
    np.testing.assert_allclose(found, [[0, 0, 10, 10], [10, 0, 19, 10]])
    assert vote_per_class(kept[:0], np.zeros(0, np.int64), voters, scores, 0.5).shape == (0, 4)


def test_softened_scores_by_hand():
    """Each of the first three has an IoU of 0.5 with the one before; the fourth is the first one in another class."""
    boxes = as_boxes([[0, 0, 10, 10], [0, 0, 5, 10], [0, 0, 5, 5], [0, 0, 10, 10]])
    scores, columns = np.array([0.8, 0.4, 0.2, 0.1], np.float32), np.array([7, 7, 7, 3])
    np.testing.assert_allclose(softened_per_class(boxes, scores, columns, 0.5), [0.8, 0.2, 0.1, 0.1])
    np.testing.assert_allclose(softened_per_class(boxes, scores, columns, 0.51), scores)
    np.testing.assert_allclose(
        softened_per_class(boxes, scores, columns, 0.5, 0.5), [0.8, 0.4 * 0.5**0.5, 0.2 * 0.5**0.5, 0.1], rtol=1e-6
    )
    same = softened_per_class(boxes[[0, 0]], np.array([0.5, 0.5], np.float32), np.array([0, 0]), 0.3)
    assert same.tolist() == [0.5, 0]  # of equal ones the first
    assert softened_per_class(boxes[:0], scores[:0], columns[:0], 0.3).shape == (0,)
    assert scores.tolist() == [np.float32(s) for s in (0.8, 0.4, 0.2, 0.1)]  # those given stay


@given(
    arrays(np.float32, (9, 2, 2), elements=st.integers(0, 20).map(float)), SCORES_OF_NINE, st.sampled_from([0.3, 0.5])
)
def test_softened_scores_against_a_loop(corners: np.ndarray, scores: np.ndarray, overlap: float):
    boxes, columns = as_boxes(np.sort(corners, axis=1).reshape(-1, 4)), np.arange(9) % 2
    found = softened_per_class(boxes, scores, columns, overlap)
    for row in range(9):
        better = [
            float(iou(boxes[row][None], boxes[other][None])[0, 0])
            for other in range(9)
            if columns[other] == columns[row] and (-scores[other], other) < (-scores[row], row)
        ]
        largest = max(better, default=0.0)
        assert found[row] == pytest.approx(scores[row] * (1 - largest if largest >= overlap else 1), rel=1e-5, abs=1e-7)
