"""Box geometry against hand-worked numbers and brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from proposals import boxes as B

GRID = st.integers(0, 40)


def boxes_strategy(max_size: int = 12):
    box = st.tuples(GRID, GRID, GRID, GRID).map(
        lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
    )
    return st.lists(box, max_size=max_size).map(B.as_boxes)


def iou_by_counting(a, b) -> float:
    """IoU of integer boxes by counting pixels."""
    first = {(x, y) for x in range(int(a[0]), int(a[2])) for y in range(int(a[1]), int(a[3]))}
    second = {(x, y) for x in range(int(b[0]), int(b[2])) for y in range(int(b[1]), int(b[3]))}
    return len(first & second) / len(first | second) if first | second else 0.0


def nms_literally(boxes, scores, threshold):
    """Greedy suppression, one pair at a time."""
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
        if all(B.iou(boxes[i : i + 1], boxes[j : j + 1])[0, 0] <= threshold for j in kept):
            kept.append(i)
    return kept


def test_as_boxes_accepts_lists_and_empty():
    assert B.as_boxes([]).shape == (0, 4)
    assert B.as_boxes([[1, 2, 3, 4]]).dtype == np.float32


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[1, 2, 3]], r"shape \[N, 4\]"),
        ([1, 2, 3, 4], r"shape \[N, 4\]"),
        ([[0, 0, 1, 1], [0, 0, np.nan, 1]], "box 1 has a coordinate that is not a finite number"),
        ([[0, 0, np.inf, 1]], "not a finite number"),
        ([[5, 0, 4, 1]], "box 0 is inverted"),
        ([[0, 3, 4, 1]], "box 0 is inverted"),
    ],
)
def test_as_boxes_refuses(values, message):
    with pytest.raises(ValueError, match=message):
        B.as_boxes(values)


def test_area_and_clip_by_hand():
    boxes = B.as_boxes([[0, 0, 2, 3], [5, 5, 5, 9], [-4, -2, 20, 8], [30, 30, 40, 40]])
    assert B.area(boxes).tolist() == [6, 0, 240, 100]
    assert B.clip(boxes, 10, 6).tolist() == [[0, 0, 2, 3], [5, 5, 5, 6], [0, 0, 10, 6], [10, 6, 10, 6]]


def test_iou_by_hand():
    a = B.as_boxes([[0, 0, 2, 2], [0, 0, 0, 0]])
    b = B.as_boxes([[1, 1, 3, 3], [0, 0, 2, 2], [2, 0, 4, 2]])
    assert B.iou(a, b)[0].tolist() == [pytest.approx(1 / 7), 1.0, 0.0]
    assert B.iou(a, b)[1].tolist() == [0, 0, 0]
    assert B.iou(a, B.as_boxes([])).shape == (2, 0)


@given(boxes_strategy(6), boxes_strategy(6))
def test_iou_equals_counting_pixels(a, b):
    expected = [[iou_by_counting(x, y) for y in b] for x in a]
    np.testing.assert_allclose(B.iou(a, b), np.array(expected, np.float32).reshape(len(a), len(b)), atol=1e-6)
    np.testing.assert_array_equal(B.iou(a, b), B.iou(b, a).T)


@given(boxes_strategy(), st.data(), st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_nms_equals_the_literal_reading(boxes, data, threshold):
    scores = np.array(
        data.draw(st.lists(st.sampled_from([0.1, 0.5, 0.5, 0.9]), min_size=len(boxes), max_size=len(boxes)))
    )
    assert B.nms(boxes, scores, threshold).tolist() == nms_literally(boxes, scores, threshold)


def test_nms_keeps_at_exactly_the_threshold_and_breaks_ties_by_index():
    half = B.as_boxes([[0, 0, 2, 1], [0, 0, 1, 1]])  # IoU exactly 0.5
    assert B.nms(half, np.array([1.0, 0.9]), 0.5).tolist() == [0, 1]
    assert B.nms(half, np.array([1.0, 0.9]), 0.49).tolist() == [0]
    same = B.as_boxes([[0, 0, 2, 2]] * 3)
    assert B.nms(same, np.array([0.5, 0.5, 0.5]), 0.3).tolist() == [0]
    assert B.nms(B.as_boxes([]), np.zeros(0), 0.3).tolist() == []


@given(
    boxes_strategy(),
    st.data(),
    st.sampled_from([0.0, 0.3, 0.5]),
    st.sampled_from([0.2, 0.5]),
    st.sampled_from([None, 1, 3]),
)
def test_nms_per_class_equals_one_class_at_a_time(boxes, data, threshold, min_score, limit):
    shape = (len(boxes), 3)
    scores = data.draw(arrays(np.float32, shape, elements=st.sampled_from([0.0, 0.25, 0.5, 1.0])))
    rows, columns = B.nms_per_class(boxes, scores, threshold, min_score, limit)
    expected = []
    for column in range(3):
        candidates = np.flatnonzero(scores[:, column] >= min_score)
        kept = candidates[nms_literally(boxes[candidates], scores[candidates, column], threshold)]
        expected += [(int(row), column) for row in kept[:limit]]
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == expected


def test_nms_per_class_keeps_at_exactly_both_thresholds():
    half = B.as_boxes([[0, 0, 2, 1], [0, 0, 1, 1]])  # IoU exactly 0.5
    scores = np.array([[0.5, 0.25], [0.25, 0.125]], np.float32)

    def kept(threshold: float, min_score: float) -> list[tuple[int, int]]:
        rows, columns = B.nms_per_class(half, scores, threshold, min_score)
        return list(zip(rows.tolist(), columns.tolist(), strict=True))

    assert kept(0.5, 0.125) == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert kept(0.49, 0.125) == [(0, 0), (0, 1)]
    assert kept(0.5, 0.25) == [(0, 0), (1, 0), (0, 1)]  # a score of exactly 0.25 stays
    assert kept(0.5, 0.5) == [(0, 0)]  # also where a class has no higher one
    assert kept(0.5, 0.51) == []


@given(boxes_strategy())
def test_conversions_round_trip(boxes):
    np.testing.assert_array_equal(B.from_one_based(B.to_one_based(boxes)), boxes)
    np.testing.assert_array_equal(B.from_xywh(B.to_xywh(boxes)), boxes)


def test_conversions_by_hand():
    box = B.as_boxes([[0, 0, 1, 1]])
    assert B.to_one_based(box).tolist() == [[1, 1, 1, 1]]  # the first pixel, Matlab's way
    assert B.to_xywh(B.as_boxes([[2, 3, 10, 5]])).tolist() == [[2, 3, 8, 2]]
