"""Box regression targets: golden values, both round trips, refusals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proposals.boxes import apply_deltas, as_boxes, box_targets

CORNER, SIDE, SHIFT = st.integers(-200, 800), st.integers(1, 900), st.floats(-2, 2, width=32)
BOX = st.tuples(CORNER, CORNER, SIDE, SIDE).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))


def test_targets_by_hand():
    # centres (5, 10) and (15, 15): 10 of 10 pixels to the right, 5 of 20 down; twice as wide, half as high
    targets = box_targets(as_boxes([[0, 0, 10, 20]]), as_boxes([[5, 10, 25, 20]]))
    np.testing.assert_allclose(targets, [[1, 0.25, np.log(2), -np.log(2)]], rtol=1e-6)
    assert targets.dtype == np.float32


def test_moves_by_hand():
    targets = np.array([[0.5, -1, np.log(3), np.log(0.5)], [0, 0, 0, 0]], np.float32)
    moved = apply_deltas(as_boxes([[0, 0, 10, 20], [3, 4, 5, 6]]), targets)
    # centre (5, 10) -> (10, -10); sides 10, 20 -> 30, 10
    np.testing.assert_allclose(moved, [[-5, -15, 25, -5], [3, 4, 5, 6]], rtol=1e-6)
    assert moved.dtype == np.float32


@given(st.lists(st.tuples(BOX, BOX), max_size=8))
def test_targets_lead_to_the_truth(pairs):
    proposals, truth = as_boxes([p for p, _ in pairs]), as_boxes([t for _, t in pairs])
    np.testing.assert_allclose(apply_deltas(proposals, box_targets(proposals, truth)), truth, atol=5e-3)


@given(BOX, st.tuples(SHIFT, SHIFT, SHIFT, SHIFT))
def test_moves_are_found_again(box, move):
    boxes, targets = as_boxes([box]), np.array([move], np.float32)
    np.testing.assert_allclose(box_targets(boxes, apply_deltas(boxes, targets)), targets, atol=5e-3)


def test_nothing_and_a_box_without_area():
    assert box_targets(as_boxes([]), as_boxes([])).shape == (0, 4)
    assert apply_deltas(as_boxes([]), np.zeros((0, 4), np.float32)).shape == (0, 4)
    flat = as_boxes([[5, 5, 5, 9]])
    assert apply_deltas(flat, np.array([[3, 0, 1, 0]], np.float32)).tolist() == flat.tolist()


def test_refusals():
    one, two, flat = as_boxes([[0, 0, 2, 2]]), as_boxes([[0, 0, 2, 2], [1, 1, 3, 3]]), as_boxes([[5, 5, 5, 9]])
    with pytest.raises(ValueError, match="1 proposals, 2 ground-truth boxes"):
        box_targets(one, two)
    with pytest.raises(ValueError, match="proposal 0 has no area"):
        box_targets(flat, one)
    with pytest.raises(ValueError, match="ground-truth box 1 has no area"):
        box_targets(two, np.concatenate([one, flat]))
    with pytest.raises(ValueError, match=r"deltas must have shape \[1, 4\]"):
        apply_deltas(one, np.zeros((2, 4), np.float32))
